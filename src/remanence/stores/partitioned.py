"""A namespace in several partitions: one resilient store for each, and the way of each key to its own.

A key's partition depends on its text alone. Within a partition everything is as with one: order, exactly
once, one journal, one change log. Between partitions nothing is promised: a call that writes to two of them
may find its writes in one, journalled or applied, and not yet, or never, in the other.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from remanence.errors import Closed, InvalidArgument
from remanence.feed.watch import Watch
from remanence.model import (
    Batch,
    Changes,
    Cursor,
    Erased,
    Erasure,
    Outcome,
    Reached,
    Reading,
    Receipt,
    Seen,
    Wanted,
    Watermark,
    Write,
)
from remanence.protocols import Ack, Ask, Flight, Runtime, Status, Store, Told
from remanence.stores.erasing import FORGET_SECONDS
from remanence.stores.receipts import together, unknown
from remanence.stores.resilient import ResilientStore
from remanence.stores.routes import Agreement
from remanence.wire.keys import partition_of

T = TypeVar("T")


class PartitionedStore:
    """A `Gateway` over the gateways of all partitions."""

    def __init__(self, parts: Sequence[ResilientStore], agreement: Agreement) -> None:
        """`parts`: one for each partition, in order."""
        self.parts = list(parts)
        self.store: Store = PartitionedReads([part.store for part in parts])
        for number, part in enumerate(self.parts):
            part.feed.number = number
        self._agreement = agreement
        self._begun = False
        self._settings = parts[0].settings

    @property
    def runtime(self) -> Runtime:
        """How it waits and tells the time: the same for all."""
        return self.parts[0].runtime

    async def write(
        self, writes: Sequence[Write], *, ack: Ack | None = None, deadline: float | None = None
    ) -> list[Receipt]:
        """See `Gateway.write`; all or none in each partition, for which the same deadline holds.

        What one partition raises keeps the writes from those after it. Raises `Misconfigured` where the
        namespace has another number of partitions.
        """
        limit = self._limit(deadline)
        await self._begin(limit)
        receipts: list[Receipt | None] = [None] * len(writes)
        for at, places in _shares((write.key for write in writes), len(self.parts)).items():
            found = await self.parts[at].write([writes[i] for i in places], ack=ack, deadline=self._left(limit))
            _put_back(receipts, places, found)
        return receipts  # type: ignore[return-value] # each is there

    async def read(
        self, asks: Sequence[Ask], *, deadline: float | None = None, fresh: bool = False
    ) -> list[Reading[Any]]:
        """See `Gateway.read`; each partition's answers are of one moment, not all of the same."""
        limit = self._limit(deadline)
        await self._begin(limit)
        readings: list[Reading[Any] | None] = [None] * len(asks)
        for at, places in _shares((ask.key for ask in asks), len(self.parts)).items():
            mine = [asks[i] for i in places]
            found = await self.parts[at].read(mine, deadline=self._left(limit), fresh=fresh)
            _put_back(readings, places, found)
        return readings  # type: ignore[return-value] # each is there

    async def scan(self, prefix: str, cursor: str = "", count: int = 500) -> tuple[list[str], str]:
        """See `Gateway.scan`; one partition after the other."""
        at, inner = read_cursor(cursor, len(self.parts))
        keys, following = await self.parts[at].scan(prefix, inner, count)
        return keys, next_cursor(at, following, len(self.parts))

    async def _begin(self, limit: float) -> None:
        """With the first call: every partition may have something left by a process that ended."""
        if not self._begun:
            await self._agreement.reach_once(limit)
            self._begun = True
            for part in self.parts:
                part.keeper.start()

    def watch(self, wanted: Wanted, since: str | None = None) -> Watch:
        """See `Gateway.watch`; in the order of each partition's log."""
        if any(part.closed for part in self.parts):
            raise Closed("this memory was closed: open a new one")
        return Watch([part.feed for part in self.parts], wanted, self.runtime, since)

    async def forget(self, key: str, *, beginning: bool = False, deadline: float | None = None) -> Erased:
        """See `Gateway.forget`; in every partition that may have some of it."""
        limit = self._limit(FORGET_SECONDS if deadline is None else deadline)
        await self._begin(limit)
        parts = self.parts if beginning else [self.parts[partition_of(key, len(self.parts))]]
        told = [await each.forget(key, beginning=beginning, deadline=self._left(limit)) for each in parts]
        return together(told)

    async def erased(self, erasure: str, *, deadline: float | None = None) -> Erased:
        """See `Gateway.erased`."""
        limit = self._limit(deadline)
        told: list[Erased] = []
        for one in erasure.split(","):
            for part in self.parts:
                with contextlib.suppress(InvalidArgument):  # another partition's
                    told.append(await part.erased(one, deadline=self._left(limit)))
        if not told:
            raise unknown()
        return together(told)

    async def status(self) -> Status:
        """See `Gateway.status`: what adds up added up, and of the rest the worst."""
        return summed([await part.status() for part in self.parts])

    async def flush(self, timeout: float) -> bool:
        """See `Gateway.flush`. All partitions send at the same time."""
        limit = self.runtime.monotonic() + timeout
        for part in self.parts:
            part.keeper.start()
            part.keeper.wake()
        flushed = [await part.flush(self._left(limit)) for part in self.parts]
        return all(flushed)

    async def close(self, timeout: float | None = None) -> None:
        """See `Gateway.close`. One partition that is away does not take the time of the others."""
        limit = self.runtime.monotonic() + (self._settings.close_timeout if timeout is None else timeout)
        for part in sorted(self.parts, key=lambda part: not part.contact.available):
            await part.close(self._left(limit))

    def abandon(self) -> None:
        """Let go of the journals without waiting: the loop this belonged to is gone."""
        for part in self.parts:
            part.abandon()

    def _limit(self, deadline: float | None) -> float:
        return self.runtime.monotonic() + (self._settings.deadline if deadline is None else deadline)

    def _left(self, limit: float) -> float:
        return max(0.0, limit - self.runtime.monotonic())


