"""`remanence export`: everything that is stored, streamed to JSON lines a page at a time."""

import os
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from remanence.commands.output import Output, opened, options_of
from remanence.commands.stats import INTERNAL, OTHERS, face_of
from remanence.commands.transfer import Entry, can_be_stamped, end, head, line_of
from remanence.engine import BlockingEngine
from remanence.errors import InvalidArgument, WrongKind
from remanence.model import Record
from remanence.protocols import Ask, Fetch, Lifetime, Told
from remanence.protocols import Tail as Items
from remanence.runtime.blocking import run as driven
from remanence.settings import Settings
from remanence.wire.sqlite import Database

PAGE: Final = 64
"""Records in one trip: of the largest values allowed, still no more than a process can hold."""
ITEMS: Final = 100
"""Items of a list in one trip."""
LINE_BYTES: Final = 1 << 20
"""A line of a list ends here."""
PATIENCE: Final = 30.0
"""Seconds one trip may take: there is much to read, and nobody waits on the phone."""


def configure(parser: ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("file", nargs="?", default="-", metavar="FILE", help="where to write; - is stdout (default)")
    parser.add_argument("--prefix", default=None, metavar="TEXT", help="only keys that begin with this")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    parser.epilog = (
        "What agents on this machine have journalled but not yet sent is not in it. Without a namespace or "
        "--prefix, a server's keys that no face of Remanence uses are left out."
    )


def run(call: Namespace, output: Output) -> int:
    """Write the export; ended by Ctrl-C it has whole lines, and no last one."""
    settings = Settings.build(**options_of(call))
    with opened(settings) as engine, _target(call.file, call.overwrite) as file:
        export = Export(settings, engine, call.prefix)
        with _progress(output) as progress:
            task = progress.add_task("export", total=export.expected())
            file.write(head())
            for entry in export.entries():
                file.write(line_of(entry))
                if not entry.start:
                    progress.advance(task)
            file.write(end(export.records))
        left_out = export.left_out
    if call.file != "-":
        output.facts({"file": call.file, "records": export.records, "left_out": left_out})
    output.note(f"{export.records:,} records exported{f' to {call.file}' if call.file != '-' else ''}")
    if left_out:
        output.note(f"{left_out:,} keys of other programs, or of types that memories do not use, were left out")
    return 0


@contextmanager
def _target(name: str, overwrite: bool) -> Iterator[IO[bytes]]:
    """The file, for this user alone; whatever happens, whole lines are in it."""
    if name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    mode = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if overwrite else os.O_EXCL)
    try:
        descriptor = os.open(name, mode, 0o600)
    except FileExistsError:
        raise InvalidArgument(f"{name} exists: choose another name, or say --overwrite") from None
    except OSError as error:
        raise InvalidArgument(f"{name} cannot be written: {(error.strerror or 'no reason given').lower()}") from None
    with os.fdopen(descriptor, "wb") as file:
        yield file


def _progress(output: Output) -> Progress:
    """A bar on stderr, where there is a terminal to draw it on."""
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    quiet = output.json or not output.aside.is_terminal
    return Progress(*columns, console=output.aside, disable=quiet, transient=True)


class Export:
    """One pass over what is stored."""

    def __init__(self, settings: Settings, engine: BlockingEngine, prefix: str | None) -> None:
        """`prefix` None: everything of a file or a namespace; on a server without one, the faces' keys."""
        self.records = 0
        self.left_out = 0
        self._settings = settings
        self._store = engine.gateway.store
        self._prefix = prefix or ""
        self._only_faces = prefix is None and settings.backend == "redis" and not settings.namespace

    def expected(self) -> int | None:
        """How many records there may be; None where only the pass can tell."""
        if self._prefix:
            return None
        return int(driven(self._store.facts(self._limit()))["keys"])

    def entries(self) -> Iterator[Entry]:
        """Every record, each once; long lists in several entries."""
        with _seen(self._settings.backend == "redis") as unseen:
            for page in self._pages():
                keys = unseen([key for key in page if self._ours(key)])
                for at in range(0, len(keys), PAGE):
                    yield from self._read(keys[at : at + PAGE])

    def _limit(self) -> float:
        return time.monotonic() + max(PATIENCE, self._settings.deadline)

    def _ours(self, key: str) -> bool:
        face = face_of(key, self._settings)
        if face == INTERNAL:
            return False
        ours = (not self._only_faces or face != OTHERS) and _encodable(key)
        self.left_out += not ours
        return ours

    def _pages(self) -> Iterator[list[str]]:
        cursor = ""
        while True:
            keys, cursor = driven(self._store.scan(self._prefix, cursor, 500, self._limit()))
            yield keys
            if not cursor:
                return

    def _told(self, asks: Sequence[Ask]) -> list[Told]:
        return driven(self._store.read(asks, self._limit()))[0]

    def _read(self, keys: Sequence[str]) -> Iterator[Entry]:
        told = self._told([ask for key in keys for ask in (Fetch(key), Lifetime(key))])
        for key, found, left in zip(keys, told[::2], told[1::2], strict=True):
            ttl = left if isinstance(left, int) and left > 0 else 0
            if isinstance(found, WrongKind):
                yield from self._list(key, ttl)
            elif isinstance(found, Record) and can_be_stamped(found.body):
                self.records += 1
                yield Entry(key, "document", (found.body,), ttl)
            elif found is not None:  # else it ended meanwhile
                self.left_out += 1

    def _list(self, key: str, ttl: int) -> Iterator[Entry]:
        """A list by pages, gathered into lines. What is appended meanwhile may or may not be in it."""
        items: list[bytes] = []
        start = 0
        while True:
            told = self._told([Items(key, start + len(items), start + len(items) + ITEMS - 1)])[0]
            if not isinstance(told, list):  # neither document nor list
                self.left_out += 1
                return
            items += told
            if len(told) < ITEMS or sum(map(len, items)) >= LINE_BYTES:
                self.records += bool(items and not start)
                if items:
                    yield Entry(key, "list", tuple(items), ttl, start)
                start, items = start + len(items), []
            if len(told) < ITEMS:
                return


def _encodable(key: str) -> bool:
    """Whether a key is text: others cannot be one of ours."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return bool(key)


@contextmanager
def _seen(needed: bool) -> Iterator[Callable[[list[str]], list[str]]]:
    """What tells keys that were not yet met: a server may show one twice, a file does not."""
    if not needed:
        yield list
        return
    with tempfile.TemporaryDirectory(prefix="remanence-") as folder:
        database = Database(str(Path(folder) / "seen.db"))
        database.run("CREATE TABLE seen (key TEXT PRIMARY KEY) WITHOUT ROWID")

        def unseen(keys: list[str]) -> list[str]:
            with database.transaction():
                return [key for key in keys if _noted(database, key)]

        try:
            yield unseen
        finally:
            database.close()


def _noted(database: Database, key: str) -> bool:
    database.run("INSERT OR IGNORE INTO seen VALUES (?)", (key,))
    return database.changes() > 0
