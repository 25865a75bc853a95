"""Reading through a resilient store: the server's answer with own pending writes, or what is known here."""

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from remanence.errors import Closed, DeadlineExceeded, Misconfigured, PoolExhausted, WorldError
from remanence.model import Delete, Forget, Reading, Record
from remanence.protocols import Ask, Fetch, Length, Lifetime, Tail, Told, Versions
from remanence.stores.drain import Drain
from remanence.stores.folding import Late, View, answer, fold, view_of
from remanence.stores.journal import Journal
from remanence.stores.known import TAIL_ITEMS, Document, Entry, Knowledge, ListTail, of_record
from remanence.stores.rows import Row
from remanence.stores.vouching import Vouching
from remanence.wire.sqlite import FileDamaged

if TYPE_CHECKING:
    from remanence.stores.resilient import ResilientStore

_Pending = tuple[Drain, Row]
FOLDS = 64
"""Keys whose local answer is kept, so that the next reading folds in only what was written since."""
VERSIONS = 1001
"""Earlier versions that are ever kept in mind: the most there may be, and a delete."""
REFUSALS = ("WriteRejected", "WriteStale", "DeadLettered")
"""Events after which an own write may count no more."""


class Folded:
    """A local answer up to row `n`, and what it was made of."""

    def __init__(self, n: int, basis: tuple[Any, ...], view: View, now: float) -> None:
        self.n = n
        self.basis = basis
        self._view = msgspec.structs.replace(view)
        self._until = None if view.left < 0 else now + view.left / 1000

    def holds(self, now: float) -> bool:
        """Whether its lifetime has not passed by `now` (boot clock)."""
        return self._until is None or now < self._until

    def renewed(self, now: float) -> View:
        """The view as it is `now`, to fold further writes into."""
        left = -1 if self._until is None else max(1, int((self._until - now) * 1000))
        return msgspec.structs.replace(self._view, left=left)


