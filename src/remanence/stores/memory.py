"""The store in dicts: the executable specification that every other store is held equal to."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

from msgspec.structs import replace

from remanence.model import (
    BEGINNING,
    Batch,
    Change,
    Changes,
    Cursor,
    Erasure,
    Outcome,
    Reached,
    Seen,
    Watermark,
)
from remanence.protocols import Ask, Told
from remanence.stores.memory_shelf import Shelf, Snapshot, Value, copied, empty
from remanence.stores.rules import LEAD, RELAY, Mark, admitted, behind, erase, follow

_SWEEP = 1000  # ops between two looks at everything that may have expired, at least


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
        self._shelf = Shelf(empty(log_length), round(tombstone_ttl * 1_000_000))
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

    async def forget(self, erasure: Erasure, lineages: Sequence[str], deadline: float, *, live: bool) -> None:
        """See `Store.forget`."""
        with self.mutex:
            shelf = self._at_now()
            if live:
                erasure = replace(erasure, hlc=max(erasure.hlc, shelf.now))
            if all(each.op_id != erasure.op_id for each in shelf.state.erasures):
                shelf.state.erasures.append(erasure)
            for lineage, (mark, end) in shelf.state.marks.items():
                if lineage not in lineages and not lineage.startswith(RELAY):
                    shelf.state.marks[lineage] = mark.opened(""), end
            for key in [*shelf.keys(), *shelf.state.versions]:
                if erasure.covers(key):
                    erase(shelf, key, erasure, live=live)

    async def erasures(self, holder: str, seen: Seen | None, deadline: float) -> tuple[list[Erasure], Seen]:
        """See `Store.erasures`."""
        with self.mutex:
            shelf = self._at_now()
            if seen is None:
                shelf.state.holders.pop(holder, None)
                return [], Seen()
            if holder:
                shelf.state.holders[holder] = seen, shelf.now + self._watermark_ttl
            return behind(shelf.state.erasures, seen)

    async def holders(self, deadline: float) -> Mapping[str, Seen]:
        """See `Store.holders`."""
        with self.mutex:
            now = self._at_now().now
            return {holder: seen for holder, (seen, end) in self._shelf.state.holders.items() if end > now}

    async def publish(self, messages: Sequence[tuple[str, bytes]], deadline: float) -> None:
        """See `Store.publish`: there is nobody to tell."""

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
            self._at_now().store(key, copied(value))

    def snapshot(self) -> Snapshot:
        """The whole state, to be restored here or in another store any number of times."""
        with self.mutex:
            return self._shelf.state.copy()

    def restore(self, snapshot: Snapshot | None = None) -> None:
        """Be as at the snapshot, or empty: a server that forgets."""
        with self.mutex:
            state = snapshot.copy() if snapshot else empty(self._shelf.state.log.maxlen)
            self._shelf = Shelf(state, self._shelf.tombstone_ttl)

    # --- inside

    def _at_now(self) -> "Shelf":
        self._shelf.now = round(self._clock() * 1_000_000)
        return self._shelf

    def _sweep(self, ops: int) -> None:
        """Forget what has expired unseen, at a cost that stays constant per op."""
        self._until_sweep -= ops
        if self._until_sweep <= 0:
            self._until_sweep = max(_SWEEP, self._shelf.sweep())
