"""The journals of a deployment as their files tell, read without taking or changing any of them."""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from remanence.engine import journal_folder
from remanence.errors import RemanenceError
from remanence.settings import Settings
from remanence.stores.journal import SCHEMA
from remanence.stores.outcomes import MERGED, listed, newest
from remanence.stores.rows import Outcome, kind_of
from remanence.stores.shelf import Lock
from remanence.wire.address import Address
from remanence.wire.sqlite import Database

T = TypeVar("T")

ROWS_END: Final = 1 << 62
"""No row of a journal has this number."""


class PendingWrite(msgspec.Struct, frozen=True):
    """A write the server does not have yet; never what is in it. `kind` is put, patch, delete, append or touch."""

    op_id: str
    kind: str
    key: str
    age: float
    """Seconds since it was made."""
    bytes: int
    journal: str


class JournalFile(msgspec.Struct, frozen=True):
    """One journal. A process writes down what the server acknowledged once a second: `pending` may lag."""

    path: str
    in_use: bool
    pending: int = 0
    retained: int = 0
    dead: int = 0
    refused: int = 0
    merged: int = 0
    """Conflicts that the program's own merge has dealt with."""
    lag: float = 0.0
    """Age of the oldest pending write, in seconds; 0 where there is none."""
    problem: str = ""
    """Why it cannot be read; "" when it can."""


def folder_of(settings: Settings) -> Path | None:
    """Where the journals of these settings lie, those of several partitions below it; None where there are none."""
    if settings.backend != "redis" or settings.durability == "volatile":
        return None
    return journal_folder(settings, address_of(settings).name)


def local_files(settings: Settings, place: str) -> list[Path]:
    """The SQLite files of these settings on this machine; `place` is where memories live."""
    if settings.backend == "sqlite":
        return [Path(place)]
    folder = folder_of(settings)
    return [*folder.rglob("*.journal"), *folder.rglob("*.mirror")] if folder is not None else []


def address_of(settings: Settings) -> Address:
    """The server of these settings. Raises `InvalidSetting`."""
    tls = {"ca": settings.tls_ca, "cert": settings.tls_cert, "key": settings.tls_key}
    return Address(settings.url, connect_timeout=settings.connect_timeout, tls=tls)


def survey(folder: Path | None) -> list[JournalFile]:
    """Every journal in the folder and below it, oldest first in each."""
    return [_inspect(path) for path in sorted(folder.rglob("*.journal"))] if folder is not None else []


def set_aside(folder: Path | None) -> list[str]:
    """Damaged journals that were renamed and kept."""
    return sorted(str(path) for path in folder.rglob("*.damaged-*-??????")) if folder is not None else []


def each_readable(files: Sequence[JournalFile], look: Callable[[Database], T]) -> list[T]:
    """What `look` finds in each journal that can be read; one that its owner deleted meanwhile is passed over."""
    found = []
    for file in files:
        if not file.problem and Path(file.path).exists():
            database = Database(file.path, read_only=True)
            try:
                found.append(look(database))
            finally:
                database.close()
    return found


def pending_writes(files: Sequence[JournalFile], limit: int) -> list[PendingWrite]:
    """The oldest `limit` writes the server does not have yet, oldest first. Their number may lag, as `pending`."""
    found = [write for writes in each_readable(files, lambda each: _pending(each, limit)) for write in writes]
    return sorted(found, key=lambda write: -write.age)[:limit]


def _pending(database: Database, limit: int) -> list[PendingWrite]:
    database.run("BEGIN")  # rows and how far they were sent, as of one moment
    lineages = database.run("SELECT first, count, acked, pruned FROM lineages ORDER BY first, rowid")
    now, name = time.time(), Path(database.path).name
    return [
        PendingWrite(op_id, kind_of(start), key, max(0.0, now - wall), size, name)
        for op_id, key, wall, size, start in _pending_rows(database, lineages, limit)
    ]


def outcomes(
    files: Sequence[JournalFile], kinds: Sequence[str], limit: int, *, prefix: str = "", since: float = 0.0
) -> list[Outcome]:
    """The newest writes without effect of all journals, newest first; see `listed`."""
    found = each_readable(files, lambda each: listed(each, kinds, limit, prefix=prefix, since=since))
    return newest([each for some in found for each in some], limit)


def _inspect(path: Path) -> JournalFile:
    in_use = _in_use(path.with_suffix(".lock"))
    try:
        database = Database(str(path), read_only=True)
    except RemanenceError as error:
        return JournalFile(str(path), in_use, problem=str(error))
    try:
        return _read(database, in_use)
    except RemanenceError as error:
        return JournalFile(str(path), in_use, problem=f"not a journal, or a damaged one: {error}")
    finally:
        with contextlib.suppress(Exception):  # a damaged file may not even close well
            database.close()


def _in_use(lock: Path) -> bool:
    """Whether a living process holds the journal; asking takes no longer than a blink."""
    if not lock.exists():
        return False
    try:
        Lock(lock).release()
    except OSError:
        return True
    return False


def _read(database: Database, in_use: bool) -> JournalFile:
    schema = database.run("SELECT value FROM meta WHERE name = 'schema'")
    if not schema or schema[0][0] != SCHEMA:
        found = schema[0][0] if schema else "unknown"
        return JournalFile(
            database.path,
            in_use,
            problem=f"written by another version of Remanence (schema {found}; this one knows {SCHEMA})",
        )
    database.run("BEGIN")  # all of it as of one moment; the connection is closed after this look
    last = database.run("SELECT coalesce(max(n), 0) FROM rows")[0][0]
    lineages = database.run("SELECT first, count, acked, pruned FROM lineages ORDER BY first, rowid")
    pending, retained = _counted(lineages, last)
    kinds = dict(database.run("SELECT kind, count(*) FROM outcomes GROUP BY kind"))
    dead, merged = kinds.pop("dead", 0), kinds.pop(MERGED, 0)
    oldest = _pending_rows(database, lineages, 1)
    lag = max(0.0, time.time() - oldest[0][2]) if oldest else 0.0
    return JournalFile(database.path, in_use, pending, retained, dead, sum(kinds.values()), merged, lag)


def _pending_rows(database: Database, lineages: Sequence[Any], limit: int) -> list[Any]:
    """The oldest pending rows: (op_id, key, wall, bytes, the first bytes of the write)."""
    found: list[Any] = []
    for first, count, acked, _ in lineages:
        found += database.run(
            "SELECT op_id, key, wall, length(write), substr(write, 1, 16) FROM rows "
            "WHERE n >= ? AND n < ? ORDER BY n LIMIT ?",
            (first + acked, ROWS_END if count is None else first + count, limit - len(found)),
        )
    return found


def _counted(lineages: Sequence[Any], last: int) -> tuple[int, int]:
    """(writes the server does not have, writes kept although it has them)."""
    pending = retained = 0
    for first, count, acked, pruned in lineages:
        held = max(last - first + 1, pruned) if count is None else count
        pending += held - min(acked, held)
        retained += min(acked, held) - pruned
    return pending, retained
