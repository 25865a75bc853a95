"""The store in one SQLite file that the processes of one host share."""

import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from remanence.errors import Closed, Misconfigured
from remanence.model import BEGINNING, Batch, Changes, Cursor, Erasure, Outcome, Reached, Seen, Watermark
from remanence.protocols import Ask, Told
from remanence.stores.rules import LEAD, Mark, admitted, behind, erase, follow
from remanence.stores.sqlite_shelf import COUNT, KEYS_EVER, PAGE, Shelf
from remanence.wire.sqlite import Database, sql_text, usable_folder, version

SCHEMA: Final = 2
_EVERY: Final = 1000  # milliseconds between two looks for what has expired


class SQLiteStore:
    """Records and lists in one file of this host. See `Store` for the contract.

    Each call is one transaction, and waits for another process no longer than its deadline. `mutex` is
    held around each call where several threads share the store. The file is closed before a fork and
    opened anew by whoever needs it, because SQLite's locks do not survive one.
    """

    generation = 0
    """There is no connection that could be another server's."""

    def __init__(
        self,
        database: str | Path | Callable[[], Database],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        *,
        log_length: int = 100_000,
        tombstone_ttl: float = 604800.0,
        watermark_ttl: float = 2592000.0,
        history: int = 0,
        full: bool = False,
        mutex: AbstractContextManager[Any] | None = None,
    ) -> None:
        """`database` is the file, or what opens it (outside of `:memory:`); it is opened when first used.

        `clock` tells wall seconds, `monotonic` what deadlines are measured by; lifetimes are seconds.
        `history`: earlier versions kept of each record. `full` waits at each commit until the disk has it.
        """
        self._opener = database if callable(database) else lambda: _opened(Path(database), full)
        self._clock = clock
        self._monotonic = monotonic
        self._log_length = log_length
        self._history = history
        self._tombstone_ms = int(tombstone_ttl * 1000)
        self._watermark_ms = int(watermark_ttl * 1000)
        self._mutex = mutex if mutex is not None else nullcontext()
        self._database: Database | None = None
        self._owner = 0
        self._patience = -1  # milliseconds that the connection waits for others, as last set
        self._next_sweep = 0
        self._closed = False

    async def open(self, lineage: str, nonce: str, deadline: float) -> Watermark:
        """See `Store.open`."""
        with self._writing(deadline) as shelf:
            mark = (shelf.mark(lineage) or Mark()).opened(nonce)
            shelf.keep(lineage, mark, shelf.now + self._watermark_ms)
            return mark.watermark(self._micros())

    async def forward(self, lineage: str, nonce: str, seq: int, op_id: str, deadline: float) -> bool:
        """See `Store.forward`."""
        with self._writing(deadline) as shelf:
            mark = shelf.mark(lineage)
            if mark is None or mark.nonce != nonce:
                return False
            shelf.keep(lineage, mark.forwarded(seq, op_id))
            return True

    async def apply(self, batch: Batch, deadline: float) -> Outcome:
        """See `Store.apply`."""
        with self._writing(deadline) as shelf:
            mark = shelf.mark(batch.lineage) if batch.lineage else Mark()
            before = shelf.reached(batch.prev[0]).seq if batch.prev else 0
            refusal = admitted(batch, mark, before)
            if refusal or mark is None:
                return refusal or Outcome("fenced")
            outcome, mark = follow(batch, mark, shelf, self._micros() + LEAD, self._history)
            if batch.lineage:
                shelf.keep(batch.lineage, mark)
            shelf.trim(self._log_length, len(batch.ops))
            if shelf.now >= self._next_sweep:
                self._next_sweep = shelf.now + (0 if shelf.sweep() else _EVERY)
            return outcome

    def flight(self, batch: Batch, deadline: float) -> None:
        """See `Store.flight`: nothing here has to be waited for."""

    async def read(
        self, asks: Sequence[Ask], deadline: float, marks: Sequence[str] = ()
    ) -> tuple[list[Told], list[Reached]]:
        """See `Store.read`. Never waits for a writer."""
        with self._reading(deadline) as shelf:
            return [shelf.told(ask) for ask in asks], [shelf.reached(lineage) for lineage in marks]

    async def scan(self, prefix: str, cursor: str, count: int, deadline: float) -> tuple[list[str], str]:
        """See `Store.scan`. The cursor is the last key of the page before."""
        with self._reading(deadline) as shelf:
            rows = shelf.run(PAGE, (cursor, prefix, shelf.now, count + 1))
        keys = [key for (key,) in rows if key.startswith(prefix)]
        return keys[:count], keys[count - 1] if len(keys) > count else ""

    async def history(self, lineage: str, limit: int, deadline: float) -> list[tuple[int, str]]:
        """See `Store.history`."""
        newest = "SELECT seq, op_id FROM changes WHERE lineage = ? ORDER BY id DESC LIMIT ?"
        with self._reading(deadline) as shelf:
            return [(seq, op_id) for seq, op_id in shelf.run(newest, (lineage, limit))]

    async def changes(self, after: Cursor, count: int, wait: float, deadline: float) -> Changes:
        """See `Store.changes`. Never waits: who follows asks again."""
        with self._reading(deadline) as shelf:
            entries = shelf.changes(int(after.position or 0), count)
            whole = after == BEGINNING or shelf.op_at(int(after.position)) == after.op_id
        return Changes(entries, entries[-1].cursor if entries else after, whole)

    async def latest(self, deadline: float) -> Cursor:
        """See `Store.latest`."""
        with self._reading(deadline) as shelf:
            for position, op_id in shelf.run("SELECT id, op_id FROM changes ORDER BY id DESC LIMIT 1"):
                return Cursor(str(position), op_id)
        return BEGINNING

    async def replicated(self, lineage: str, replicas: int, wait: float, deadline: float) -> tuple[Reached, int]:
        """See `Store.replicated`: there are no replicas."""
        _, (reached,) = await self.read([], deadline, [lineage])
        return reached, 0

    async def forget(self, erasure: Erasure, lineages: Sequence[str], deadline: float, *, live: bool) -> None:
        """See `Store.forget`. The file is written anew, so that what was erased is not in its gaps either."""
        with self._writing(deadline) as shelf:
            if live:
                erasure = replace(erasure, hlc=max(erasure.hlc, self._micros()))
            shelf.note_erasure(erasure)
            shelf.end_sessions(lineages)
            start = erasure.key
            for (key,) in shelf.run(KEYS_EVER, (start,)):
                if not key.startswith(start):
                    break
                if erasure.covers(key):
                    erase(shelf, key, erasure, live=live)
            while shelf.sweep():  # what has expired lies there still
                continue
            shelf.empty_removed()
        with self._mutex:
            self._connected(deadline).compact()

    async def erasures(self, holder: str, seen: Seen | None, deadline: float) -> tuple[list[Erasure], Seen]:
        """See `Store.erasures`."""
        with self._writing(deadline) as shelf:
            if seen is None:
                shelf.drop_holder(holder)
                return [], Seen()
            if holder:
                shelf.note_holder(holder, seen, shelf.now + self._watermark_ms)
            return behind(shelf.erasures(), seen)

    async def holders(self, deadline: float) -> Mapping[str, Seen]:
        """See `Store.holders`."""
        with self._reading(deadline) as shelf:
            return shelf.holders()

    async def publish(self, messages: Sequence[tuple[str, bytes]], deadline: float) -> None:
        """See `Store.publish`: there is nobody to tell."""

    async def facts(self, deadline: float) -> Mapping[str, str]:
        """See `Store.facts`."""
        with self._reading(deadline) as shelf:
            keys = shelf.run(COUNT, (shelf.now,))[0][0]
            log = shelf.run("SELECT count(*) FROM changes")[0][0]
            pages, size = shelf.run("PRAGMA page_count")[0][0], shelf.run("PRAGMA page_size")[0][0]
        return {
            "kind": "sqlite",
            "version": version(),
            "keys": str(keys),
            "log": str(log),
            "used_memory": str(pages * size),
            "maxmemory_policy": "noeviction",
            "time": f"{self._micros() / 1_000_000:.6f}",
        }

    async def close(self) -> None:
        """See `Store.close`."""
        with self._mutex:
            self._closed = True
            self._let_go()

    async def dump(self) -> dict[str, bytes | list[bytes]]:
        """Everything stored, for tests: documents with their stamps, lists."""
        with self._reading(self._monotonic() + 10) as shelf:
            keys = [key for (key,) in shelf.run(PAGE, ("", "", shelf.now, -1))]
            raws = {key: shelf.raw(key) for key in keys}
            return {key: shelf.items(key) if raw is None else raw for key, raw in raws.items()}

    # --- inside

    def _micros(self) -> int:
        return round(self._clock() * 1_000_000)

    @contextmanager
    def _writing(self, deadline: float) -> Iterator["Shelf"]:
        with self._mutex:
            database = self._connected(deadline)
            with database.transaction():
                yield self._shelf(database)

    @contextmanager
    def _reading(self, deadline: float) -> Iterator["Shelf"]:
        """A view of one moment: the snapshot is taken by the first statement that reads."""
        with self._mutex:
            database = self._connected(deadline)
            database.run("BEGIN")
            try:
                yield self._shelf(database)
            finally:
                database.roll_back()

    def _shelf(self, database: Database) -> "Shelf":
        return Shelf(database, self._micros() // 1000, self._tombstone_ms)

    def _connected(self, deadline: float) -> Database:
        """The connection, opened by this very process, which waits until `deadline` for others."""
        if self._closed:
            raise Closed("the store was closed: open a new one")
        left = max(1, int((deadline - self._monotonic()) * 1000))
        if self._database is not None and self._owner != os.getpid():
            _abandoned.append(self._database)  # forked behind Python's back: not ours, not even to close
            self._database = None
        if self._database is None:
            _watch(self)
            database = self._opener()
            database.run(f"PRAGMA busy_timeout = {left}")
            _prepare(database)
            self._database, self._owner, self._patience = database, os.getpid(), left
        elif not left <= self._patience <= left + 50:
            self._patience = left + 50 - left % 50
            self._database.run(f"PRAGMA busy_timeout = {self._patience}")
        return self._database

    def _let_go(self) -> None:
        if self._database is not None and self._owner == os.getpid():
            self._database.close()
            self._database = None


# --- the file -----------------------------------------------------------------------------------


def _opened(path: Path, full: bool) -> Database:
    """Open or make the file, for this user alone. Raises `JournalUnusable` where it cannot be."""
    usable_folder(path.parent)
    with suppress(FileExistsError):  # only SQLite may open one that exists: closing it would drop its locks
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    return Database(str(path), full=full)


def _prepare(database: Database) -> None:
    """Make the tables where there are none. Raises `Misconfigured` for a file of a later version."""
    if _schema(database) == 0:
        with database.transaction():
            if _schema(database) == 0:  # nobody else has made them meanwhile
                database.run(sql_text("store.sql"))
    if _schema(database) == 1:
        with database.transaction():
            database.run(sql_text("additions.sql"))
    found = _schema(database)
    if found > SCHEMA:
        database.close()
        raise Misconfigured(
            f"{database.path} was written by a later version of Remanence (its format is {found}, "
            f"this version knows {SCHEMA}): upgrade remanence here"
        )


def _schema(database: Database) -> int:
    if not database.run("SELECT 1 FROM sqlite_schema WHERE name = 'about'"):
        return 0
    return int(database.run("SELECT value FROM about WHERE name = 'schema'")[0][0])


# --- fork ---------------------------------------------------------------------------------------
#
# Measured: a child that opens the file while its parent's connection is in its memory does not take the
# lock that says it is there (SQLite counts it as held by the process). When the parent then closes, it
# deletes the write-ahead log as the last user, and what the child commits from then on is lost. So no
# connection may be open at the moment of a fork.

_open: "weakref.WeakSet[SQLiteStore]" = weakref.WeakSet()
_held: list[AbstractContextManager[Any]] = []
_abandoned: list[Database] = []
_hooked: list[bool] = []


def _watch(store: SQLiteStore) -> None:
    _open.add(store)
    if not _hooked and hasattr(os, "register_at_fork"):
        _hooked.append(True)
        os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def _before_fork() -> None:
    for store in list(_open):
        if all(store._mutex is not mutex for mutex in _held):
            store._mutex.__enter__()
            _held.append(store._mutex)
        store._let_go()


def _after_fork() -> None:
    while _held:
        _held.pop().__exit__(None, None, None)
