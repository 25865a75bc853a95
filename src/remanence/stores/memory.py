"""The store in dicts: the executable specification that every other store is held equal to."""

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

import msgspec

from remanence.errors import WrongKind
from remanence.model import (
    BEGINNING,
    KEEP_TTL,
    NEVER,
    NOWHERE,
    Batch,
    Change,
    Changes,
    Cursor,
    Kept,
    Op,
    Outcome,
    Reached,
    Record,
    Watermark,
)
from remanence.protocols import Ask, Fetch, Length, Lifetime, Tail, Told, Versions
from remanence.stores.rules import LEAD, NOTHING, Mark, Stamp, admitted, follow, span
from remanence.stores.versions import once
from remanence.wire.codec import split, stamped

Value = bytes | list[bytes]
_SWEEP = 1000  # ops between two looks at everything that may have expired, at least


class Snapshot(msgspec.Struct):
    """The whole state of a store at one moment. Times are microseconds of the store's clock."""

    values: dict[str, Value]
    ends: dict[str, int]
    tombstones: dict[str, tuple[Stamp, int]]
    marks: dict[str, tuple[Mark, int]]
    log: deque[Change]
    logged: int = 0
    """Entries the log ever had."""
    versions: dict[str, tuple[tuple[Kept, ...], float]] = {}
    """Earlier versions of records, newest first, and when they end (infinity: never)."""

    def copy(self) -> "Snapshot":
        """A state that shares nothing with this one that can change."""
        values = {key: _copied(value) for key, value in self.values.items()}
        return Snapshot(
            values, self.ends.copy(), self.tombstones.copy(), self.marks.copy(), self.log.copy(), self.logged,
            self.versions.copy(),
        )  # fmt: skip


def _copied(value: Value) -> Value:
    return value if isinstance(value, bytes) else value.copy()


def _empty(log_length: int | None) -> Snapshot:
    return Snapshot({}, {}, {}, {}, deque(maxlen=log_length))


