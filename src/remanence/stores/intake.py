"""How writes come into the journal: the room for them, and one commit for all that are handed in at a moment.

Where somebody waits for the store and nothing stands in the way, what is being committed is sent in the
same moment, so that the disk and the server work at the same time (`Drain.post`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from remanence import events
from remanence.errors import Closed, JournalFull, Unavailable
from remanence.model import Write
from remanence.stores.pruning import make_room
from remanence.stores.room import Room
from remanence.stores.rows import Draft, Row
from remanence.stores.tickets import Ticket
from remanence.wire.sqlite import AlreadyThere, FileDamaged

if TYPE_CHECKING:
    from remanence.stores.resilient import ResilientStore


class Intake:
    """The way into one resilient store's journal."""

    def __init__(self, owner: "ResilientStore") -> None:
        self._owner = owner
        self._runtime = owner.runtime
        self._settings = owner.settings
        self._room = Room(owner.settings, owner.mutex, owner.tell)
        self._queue: list[Ticket] = []

    def full(self, more: int) -> bool:
        """Whether the journal has no room for so many writes."""
        return self._room.lacking(self._owner.drain.journal, more)

    async def admitted(self, writes: Sequence[Write], limit: float) -> bool:
        """Whether there is room after all: the setting `on_full` decides how that is tried."""
        owner, settings = self._owner, self._settings
        while self._room.lacking(owner.journal, len(writes)):
            if settings.on_full == "drop_new":
                return False
            if settings.on_full == "raise" or self._runtime.monotonic() >= limit:
                raise self._room.refusal(owner.journal)
            owner.keeper.start()
            owner.keeper.wake()
            await self._runtime.sleep(0.01)
        return True

    def withdraw(self, ticket: Ticket) -> None:
        """Its caller was interrupted: it is not to be committed, if it is not yet."""
        if ticket in self._queue:
            self._queue.remove(ticket)

    async def take(self, ticket: Ticket) -> None:
        """Commit, together with whatever others hand in at this moment. Raises what hinders it."""
        self._queue.append(ticket)
        await self._runtime.turn()
        with self._owner.mutex:
            if self._queue:  # this one, and others; or others alone
                queue, self._queue = self._queue, []
                self._commit_all(queue)
        if ticket.error is not None:
            raise ticket.error

    def _commit_all(self, tickets: Sequence[Ticket]) -> None:
        """One transaction for all; where that fails, each for itself, so that none fails for another."""
        try:
            self._commit(tickets)
        except Exception as error:
            if len(tickets) == 1:
                tickets[0].error = error
                return
            for ticket in tickets:
                self._commit_all([ticket])

    def _commit(self, tickets: Sequence[Ticket]) -> None:
        owner, drain, runtime = self._owner, self._owner.drain, self._runtime
        if owner.closed:  # by another thread, since the call began: the file may be closed by now
            raise Closed("this memory was closed: open a new one")
        wall, boot = runtime.wall(), runtime.boottime()
        tick, highest = drain.clock.tick, drain.highest
        entries: list[tuple[str, int, Write]] = []
        for ticket in tickets:
            for each, write in zip(ticket.op_ids, ticket.writes, strict=True):
                entries.append((each, tick(highest, wall, boot), write))
        draft = drain.journal.draft(entries, wall, boot)
        leader = self._leader_to_be(tickets)
        load = drain.post(draft, leader.limit) if leader is not None else None
        try:
            rows = self._append(draft, entries, sent=load is not None)
        except BaseException as error:
            if load is not None:
                drain.give_up(load, journalled=False)
                if isinstance(error, JournalFull):
                    raise JournalFull(f"{error}; but it had left already: read before you write it again") from error
            raise
        if load is None:
            owner.drain.journalled(rows)
        elif rows is draft.rows and leader is not None:
            leader.load, owner.leader = load, leader
        else:  # at a second attempt, perhaps in a new journal
            drain.give_up(load, journalled=False)
        n = rows[0].n
        for ticket in tickets:
            if ticket.awaited:
                owner.waiting.register(ticket, n)
            n += ticket.left
        if owner.tell.counted(events.Journalled, len(rows)):
            owner.tell.spread(events.Journalled(len(rows), owner.journal.pending))

    def _leader_to_be(self, tickets: Sequence[Ticket]) -> Ticket | None:
        """Who is to see to the answer, if what these tickets want can be sent while it is committed."""
        owner = self._owner
        if owner.leader is None and owner.contact.available:
            for ticket in tickets:
                if ticket.prompt and self._room.on_disk(owner.journal, self._runtime.monotonic()):
                    return ticket
        return None

    def _append(self, draft: Draft, entries: Sequence[tuple[str, int, Write]], *, sent: bool) -> list[Row]:
        journal = self._owner.journal
        try:
            journal.commit(draft)
            return draft.rows
        except JournalFull:
            make_room(journal)
        except AlreadyThere:  # the numbers are taken: others are found below
            if sent:  # under these: under others it would be another write
                journal.shared = True
                raise Unavailable(
                    f"{journal.path} is written by another process: whether this write was applied is not known"
                ) from None
        except FileDamaged as error:
            if self._settings.on_corrupt == "raise":
                raise
            self._owner.replace_journal(error)
        return self._owner.journal.append(entries)
