"""`remanence import`: store what an export holds, checked line by line, with lifetimes kept."""

import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from remanence.commands.output import Output, opened, options_of
from remanence.commands.transfer import Entry, NotAnExport, at_line, check_head, ending, entry_of
from remanence.engine import BlockingEngine
from remanence.errors import InvalidArgument, RemanenceError
from remanence.model import ABSENT, Append, Delete, Put, Receipt, Write
from remanence.protocols import Lifetime
from remanence.runtime.blocking import run as driven
from remanence.settings import Settings

LONGEST_LINE: Final = 512 << 20
"""Bytes; an export's lines are far shorter."""
BATCH_LINES: Final = 100
BATCH_BYTES: Final = 1 << 20
PATIENCE: Final = 30.0
"""Seconds one trip may take."""


def configure(parser: ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("file", metavar="FILE", help="what `remanence export` wrote; - is stdin")
    parser.add_argument(
        "--on-existing",
        choices=("fail", "skip", "replace"),
        default="fail",
        help="what to do where a key exists: end there and leave it (default), pass over it, or replace it",
    )
    parser.add_argument("--prefix", default="", metavar="TEXT", help="only keys that begin with this")


def run(call: Namespace, output: Output) -> int:
    """Store the lines in order; at the first that cannot be stored it ends, and says where."""
    settings = Settings.build(**options_of(call))
    if settings.backend == "memory":
        raise InvalidArgument("the memory backend ends with this command: import into redis or sqlite")
    name = "stdin" if call.file == "-" else call.file
    with opened(settings) as engine, _source(call.file) as (file, size):
        work = Import(settings, engine, call.on_existing, call.prefix, name)
        with _progress(output) as progress:
            task = progress.add_task("import", total=size)
            try:
                for read in work.lines(file):
                    progress.advance(task, read)
            except BaseException:  # Ctrl-C too: what is stored stays, and is told before it is raised
                output.note(f"{work.stored:,} records were imported before this:")
                raise
    output.facts({"file": name, "records": work.stored, "skipped": work.skipped, "complete": work.complete})
    output.note(f"{work.stored:,} records imported" + (f", {work.skipped:,} skipped" if work.skipped else ""))
    if not work.complete:
        output.note("the export has no last line, or another number of records: it may have been cut short")
    return 0


@contextmanager
def _source(name: str) -> Iterator[tuple[IO[bytes], int | None]]:
    if name == "-":
        yield sys.stdin.buffer, None
        return
    try:
        file = open(name, "rb")  # noqa: SIM115 - closed below, once opening is known to have worked
    except OSError as error:
        raise InvalidArgument(f"{name} cannot be read: {(error.strerror or 'no reason given').lower()}") from None
    with file:
        yield file, os.fstat(file.fileno()).st_size or None


def _progress(output: Output) -> Progress:
    """A bar on stderr, where there is a terminal to draw it on."""
    columns = [TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn()]
    quiet = output.json or not output.aside.is_terminal
    return Progress(*columns, console=output.aside, disable=quiet, transient=True)


class Import:
    """One pass over an export."""

    def __init__(self, settings: Settings, engine: BlockingEngine, on_existing: str, prefix: str, name: str) -> None:
        """`name` is what errors call the file."""
        self.stored = 0
        self.skipped = 0
        self.complete = False
        self._settings = settings
        self._gateway = engine.gateway
        self._on_existing = on_existing
        self._prefix = prefix
        self._name = name
        self._batch: list[tuple[int, Entry]] = []
        self._size = 0
        self._lists: tuple[str, int] = ("", 0)
        """The list under way and how many of its items were met."""
        self._passing_over = ""
        """The list whose further lines are skipped."""

    def lines(self, file: IO[bytes]) -> Iterator[int]:
        """Store every line; yields the bytes read of each. Raises with the line's number in the message."""
        number = met = 0
        for number, line in enumerate(self._read(file), 1):
            if number == 1:
                check_head(line, self._name)
            elif (records := ending(line)) is not None:
                self.complete = records == met
            elif line.strip():
                met += self._take(number, line)
            yield len(line)
        if not number:
            raise NotAnExport(f"{self._name} is empty: an export has a first line that says what it is")
        self._flush()

    def _read(self, file: IO[bytes]) -> Iterator[bytes]:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            if len(line) == LONGEST_LINE:
                raise NotAnExport(f"{self._name}, line {number}: it is longer than any line of an export")
            yield line

    def _take(self, number: int, line: bytes) -> bool:
        """Check a line and put it into the batch; whether it begins a record."""
        try:
            entry = entry_of(line, self._settings)
            self._check_order(entry)
        except RemanenceError as error:
            self._flush()  # the lines before it are good
            raise at_line(number, self._name, error) from None
        if entry.key.startswith(self._prefix):
            self._batch.append((number, entry))
            self._size += len(line)
            if len(self._batch) >= BATCH_LINES or self._size >= BATCH_BYTES:
                self._flush()
        return entry.start == 0

    def _check_order(self, entry: Entry) -> None:
        """A further line of a list must follow the lines before it, or items would be lost or doubled."""
        if entry.start and self._lists != (entry.key, entry.start):
            raise NotAnExport("a list goes on here, but the line before is not the one it goes on from")
        self._lists = (entry.key, entry.start + len(entry.items)) if entry.kind == "list" else ("", 0)

    # --- storing

    def _flush(self) -> None:
        batch, self._batch, self._size = self._batch, [], 0
        if not batch:
            return
        existing = self._existing([entry for _, entry in batch if not entry.start])
        writes: list[Write] = []
        sources: list[tuple[int, Entry]] = []
        met: set[str] = set()
        refused: NotAnExport | None = None
        for number, entry in batch:
            there = entry.key in existing or entry.key in met
            if there and not entry.start and self._on_existing == "fail":
                advice = "exists already: say --on-existing skip or replace"
                refused = NotAnExport(f"{self._name}, line {number}: {entry.key} {advice}")
                break
            mine = self._writes_of(entry, there)
            writes += mine
            sources += [(number, entry)] * len(mine)
            met.add(entry.key)
        self._store(writes, sources)
        if refused:
            raise refused

    def _existing(self, entries: list[Entry]) -> set[str]:
        keys = [entry.key for entry in entries]
        told, _ = driven(self._gateway.store.read([Lifetime(key) for key in keys], self._limit()))
        return {key for key, left in zip(keys, told, strict=True) if left != -2}

    def _writes_of(self, entry: Entry, there: bool) -> list[Write]:
        if entry.start:
            return [] if entry.key == self._passing_over else [Append(entry.key, entry.items, entry.ttl)]
        self._passing_over = ""
        if there and self._on_existing == "skip":
            self._passing_over = entry.key
            self.skipped += 1
            return []
        before: list[Write] = [Delete(entry.key)] if there else []
        if entry.kind == "list":
            return [*before, Append(entry.key, entry.items, entry.ttl)]
        base = None if self._on_existing == "replace" else ABSENT  # whoever came between us is not overwritten
        return [*before, Put(entry.key, entry.items[0], entry.ttl, base)]

    def _store(self, writes: list[Write], sources: list[tuple[int, Entry]]) -> None:
        if not writes:
            return
        receipts = driven(self._gateway.write(writes, ack="store", deadline=PATIENCE))
        judged = zip(writes, receipts, sources, strict=True)
        errors = [self._judge(write, receipt, *source) for write, receipt, source in judged]
        for error in filter(None, errors):
            raise error

    def _judge(self, write: Write, receipt: Receipt, number: int, entry: Entry) -> NotAnExport | None:
        if receipt.state != "rejected":
            self.stored += not isinstance(write, Delete) and not entry.start
            return None
        if receipt.reason == "conflict" and self._on_existing == "skip":
            self.skipped += 1  # somebody stored it after we had looked
            return None
        reason = "it was stored by others meanwhile" if receipt.reason == "conflict" else receipt.reason
        return NotAnExport(f"{self._name}, line {number}: {entry.key} was refused: {reason}")

    def _limit(self) -> float:
        return time.monotonic() + max(PATIENCE, self._settings.deadline)