class PartitionedReads:
    """What can be asked of the stores of all partitions together: a `Store` to read from, scan and look at.

    A lineage, its batches and its change log belong to one partition: ask for them there.
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = list(stores)

    @property
    def generation(self) -> int:
        """See `Store.generation`."""
        return sum(store.generation for store in self.stores)

    async def read(
        self, asks: Sequence[Ask], deadline: float, marks: Sequence[str] = ()
    ) -> tuple[list[Told], list[Reached]]:
        """See `Store.read`; without marks."""
        if marks:
            self._of_one()
        told: list[Told] = [None] * len(asks)
        for at, places in _shares((ask.key for ask in asks), len(self.stores)).items():
            found, _ = await self.stores[at].read([asks[i] for i in places], deadline)
            _put_back(told, places, found)
        return told, []

    async def scan(self, prefix: str, cursor: str, count: int, deadline: float) -> tuple[list[str], str]:
        """See `Store.scan`; one partition after the other."""
        at, inner = read_cursor(cursor, len(self.stores))
        keys, following = await self.stores[at].scan(prefix, inner, count, deadline)
        return keys, next_cursor(at, following, len(self.stores))

    async def publish(self, messages: Sequence[tuple[str, bytes]], deadline: float) -> None:
        """See `Store.publish`: the first partition has all channels."""
        await self.stores[0].publish(messages, deadline)

    async def facts(self, deadline: float) -> Mapping[str, str]:
        """See `Store.facts`: of each server once, numbers that add up added up."""
        return joined([await store.facts(deadline) for store in self.stores])

    async def close(self) -> None:
        """See `Store.close`."""
        for store in self.stores:
            await store.close()

    def _of_one(self) -> NoReturn:
        raise InvalidArgument("lineages and change logs belong to one partition: ask the store of that one")

    async def open(self, lineage: str, nonce: str, deadline: float) -> Watermark:
        """Of one partition alone."""
        self._of_one()

    async def forward(self, lineage: str, nonce: str, seq: int, op_id: str, deadline: float) -> bool:
        """Of one partition alone."""
        self._of_one()

    async def apply(self, batch: Batch, deadline: float) -> Outcome:
        """Of one partition alone."""
        self._of_one()

    def flight(self, batch: Batch, deadline: float) -> Flight | None:
        """Of one partition alone."""
        self._of_one()

    async def history(self, lineage: str, limit: int, deadline: float) -> list[tuple[int, str]]:
        """Of one partition alone."""
        self._of_one()

    async def changes(self, after: Cursor, count: int, wait: float, deadline: float) -> Changes:
        """Of one partition alone."""
        self._of_one()

    async def latest(self, deadline: float) -> Cursor:
        """Of one partition alone."""
        self._of_one()

    async def replicated(self, lineage: str, replicas: int, wait: float, deadline: float) -> tuple[Reached, int]:
        """Of one partition alone."""
        self._of_one()

    async def forget(self, erasure: Erasure, lineages: Sequence[str], deadline: float, *, live: bool) -> None:
        """Of one partition alone."""
        self._of_one()

    async def erasures(self, holder: str, seen: Seen | None, deadline: float) -> tuple[list[Erasure], Seen]:
        """Of one partition alone."""
        self._of_one()

    async def holders(self, deadline: float) -> Mapping[str, Seen]:
        """Of one partition alone."""
        self._of_one()


# --- decisions --------------------------------------------------------------------------------------


def _shares(keys: Iterable[str], partitions: int) -> dict[int, list[int]]:
    """The positions of keys by their partitions: partitions as they are first met, positions in order."""
    shares: dict[int, list[int]] = {}
    for position, key in enumerate(keys):
        shares.setdefault(partition_of(key, partitions), []).append(position)
    return shares


def _put_back(answers: list[T | None] | list[T], places: Sequence[int], found: Sequence[T]) -> None:
    for place, each in zip(places, found, strict=True):
        answers[place] = each


def read_cursor(cursor: str, partitions: int) -> tuple[int, str]:
    """The partition that a cursor is in, and its place there. Raises `InvalidArgument` for one that is none."""
    at, colon, inner = cursor.partition(":")
    if not cursor:
        return 0, ""
    if not (colon and at.isdecimal() and int(at) < partitions):
        raise InvalidArgument("cursor must be one that an earlier page returned, or empty")
    return int(at), inner


def next_cursor(at: int, following: str, partitions: int) -> str:
    """Where to go on after a page of a partition: there, or in the next one; "" at the end of the last."""
    if following:
        return f"{at}:{following}"
    return f"{at + 1}:" if at + 1 < partitions else ""


def summed(parts: Sequence[Status]) -> Status:
    """One status of many."""
    away = next((part for part in parts if not part.available), None)
    told = [part.last_contact for part in parts if part.last_contact is not None]
    journal = parts[0].journal
    return Status(
        available=away is None,
        ready=any(part.ready for part in parts),
        reason=away.reason if away is not None else "",
        pending=_sum(parts, lambda part: part.pending),
        pending_bytes=_sum(parts, lambda part: part.pending_bytes),
        lag=max(part.lag for part in parts),
        last_contact=min(told, default=None),
        retained=_sum(parts, lambda part: part.retained),
        dead_letters=_sum(parts, lambda part: part.dead_letters),
        conflicts=_sum(parts, lambda part: part.conflicts),
        journal=str(Path(journal).parent.parent) if "/" in journal else journal,
        durable=all(part.durable for part in parts),
        counters=parts[0].counters,  # one set of counters for all
    )


def _sum(parts: Sequence[Status], of: Callable[[Status], int]) -> int:
    return sum(of(part) for part in parts)


ADDED = ("keys", "used_memory", "used_memory_peak", "maxmemory")
"""Facts of servers that add up."""
OF_EACH = ("log",)
"""Facts of partitions that add up."""


def joined(facts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The facts of several stores as those of one: of the first, but for what adds up.

    A server tells its `run_id`: two partitions on it tell of the same keys and the same memory.
    """
    servers = {each.get("run_id", str(at)): each for at, each in enumerate(facts)}
    found = dict(facts[0])
    for name in ADDED:
        if name in found:
            found[name] = str(sum(int(each.get(name, 0)) for each in servers.values()))
    for name in OF_EACH:
        if name in found:
            found[name] = str(sum(int(each.get(name, 0)) for each in facts))
    if len(servers) > 1:  # spelled for people, of one server alone
        found.pop("used_memory_human", None)
        found.pop("used_memory_peak_human", None)
    return found


def parts_of(gateway: object) -> list[ResilientStore]:
    """The resilient stores behind a gateway: of each partition, the one that it is, or none."""
    if isinstance(gateway, PartitionedStore):
        return list(gateway.parts)
    return [gateway] if isinstance(gateway, ResilientStore) else []