class MemoryStore:
    """Records and lists in this process. See `Store` for the contract.

    No method ever waits. `mutex` is held around each one where several threads share the store.
    """

    generation = 0
    """There is no connection that could be another server's."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        log_length: int = 100_000,
        tombstone_ttl: float = 604800.0,
        watermark_ttl: float = 2592000.0,
        history: int = 0,
        mutex: AbstractContextManager[Any] | None = None,
    ) -> None:
        """`clock` tells wall seconds; lifetimes are seconds; `history`: earlier versions kept of each record."""
        self._clock = clock
        self.mutex = mutex if mutex is not None else nullcontext()
        self._history = history
        self._watermark_ttl = round(watermark_ttl * 1_000_000)
        self._shelf = _Shelf(_empty(log_length), round(tombstone_ttl * 1_000_000))
        self._until_sweep = _SWEEP

    async def open(self, lineage: str, nonce: str, deadline: float) -> Watermark:
        """See `Store.open`."""
        with self.mutex:
            shelf = self._at_now()
            mark = (shelf.mark(lineage) or Mark()).opened(nonce)
            shelf.state.marks[lineage] = mark, shelf.now + self._watermark_ttl
            return mark.watermark(shelf.now)

    async def forward(self, lineage: str, nonce: str, seq: int, op_id: str, deadline: float) -> bool:
        """See `Store.forward`."""
        with self.mutex:
            shelf = self._at_now()
            mark = shelf.mark(lineage)
            if mark is None or mark.nonce != nonce:
                return False
            shelf.keep(lineage, mark.forwarded(seq, op_id))
            return True

    async def apply(self, batch: Batch, deadline: float) -> Outcome:
        """See `Store.apply`."""
        with self.mutex:
            shelf = self._at_now()
            mark = shelf.mark(batch.lineage) if batch.lineage else Mark()
            refusal = admitted(batch, mark, shelf.reached(batch.prev[0]).seq if batch.prev else 0)
            if refusal or mark is None:
                return refusal or Outcome("fenced")
            outcome, mark = follow(batch, mark, shelf, shelf.now + LEAD, self._history)
            if batch.lineage:
                shelf.keep(batch.lineage, mark)
            self._sweep(len(batch.ops))
            return outcome

    def flight(self, batch: Batch, deadline: float) -> None:
        """See `Store.flight`: nothing here has to be waited for."""

    async def read(
        self, asks: Sequence[Ask], deadline: float, marks: Sequence[str] = ()
    ) -> tuple[list[Told], list[Reached]]:
        """See `Store.read`."""
        with self.mutex:
            shelf = self._at_now()
            return [shelf.told(ask) for ask in asks], [shelf.reached(lineage) for lineage in marks]

    async def scan(self, prefix: str, cursor: str, count: int, deadline: float) -> tuple[list[str], str]:
        """See `Store.scan`. The cursor is the last key of the page before."""
        with self.mutex:
            keys = self._at_now().keys()
            start = bisect_right(keys, cursor) if cursor else bisect_left(keys, prefix)
            page = [key for key in keys[start : start + count] if key.startswith(prefix)]
            more = len(page) == count and start + count < len(keys)
            return page, page[-1] if more else ""

    async def history(self, lineage: str, limit: int, deadline: float) -> list[tuple[int, str]]:
        """See `Store.history`."""
        with self.mutex:
            log = reversed(self._shelf.state.log)
            return [(change.seq, change.op_id) for change in log if change.lineage == lineage][:limit]

    async def changes(self, after: Cursor, count: int, wait: float, deadline: float) -> Changes:
        """See `Store.changes`. Never waits."""
        with self.mutex:
            log = self._shelf.state.log
            start = int(after.position or 0)
            skipped = max(0, start - (self._shelf.state.logged - len(log)))
            entries = list(islice(log, skipped, skipped + count))
            whole = after == BEGINNING or (0 < skipped <= len(log) and log[skipped - 1].cursor == after)
            return Changes(entries, entries[-1].cursor if entries else after, whole)

    async def latest(self, deadline: float) -> Cursor:
        """See `Store.latest`."""
        with self.mutex:
            log = self._shelf.state.log
            return log[-1].cursor if log else BEGINNING

    async def replicated(self, lineage: str, replicas: int, wait: float, deadline: float) -> tuple[Reached, int]:
        """See `Store.replicated`: there are no replicas."""
        _, (reached,) = await self.read([], deadline, [lineage])
        return reached, 0

    async def facts(self, deadline: float) -> Mapping[str, str]:
        """See `Store.facts`."""
        with self.mutex:
            values = self._at_now().living().values()
            size = sum(len(value) if isinstance(value, bytes) else sum(map(len, value)) for value in values)
            return {
                "kind": "memory",
                "version": "",
                "keys": str(len(values)),
                "used_memory": str(size),
                "maxmemory_policy": "noeviction",
                "time": f"{self._shelf.now / 1_000_000:.6f}",
            }

    async def close(self) -> None:
        """See `Store.close`. What is stored stays as long as the object."""

    # --- for tests, and for whatever models a server

    def dump(self) -> dict[str, Value]:
        """Everything stored: documents with their stamps, lists."""
        with self.mutex:
            return self._at_now().living()

    def log(self) -> list[Change]:
        """The change log, oldest first."""
        with self.mutex:
            return list(self._shelf.state.log)

    @property
    def logged(self) -> int:
        """Entries the change log ever had."""
        return self._shelf.state.logged

    def plant(self, key: str, value: Value) -> None:
        """Store a value as others do: no stamp, no log entry, no lifetime."""
        with self.mutex:
            self._at_now().store(key, _copied(value))

    def snapshot(self) -> Snapshot:
        """The whole state, to be restored here or in another store any number of times."""
        with self.mutex:
            return self._shelf.state.copy()

    def restore(self, snapshot: Snapshot | None = None) -> None:
        """Be as at the snapshot, or empty: a server that forgets."""
        with self.mutex:
            state = snapshot.copy() if snapshot else _empty(self._shelf.state.log.maxlen)
            self._shelf = _Shelf(state, self._shelf.tombstone_ttl)

    # --- inside

    def _at_now(self) -> "_Shelf":
        self._shelf.now = round(self._clock() * 1_000_000)
        return self._shelf

    def _sweep(self, ops: int) -> None:
        """Forget what has expired unseen, at a cost that stays constant per op."""
        self._until_sweep -= ops
        if self._until_sweep <= 0:
            self._until_sweep = max(_SWEEP, self._shelf.sweep())


class _Shelf:
    """The state at the moment `now` (microseconds). See `rules.Shelf` for what the verbs promise."""

    def __init__(self, state: Snapshot, tombstone_ttl: int) -> None:
        self.state = state
        self.tombstone_ttl = tombstone_ttl
        self.now = 0
        self._sorted: list[str] | None = None  # the keys, until one comes or goes

    def value(self, key: str) -> Value | None:
        if self.state.ends.get(key, math.inf) <= self.now:
            self.remove(key)
        return self.state.values.get(key)

    def store(self, key: str, value: Value) -> None:
        self.remove(key)
        self.state.values[key] = value
        self._sorted = None

    def stamp(self, key: str) -> Stamp | None:
        value = self.value(key)
        if value is None:
            return NOTHING
        return split(value)[1:] if isinstance(value, bytes) else None

    def tombstone(self, key: str) -> Stamp | None:
        stamp, end = self.state.tombstones.get(key, (None, 0))
        return stamp if end > self.now else None

    def raw(self, key: str) -> bytes | None:
        value = self.value(key)
        return value if isinstance(value, bytes) else None

    def put(self, key: str, body: bytes, stamp: Stamp, ttl: int) -> None:
        value = stamped(body, *stamp)
        if self.value(key) is None:
            self.store(key, value)
        self.state.values[key] = value
        if ttl != KEEP_TTL:
            self.expire(key, ttl)

    def remove(self, key: str) -> None:
        if self.state.values.pop(key, None) is not None:
            self._sorted = None
        self.state.ends.pop(key, None)

    def bury(self, key: str, stamp: Stamp) -> None:
        self.state.tombstones[key] = stamp, self.now + self.tombstone_ttl

    def extend(self, key: str, items: Sequence[bytes]) -> bool | None:
        value = self.value(key)
        if isinstance(value, bytes):
            return None
        if value is None:
            self.store(key, list(items))
            return True
        value.extend(items)
        return False

    def lifetime(self, key: str) -> int:
        if self.value(key) is None:
            return -2
        end = self.state.ends.get(key)
        return -1 if end is None else -(-(end - self.now) // 1000)  # rounded up: what lives has time left

    def expire(self, key: str, ttl: int) -> None:
        self.state.ends.pop(key, None)
        if ttl != NEVER and self.value(key) is not None:
            self.state.ends[key] = self.now + ttl * 1000

    def announce(self, lineage: str, seq: int, op: Op, result: str) -> None:
        kind = type(op.write).__name__.lower()
        self.state.logged += 1
        self.state.log.append(Change(str(self.state.logged), op.op_id, lineage, seq, kind, result, op.write.key))

    def versions(self, key: str) -> tuple[Kept, ...]:
        """The earlier versions of a record, newest first."""
        found, end = self.state.versions.get(key, ((), 0))
        return found if end > self.now else ()

    def archive(self, key: str, versions: Sequence[Kept], most: int) -> None:
        self.state.versions[key] = (*versions, *self.versions(key))[:most], math.inf  # until it is given its age

    def age(self, key: str) -> None:
        end = self.state.ends.get(key, math.inf) if self.value(key) is not None else self.now + self.tombstone_ttl
        if found := self.versions(key):
            self.state.versions[key] = found, end
        else:
            self.state.versions.pop(key, None)

    def mark(self, lineage: str) -> Mark | None:
        mark, end = self.state.marks.get(lineage, (None, 0))
        return mark if end > self.now else None

    def keep(self, lineage: str, mark: Mark) -> None:
        self.state.marks[lineage] = mark, self.state.marks[lineage][1]

    def reached(self, lineage: str) -> Reached:
        mark = self.mark(lineage)
        return Reached(mark.seq, mark.op_id) if mark else NOWHERE

    def told(self, ask: Ask) -> Told:
        """The answer to an ask; a key of the other kind is that answer's error alone."""
        if isinstance(ask, Lifetime):
            return self.lifetime(ask.key)
        if isinstance(ask, Versions):
            return once(self.versions(ask.key))
        value = self.value(ask.key)
        if isinstance(value, bytes) != isinstance(ask, Fetch) and value is not None:
            return WrongKind(f"{ask.key!r} holds another type of value than was asked for")
        if isinstance(value, bytes):
            return Record(ask.key, *split(value))
        match ask:
            case Fetch():
                return None
            case Length():
                return len(value or ())
            case Tail():
                start, stop = span(ask.start, ask.stop, len(value or ()))
                return (value or [])[start:stop]

    def living(self) -> dict[str, Value]:
        """What has not expired, as a copy."""
        self.keys()
        return {key: _copied(value) for key, value in self.state.values.items()}

    def keys(self) -> list[str]:
        """The keys of what has not expired, in order."""
        for key in [key for key, end in self.state.ends.items() if end <= self.now]:
            self.remove(key)
        if self._sorted is None:
            self._sorted = sorted(self.state.values)
        return self._sorted

    def sweep(self) -> int:
        """Forget everything expired; how much there is left."""
        state = self.state
        self.keys()
        state.tombstones = {key: dead for key, dead in state.tombstones.items() if dead[1] > self.now}
        state.marks = {lineage: mark for lineage, mark in state.marks.items() if mark[1] > self.now}
        state.versions = {key: kept for key, kept in state.versions.items() if kept[0] and kept[1] > self.now}
        return len(state.values) + len(state.tombstones)
