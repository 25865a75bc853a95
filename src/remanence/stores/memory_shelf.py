"""A store's state in dicts, as the verbs by which batches are followed and asks answered."""

import math
from collections import deque
from collections.abc import Sequence

import msgspec

from remanence.errors import WrongKind
from remanence.model import KEEP_TTL, NEVER, NOWHERE, Change, Erasure, Kept, Op, Reached, Record, Seen
from remanence.protocols import Ask, Fetch, Length, Lifetime, Tail, Told, Versions
from remanence.stores.rules import NOTHING, Mark, Stamp, span
from remanence.stores.versions import once
from remanence.wire.codec import split, stamped

Value = bytes | list[bytes]


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
    erasures: list[Erasure] = []
    holders: dict[str, tuple[Seen, int]] = {}

    def copy(self) -> "Snapshot":
        """A state that shares nothing with this one that can change."""
        values = {key: copied(value) for key, value in self.values.items()}
        return Snapshot(
            values, self.ends.copy(), self.tombstones.copy(), self.marks.copy(), self.log.copy(), self.logged,
            self.versions.copy(), self.erasures.copy(), self.holders.copy(),
        )  # fmt: skip


def copied(value: Value) -> Value:
    """A value that shares nothing with this one that can change."""
    return value if isinstance(value, bytes) else value.copy()


def empty(log_length: int | None) -> Snapshot:
    """The state of a store without anything."""
    return Snapshot({}, {}, {}, {}, deque(maxlen=log_length))


class Shelf:
    """The state at the moment `now` (microseconds). See `rules.Shelf` for what the verbs promise."""

    def __init__(self, state: Snapshot, tombstone_ttl: int) -> None:
        self.state = state
        self.tombstone_ttl = tombstone_ttl
        self.now = 0
        self._sorted: list[str] | None = None  # the keys, until one comes or goes

    def value(self, key: str) -> Value | None:
        """What lives at `key`."""
        if self.state.ends.get(key, math.inf) <= self.now:
            self.remove(key)
        return self.state.values.get(key)

    def store(self, key: str, value: Value) -> None:
        """Put a value at `key` in place of whatever is there, for ever."""
        self.remove(key)
        self.state.values[key] = value
        self._sorted = None

    def stamp(self, key: str) -> Stamp | None:
        """See `rules.Shelf`."""
        value = self.value(key)
        if value is None:
            return NOTHING
        return split(value)[1:] if isinstance(value, bytes) else None

    def tombstone(self, key: str) -> Stamp | None:
        """See `rules.Shelf`."""
        stamp, end = self.state.tombstones.get(key, (None, 0))
        return stamp if end > self.now else None

    def raw(self, key: str) -> bytes | None:
        """See `rules.Shelf`."""
        value = self.value(key)
        return value if isinstance(value, bytes) else None

    def put(self, key: str, body: bytes, stamp: Stamp, ttl: int) -> None:
        """See `rules.Shelf`."""
        value = stamped(body, *stamp)
        if self.value(key) is None:
            self.store(key, value)
        self.state.values[key] = value
        if ttl != KEEP_TTL:
            self.expire(key, ttl)

    def remove(self, key: str) -> None:
        """See `rules.Shelf`."""
        if self.state.values.pop(key, None) is not None:
            self._sorted = None
        self.state.ends.pop(key, None)

    def bury(self, key: str, stamp: Stamp) -> None:
        """See `rules.Shelf`."""
        self.state.tombstones[key] = stamp, self.now + self.tombstone_ttl

    def extend(self, key: str, items: Sequence[bytes]) -> bool | None:
        """See `rules.Shelf`."""
        value = self.value(key)
        if isinstance(value, bytes):
            return None
        if value is None:
            self.store(key, list(items))
            return True
        value.extend(items)
        return False

    def lifetime(self, key: str) -> int:
        """See `rules.Shelf`."""
        if self.value(key) is None:
            return -2
        end = self.state.ends.get(key)
        return -1 if end is None else -(-(end - self.now) // 1000)  # rounded up: what lives has time left

    def expire(self, key: str, ttl: int) -> None:
        """See `rules.Shelf`."""
        self.state.ends.pop(key, None)
        if ttl != NEVER and self.value(key) is not None:
            self.state.ends[key] = self.now + ttl * 1000

    def announce(self, lineage: str, seq: int, op: Op, result: str) -> None:
        """See `rules.Shelf`."""
        kind = type(op.write).__name__.lower()
        self.state.logged += 1
        self.state.log.append(Change(str(self.state.logged), op.op_id, lineage, seq, kind, result, op.write.key))

    def versions(self, key: str) -> tuple[Kept, ...]:
        """The earlier versions of a record, newest first."""
        found, end = self.state.versions.get(key, ((), 0))
        return found if end > self.now else ()

    def archive(self, key: str, versions: Sequence[Kept], most: int) -> None:
        """See `rules.Shelf`."""
        self.state.versions[key] = (*versions, *self.versions(key))[:most], math.inf  # until it is given its age

    def age(self, key: str) -> None:
        """See `rules.Shelf`."""
        end = self.state.ends.get(key, math.inf) if self.value(key) is not None else self.now + self.tombstone_ttl
        if found := self.versions(key):
            self.state.versions[key] = found, end
        else:
            self.state.versions.pop(key, None)

    def mark(self, lineage: str) -> Mark | None:
        """How far a lineage was followed; None where no session has opened it."""
        mark, end = self.state.marks.get(lineage, (None, 0))
        return mark if end > self.now else None

    def keep(self, lineage: str, mark: Mark) -> None:
        """Store a mark, for as long as it lives."""
        self.state.marks[lineage] = mark, self.state.marks[lineage][1]

    def reached(self, lineage: str) -> Reached:
        """How far a lineage was followed, and by which op."""
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
        return {key: copied(value) for key, value in self.state.values.items()}

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
