"""The keeper: what a resilient store does while nobody calls.

It sends what no caller waits for, reconnects with growing pauses, asks an idle server whether it
forgot anything, adopts what ended processes left, writes down what is known, and prunes the journal.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from remanence import events
from remanence.errors import JournalFull, RemanenceError, WorldError
from remanence.protocols import Lifetime, Task
from remanence.stores.drain import Drain
from remanence.stores.outcomes import bound, hand_on
from remanence.stores.pruning import prune
from remanence.wire.sqlite import FileDamaged

if TYPE_CHECKING:
    from remanence.stores.resilient import ResilientStore

TIDY_SECONDS = 1.0
"""How often what is known is written down and old rows are pruned."""
REMEMBER_SECONDS = 10.0
"""How often what is known goes to disk: until then the journal's own rows hold the writes of it."""
REMEMBER_TOGETHER = 500
"""Records that go to disk while everybody else waits: a few milliseconds."""
GATHER_SECONDS = 0.1
"""How long unawaited writes may gather at most, while more come in each `linger`: to meet a busy caller costs
that caller several writes' time."""
ADOPT_SECONDS = 5.0
"""How often the folder is searched for journals left behind."""


class Keeper:
    """The background of one resilient store, started with its first write or read."""

    def __init__(self, owner: "ResilientStore") -> None:
        self._owner = owner
        self._runtime = owner.runtime
        self._wake = owner.runtime.signal()
        self._task: Task | None = None
        self._tidied = self._searched = self._beaten = self._remembered = owner.runtime.monotonic()
        self._first_search = True
        self._advised = False

    def start(self) -> None:
        """Begin, once."""
        if self._task is None and not self._owner.closed:
            with self._owner.mutex:
                if self._task is None:
                    self._task = self._runtime.spawn("remanence-keeper", self._run)
                    if self._owner.mirror is not None:  # nobody knows yet that what is to be erased is here as well
                        self._beaten = -self._owner.settings.heartbeat
                        self.wake()

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

    async def stop(self, timeout: float) -> None:
        """Wait for the end of what is under way, at most `timeout` seconds."""
        self._wake.set()
        if self._task is not None:
            await self._task.join(timeout)

    async def _run(self) -> None:
        while not self._owner.closed:
            await self._wake.wait(self._pause())
            self._wake.clear()
            if self._owner.closed:
                return
            try:
                await self._tend()
            except JournalFull:
                continue  # the disk has no room for what we know: the next second may have, and writers are told
            except RemanenceError as error:
                self._owner.lost(error if isinstance(error, WorldError) else WorldError(str(error)))
            except Exception as error:
                # a fault of ours: told and tried again, for without a keeper nothing would ever be sent
                self._owner.lost(WorldError(f"a fault inside ({type(error).__name__}): please report it"))

    def _pause(self) -> float:
        """How long nothing needs doing unless somebody wakes us."""
        contact, now = self._owner.contact, self._runtime.monotonic()
        if not contact.available:
            return max(0.001, contact.retry_at - now)
        if self._owner.journal.pending and self._owner.leader is None:
            return 0.001
        return min(TIDY_SECONDS, self._owner.settings.heartbeat)

    async def _tend(self) -> None:
        owner = self._owner
        if not owner.contact.available:
            await self._reconnect()
        elif owner.journal.pending:
            await self._gather()
            if owner.contact.available:  # else it went away meanwhile: the next look reconnects, and tells of it
                await self._send(owner.drain, owner.settings.batch_ops if owner.settings.linger else 1)
        elif self._due("_beaten", owner.settings.heartbeat):
            await self._beat()
        if owner.contact.available and not owner.closed:
            await self._tend_adopted()
            owner.merging.begin()
        if self._due("_tidied", TIDY_SECONDS):
            await self._tidy()

    def _due(self, name: str, every: float) -> bool:
        now = self._runtime.monotonic()
        if now - getattr(self, name) < every:
            return False
        setattr(self, name, now)
        return True

    async def _gather(self) -> None:
        """Let writes that nobody waits for come together: a batch costs the server and us far less than its parts."""
        owner, before = self._owner, 0
        linger, most = owner.settings.linger, owner.drain.at_hand
        limit = self._runtime.monotonic() + max(linger, GATHER_SECONDS)
        while before < owner.journal.pending < most and self._runtime.monotonic() < limit:
            if not owner.waiting.nobody or owner.closed:
                return
            before = owner.journal.pending
            await self._runtime.sleep(linger)

    async def _reconnect(self) -> None:
        owner = self._owner
        if self._runtime.monotonic() >= owner.contact.retry_at:
            waiting = owner.journal.pending
            started = self._runtime.monotonic()
            if await self._lead_once(owner.drain) and waiting:
                await self._send(owner.drain)
                done = waiting - min(waiting, owner.journal.pending)
                owner.tell.tell(events.Replayed(done, self._runtime.monotonic() - started), done)

    async def _send(self, drain: Drain, least: int = 1) -> None:
        """One batch, and more while that many writes are left: fewer had better gather again."""
        while not self._owner.closed and await self._lead_once(drain) and drain.journal.pending >= least:
            await self._runtime.turn()

    async def _lead_once(self, drain: Drain) -> bool:
        """One batch as the leader; False when somebody else leads or the store is away."""
        owner = self._owner
        if not owner.take_lead(self):
            return False
        try:
            return await owner.pump(drain, self._runtime.monotonic() + owner.settings.deadline)
        finally:
            owner.pass_on(self)

    async def _beat(self) -> None:
        """Ask the idle server whether it still has what it acknowledged."""
        owner = self._owner
        if owner.take_lead(self):
            try:
                limit = self._runtime.monotonic() + owner.settings.deadline
                await owner.drain.handshake(limit, renew=False)
                owner.contact.reached()
                owner.contact.recovered(owner.journal.pending)
                await self._advise(limit)
            except WorldError as error:
                owner.drain.opened = False
                owner.lost(error)
            finally:
                owner.pass_on(self)

    async def _advise(self, limit: float) -> None:
        """Once: warn of a server that deletes what it holds when it is full."""
        if not self._advised:
            self._advised = True
            with contextlib.suppress(RemanenceError):  # it may not be asked: `doctor` says so
                policy = (await self._owner.store.facts(limit)).get("maxmemory_policy", "noeviction")
                if policy != "noeviction":
                    self._owner.tell.tell(events.ServerAdvised(policy))

    # --- what ended processes left --------------------------------------------------------------

    async def _tend_adopted(self) -> None:
        owner = self._owner
        if owner.settings.adopt and (self._first_search or self._due("_searched", ADOPT_SECONDS)):
            self._first_search = False
            with owner.mutex:
                for journal in owner.shelf.orphans():
                    drain = owner.adopt(journal)
                    owner.tell.tell(events.OrphanAdopted(journal.path, drain.journal.pending))
        beat = self._due("_beaten_adopted", owner.settings.heartbeat)
        for drain in list(owner.adopted):
            with self._setting_aside(drain):
                await self._tend_one(drain, beat)

    _beaten_adopted = 0.0

    async def _tend_one(self, drain: Drain, beat: bool) -> None:
        owner = self._owner
        if drain.journal.pending or not drain.opened:
            await self._send_adopted(drain)
        elif beat:
            with contextlib.suppress(WorldError):  # the own drain's next beat tells
                limit = self._runtime.monotonic() + owner.settings.deadline
                await drain.handshake(limit, renew=False)
        if drain in owner.adopted and self._discard_if_done(drain):
            await drain.erasing.part(self._runtime.monotonic() + owner.settings.deadline)

    @contextlib.contextmanager
    def _setting_aside(self, drain: Drain) -> Iterator[None]:
        """What finds a journal damaged has it set aside, where that may be: the others' writes must not wait for it."""
        try:
            yield
        except FileDamaged as error:
            if self._owner.closed or self._owner.settings.on_corrupt == "raise":
                raise
            self._owner.damaged(drain, error)

    async def _send_adopted(self, drain: Drain) -> None:
        owner = self._owner
        while not owner.closed and (drain.journal.pending or not drain.opened):
            sent = await owner.pump(drain, self._runtime.monotonic() + owner.settings.deadline)
            if not sent or not drain.journal.pending:  # an empty journal has nothing to open a session for
                return

    def _discard_if_done(self, drain: Drain) -> bool:
        owner, journal = self._owner, drain.journal
        kept = any(lineage.pruned < lineage.count for lineage in journal.lineages)
        if not kept and not journal.count("dead"):
            # where there is no room for its conflicts yet, they stay where they are
            with owner.mutex, contextlib.suppress(JournalFull):
                if hand_on(journal, owner.journal):
                    owner.adopted.remove(drain)
                    owner.shelf.release(journal, discard=True)
                    return True
        return False

    # --- keeping it small -----------------------------------------------------------------------

    async def _tidy(self) -> None:
        owner = self._owner
        await self._learn_lifetimes()
        if self._due("_remembered", min(REMEMBER_SECONDS, owner.settings.retain)):
            with contextlib.suppress(JournalFull):  # old rows must go all the same
                await self._remember_in_turns()
        with owner.mutex:
            if owner.closed:
                return
            before = self._runtime.wall() - owner.settings.retain
            for drain in [owner.drain, *owner.adopted]:
                with self._setting_aside(drain):
                    drain.journal.save()
                    prune(drain.journal, before, owner.settings.retain_bytes)
                    bound(drain.journal, owner.settings.outcomes_kept, owner.settings.retain_bytes)

    async def _remember_in_turns(self) -> None:
        """As `remember`, a part at a time: others wait for a call meanwhile."""
        owner, known = self._owner, self._owner.drain.known
        with owner.mutex:
            left = known.dirty(1 << 30)
        more = True
        while left or more:
            with owner.mutex:
                if owner.closed or owner.drain.known is not known:  # its journal was set aside meanwhile
                    return
                if left:
                    known.save(left[:REMEMBER_TOGETHER])
                    left = left[REMEMBER_TOGETHER:]
                else:
                    more = known.trim(REMEMBER_TOGETHER)
            await self._runtime.sleep(0.001)

    def remember(self) -> None:
        """Write what is known to disk."""
        known = self._owner.drain.known
        known.save(known.dirty(1 << 30))
        known.trim()

    async def _learn_lifetimes(self) -> None:
        """Ask when what was read will expire, so that it also expires here while the server is away."""
        owner, known = self._owner, self._owner.drain.known
        with owner.mutex:
            keys = known.ageless(500)
        if not keys or not owner.contact.available:
            return
        try:
            asks = [Lifetime(key) for key in keys]
            told, _ = await owner.store.read(asks, self._runtime.monotonic() + owner.settings.deadline)
        except WorldError:
            return  # only a refinement; the next call that needs the server tells
        now = self._runtime.wall()
        with owner.mutex:
            for key, left in zip(keys, told, strict=True):
                before = known.get(key)
                if before is not None and isinstance(left, int) and left >= 0:
                    known.put(key, msgspec.structs.replace(before, expires=now + left / 1000))
