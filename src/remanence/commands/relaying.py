"""A relay: makes the target hold what the source holds, and keeps it so along the source's change log.

The log says which keys changed; what to do about each is decided by what both ends hold now (`relay_rules`).
Where to go on is a record of the relay's own at the target, which moves in one batch with the last of the
data that it speaks of. Whatever goes wrong, the relay begins again from what the target holds.
"""

import time
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

import msgspec

from remanence.commands.relay_ends import MOST_BYTES, OWN, Place, Session, limit
from remanence.commands.relay_rules import Held, Plan, append, fresh_id, plan, replaced, same_lifetime, touch
from remanence.errors import InvalidArgument
from remanence.feed.trail import is_change
from remanence.model import EXPIRED, Change, Cursor, Op, Put, Record, Seen
from remanence.protocols import Fetch
from remanence.protocols import Tail as Items
from remanence.runtime.blocking import run as driven
from remanence.stores.erasing import FORGET_SECONDS

COUNT: Final = 500
"""Entries of the log in one reading."""
KEYS: Final = 64
"""Keys looked at in one trip: of the largest documents allowed, still no more than a process can hold."""
LISTS: Final = 8
"""Lists whose next items are read in one trip, and how many items of each, for the same reason."""
ITEMS: Final = 32
MORE_ITEMS: Final = 100
QUIET: Final = 1000
"""Entries that may pass without anything to do until it is written down that they did."""
RETRY: Final = 1.0
"""Seconds between two looks at lists that do not fit: most only wait for what the log says next."""
CHECK: Final = 1.0
"""Seconds between two looks at whether the target still has what was written to it."""
FAR: Final = 20
"""Pages of the log that are counted to tell how far behind the target is."""


class Progress(msgspec.Struct):
    """The relay's own record at the target."""

    source: str
    prefix: str
    whole: bool
    """Whether everything that begins so was copied, so that following the log is enough."""
    cursors: list[Cursor]


_read: Final = msgspec.json.Decoder(Progress).decode
Tick = Callable[[int], None]


