"""The journals of a deployment as their files tell, read without taking or changing any of them."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from remanence.engine import journal_folder
from remanence.errors import RemanenceError
from remanence.settings import Settings
from remanence.stores.journal import SCHEMA
from remanence.stores.shelf import Lock
from remanence.wire.redis import Address
from remanence.wire.sqlite import Database


class JournalFile(msgspec.Struct, frozen=True):
    """One journal. A process writes down what the server acknowledged once a second: `pending` may lag."""

    path: str
    in_use: bool
    pending: int = 0
    retained: int = 0
    dead: int = 0
    refused: int = 0
    problem: str = ""
    """Why it cannot be read; "" when it can."""


def folder_of(settings: Settings) -> Path | None:
    """Where the journals of these settings lie; None where there are none."""
    if settings.backend != "redis" or settings.durability == "volatile":
        return None
    return journal_folder(settings, address_of(settings).name)


def address_of(settings: Settings) -> Address:
    """The server of these settings. Raises `InvalidSetting`."""
    tls = {"ca": settings.tls_ca, "cert": settings.tls_cert, "key": settings.tls_key}
    return Address(settings.url, connect_timeout=settings.connect_timeout, tls=tls)


def survey(folder: Path | None) -> list[JournalFile]:
    """Every journal in the folder, oldest first."""
    return [_inspect(path) for path in sorted(folder.glob("*.journal"))] if folder is not None else []


def set_aside(folder: Path | None) -> list[str]:
    """Damaged journals that were renamed and kept."""
    return sorted(str(path) for path in folder.glob("*.damaged-*-??????")) if folder is not None else []


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
    last = database.run("SELECT coalesce(max(n), 0) FROM rows")[0][0]
    lineages = database.run("SELECT first, count, acked, pruned FROM lineages ORDER BY first, rowid")
    pending, retained = _counted(lineages, last)
    kinds = dict(database.run("SELECT kind, count(*) FROM outcomes GROUP BY kind"))
    dead = kinds.pop("dead", 0)
    return JournalFile(database.path, in_use, pending, retained, dead, sum(kinds.values()))


def _counted(lineages: Sequence[Any], last: int) -> tuple[int, int]:
    """(writes the server does not have, writes kept although it has them)."""
    pending = retained = 0
    for first, count, acked, pruned in lineages:
        held = max(last - first + 1, pruned) if count is None else count
        pending += held - min(acked, held)
        retained += min(acked, held) - pruned
    return pending, retained
