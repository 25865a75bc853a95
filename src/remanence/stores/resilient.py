"""The resilient way to a store: every write is on this machine's disk before its call returns.

A write commits to the journal, then whoever wrote sends for everybody who waits (one batch in flight).
It returns when the store has applied it or, past its deadline or with the store away, when the journal
has it. A keeper in the background sends what nobody waits for, notices a store that came back or
forgot, adopts what ended processes left, and keeps the journal small.
"""

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

from remanence import events
from remanence.errors import Closed, DeadlineExceeded, Misconfigured, RemanenceError, WorldError
from remanence.feed.feed import WAIT, Feed
from remanence.feed.watch import Watch
from remanence.model import Erased, Erasure, Reading, Receipt, Wanted, Write
from remanence.protocols import Ack, Ask, Runtime, Signal, Status, Store
from remanence.settings import Settings
from remanence.stores.contact import Contact, status
from remanence.stores.drain import Drain
from remanence.stores.intake import Intake
from remanence.stores.journal import Journal
from remanence.stores.keeper import Keeper
from remanence.stores.known import Known
from remanence.stores.load import Load
from remanence.stores.merging import Merging
from remanence.stores.mirror import Mirror
from remanence.stores.reader import Reader
from remanence.stores.receipts import forget, receipt
from remanence.stores.replicas import replicated
from remanence.stores.rows import Settled
from remanence.stores.shelf import Shelf
from remanence.stores.tickets import Ticket, Waiting
from remanence.stores.vouching import Vouching
from remanence.wire.identity import op_id
from remanence.wire.sqlite import FileDamaged

SILENT_SECONDS = 2.0
"""After so long without an answer to anybody, a feed's word that the store is away counts."""


