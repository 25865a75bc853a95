"""Writes that lost while nobody waited for them any more, handed to the user's own merge.

A put or delete that was replayed and found something newer, or whose base had changed by then, is in the
conflict log, and its caller has long gone on. Where somebody registered a merge for its key (`Merges`), it is
asked what to store instead, apart from all other writes, and the answer is written on the version that won.
Whatever goes wrong, the conflict stays in the log for people.
"""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from remanence import events
from remanence.errors import JournalFull, WorldError
from remanence.model import ABSENT, CONFLICT, KEEP_TTL, NEVER, Delete, Put, Record
from remanence.protocols import Fetch, Merger, Task
from remanence.stores.journal import Journal
from remanence.stores.outcomes import set_merged
from remanence.stores.rows import Row

if TYPE_CHECKING:
    from remanence.stores.resilient import ResilientStore

ATTEMPTS: Final = 20
"""How often a merge is made anew because the record moved on meanwhile."""
MOST: Final = 10_000
"""Lost writes that wait to be merged, at most: as many as the log keeps. Those past it are in the log alone."""


class Merges:
    """The merges that were registered in this process, for all gateways of an engine."""

    def __init__(self) -> None:
        self._mergers: tuple[Merger, ...] = ()

    def add(self, merger: Merger) -> Callable[[], None]:
        """Ask `merger` about what it claims and none before it does; returns what ends that."""
        self._mergers = (*self._mergers, merger)
        return lambda: self._remove(merger)

    def _remove(self, merger: Merger) -> None:
        self._mergers = tuple(each for each in self._mergers if each is not merger)

    def of(self, key: str) -> Merger | None:
        """Who merges what is at `key`."""
        return next((each for each in self._mergers if each.claims(key)), None)


class Lost(msgspec.Struct, frozen=True):
    """The last write of a journal to a key that lost, and the ids of all of them: it was to replace those before."""

    write: Put | Delete
    op_ids: tuple[str, ...]


class Merging:
    """Of one resilient store. `take` is called under its owner's mutex; merging itself is a task of its own."""

    def __init__(self, owner: "ResilientStore") -> None:
        self.merges = Merges()
        self._owner = owner
        self._lost: dict[tuple[str, str], Lost] = {}
        self._held = 0
        self._task: Task | None = None

    def take(self, journal: Journal, row: Row) -> None:
        """A row of a journal has no effect, because somebody else had been there first."""
        owner, write = self._owner, row.write
        if not isinstance(write, Put | Delete) or self._held >= MOST or self.merges.of(write.key) is None:
            return
        if journal is owner.journal and owner.waiting.expects(row.n):
            return  # its caller is told, and decides
        self._held += 1
        at = journal.path, write.key
        before = self._lost.pop(at, None)
        self._lost[at] = Lost(write, (*(before.op_ids if before else ()), row.op_id))
        owner.keeper.wake()

    def begin(self) -> None:
        """Merge in the background what waits for it, where the store is there."""
        owner = self._owner
        with owner.mutex:
            if self._lost and self._task is None and owner.contact.available and not owner.closed:
                self._task = owner.runtime.spawn("remanence-merge", self._run)

    async def finish(self, timeout: float) -> None:
        """Let what waits be merged, for at most `timeout` seconds."""
        self.begin()
        task = self._task
        if task is not None:
            await task.join(timeout)

    async def _run(self) -> None:
        owner = self._owner
        try:
            # what is still pending may be newer writes to the same names, which will lose as well: the last counts
            await owner.flush(owner.settings.deadline)
            while self._lost and owner.contact.available and not owner.closed:
                at, lost = self._next()
                if not await self._merged(lost):
                    self._put_back(at, lost)
                    return  # the keeper begins again when the store is back
        except Exception as error:  # a damaged journal, a fault of ours: nobody else would hear of it
            if not owner.closed:
                owner.tell.tell(events.MergeFailed("a name", "", type(error).__name__))
        finally:
            with owner.mutex:  # not before `begin` knows of this task
                self._task = None

    def _next(self) -> tuple[tuple[str, str], Lost]:
        with self._owner.mutex:
            at = next(iter(self._lost))
            lost = self._lost.pop(at)
            self._held -= len(lost.op_ids)
            return at, lost

    def _put_back(self, at: tuple[str, str], lost: Lost) -> None:
        with self._owner.mutex:
            later = self._lost.pop(at, None)
            self._lost[at] = Lost(later.write, lost.op_ids + later.op_ids) if later else lost
            self._held += len(lost.op_ids)

    async def _merged(self, lost: Lost) -> bool:
        """Whether it is done, well or not; False where the store was not there."""
        tried: list[str] = []
        try:
            for _ in range(ATTEMPTS):
                merger = self.merges.of(lost.write.key)
                if merger is None:  # removed meanwhile
                    return True
                outcome = await self._attempt(merger, lost, tried)
                if outcome is not None:
                    return outcome
            self._fail(lost, "others were faster each time")
        finally:
            self._note(tried, f"an attempt to merge {lost.op_ids[-1]}, which others were faster than")
        return True

    async def _attempt(self, merger: Merger, lost: Lost, tried: list[str]) -> bool | None:
        """As `_merged`; None where the record moved on, and it is to be tried again."""
        owner, key = self._owner, lost.write.key
        try:
            (reading,) = await owner.read([Fetch(key)], fresh=True)
        except WorldError:
            return False
        if reading.stale:
            return False
        record: Record | None = reading.value
        won = record.body if record else None
        try:
            body = await merger.merged(key, getattr(lost.write, "body", None), won)
        except Exception as error:  # the user's own: the type says enough without a value
            self._fail(lost, type(error).__name__)
            return True
        if body == won:
            self._done(lost, "merged: what had won was kept")
            return True
        try:
            (receipt,) = await owner.write([_instead(lost.write, record, body)], ack="auto")
        except WorldError:
            return False
        if receipt.state != "rejected":
            self._done(lost, f"merged by write {receipt.op_id}")
            return True
        tried.append(receipt.op_id)
        if receipt.reason == CONFLICT:
            return None
        self._fail(lost, receipt.reason)
        return True

    def _done(self, lost: Lost, how: str) -> None:
        self._note(lost.op_ids, how)
        self._owner.tell.tell(events.Merged(lost.write.key, lost.op_ids[-1], len(lost.op_ids)), len(lost.op_ids))

    def _fail(self, lost: Lost, error: str) -> None:
        self._owner.tell.tell(events.MergeFailed(lost.write.key, lost.op_ids[-1], error))

    def _note(self, op_ids: tuple[str, ...] | list[str], reason: str) -> None:
        """Say so in the log, wherever the entry lies by now; where there is no room for that, it stays open."""
        owner = self._owner
        with owner.mutex, contextlib.suppress(JournalFull):
            if op_ids and not owner.closed:
                for journal in [owner.journal, *(drain.journal for drain in owner.adopted)]:
                    set_merged(journal.database, op_ids, reason)


def _instead(write: Put | Delete, record: Record | None, body: bytes | None) -> Put | Delete:
    """What is written on the version that won: with the lifetime that has, or where it is none, that was asked for."""
    base = record.etag if record else ABSENT
    if body is None:
        return Delete(write.key, base)
    ttl = KEEP_TTL if record else write.ttl if isinstance(write, Put) else NEVER
    return Put(write.key, body, ttl, base)