class Relay:
    """One way from a source to a target. Every method raises `WorldError`; begin again after one."""

    def __init__(self, source: Place, target: Place, call: Namespace, tick: Tick, *, anew: bool) -> None:
        """`tick` hears of keys that were looked at in a full pass. `anew`: begin with one, whatever is known."""
        self.source = source
        self.target = target
        self.cursors: list[Cursor] | None = None
        self.written = 0
        """Ops sent to the target."""
        self.items = 0
        """Items of lists among them."""
        self.without_effect = 0
        self.passes = 0
        """Full passes ended."""
        self.left_out = 0
        """Keys met in them that only other programs could have made."""
        self.unfit: dict[str, str] = {}
        """Keys that cannot be made equal, and why: the target's list is another, or of another kind."""
        self._sessions = [Session(store, call.name) for store in target.stores]
        self._record = f"{OWN}{call.name}"
        self._merge = call.merge
        self._replace = call.replace
        self._tick = tick
        self._anew = anew
        self._begun = False
        self._passed = 0
        self._retry_at = self._check_at = 0.0
        self._erased = [Seen() for _ in source.stores]

    # --- the course of it

    def stumbled(self) -> None:
        """What is known of the target may not hold: begin again with the next turn."""
        self._begun = False

    def turn(self, wait: float) -> bool:
        """Do what comes next, waiting up to `wait` seconds for something to do; whether nothing is left for now."""
        if not self._begun:
            self._begin()
            self._begun = True
        if self.cursors is None:
            self._pass()
            return False
        return self._follow(wait)

    def _begin(self) -> None:
        known = self._known()
        if known is None or known.source != self.source.name:
            self._check_empty()
        for session in self._sessions:
            session.begin()
        known = self._known()  # as it is now that nobody else writes it
        self.cursors = None if known is None or self._anew else self._place_in(known)

    def _place_in(self, known: Progress) -> list[Cursor] | None:
        """Where to go on; None where all has to be looked at."""
        told_all = known.whole and self.source.prefix.startswith(known.prefix)
        return known.cursors if told_all and len(known.cursors) == len(self.source.stores) else None

    def _known(self) -> Progress | None:
        told = driven(self.target.stores[0].read([Fetch(self._record)], limit()))[0][0]
        try:
            return _read(told.body) if isinstance(told, Record) else None
        except msgspec.DecodeError:
            return None

    def _check_empty(self) -> None:
        if not self._merge and any(self.target.pages()):
            raise InvalidArgument(
                f"{self.target.name} has memories of its own: say --merge to have those of {self.source.name} beside "
                "them, the newer one winning where both have one"
            )

    # --- everything

    def _pass(self) -> None:
        """Look at every key of both ends. What changes meanwhile is in the log behind where it stood before."""
        cursors = [driven(store.latest(limit())) for store in self.source.stores]
        self._save(cursors, whole=False)
        for keys in self.source.pages():
            self.sync(keys)
        for keys in self.target.pages():
            gone = [key for key, held in zip(keys, self.source.held(keys), strict=True) if held.kind == "none"]
            self.sync(gone, counted=False)
        self._save(cursors, whole=True)
        self._anew = False
        self.cursors = cursors
        self.passes += 1

    # --- what changes

    def _follow(self, wait: float) -> bool:
        assert self.cursors is not None  # else it would be a pass
        caught_up = True
        for number, store in enumerate(self.source.stores):
            now = time.monotonic()
            page = driven(store.changes(self.cursors[number], COUNT, wait, limit() + wait))
            if not page.whole:
                self.cursors = None  # what was missed may be anything
                return False
            following = [*self.cursors[:number], page.cursor, *self.cursors[number + 1 :]]
            self._apply(page.entries, following)
            self.cursors = following
            caught_up &= len(page.entries) < COUNT
            if wait and not page.entries and time.monotonic() - now < wait / 2:
                time.sleep(min(wait, 0.02))  # nobody can wait for a file
        if caught_up:
            self._retry()
            self._check()
        return caught_up

    def _apply(self, entries: Sequence[Change], following: list[Cursor]) -> None:
        changed = [each for each in entries if is_change(each) and self.source.wants(each.key)]
        removed = {each.key for each in changed if each.result == EXPIRED}
        self.sync(list(dict.fromkeys(each.key for each in changed)), removed, flush=False)
        self._passed = 0 if changed else self._passed + len(entries)
        if changed or self._passed >= QUIET:
            self._passed = 0
            self._save(following, whole=True)

    def _save(self, cursors: list[Cursor], *, whole: bool) -> None:
        """Write down how far we are, with the last of the data."""
        body = msgspec.json.encode(Progress(self.source.name, self.source.prefix, whole, cursors))
        self._add(0, Op(fresh_id(), int(time.time() * 1_000_000), Put(self._record, body)), len(body))
        self._flush()

    def _retry(self) -> None:
        """Look again at what did not fit, a trip's worth at a time."""
        if self.unfit and time.monotonic() >= self._retry_at:
            keys = list(self.unfit)[:KEYS]
            for key in keys:
                self.unfit[key] = self.unfit.pop(key)  # behind those that were not looked at
            self.sync(keys, replace=self._replace)
            self._retry_at = time.monotonic() + RETRY

    def _check(self) -> None:
        """With nothing to write, nobody would tell us that the target forgot, or has gone."""
        if time.monotonic() >= self._check_at:
            for session in self._sessions:
                session.check()
            self._erase()
            self._check_at = time.monotonic() + CHECK

    def _erase(self) -> None:
        """What was erased for good at the source is erased so at the target: in its journals and mirrors too."""
        for number, store in enumerate(self.source.stores):
            erasures, self._erased[number] = driven(store.erasures("", self._erased[number], limit()))
            for target in self.target.stores if erasures else ():
                known, _ = driven(target.erasures("", Seen(), limit()))
                done = {each.op_id for each in known}  # not again: what was written since is to stay
                for erasure in erasures:
                    if erasure.op_id not in done:
                        driven(target.forget(erasure, (), limit(FORGET_SECONDS), live=False))

    def behind(self) -> int | None:
        """Entries of the log that are not followed yet, or at least so many; None where that is not known."""
        if self.cursors is None:
            return None
        count = 0
        for cursor, store in zip(self.cursors, self.source.stores, strict=True):
            for _ in range(FAR):
                page = driven(store.changes(cursor, COUNT, 0.0, limit()))
                count, cursor = count + len(page.entries), page.cursor
                if len(page.entries) < COUNT:
                    break
        return count

    # --- some keys

    def sync(
        self,
        keys: Sequence[str],
        removed: Collection[str] = (),
        *,
        replace: bool = False,
        flush: bool = True,
        counted: bool = True,
    ) -> None:
        """Make the target hold of each key what the source holds. See `relay_rules.plan`.

        Without `flush` the last ops are left to who sends more.
        """
        for at in range(0, len(keys), KEYS):
            self._flush()  # what the target holds is looked at next
            some = keys[at : at + KEYS]
            here, there = self.source.held(some), self.target.held(some)
            lists: list[tuple[str, Plan, Held, Held]] = []
            for key, one, other in zip(some, here, there, strict=True):
                found = plan(key, one, other, removed=key in removed, replace=replace)
                if found.start is not None:
                    lists.append((key, found, one, other))
                else:
                    self._carry_out(key, found)
            for first in range(0, len(lists), LISTS):
                self._lists(lists[first : first + LISTS], replace)
            if counted and self.cursors is None:
                self.left_out += sum(one.kind == "other" for one in here)
                self._tick(len(some))
        if flush:
            self._flush()

    def _carry_out(self, key: str, found: Plan) -> None:
        for op in found.ops:
            self._add(self.target.part(key), op, len(op.write.body) if isinstance(op.write, Put) else 0)
        if found.refusal in ("kind", "longer", "differs"):
            self.unfit[key] = found.refusal
        else:
            self.unfit.pop(key, None)

    def _lists(self, lists: Sequence[tuple[str, Plan, Held, Held]], replace: bool) -> None:
        """Bring lists to the length that they have at the source, if what is there is their beginning."""
        starts = [found.start or 0 for _, found, _, _ in lists]
        ranges = [(key, max(start - 1, 0)) for (key, *_), start in zip(lists, starts, strict=True)]
        mine = self.source.read([Items(key, first, first + ITEMS - 1) for key, first in ranges])
        theirs = self.target.read([Items(key, first, first) for key, first in ranges])
        for (key, found, here, there), start, told, last in zip(lists, starts, mine, theirs, strict=True):
            items = told if isinstance(told, list) else []
            if start and items[:1] != last:
                if not replace:
                    self._carry_out(key, found._replace(refusal="differs"))
                    continue
                found, start, items = replaced(key, here), 0, self._items(key, 0, ITEMS)
            self._carry_out(key, found)
            if len(items) > bool(start):
                self._extend(key, here, start, items[1:] if start else items, more=len(items) == ITEMS)
            elif start and not same_lifetime(here.ttl, there.ttl):
                self._add(self.target.part(key), touch(key, here.ttl), 0)

    def _extend(self, key: str, here: Held, start: int, items: list[bytes], *, more: bool) -> None:
        ttl: int | None = here.ttl
        while items:
            for piece, size in pieces(items):
                self._add(self.target.part(key), append(key, piece, ttl), size)
                ttl = None  # it counts from the first, not from when the last was copied
            start += len(items)
            self.items += len(items)
            self._tick(0)
            items = self._items(key, start, MORE_ITEMS) if more else []
            more = len(items) == MORE_ITEMS

    def _items(self, key: str, start: int, count: int) -> list[bytes]:
        told = self.source.read([Items(key, start, start + count - 1)])[0]
        return told if isinstance(told, list) else []

    def _add(self, part: int, op: Op, size: int) -> None:
        self.without_effect += self._sessions[part].add(op, size)
        self.written += 1

    def _flush(self) -> None:
        for session in reversed(self._sessions):  # the first one's last op may speak of what the others wrote
            self.without_effect += session.flush()


def pieces(items: Sequence[bytes]) -> Iterator[tuple[tuple[bytes, ...], int]]:
    """Items in order, in parts that fit into a batch, each with its size in bytes."""
    part: list[bytes] = []
    size = 0
    for item in items:
        if part and size + len(item) > MOST_BYTES:
            yield tuple(part), size
            part, size = [], 0
        part.append(item)
        size += len(item)
    if part:
        yield tuple(part), size
