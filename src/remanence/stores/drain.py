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

import msgspec
from msgspec.structs import replace

from remanence import events
from remanence.errors import WorldError
from remanence.model import (
    CONFLICT,
    DUPLICATE,
    OK,
    PASSED,
    REFUSED,
    STALE,
    Append,
    Batch,
    Outcome,
    Patch,
    Receipt,
    Record,
    Touch,
    Watermark,
)
from remanence.protocols import Fetch, Flight, Length, Runtime, Store
from remanence.settings import Settings
from remanence.stores.clock import StoreClock
from remanence.stores.fates import APPLIED, DEAD, UNKNOWN, fate
from remanence.stores.journal import Journal
from remanence.stores.known import Document, Knowledge, Known, of_record
from remanence.stores.resolve import NOTHING, Intent, Resolution, lifetime, needed, remaining, resolve
from remanence.stores.rows import Draft, Lineage, Row, Settled
from remanence.wire import codec

LIVE_SECONDS = 2.0
"""A first attempt this soon after journalling counts as made now: the writer's clock has no say in it."""
OVERLAPPED = 65536
"""Bytes that a socket takes at once: more would have to wait for the store before it is on the disk."""


class Load(msgspec.Struct):
    """A batch that is sent, what it was made of, and its way once it is under way."""

    lineage: Lineage
    rows: list[Row]
    resolutions: list[Resolution]
    batch: Batch
    started: float


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
    ) -> None:
        """`settled` is called with what became of rows, in order, once each. `mutex` guards the journal."""
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
        self._settled = settled
        self._mutex = mutex
        self._nonce = ""
        self._generation = -1
        self._dated: dict[str, tuple[int, int]] = {}
        self._recent: deque[Row] = deque()
        self._recent_bytes = 0
        self._sent_to: dict[str, int] = {}
        self._flight: Flight | None = None
        self._sent: tuple[str, int, Sequence[Resolution]] = ("", 0, ())
        self._documents: dict[str, Document] = {}
        self._common: dict[str, tuple[int, int, str]] = {}

    def journalled(self, rows: Sequence[Row]) -> None:
        """Rows were just committed: keep them at hand so that sending need not read them back."""
        if self._recent and rows[0].n != self._recent[-1].n + 1:
            self._forget_recent()  # a caller was interrupted after its commit, or another process wrote
        self._recent.extend(rows)
        self._recent_bytes += sum(row.size for row in rows)
        if len(self._recent) > 4 * self._settings.batch_ops or self._recent_bytes > 4 * self._settings.batch_bytes:
            self._forget_recent()

    def _forget_recent(self) -> None:
        self._recent.clear()
        self._recent_bytes = 0

    # --- handshake ------------------------------------------------------------------------------

    async def handshake(self, deadline: float, *, renew: bool = True) -> None:
        """Open every lineage and compare; `renew` False only asks (heartbeat) within the session."""
        self._recall()
        if renew or not self._nonce:
            self._nonce = self._runtime.random_bytes(9).hex()
            self._documents.clear()
        self.opened = False
        lineages = [lineage for lineage in self.journal.lineages if lineage.count]
        if not lineages:  # nothing to compare: leave no watermark behind, only see whether somebody answers
            await self._store.read([Length("remanence")], deadline)
            return
        for lineage in lineages:
            before = self._runtime.boottime()
            mark = await self._store.open(lineage.name, self._nonce, deadline)
            if lineage is lineages[0]:
                self._generation = self._store.generation
            self._hear_clock(mark, before)
            await self._compare(lineage, mark, deadline)
        self.opened = True

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
            same = self._same(lineage, mark)
            if not same:  # unless another process writes to this very file, and the server heard it first
                self.journal.refresh()
                same = self._same(lineage, mark)
            left = max(seq, lineage.pruned)
            if same and left < lineage.acked:  # at once, before anybody can prune what is to be sent again
                self._rewind(lineage, left)
            elif same and seq > lineage.acked:
                self._learn(lineage, mark, seq)
        if not same:
            await self._diverged(lineage, mark, deadline)
        elif seq < lineage.pruned:
            await self._pass_over(lineage, seq, deadline)

    def _same(self, lineage: Lineage, mark: Watermark) -> bool:
        """Whether the last write the store has of a lineage is one that our file has in that place."""
        return mark.seq <= lineage.count and (
            mark.seq == 0 or mark.seq < lineage.pruned or self.journal.op_id(lineage, mark.seq) == mark.op_id
        )

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
            self._tell.tell(events.Rewound(lineage.name, lost))  # first: writing it down may fail on a full disk
            self.journal.rewind(lineage, seq)

    def _learn(self, lineage: Lineage, mark: Watermark, upto: int) -> None:
        """A reply was lost: the watermark and the last batch's results say what it was."""
        with self._mutex:
            rows = self._rows(lineage, upto - lineage.acked, exact=True)
            first = lineage.acked + 1
            codes = dict(enumerate(mark.results, mark.results_from))
            outcomes = [codes.get(seq, DUPLICATE) for seq in range(first, first + len(rows))]
            # why an edit was refused and what it returned is known where this process sent it; but not what the
            # record is now: a copy of this journal may have been quicker, with another document in hand
            name, at, sent = self._sent
            known = dict(enumerate(sent, at)) if name == lineage.name else {}
            told = [known.get(seq) for seq in range(first, first + len(rows))]
            self._settle(lineage, rows, outcomes, [each and replace(each, after=None) for each in told])

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
        self._recall()
        with self._mutex:
            lineage = next((each for each in self.journal.lineages if each.pending), None)
            if lineage is None:
                return
            rows = self._rows(lineage, self._settings.batch_ops)
            self._tell_unreadable()
            intents = self._intents(lineage, rows)
            wanted = [key for key in needed([row.write for row in rows]) if not self._at_hand(key)]
        if wanted:
            await self._fetch(wanted, deadline)
        load = self._load(lineage, rows, intents)
        self._take(load, await self._store.apply(load.batch, deadline))

    def post(self, draft: Draft, deadline: float) -> "Load | None":
        """Send what is about to be journalled, so that the disk and the store work at the same time.

        For its owner under the mutex, who commits `draft` next and then calls `land`. None, and nothing sent,
        where the store is not ready for just these writes at once. Should this process end before the commit,
        the store has a write that nobody was told of, and the next handshake finds its number taken.
        """
        journal, rows = self.journal, draft.rows
        if (
            not self.opened
            or self._generation != self._store.generation
            or draft.size > OVERLAPPED
            or len(rows) > self._settings.batch_ops
            or journal.pending
        ):
            return None
        for row in rows:
            if type(row.write) is Patch and not self._at_hand(row.write.key):
                return None
        lineage = journal.lineages[-1]
        load = self._load(lineage, rows, self._fresh(lineage, rows))
        self._recall()
        flight = self._flight = self._store.flight(load.batch, deadline)
        try:
            return load if flight is not None and flight.depart() else None
        except WorldError:
            self._recall()
            self.opened = False  # the next handshake finds out what came of it
            return None

    def _recall(self) -> None:
        """Drop a flight that its caller was kept from landing: only one caller at a time is inside."""
        if self._flight is not None:
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
            self._sent_to[load.lineage.name] = load.batch.first - 1
        self._recall()

    def _at_hand(self, key: str) -> bool:
        """Whether a patch of `key` can be tried without asking what is there: if it is outdated, the store says so."""
        if key not in self._documents:
            found = self.known.document(key)
            if found is None:
                return False
            self._keep(key, found)
        return True

    def _load(self, lineage: Lineage, rows: list[Row], intents: Sequence[Intent]) -> "Load":
        resolutions = resolve(intents, self._documents, self._settings.value_bytes)
        name, first = lineage.name, rows[0].n - lineage.first + 1
        self._sent_to[name] = max(self._sent_to.get(name, 0), first + len(rows) - 1)
        ops = [resolution.op for resolution in resolutions]
        batch = Batch(name, self._nonce, first, ops, self._previous(lineage) if first == 1 else None)
        self._sent = name, first, resolutions
        return Load(lineage, rows, resolutions, batch, self._runtime.monotonic())

    def _fresh(self, lineage: Lineage, rows: Sequence[Row]) -> list[Intent]:
        """As `_intents`, of rows made this moment, when the store's clock is known."""
        at = self._dated.get(lineage.name, (0, 0))[1]
        intents = []
        for row in rows:
            at = row.hlc if row.hlc > at else at + 1
            intents.append(Intent(row.op_id, at, row.write, True, lifetime(row.write)))
        self._dated[lineage.name] = rows[-1].n - lineage.first + 1, at
        return intents

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

    def _intents(self, lineage: Lineage, rows: Sequence[Row]) -> list[Intent]:
        same_start = self._same_start(lineage)
        now = self._runtime.boottime() if same_start else self._runtime.wall()
        sent_to = self._sent_to.get(lineage.name, 0)
        before, at = self._dated.get(lineage.name, (0, 0))
        intents = []
        for row in rows:
            seq = row.n - lineage.first + 1
            age = max(0.0, now - (row.boot if same_start else row.wall))
            # of an earlier start the wall clock alone tells the age, and it may have been set back since
            live = same_start and age < LIVE_SECONDS and seq > sent_to
            hlc = self.clock.dated(row, same_start=same_start)
            if before < seq and hlc <= at:  # however our clock was put right: what was written later stays later
                hlc = at + 1
            before, at = seq, hlc
            ttl = lifetime(row.write)
            if ttl > 0:
                left = remaining(ttl, age)
                # what was made just now lives as long as was asked for, unless it was seen to have passed here
                ttl = left if age >= LIVE_SECONDS or left == PASSED else ttl
            intents.append(Intent(row.op_id, hlc, row.write, live, ttl))
        self._dated[lineage.name] = before, at
        return intents

    def _same_start(self, lineage: Lineage) -> bool:
        return bool(lineage.boot_id) and lineage.boot_id == self._runtime.boot_id()

    def age(self, lineage: Lineage, row: Row) -> float:
        """Seconds since a row was made: by the boot clock within one start, else by the wall clock."""
        if self._same_start(lineage):
            return max(0.0, self._runtime.boottime() - row.boot)
        return max(0.0, self._runtime.wall() - row.wall)

    def _previous(self, lineage: Lineage) -> tuple[str, int] | None:
        """The nearest lineage before this one that has writes, and how many."""
        at = self.journal.lineages.index(lineage)
        before = next((each for each in reversed(self.journal.lineages[:at]) if each.count), None)
        return (before.name, before.count) if before else None

    async def _fetch(self, keys: Sequence[str], deadline: float) -> None:
        told, _ = await self._store.read([Fetch(key) for key in keys], deadline)
        for key, each in zip(keys, told, strict=True):
            if each is None:
                self._documents[key] = NOTHING
            elif isinstance(each, Record):
                self._documents[key] = of_record(each)
            else:  # of another kind: the store will say so
                self._documents[key] = Document(None, "?")

    # --- settling -------------------------------------------------------------------------------

    def _take(self, load: "Load", outcome: Outcome) -> None:
        """Carry a reply into the journal, what is known, and the callers who wait."""
        if outcome.status != "ok":
            self.opened = False
            return
        done = len(outcome.results)
        with self._mutex:
            self.highest = max(self.highest, outcome.highest)
            self._settle(load.lineage, load.rows[:done], outcome.results, load.resolutions[:done])
            if outcome.moved:
                self._moved(load, done, outcome.current)
            if self._tell.counted(events.Applied, done):
                seconds = self._runtime.monotonic() - load.started
                self._tell.spread(events.Applied(done, seconds, self.journal.pending))

    def _moved(self, load: "Load", done: int, current: bytes | None) -> None:
        """The batch ended at a record that is not what it was thought to be."""
        self._sent_to[load.lineage.name] = load.lineage.acked  # what came behind was not tried
        key = load.rows[done].write.key
        self._documents[key] = NOTHING
        if current is not None:
            body, etag, hlc = codec.split(current)
            self._documents[key] = Document(body, etag, hlc)

    def _settle(
        self,
        lineage: Lineage,
        rows: Sequence[Row],
        codes: Sequence[str],
        resolutions: Sequence[Resolution | None],
    ) -> None:
        settled: list[Settled] = []
        wall, size = self._runtime.wall(), 0
        for row, code, resolution in zip(rows, codes, resolutions, strict=True):
            if code == OK and resolution is not None and not resolution.rejection:
                receipt = Receipt("applied", row.op_id, resolution.result)
            else:
                receipt = self._judge(row, code, resolution.rejection if resolution else "")
            settled.append((row.n, receipt))
            self._remember(row, code, resolution, wall)
            size += row.size
        self.journal.acknowledge(lineage, lineage.acked + len(rows), size)
        self._settled(settled)

    def _keep(self, key: str, document: Document) -> None:
        """Keep a small document at hand: the next patch of it then needs no trip to read it."""
        documents = self._documents
        if len(document.body or b"") > 65536:
            documents.pop(key, None)
            return
        if len(documents) >= 256 and key not in documents:
            documents.clear()
        documents[key] = document

    def _judge(self, row: Row, code: str, rejection: str) -> Receipt:
        kind, reason = fate(code, rejection)
        if kind == APPLIED:
            return Receipt("applied", row.op_id)
        if kind == UNKNOWN:
            return Receipt("journalled", row.op_id)
        key, op_id = row.write.key, row.op_id
        if kind == DEAD:
            self._tell.tell(events.DeadLettered(key, op_id, reason))
        else:
            stale = kind == STALE
            self._tell.tell(events.WriteStale(key, op_id) if stale else events.WriteRejected(key, op_id, reason))
        self.journal.record(row, kind, reason)
        return Receipt("rejected", op_id, reason=kind if kind in (CONFLICT, STALE) else reason)

    def _remember(self, row: Row, code: str, resolution: Resolution | None, wall: float) -> None:
        """Keep what the store now holds of the key, as far as the reply tells."""
        write, after = row.write, resolution.after if resolution is not None else None
        ttl = lifetime(write)
        expires = row.wall + ttl / 1000 if ttl > 0 else None
        if code == OK and after is not None:
            if write.key in self._documents or type(write) is Patch:
                self._keep(write.key, after)
            self.known.put(write.key, Knowledge(row.n, after, wall, expires))
        elif code == REFUSED:
            return
        elif code in (OK, DUPLICATE) and isinstance(write, Append):
            self.known.extend(write.key, row.n, write.items, wall, expires)
        elif code != OK or resolution is None:
            self._documents.pop(write.key, None)
            if code not in (OK, DUPLICATE) and not isinstance(write, Append):
                self.known.forget([write.key])
        elif isinstance(write, Touch):
            before = self.known.get(write.key)
            if before is not None:
                self.known.put(write.key, replace(before, n=row.n, expires=expires))