class ResilientStore:
    """A `Gateway` over a journal and a store. One per process and deployment."""

    def __init__(self, store: Store, shelf: Shelf, runtime: Runtime, settings: Settings, tell: events.Events) -> None:
        """Opens the journal; does not talk to the store. Raises `JournalUnusable`."""
        self.store = store
        self.runtime = runtime
        self.settings = settings
        self.tell = tell
        self.shelf = shelf
        self.contact = Contact(runtime, settings, tell)
        self.mutex = runtime.mutex()
        self.closed = False
        self._ack = settings.ack if settings.fallback else "store"
        self.leader: object | None = None
        """Whoever talks to the store for the journal of this process."""
        self.waiting = Waiting()
        self.feed = Feed(store, runtime, tell, wait=min(WAIT, settings.staleness / 3))
        self.vouching = Vouching(self.feed, runtime, settings.staleness) if settings.reads != "fresh" else None
        """What near reads go by; None where reads are fresh."""
        self.mirror: Mirror | None = None
        self.merging = Merging(self)
        self.drain = self._drain_of(shelf.own())
        self.adopted: list[Drain] = []
        self.keeper = Keeper(self)
        self._reader = Reader(self)
        self._intake = Intake(self)
        self.feed.lost, self.feed.answered = self._unheard, self.contact.reached
        if settings.reads == "mirror":
            self.mirror = Mirror(shelf.mirror(), store, self.feed, runtime, lambda: self.journal, self.mutex, tell.tell)

    def _drain_of(self, journal: Journal) -> Drain:
        known = Known(journal.database, records=self.settings.local_records)
        settled = partial(self._settle, journal)
        rest = (self.store, self.runtime, self.settings, self.tell, settled, self.mutex)
        return Drain(journal, known, *rest, self.vouching, self.merging.take, self._let_go)

    def adopt(self, journal: Journal) -> Drain:
        """Take over a journal that an ended process left: whoever waited for its writes has ended."""
        known = Known(journal.database, records=0)
        rest = (self.store, self.runtime, self.settings, self.tell, lambda settled: None, self.mutex)
        drain = Drain(journal, known, *rest, lost=self.merging.take)
        self.adopted.append(drain)
        return drain

    @property
    def journal(self) -> Journal:
        """The journal this process writes to."""
        return self.drain.journal

    # --- writing --------------------------------------------------------------------------------

    async def write(
        self, writes: Sequence[Write], *, ack: Ack | None = None, deadline: float | None = None
    ) -> list[Receipt]:
        """See `Gateway.write`. Raises `JournalFull`, and with ack "store" `Unavailable` past the deadline."""
        if self.closed:
            raise Closed("this memory was closed: open a new one")
        wanted = ack or self._ack
        limit = self._limit(deadline)
        if self._intake.full(len(writes)) and not await self._intake.admitted(writes, limit):
            return [Receipt("rejected", "", reason="dropped: the journal is full") for _ in writes]
        random_bytes = self.runtime.random_bytes
        ticket = Ticket(writes, [op_id(random_bytes(16)) for _ in writes])
        ticket.limit = limit
        ticket.awaited = wanted == "store" or (wanted != "journal" and self.contact.available)
        # who does not wait must not lead, though the server may be back by the time that this is committed
        ticket.prompt = ticket.awaited and limit - self.runtime.monotonic() >= 0.8 * self.settings.deadline
        try:
            await self._intake.take(ticket)
            self.keeper.start()
            if not ticket.awaited:
                if self.contact.available:
                    self.keeper.wake()
                return [Receipt("journalled", each) for each in ticket.op_ids]
            if ticket.load is not None:
                await self.runtime.shield(self._lead(limit, ticket))
            if ticket.left:
                await self._await_store(ticket, limit)
            if not ticket.left:
                receipts: list[Receipt] = ticket.receipts  # type: ignore[assignment] # each is there
                return await replicated(self, ticket.first, receipts, limit) if wanted == "replicated" else receipts
            if ticket.error is not None:
                raise ticket.error
            if wanted == "store":
                raise self.contact.refusal(
                    "the server did not confirm within the deadline",
                    ". The write stays in the journal, and is applied as long as that is kept",
                )
            with self.mutex:
                return self.waiting.receipts(ticket)
        except BaseException:  # interrupted too: nobody may wait for what nobody waits for
            self._forsake(ticket)
            raise

    def _forsake(self, ticket: Ticket) -> None:
        """Its caller was interrupted anywhere: nobody is to wait for it, nor it for a place in the journal."""
        with self.mutex:
            self._intake.withdraw(ticket)
            self.waiting.drop(ticket)
            left_standing = self.leader is ticket and not ticket.sending
            if left_standing and ticket.load is not None:
                self.drain.give_up(ticket.load, journalled=True)
        if left_standing:
            self.pass_on(ticket)
        else:
            self._summon()

    def replace_journal(self, error: FileDamaged) -> None:
        """Go on with a new journal; under the mutex. Who waits for what was in the damaged one is told."""
        self.drain = self._drain_of(self.shelf.replace(self.journal, str(error)))
        self.waiting.fail(FileDamaged(f"{error}: it was set aside, and whether this write was applied is not known"))

    def damaged(self, drain: Drain, error: FileDamaged) -> None:
        """A journal turned out damaged in use: it is set aside."""
        with self.mutex:
            if drain is self.drain:
                self.replace_journal(error)
            elif drain in self.adopted:
                self.adopted.remove(drain)
                self.shelf.retire(drain.journal, str(error))

    # --- sending --------------------------------------------------------------------------------

    async def _await_store(self, ticket: Ticket, limit: float) -> None:
        """Send, or wait while somebody else does, until the ticket is settled or `limit` passed."""
        while ticket.left and ticket.error is None and self.contact.available and not self.closed:
            left = limit - self.runtime.monotonic()
            if left <= 0:
                return
            signal = self._follow(ticket)
            if signal is None:
                await self.lead(limit, ticket)
            else:
                if not ticket.prompt:
                    self.keeper.wake()
                await signal.wait(left)

    def _follow(self, ticket: Ticket) -> Signal | None:
        """None when the caller is to lead now; else the signal of its ticket, ready to wait for."""
        with self.mutex:
            if ticket.prompt and self.leader is None:
                self.leader = ticket
                return None
            if ticket.signal is None:
                ticket.signal = self.runtime.signal()
            ticket.signal.clear()
            if not ticket.left or ticket.error is not None:
                ticket.signal.set()
            return ticket.signal

    def take_lead(self, leader: object) -> bool:
        """Have `leader` be the one who talks to the store for this journal, if nobody is."""
        with self.mutex:
            if self.leader is not None or self.closed:
                return False
            self.leader = leader
            return True

    async def lead(self, limit: float, leader: object) -> None:
        """Send one batch as the leader, and pass the lead on. Errors become the contact's state."""
        await self.runtime.shield(self._lead(limit, leader))

    async def _lead(self, limit: float, leader: object) -> None:
        ticket = leader if isinstance(leader, Ticket) else None
        try:
            if ticket is not None:
                ticket.sending = True
            deadline = min(limit, self.runtime.monotonic() + self.settings.deadline)
            await self.pump(self.drain, deadline, ticket.load if ticket is not None else None)
        finally:
            if ticket is not None:
                ticket.sending, ticket.load = False, None
            self.pass_on(leader)

    async def pump(self, drain: Drain, deadline: float, load: Load | None = None) -> bool:
        """Land `load`, or handshake if needed and send one batch; False when the store is away."""
        for attempt in (1, 2):
            try:
                if load is not None and attempt == 1:
                    await drain.land(load)
                else:
                    drain.recall()
                    if not drain.opened or drain.unsure:
                        await drain.handshake(deadline)
                    await drain.send(deadline)
                self.contact.reached()
                if not self.contact.available or self.contact.failures:
                    self.contact.recovered(self.journal.pending)
                return True
            except WorldError as error:
                drain.opened = False
                again = attempt == 1 and self.contact.ready and not isinstance(error, DeadlineExceeded | Misconfigured)
                if not again or self.contact.failures:
                    self.lost(error)
                    return False
            except FileDamaged as error:
                drain.opened = False
                if self.closed:
                    raise Closed("this memory was closed: open a new one") from error
                if self.settings.on_corrupt == "raise":
                    raise
                self.damaged(drain, error)
                return False
            except BaseException:  # interrupted anywhere: what is under way is unknown, the handshake finds out
                drain.opened = False
                raise
        return False

    def pass_on(self, leader: object) -> None:
        """Let somebody else lead; nothing happens where `leader` does not any more."""
        with self.mutex:
            if self.leader is leader:
                self.leader = None
            heir = self.waiting.heir()
        self._call(heir)

    def _summon(self) -> None:
        """Wake somebody who still waits, to lead, or the keeper when nobody does."""
        with self.mutex:
            heir = self.waiting.heir()
        self._call(heir)

    def _call(self, heir: Signal | None) -> None:
        if heir is not None:
            heir.set()
        elif self.journal.pending:
            self.keeper.wake()

    def lost(self, error: WorldError) -> None:
        """The store did not answer, or refused: everybody who waits goes on with the journal."""
        self.contact.lost(error)
        with self.mutex:
            waiting = self.waiting.signals()
        for signal in waiting:
            signal.set()
        self.keeper.start()
        self.keeper.wake()

    def _unheard(self, error: WorldError) -> None:
        """The feed lost the store: news to who neither writes nor reads, while others would have noticed."""
        last = self.contact.last
        if self.contact.available and (last is None or self.runtime.wall() - last > SILENT_SECONDS):
            self.drain.opened = False
            self.lost(error)

    def _settle(self, journal: Journal, settled: Sequence[Settled]) -> None:
        """Called by the drain under the mutex: hand each row's fate to whoever waits for it."""
        if journal is not self.journal:
            return  # set aside meanwhile: these numbers are other writes' now
        self.waiting.settle(settled)

    # --- reading --------------------------------------------------------------------------------

    async def read(
        self, asks: Sequence[Ask], *, deadline: float | None = None, fresh: bool = False
    ) -> list[Reading[Any]]:
        """See `Gateway.read`. Raises `Unavailable` where the store is away and nothing is known here."""
        if self.closed:
            raise Closed("this memory was closed: open a new one")
        if self.vouching is not None and not fresh:
            if self.mirror is not None:
                self.mirror.start()
            readings = self._reader.at_hand(asks, self.vouching)
            if readings is not None:
                return readings
        self.keeper.start()
        return await self._reader.read(asks, self._limit(deadline))

    async def scan(self, prefix: str, cursor: str = "", count: int = 500) -> tuple[list[str], str]:
        """See `Gateway.scan`."""
        return await self._reader.scan(prefix, cursor, count, self._limit(None))

    def watch(self, wanted: Wanted, since: str | None = None) -> Watch:
        """See `Gateway.watch`."""
        if self.closed:
            raise Closed("this memory was closed: open a new one")
        return Watch([self.feed], wanted, self.runtime, since)

    def _limit(self, deadline: float | None) -> float:
        return self.runtime.monotonic() + (self.settings.deadline if deadline is None else deadline)

    # --- forgetting -----------------------------------------------------------------------------

    async def forget(self, key: str, *, beginning: bool = False, deadline: float | None = None) -> Erased:
        """See `Gateway.forget`."""
        return await forget(self, key, beginning, deadline)

    async def erased(self, erasure: str, *, deadline: float | None = None) -> Erased:
        """See `Gateway.erased`."""
        return await receipt(self, erasure, self._limit(deadline))

    def _let_go(self, erasures: Sequence[Erasure]) -> None:
        if self.vouching is not None:
            self.vouching.doubt()
        if self.mirror is not None:
            self.mirror.erase(erasures)

    # --- life -----------------------------------------------------------------------------------

    async def status(self) -> Status:
        """See `Gateway.status`."""
        with self.mutex:
            return status(self.contact, self.journal, [drain.journal for drain in self.adopted], self.tell)

    async def flush(self, timeout: float) -> bool:
        """See `Gateway.flush`."""
        limit = self.runtime.monotonic() + timeout
        self.keeper.start()
        leader = Ticket((), ())
        try:
            return await self._flush(limit, leader)
        except BaseException:  # as in `write`
            self._forsake(leader)
            raise

    async def _flush(self, limit: float, leader: Ticket) -> bool:
        while self.journal.pending or (self.drain.unsure and self.contact.available):
            if self.runtime.monotonic() >= limit:
                return False
            if self.contact.available and self.take_lead(leader):
                await self.lead(limit, leader)
            else:
                self.keeper.wake()
                await self.runtime.sleep(0.002)
        return True

    async def close(self, timeout: float | None = None) -> None:
        """See `Gateway.close`. What is still pending stays in the journal for the next process."""
        if self.closed:
            return
        limit = self.runtime.monotonic() + (self.settings.close_timeout if timeout is None else timeout)
        if self.contact.available:
            await self.flush(max(0.0, limit - self.runtime.monotonic()))
            await self.merging.finish(max(0.0, limit - self.runtime.monotonic()))
            await self.drain.erasing.note(limit)
        self.closed = True
        self.feed.close()
        await self.keeper.stop(max(0.1, limit - self.runtime.monotonic()))
        with self.mutex:
            with contextlib.suppress(RemanenceError):  # the disk is full: what is known here can be asked again
                self.keeper.remember()
            self._leave_journals()
        await self.store.close()

    def abandon(self) -> None:
        """Let go of the journal without waiting: the loop this belonged to is gone."""
        self.closed = True
        self.feed.close()
        self._leave_journals()

    def _leave_journals(self) -> None:
        for drain in [self.drain, *self.adopted]:
            self.shelf.release(drain.journal)
        if self.mirror is not None:
            self.mirror.close()
            self.shelf.release_mirror()