class Reader:
    """The reading half of a resilient store."""

    def __init__(self, owner: "ResilientStore") -> None:
        self._owner = owner
        self._folds: dict[str, Folded] = {}

    async def read(self, asks: Sequence[Ask], limit: float) -> list[Reading[Any]]:
        """Answers, from the store where it answers by `limit`, else from here."""
        with self._open():
            return await self._read(asks, limit)

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        """Raise `Closed` where another thread or task closes meanwhile: a file that is closed seems damaged."""
        try:
            yield
        except FileDamaged:
            if self._owner.closed:
                raise Closed("this memory was closed: open a new one") from None
            raise

    async def _read(self, asks: Sequence[Ask], limit: float) -> list[Reading[Any]]:
        owner = self._owner
        for attempt in (1, 2):
            await self._assure(limit)
            if not owner.contact.readable:
                break
            try:
                readings = await self._from_store(asks, limit)
                if owner.drain.unsure or readings is None:  # by a new connection, or by another's writes
                    await self._assure(limit)  # is it a server that forgot, or one that a copy of us writes to?
                    readings = await self._from_store(asks, limit)
                if readings is not None:
                    return readings
            except WorldError as error:
                owner.drain.opened = False
                stale_link = attempt == 1 and owner.contact.ready
                if stale_link and not isinstance(error, DeadlineExceeded | Misconfigured):
                    continue  # the server may just have restarted: one more try on a new connection
                if isinstance(error, PoolExhausted):
                    raise
                self._failed(error)
        return [self._local(ask) for ask in asks]

    def at_hand(self, asks: Sequence[Ask], vouching: Vouching) -> list[Reading[Any]] | None:
        """Answers from what is known here, where the feed vouches for all of it; else None, and the store is asked."""
        owner = self._owner
        if not vouching.alive() or owner.journal.pending:
            return None
        if owner.adopted and any(drain.journal.pending for drain in owner.adopted):
            return None
        readings: list[Reading[Any]] = []
        for ask in asks:
            if type(ask) is Versions:
                return None
            reading = self._near(ask, vouching) or self._mirrored(ask, vouching)
            if reading is None:
                return None
            readings.append(reading)
        return readings

    def _near(self, ask: Ask, vouching: Vouching) -> Reading[Any] | None:
        owner = self._owner
        knowledge = owner.drain.known.at_hand(ask.key)
        if knowledge is None or not vouching.holds(ask.key, knowledge):
            return None
        if knowledge.expires is not None and knowledge.expires <= owner.runtime.wall():
            return None
        entry = knowledge.entry
        told: Any
        if type(ask) is Fetch and type(entry) is Document:
            told = None if entry.body is None else Record(ask.key, entry.body, entry.etag, entry.hlc)
        elif type(ask) is Lifetime or not _answers(entry, ask):
            return None
        else:
            told = answer(ask, view_of(ask.key, knowledge, owner.runtime.wall()))
        return Reading(told, "near", vouching.as_of)

    def _mirrored(self, ask: Ask, vouching: Vouching) -> Reading[Any] | None:
        mirror = self._owner.mirror
        if mirror is None or vouching.unheard(ask.key):
            return None
        try:
            return Reading(_raised(mirror.told(ask)), "mirror", vouching.as_of)
        except (KeyError, FileDamaged):  # it is found and mended by whoever fills it
            return None

    async def _assure(self, limit: float) -> None:
        """Before the server is believed: let it be asked whether it forgot anything, where that is in doubt."""
        owner = self._owner
        while owner.drain.unsure and owner.contact.readable and owner.runtime.monotonic() < limit:
            asker = object()
            try:
                if owner.take_lead(asker):
                    await owner.lead(limit, asker)
                    return
                await owner.runtime.sleep(0.001)  # whoever leads now asks first
            except BaseException:  # cancelled too: a lead that is not passed on is held for ever
                owner.pass_on(asker)
                raise

    def _failed(self, error: WorldError) -> None:
        """The store was not reached."""
        if not isinstance(error, PoolExhausted):
            self._owner.drain.opened = False
            self._owner.lost(error)

    # --- from the store -------------------------------------------------------------------------

    async def _from_store(self, asks: Sequence[Ask], limit: float) -> list[Reading[Any]] | None:
        """The store's answers with our pending writes; None where it cannot be said which of them are in it."""
        owner = self._owner
        with owner.mutex:
            at = owner.journal.active.end
            drains = [drain for drain in [*owner.adopted, owner.drain] if drain.journal.pending]
            late = {ask.key: self._pending(drains, ask.key) for ask in asks} if drains else {}
        if not any(late.values()):
            vouching = owner.vouching
            tick, wide = (-1, asks) if vouching is None else (vouching.tick, _with_lifetimes(asks))
            told, _ = await owner.store.read(wide, limit)
            owner.contact.reached()
            self._remember(asks, told[: len(asks)], at, tick, told[len(asks) :])
            return [Reading(_raised(each)) for each in told[: len(asks)]]
        return await self._overlaid(asks, late, drains, limit)

    def _pending(self, drains: Sequence[Drain], key: str) -> list[_Pending]:
        return _once(
            [
                (drain, row)
                for drain in drains
                for row in drain.journal.rows_of(key, 0)
                if drain.journal.is_pending(row.n)
            ]
        )

    async def _overlaid(
        self, asks: Sequence[Ask], late: dict[str, list[_Pending]], drains: Sequence[Drain], limit: float
    ) -> list[Reading[Any]] | None:
        """Ask for the watermarks in the same moment, and fold over the answer what lies behind them."""
        lineages = [(d, lineage) for d in drains for lineage in d.journal.lineages if lineage.count]
        wide = [each for ask in asks for each in _widened(ask)]
        told, marks = await self._owner.store.read(wide, limit, [lineage.name for _, lineage in lineages])
        self._owner.contact.reached()
        for (drain, lineage), mark in zip(lineages, marks, strict=True):
            if not drain.follows(lineage, *mark):
                # a copy of this journal writes, or our commit failed: other writes have our numbers
                drain.opened = False
                return None
        # by the watermarks alone: rows may have been acknowledged between the answer's moment and now
        reached = [
            (id(drain), lineage.first, lineage.row(min(mark.seq, lineage.count)))
            for (drain, lineage), mark in zip(lineages, marks, strict=True)
        ]
        found, at = [], 0
        for ask in asks:
            size = len(_widened(ask))
            rest = [
                (drain, row)
                for drain, row in late[ask.key]
                if not any(id(drain) == which and first <= row.n <= last for which, first, last in reached)
            ]
            found.append(Reading(self._combined(ask, told[at : at + size], rest)))
            at += size
        return found

    def _combined(self, ask: Ask, told: Sequence[Told], late: Sequence[_Pending]) -> Told:
        view = _view(ask, [_raised(each) for each in told])
        return answer(ask, fold(view, self._late(late)))

    def _late(self, rows: Sequence[_Pending]) -> list[Late]:
        return [
            Late(row.op_id, row.hlc, row.write, drain.age(drain.journal.lineage_of(row.n), row)) for drain, row in rows
        ]

    def _remember(
        self, asks: Sequence[Ask], told: Sequence[Told], at: int, tick: int, lifetimes: Sequence[Told]
    ) -> None:
        """`lifetimes`: those of the asks' keys, where they were asked as well."""
        owner = self._owner
        wall = owner.runtime.wall()
        with owner.mutex:
            known = owner.drain.known
            unchanged = owner.journal.active.end == at
            late = set() if unchanged else owner.journal.keys_behind(at)
            for number, (ask, each) in enumerate(zip(asks, told, strict=True)):
                if ask.key in late:
                    continue  # a write of ours may or may not be in this answer: nobody can say up to which
                entry: Entry | None = None
                if isinstance(ask, Fetch) and (each is None or isinstance(each, Record)):
                    entry = of_record(each)
                elif isinstance(ask, Tail) and isinstance(each, list) and ask.stop == -1:
                    entry = _list_tail(ask, each)
                if entry is None:
                    continue
                if lifetimes:
                    known.put(ask.key, Knowledge(at, entry, wall, _end(lifetimes[number], wall), tick))
                else:
                    known.heard(ask.key, Knowledge(at, entry, wall))

    # --- from here ------------------------------------------------------------------------------

    def _local(self, ask: Ask) -> Reading[Any]:
        """What this process knows: the last it heard, with its own later writes."""
        owner = self._owner
        with owner.mutex:
            knowledge = owner.drain.known.get(ask.key)
            if knowledge is None and owner.mirror is not None:
                knowledge = owner.mirror.knowledge(ask.key)
            view = self._looked_back(ask.key, knowledge) if type(ask) is Versions else self._folded(ask.key, knowledge)
        if not (view.known or view.items or view.touched):
            raise self._unknown(ask.key)
        return Reading(answer(ask, view), "local", knowledge.wall if knowledge else None)

    def _looked_back(self, key: str, knowledge: Knowledge | None) -> View:
        """As `_folded`, with the versions that this process knows of: the last that it heard of, and its own since."""
        view = view_of(key, knowledge, self._owner.runtime.wall())
        view.versions = deque(maxlen=VERSIONS)
        rows = self._owner.journal.rows_of(key, knowledge.n if knowledge else 0)
        own = [(self._owner.drain, row) for row in rows]
        return fold(view, self._late(_once([*self._others(key, knowledge), *own])))

    def _others(self, key: str, knowledge: Knowledge | None) -> list[_Pending]:
        """What ended processes wrote; where something is known it may be in that, and nobody here can tell."""
        if knowledge is not None:
            return []
        return [(drain, row) for drain in self._owner.adopted for row in drain.journal.rows_of(key, 0)]

    def _folded(self, key: str, knowledge: Knowledge | None) -> View:
        """What is known with own later writes over it, going on from the last such answer where it holds."""
        owner = self._owner
        others = self._others(key, knowledge)
        basis = (id(owner.drain), knowledge, [owner.tell.counters.get(name, 0) for name in REFUSALS])
        before = None if others else self._folds.pop(key, None)
        if before is not None and before.basis == basis and before.holds(owner.runtime.boottime()):
            view, after = before.renewed(owner.runtime.boottime()), before.n
        else:
            view, after = view_of(key, knowledge, owner.runtime.wall()), knowledge.n if knowledge else 0
        own = [(owner.drain, row) for row in owner.journal.rows_of(key, after)]
        fold(view, self._late(_once([*others, *own]) if others else own))
        if not others:
            self._folds[key] = Folded(owner.journal.active.end, basis, view, owner.runtime.boottime())
            if len(self._folds) > FOLDS:
                del self._folds[next(iter(self._folds))]
        return view

    def _unknown(self, key: str) -> WorldError:
        """The error that keeps the server away, said of this key."""
        return self._owner.contact.refusal("the server is away", f"; {key} is not known here")

    # --- keys -----------------------------------------------------------------------------------

    async def scan(self, prefix: str, cursor: str, count: int, limit: float) -> tuple[list[str], str]:
        """One page of keys with pending writes considered; while the store is away, all that is known."""
        with self._open():
            return await self._scan(prefix, cursor, count, limit)

    async def _scan(self, prefix: str, cursor: str, count: int, limit: float) -> tuple[list[str], str]:
        owner = self._owner
        if owner.contact.readable:
            with owner.mutex:  # before: what is sent while the store answers may not be in its answer
                late = [(each, each.settled()) for each in self._journals() if each.pending]
            try:
                keys, following = await owner.store.scan(prefix, cursor, count, limit)
            except WorldError as error:
                self._failed(error)
            else:
                owner.contact.reached()
                changed = self._changed(prefix, late)
                found = dict.fromkeys(key for key in keys if changed.get(key, True))
                if not cursor:  # later it may have been sent, to a part that the store told of before
                    found |= dict.fromkeys(key for key, there in changed.items() if there)
                return list(found), following
        with owner.mutex:
            changed = self._changed(prefix, [(each, 0) for each in self._journals()])
            known = set(owner.drain.known.keys(prefix))
            if owner.mirror is not None:
                known.update(owner.mirror.keys(prefix))
        gone = {key for key, there in changed.items() if not there}
        return sorted((known | set(changed)) - gone), ""

    def _journals(self) -> list[Journal]:
        return [drain.journal for drain in (*self._owner.adopted, self._owner.drain)]

    def _changed(self, prefix: str, journals: Sequence[tuple[Journal, int]]) -> dict[str, bool]:
        """Keys written behind these rows of these journals, and whether the last write left something there."""
        with self._owner.mutex:
            writes = [write for journal, behind in journals for write in journal.last_writes(prefix, behind)]
        return {write.key: not isinstance(write, Delete | Forget) for write in writes}


