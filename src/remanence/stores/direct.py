"""The direct way to a store that is itself on this machine: the embedded file, or memory.

There is nothing to journal, for applying is committing. The same gateway contract as the resilient way.
"""

from collections.abc import Sequence
from typing import Any

from remanence import events
from remanence.errors import Closed
from remanence.feed.feed import Feed
from remanence.feed.watch import Watch
from remanence.model import (
    EXPIRED,
    OK,
    REFUSED,
    Batch,
    Erased,
    Erasure,
    Forget,
    Outcome,
    Reading,
    Receipt,
    Wanted,
    Write,
)
from remanence.protocols import Ack, Ask, Fetch, Runtime, Status, Store
from remanence.settings import Settings
from remanence.stores.erasing import FORGET_SECONDS
from remanence.stores.known import Document, of_record
from remanence.stores.receipts import check_named, looked_up
from remanence.stores.resolve import NOTHING, Intent, Resolution, lifetime, needed, needless, resolve
from remanence.wire import codec
from remanence.wire.identity import op_id


class DirectStore:
    """A `Gateway` that applies each write at once."""

    def __init__(
        self,
        store: Store,
        runtime: Runtime,
        settings: Settings,
        tell: events.Events,
        *,
        place: str,
        durable: bool,
    ) -> None:
        """`place` is what `Status.journal` shows: the file, or "volatile"."""
        self.store = store
        self.runtime = runtime
        self.settings = settings
        self.tell = tell
        self.closed = False
        self._place = place
        self._durable = durable
        self._clock = 0
        self._last: float | None = None
        self.feed = Feed(store, runtime, tell)

    async def write(
        self, writes: Sequence[Write], *, ack: Ack | None = None, deadline: float | None = None
    ) -> list[Receipt]:
        """See `Gateway.write`. Every receipt is final: there is nothing between here and the store."""
        self._check_open()
        limit, settings = self._limit(deadline), self.settings
        room = settings.batch_bytes if settings.history else 0
        intents = [self._intent(write) for write in writes]
        documents: dict[str, Document] = {}
        receipts: list[Receipt] = []
        while intents:
            await self._learn([each.write for each in intents], documents, limit)
            resolutions = resolve(intents, documents, settings.value_bytes, room=room)
            outcome = await self.store.apply(Batch("", "", 1, [each.op for each in resolutions]), limit)
            done = len(outcome.results)
            receipts += map(self._receipt, intents, resolutions, outcome.results)
            documents = _moved(intents[done].write.key, outcome) if outcome.moved else {}
            intents = intents[done:]
        self._last = self.runtime.wall()
        return receipts

    def _intent(self, write: Write) -> Intent:
        self._clock = max(int(self.runtime.wall() * 1e6), self._clock + 1)
        return Intent(op_id(self.runtime.random_bytes(16)), self._clock, write, True, lifetime(write))

    async def _learn(self, writes: Sequence[Write], documents: dict[str, Document], limit: float) -> None:
        keys = [key for key in needed(writes) if key not in documents]
        if keys:
            told, _ = await self.store.read([Fetch(key) for key in keys], limit)
            for key, each in zip(keys, told, strict=True):
                documents[key] = Document(None, "?") if isinstance(each, Exception) else of_record(each)  # type: ignore[arg-type]

    def _receipt(self, intent: Intent, resolution: Resolution, code: str) -> Receipt:
        op = resolution.op
        reason = resolution.rejection if code in (OK, EXPIRED, REFUSED) else code
        if reason and not needless(intent.write, reason):
            self.tell.tell(events.WriteRejected(op.write.key, op.op_id, reason))
            return Receipt("rejected", op.op_id, reason=reason)
        return Receipt("applied", op.op_id, resolution.result)

    async def read(
        self, asks: Sequence[Ask], *, deadline: float | None = None, fresh: bool = False
    ) -> list[Reading[Any]]:
        """See `Gateway.read`: every read is of the store itself."""
        self._check_open()
        told, _ = await self.store.read(asks, self._limit(deadline))
        for each in told:
            if isinstance(each, Exception):
                raise each
        self._last = self.runtime.wall()
        return [Reading(each) for each in told]

    async def scan(self, prefix: str, cursor: str = "", count: int = 500) -> tuple[list[str], str]:
        """See `Gateway.scan`."""
        self._check_open()
        return await self.store.scan(prefix, cursor, count, self._limit(None))

    def _limit(self, deadline: float | None) -> float:
        return self.runtime.monotonic() + (self.settings.deadline if deadline is None else deadline)

    def _check_open(self) -> None:
        if self.closed:
            raise Closed("this memory was closed: open a new one")

    def watch(self, wanted: Wanted, since: str | None = None) -> Watch:
        """See `Gateway.watch`."""
        self._check_open()
        return Watch([self.feed], wanted, self.runtime, since)

    async def forget(self, key: str, *, beginning: bool = False, deadline: float | None = None) -> Erased:
        """See `Gateway.forget`: there is nothing beside the store."""
        self._check_open()
        check_named(key, beginning)
        intent = self._intent(Forget(key, beginning))
        limit = self._limit(FORGET_SECONDS if deadline is None else deadline)
        await self.store.forget(Erasure(intent.op_id, intent.hlc, key, beginning), (), limit, live=True)
        return Erased(intent.op_id, "erased")

    async def erased(self, erasure: str, *, deadline: float | None = None) -> Erased:
        """See `Gateway.erased`."""
        self._check_open()
        return await looked_up(self.store, erasure, self._limit(deadline))

    async def status(self) -> Status:
        """See `Gateway.status`."""
        return Status(
            available=not self.closed,
            ready=True,
            reason="",
            pending=0,
            pending_bytes=0,
            lag=0.0,
            last_contact=self._last,
            retained=0,
            dead_letters=0,
            conflicts=0,
            journal=self._place,
            durable=self._durable,
            counters=dict(self.tell.counters),
        )

    async def flush(self, timeout: float) -> bool:
        """See `Gateway.flush`: nothing is ever pending."""
        return True

    async def close(self, timeout: float | None = None) -> None:
        """See `Gateway.close`."""
        if not self.closed:
            self.closed = True
            self.feed.close()
            await self.store.close()


def _moved(key: str, outcome: Outcome) -> dict[str, Document]:
    if outcome.current is None:
        return {key: NOTHING}
    body, etag, hlc = codec.split(outcome.current)
    return {key: Document(body, etag, hlc)}
