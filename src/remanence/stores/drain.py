"""Sending a journal to its store: handshake, in-order batches, acknowledgement, rewind, fork.

The order of events (section 3 of the protocol in ARCHITECTURE.md):

* `handshake` opens a session for every lineage that still has rows, oldest first, under a fresh nonce:
  a request of an older session that arrives late is fenced. The watermarks tell what the store has;
  where it has less than before it forgot, and what it forgot is sent again.
* `send` takes the next rows of the oldest lineage with pending writes, at most one batch in flight, and
  settles them by the reply. Any error makes the session void: the next handshake finds out what happened.

One drain belongs to one journal. Its owner sees to it that only one caller at a time is inside.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from msgspec.structs import replace

from remanence import events
from remanence.errors import WorldError
from remanence.model import CONFLICT, DUPLICATE, STALE, Batch, Erasure, Forget, Op, Outcome, Patch, Watermark
from remanence.protocols import Fetch, Flight, Runtime, Store
from remanence.settings import Settings
from remanence.stores.clock import StoreClock
from remanence.stores.dating import Dating
from remanence.stores.erasing import Erasing, before_erasure
from remanence.stores.followed import recovered
from remanence.stores.journal import Journal
from remanence.stores.known import Known
from remanence.stores.load import Load
from remanence.stores.resolve import Intent, Resolution, needed, resolve
from remanence.stores.rows import Draft, Lineage, Row, Settled
from remanence.stores.settling import Settling
from remanence.stores.vouching import Vouching

OVERLAPPED = 65536
"""Bytes that a socket takes at once: more would have to wait for the store before it is on the disk."""


class Drain:
    """One journal on its way to one store."""

    def __init__(
        self,
        journal: Journal,
        known: Known,
        store: Store,
        runtime: Runtime,
        settings: Settings,
        tell: events.Events,
        settled: Callable[[Sequence[Settled]], None],
        mutex: AbstractContextManager[Any],
        vouching: Vouching | None = None,
        lost: Callable[[Journal, Row], None] = lambda journal, row: None,
        let_go: Callable[[Sequence[Erasure]], None] | None = None,
    ) -> None:
        """`settled` and `lost`: see `Settling`. `mutex` guards the journal.

        `vouching`: the feed's word for near reads. `let_go`: rids all else of this process of what was erased.
        """
        self.journal = journal
        self.known = known
        self.opened = False
        self.clock = StoreClock(runtime)
        self.highest = 0
        """The highest hlc the store told us of."""
        self._store = store
        self._runtime = runtime
        self._settings = settings
        self._tell = tell
        self._mutex = mutex
        self._vouching = vouching
        self._nonce = ""
        self._let_go_elsewhere = let_go or (lambda erasures: None)
        self._generation = -1
        self.at_hand = 4 * settings.batch_ops
        """Writes that are kept in memory to be sent: of more than these, none."""
        self._recent: deque[Row] = deque()
        self._recent_bytes = 0
        self._flight: Flight | None = None
        self._sent: Load | None = None
        self._dating = Dating(self.clock, runtime)
        self.age = self._dating.age
        self._settling = Settling(journal, known, runtime, tell, settled, lost)
        self._common: dict[str, tuple[int, int, str]] = {}
        self.erasing = Erasing(journal, known, store, runtime, mutex, self._dating.earliest, self._let_go)

    def journalled(self, rows: Sequence[Row]) -> None:
        """Rows were just committed: keep them at hand so that sending need not read them back."""
        if self._recent and rows[0].n != self._recent[-1].n + 1:
            self._forget_recent()  # a caller was interrupted after its commit, or another process wrote
        self._recent.extend(rows)
        for row in rows:
            self._recent_bytes += row.size
        if len(self._recent) > self.at_hand or self._recent_bytes > 4 * self._settings.batch_bytes:
            self._forget_recent()

    def _forget_recent(self) -> None:
        self._recent.clear()
        self._recent_bytes = 0

    def _let_go(self, erasures: Sequence[Erasure]) -> None:
        self._forget_recent()
        self._settling.documents.clear()
        self._let_go_elsewhere(erasures)

    # --- handshake ------------------------------------------------------------------------------

    async def handshake(self, deadline: float, *, renew: bool = True) -> None:
        """Open every lineage and compare; `renew` False only asks (heartbeat) within the session, if one is open."""
        self.recall()
        if renew or not self.opened:
            self._nonce = self._runtime.random_bytes(9).hex()
            self._settling.documents.clear()
        self.opened = False
        lineages = [lineage for lineage in self.journal.lineages if lineage.count]
        for lineage in lineages:
            before = self._runtime.boottime()
            mark = await self._store.open(lineage.name, self._nonce, deadline)
            if lineage is lineages[0]:
                self._generation = self._store.generation
            self._hear_clock(mark, before)
            if not mark.seq and lineage.acked:
                mark = await recovered(self._store, self.journal, lineage, mark, self._nonce, self._mutex, deadline)
            await self._compare(lineage, mark, deadline)
        await self.erasing.learn(deadline)
        self.opened = bool(lineages)  # where there are none no watermark is left behind

    @property
    def unsure(self) -> bool:
        """Whether the server may have forgotten something since it was last asked."""
        return not (self.opened and self._generation == self._store.generation) and any(
            lineage.kept for lineage in self.journal.lineages
        )

    def _hear_clock(self, mark: Watermark, before: float) -> None:
        if mark.clock:
            self.clock.hear(mark.clock, before)
        self.highest = max(self.highest, mark.highest)

    async def _compare(self, lineage: Lineage, mark: Watermark, deadline: float) -> None:
        """Decide by the watermark what the store still has of a lineage."""
        seq = mark.seq
        with self._mutex:
            same = self.follows(lineage, mark.seq, mark.op_id)
            if not same:  # unless another process writes to this very file, and the server heard it first
                self.journal.refresh()
                same = self.follows(lineage, mark.seq, mark.op_id)
            left = max(seq, lineage.pruned)
            if same and left < lineage.acked:  # at once, before anybody can prune what is to be sent again
                self._rewind(lineage, left)
            elif same and seq > lineage.acked:
                self._learn(lineage, mark, seq)
            elif same:
                self._recheck(lineage, mark)
        if not same:
            await self._diverged(lineage, mark, deadline)
        elif seq < lineage.pruned:
            await self._pass_over(lineage, seq, deadline)

    def follows(self, lineage: Lineage, seq: int, op_id: str) -> bool:
        """Whether the last write the store has of a lineage is one that our file has in that place."""
        return seq <= lineage.count and (seq == 0 or seq < lineage.pruned or self.journal.op_id(lineage, seq) == op_id)

    async def _pass_over(self, lineage: Lineage, seq: int, deadline: float) -> None:
        """The store lost more than is kept here: say so and go on with what there is."""
        upto = lineage.pruned
        # first: once the watermark has moved, nothing shows any more that something was lost
        self._tell.tell(events.DataLost(lineage.name, seq + 1, upto))
        await self._store.forward(lineage.name, self._nonce, upto, lineage.pruned_id, deadline)

    def _rewind(self, lineage: Lineage, seq: int) -> None:
        with self._mutex:
            lost = lineage.acked - seq
            self._forget_recent()
            if self._vouching is not None:
                self._vouching.doubt()
            self._tell.tell(events.Rewound(lineage.name, lost))  # first: writing it down may fail on a full disk
            self.journal.rewind(lineage, seq)

    def _recheck(self, lineage: Lineage, mark: Watermark) -> None:
        """A request that came twice may have met a server that had forgotten the first: then it came to something
        else than we were told, which somebody must hear of.
        """
        for seq, code in enumerate(mark.results, mark.results_from):
            if code in (CONFLICT, STALE) and not self.journal.is_refused(lineage.row(seq)):
                for row in self.journal.rows(lineage, seq - 1, 1, 1 << 62) if seq > lineage.pruned else ():
                    self._settling.refused(row, code)

    def _learn(self, lineage: Lineage, mark: Watermark, upto: int) -> None:
        """A reply was lost: the watermark and the last batch's results say what it was."""
        with self._mutex:
            rows = self._rows(lineage, upto - lineage.acked, exact=True)
            first = lineage.acked + 1
            codes = dict(enumerate(mark.results, mark.results_from))
            outcomes = [codes.get(seq, DUPLICATE) for seq in range(first, first + len(rows))]
            # why an edit was refused and what it returned is known where this process sent it; but not what the
            # record is now: a copy of this journal may have been quicker, with another document in hand
            sent = self._sent
            ours = dict(enumerate(sent.resolutions, sent.batch.first)) if sent and sent.lineage is lineage else {}
            told = [ours.get(seq) for seq in range(first, first + len(rows))]
            self._settling.settle(lineage, rows, outcomes, [each and replace(each, after=None) for each in told])

    async def _diverged(self, lineage: Lineage, mark: Watermark, deadline: float) -> None:
        """The store followed another copy of this journal, or writes that our file has lost."""
        seen = (lineage.count, mark.seq, mark.op_id)
        keep = lineage.count if self._common.get(lineage.name) == seen else await self._shared(lineage, mark, deadline)
        with self._mutex:
            if keep > lineage.acked:
                self._learn(lineage, mark, keep)
            if keep < lineage.count:
                successor = self._fork(lineage, keep)
            else:
                self._common[lineage.name] = seen
                if lineage is self.journal.active:  # its next numbers are taken
                    self._tell.tell(events.Forked(lineage.name, self.journal.renew(), 0))
                return
        mark = await self._store.open(successor.name, self._nonce, deadline)
        await self._compare(successor, mark, deadline)

    async def _shared(self, lineage: Lineage, mark: Watermark, deadline: float) -> int:
        """The last write of a lineage that both the store and our file have."""
        theirs = dict(await self._store.history(lineage.name, self._settings.log_length, deadline))
        with self._mutex:
            for seq in sorted(theirs, reverse=True):
                if seq <= lineage.count and self.journal.op_id(lineage, seq) == theirs[seq]:
                    return max(seq, lineage.pruned)
            # where the log reaches back no further, what our file was told is all there is to go by
            told = min(lineage.acked, mark.seq - 1, min(theirs, default=mark.seq) - 1)
            return max(told, lineage.pruned)

    def _fork(self, lineage: Lineage, keep: int) -> Lineage:
        """Let our writes behind `keep` go on under a name of their own."""
        moved = lineage.count - keep
        self._forget_recent()
        successor = self.journal.fork(lineage, keep)
        self._tell.tell(events.Forked(lineage.name, successor, moved))
        return next(each for each in self.journal.lineages if each.name == successor)

    # --- sending --------------------------------------------------------------------------------

    async def send(self, deadline: float) -> None:
        """Send the next batch. `opened` is False when it must begin anew."""
        with self._mutex:
            lineage = next((each for each in self.journal.lineages if each.pending), None)
            if lineage is None:
                return
            rows = before_erasure(self._rows(lineage, self._settings.batch_ops))
            self._tell_unreadable()
            intents, documents = self._dating.intents(lineage, rows), self._settling.documents
            wanted = [key for key in needed([row.write for row in rows]) if key not in documents]
        if wanted:
            await self._fetch(wanted, deadline)
        if type(rows[0].write) is Forget:
            await self.erasing.carry_out(intents[0], rows[0].write)
            deadline = self._runtime.monotonic() + self._settings.deadline  # it may have taken long
        load = self._load(lineage, rows, self._resolved(intents))
        self._take(load, await self._store.apply(load.batch, deadline))

    def _resolved(self, intents: Sequence[Intent]) -> list[Resolution]:
        settings = self._settings
        room = settings.batch_bytes if settings.history else 0
        return resolve(intents, self._settling.documents, settings.value_bytes, room=room)

    def post(self, draft: Draft, deadline: float) -> "Load | None":
        """Send what is about to be journalled, so that the disk and the store work at the same time.

        For its owner under the mutex, who commits `draft` next and then calls `land`. None, and nothing sent,
        where the store is not ready for just these writes at once. Should this process end before the commit,
        the store has a write that nobody was told of, and the next handshake finds its number taken.
        """
        self.recall()
        journal, rows = self.journal, draft.rows
        if (
            not self.opened
            or self._generation != self._store.generation
            or journal.shared
            or draft.size > OVERLAPPED
            or len(rows) > self._settings.batch_ops
            or journal.pending
        ):
            return None
        if any(type(row.write) is Forget for row in rows):
            return None
        patches = [row.write.key for row in rows if type(row.write) is Patch]
        for key in patches:
            if key not in self._settling.documents:
                return None
        lineage = journal.lineages[-1]
        if patches:
            intents = self._dating.intents(lineage, rows)
            load = self._load(lineage, rows, self._resolved(intents))
        else:
            load = self._load(lineage, rows, (), self._dating.fresh(lineage, rows))
        flight = self._flight = self._store.flight(load.batch, deadline)
        try:
            return load if flight is not None and flight.depart() else None
        except WorldError:
            self.recall()
            return None

    def recall(self) -> None:
        """Drop a flight that its caller was kept from landing: the next handshake finds out what came of it.

        For who is to send next, before anything else: under a session that a lost request still belongs to, the
        number it took would be taken for another write's.
        """
        if self._flight is not None:
            self.opened = False
            self._flight.drop()
            self._flight = None

    async def land(self, load: "Load") -> None:
        """Wait for what `post` sent."""
        assert self._flight is not None, "posted"
        outcome = await self._flight.outcome()
        self._flight = None
        self._take(load, outcome)

    def give_up(self, load: "Load", *, journalled: bool) -> None:
        """Nobody waits any more for what `post` sent. Where it was not even journalled, others get its numbers."""
        self.opened = False
        if not journalled:
            self._dating.unsent(load.lineage, load.batch.first - 1)
        self.recall()

    def _load(
        self, lineage: Lineage, rows: list[Row], resolutions: Sequence[Resolution], ops: Sequence[Op] = ()
    ) -> "Load":
        first = rows[0].n - lineage.first + 1
        self._dating.sent(lineage, first + len(rows) - 1)
        if resolutions:
            ops = [resolution.op for resolution in resolutions]
        batch = Batch(lineage.name, self._nonce, first, ops, self._previous(lineage) if first == 1 else None)
        tick = -1
        if self._vouching is not None:
            tick = self._vouching.tick
            self._vouching.sent(ops)
        self._sent = load = Load(lineage, rows, resolutions, batch, self._runtime.monotonic(), tick)
        return load

    def _rows(self, lineage: Lineage, most: int, *, exact: bool = False) -> list[Row]:
        """The next rows to send: those at hand if they are the ones, else from the file."""
        after = lineage.acked
        size = 1 << 62 if exact else self._settings.batch_bytes
        start = lineage.row(after + 1)
        recent = self._recent
        while recent and recent[0].n < start:
            self._recent_bytes -= recent.popleft().size
        if recent and recent[0].n == start and (not exact or len(recent) >= most):
            found: list[Row] = []
            for row in recent:
                size -= row.size
                if len(found) == most or (found and size < 0) or row.n > lineage.end:
                    break
                found.append(row)
            return found
        return self.journal.rows(lineage, after, most, size)

    def _tell_unreadable(self) -> None:
        while self.journal.unreadable:
            row = self.journal.unreadable.pop()
            self._tell.tell(events.DeadLettered(row.write.key, row.op_id, "its row in the journal cannot be read"))

    def _previous(self, lineage: Lineage) -> tuple[str, int] | None:
        """The nearest lineage before this one that has writes, and how many."""
        at = self.journal.lineages.index(lineage)
        before = next((each for each in reversed(self.journal.lineages[:at]) if each.count), None)
        return (before.name, before.count) if before else None

    async def _fetch(self, keys: Sequence[str], deadline: float) -> None:
        told, _ = await self._store.read([Fetch(key) for key in keys], deadline)
        for key, each in zip(keys, told, strict=True):
            self._settling.fetched(key, each)

    # --- settling -------------------------------------------------------------------------------

    def _take(self, load: "Load", outcome: Outcome) -> None:
        """Carry a reply into the journal, what is known, and the callers who wait."""
        if outcome.status != "ok":
            self.opened = False
            return
        done = len(outcome.results)
        with self._mutex:
            self.highest = max(self.highest, outcome.highest)
            self._settling.settle(
                load.lineage, load.rows[:done], outcome.results, load.resolutions, load.batch.ops, load.tick
            )
            if outcome.moved:
                self._dating.unsent(load.lineage, load.lineage.acked)  # what came behind was not tried
                self._settling.moved(load.rows[done].write.key, outcome.current)
            if self._tell.counted(events.Applied, done):
                seconds = self._runtime.monotonic() - load.started
                self._tell.spread(events.Applied(done, seconds, self.journal.pending))