def _once(rows: Sequence[_Pending]) -> list[_Pending]:
    """Each write once: a journal and its copy hold the same."""
    return list({row.op_id: (drain, row) for drain, row in reversed(rows)}.values())[::-1]


def _raised(told: Told) -> Any:
    if isinstance(told, Exception):
        raise told
    return told


def _widened(ask: Ask) -> list[Ask]:
    """What must be asked so that pending writes can be folded in."""
    if isinstance(ask, Tail):
        return [Tail(ask.key, ask.start, -1), Length(ask.key)]
    if isinstance(ask, Versions):
        return [ask, Fetch(ask.key)]
    return [ask]


def _view(ask: Ask, told: Sequence[Any]) -> View:
    match ask:
        case Fetch():
            return View(ask.key, known=True, record=told[0], items=[], length=0)
        case Tail():
            return View(ask.key, known=True, items=list(told[0]), length=told[1])
        case Length():
            return View(ask.key, known=True, items=[], length=told[0])
        case Versions():
            return View(ask.key, True, told[1], items=[], length=0, versions=deque(told[0], VERSIONS))
        case Lifetime():
            there = Record(ask.key, b"", "") if told[0] != -2 else None
            return View(ask.key, known=True, record=there, items=[], length=0, left=told[0])


def _with_lifetimes(asks: Sequence[Ask]) -> list[Ask]:
    return [*asks, *(Lifetime(ask.key) for ask in asks)]


def _end(lifetime: Told, wall: float) -> float | None:
    """When what lives that many milliseconds ends (wall seconds); None for never."""
    return wall + lifetime / 1000 if isinstance(lifetime, int) and lifetime >= 0 else None


def _answers(entry: Entry, ask: Ask) -> bool:
    """Whether an entry has all that is asked of a list."""
    if isinstance(entry, Document):
        return entry.body is None
    if isinstance(ask, Length) or entry.length == len(entry.items):
        return entry.length >= 0
    return isinstance(ask, Tail) and ask.start < 0 and -ask.start <= len(entry.items) and ask.stop < 0


def _list_tail(ask: Tail, items: list[bytes]) -> ListTail:
    whole = ask.start == 0 or (ask.start < 0 and len(items) < -ask.start)
    return ListTail(tuple(items[-TAIL_ITEMS:]), len(items) if whole else -1)
