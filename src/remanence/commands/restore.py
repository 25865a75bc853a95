"""`remanence restore`: store again what a server lost, from the mirrors that lie on this machine.

Journals bring back by themselves what a server forgot within their time (`retain`). What is older is in the
mirrors of processes that read with `reads="mirror"`: in the file as it is, or in the copy it was set aside as when
the server was found to be another. Only keys that the server does not have are stored.
"""

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from remanence.commands.journals import folder_of
from remanence.commands.output import Output, opened, options_of
from remanence.errors import InvalidArgument, Misconfigured, RemanenceError
from remanence.model import ABSENT, Append, Put, Record, Write
from remanence.protocols import Gateway, Lifetime
from remanence.runtime.blocking import run as driven
from remanence.settings import Settings
from remanence.stores.mirror_file import COPY, contents

OURS: Final = (b"{", b"\x00", b"\x01")
"""What records begin with that can carry our stamp."""
BATCH: Final = 100
PATIENCE: Final = 30.0
"""Seconds one trip may take."""


class Kept(msgspec.Struct):
    """What mirrors have of a key: the newest record, or the longest list."""

    record: Record | None
    items: list[bytes]
    lifetime: int

    def is_newer(self, other: "Kept") -> bool:
        """Whether this one is to be stored rather than the other."""
        mine, theirs = (each.record.hlc if each.record else 0 for each in (self, other))
        return (mine, len(self.items)) > (theirs, len(other.items))

    def write(self, key: str) -> Write:
        """The write that stores it where there is nothing."""
        ttl = max(1, self.lifetime) if self.lifetime >= 0 else 0
        if self.record is not None:
            return Put(key, self.record.body, ttl, ABSENT)
        return Append(key, tuple(self.items), ttl)


def configure(parser: ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.epilog = "Exit code 0: everything that the mirrors have is there; 1: something could not be stored."
    parser.add_argument("--prefix", default="", metavar="TEXT", help="only keys that begin with this")
    parser.add_argument("--dry-run", action="store_true", help="say what would be stored, and store nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(call: Namespace, output: Output) -> int:
    """Find what is kept, what of it is missing, and store that."""
    settings = Settings.build(**options_of(call))
    files = mirrors(settings)
    if not files:
        raise Misconfigured("no mirror of these memories lies here: only reads=mirror (REMANENCE_READS) makes one")
    kept, unread = gathered(files, call.prefix)
    with opened(settings) as engine:
        gateway = engine.gateway
        missing = [key for keys in _batches(list(kept)) for key in _missing(gateway, keys)]
        output.note(f"{len(kept):,} records in {len(files)} mirror(s), {len(missing):,} of them not in {engine.place}")
        stored = refused = 0
        if missing and not call.dry_run:
            _assure(call, len(missing), output)
            stored, refused = _store(gateway, kept, missing, output)
            output.note(f"{stored:,} records stored" + (f", {refused:,} were there by then" if refused else ""))
    output.facts(
        {"mirrors": [str(file) for file in files], "unread": unread, "records": len(kept), "missing": len(missing)}
        | {"stored": stored, "there_by_then": refused}
    )
    for file in unread:
        output.note(f"{file} cannot be read as a mirror")
    return 1 if unread else 0


def mirrors(settings: Settings) -> list[Path]:
    """The files of mirrors, and their copies, of these memories."""
    folder = folder_of(settings)
    if folder is None:
        return []
    return sorted([*folder.rglob("*.mirror"), *folder.rglob(f"*.mirror{COPY}")])


def gathered(files: Sequence[Path], prefix: str) -> tuple[dict[str, Kept], list[str]]:
    """What the files have of each key, and the files that cannot be read."""
    kept: dict[str, Kept] = {}
    unread = []
    for file in files:
        try:
            for record, key, items, lifetime in contents(str(file), time.time()):
                made = Kept(record, items, lifetime)
                if record is not None and record.body[:1] not in OURS:
                    continue  # as others stored it: what we would make of it is something else
                if key.startswith(prefix) and (key not in kept or made.is_newer(kept[key])):
                    kept[key] = made
        except RemanenceError:
            unread.append(str(file))
    return kept, unread


def _missing(gateway: Gateway, keys: Sequence[str]) -> list[str]:
    readings = driven(gateway.read([Lifetime(key) for key in keys], deadline=PATIENCE, fresh=True))
    return [key for key, reading in zip(keys, readings, strict=True) if reading.value == -2]


def _assure(call: Namespace, count: int, output: Output) -> None:
    """Have somebody say yes."""
    if call.yes:
        return
    if not sys.stdin.isatty():
        raise InvalidArgument("nobody is there to be asked: say --yes to store what is missing")
    output.note(f"Store {count:,} records? [y/N] ")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InvalidArgument("nothing was stored")


def _store(gateway: Gateway, kept: dict[str, Kept], keys: Sequence[str], output: Output) -> tuple[int, int]:
    """Store them; how many were, and how many somebody else stored meanwhile."""
    stored = refused = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    quiet = output.json or not output.aside.is_terminal
    with Progress(*columns, console=output.aside, disable=quiet, transient=True) as progress:
        task = progress.add_task("restore", total=len(keys))
        for some in _batches(keys):
            writes = [kept[key].write(key) for key in _missing(gateway, some)]
            receipts = driven(gateway.write(writes, ack="store", deadline=PATIENCE)) if writes else []
            done = sum(receipt.state == "applied" for receipt in receipts)
            stored, refused = stored + done, refused + len(some) - done
            progress.advance(task, len(some))
    return stored, refused


def _batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[at : at + BATCH] for at in range(0, len(keys), BATCH))
