"""Which of what is known here still holds, as the feed tells: what near reads are answered from.

An entry is noted with the `tick` at which its answer was asked for, or its write was sent. Each change the feed
hears of is a tick later; an entry holds while no change of its key is later than it, or where the last change is
the very write that the entry came by. Changes that the feed has not heard of yet are what makes an answer late:
by no more than the bound, for then the feed has not been heard of for too long.
"""

from collections.abc import Iterable, Sequence

from remanence.feed.feed import Feed
from remanence.model import Change, Op
from remanence.protocols import Runtime
from remanence.stores.known import Document, Knowledge

KEYS = 20_000
"""Keys whose last change is remembered, and own writes that were not heard of; of others only that they were before."""
KEPT_SECONDS = 60.0
"""How long an answer is given again at most. A server that is replaced behind a proxy may forget a write that was
read here before the feed heard of it: then nothing else would ever say so."""


class Vouching:
    """Follows the feed for one store's readers. Called by the feed in its own time, and by readers in theirs."""

    def __init__(self, feed: Feed, runtime: Runtime, bound: float) -> None:
        """`bound`: seconds that a feed may be silent."""
        self.tick = 0
        self._feed = feed
        self._monotonic = runtime.monotonic
        self._bound = bound
        self._own: dict[str, str] = {}
        self._unheard: dict[str, int] = {}
        self._last: dict[str, tuple[int, str]] = {}
        self._floor = 0
        self._started = False

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._feed.hook(self._heard, self.doubt)
            self.doubt()  # the feed may be under way for others: what was asked for before is not vouched for

    def alive(self) -> bool:
        """Whether the feed was heard of within the bound; the first question begins to follow it."""
        heard = self._feed.heard_at
        if heard is None or not self._started:
            self._start()
            return False
        return self._monotonic() - heard <= self._bound

    @property
    def as_of(self) -> float | None:
        """Wall time of what the feed last knew."""
        return self._feed.heard_wall

    def holds(self, key: str, knowledge: Knowledge) -> bool:
        """Whether an entry still is what the store has, as far as the feed knows."""
        if knowledge.tick < self._floor or (self._feed.heard_wall or 0.0) - knowledge.wall > KEPT_SECONDS:
            return False
        last = self._last.get(key)
        if last is None or last[0] <= knowledge.tick:
            return True
        entry = knowledge.entry
        return type(entry) is Document and entry.etag == last[1]

    def _heard(self, changes: Sequence[Change]) -> None:
        for change in changes:
            own = self._hear_own(change.op_id)
            if own and change.kind in ("append", "touch"):  # an own put may have been overtaken; these cannot be
                continue
            self._last[change.key] = self.tick + 1, change.op_id
            self.tick += 1
        if len(self._last) > KEYS:
            self.doubt()

    def sent(self, ops: Iterable[Op]) -> None:
        """These are writes of ours: when they are answered, what they came to is in what is known."""
        own, unheard = self._own, self._unheard
        for op in ops:
            if op.op_id not in own:
                own[op.op_id] = op.write.key
                unheard[op.write.key] = unheard.get(op.write.key, 0) + 1
        while len(own) > KEYS:  # not heard of for so long, they will hardly be
            self._hear_own(next(iter(own)))

    def _hear_own(self, op_id: str) -> bool:
        key = self._own.pop(op_id, None)
        if key is None:
            return False
        left = self._unheard.get(key, 1) - 1
        if left:
            self._unheard[key] = left
        else:
            self._unheard.pop(key, None)
        return True

    def unheard(self, key: str) -> bool:
        """Whether a write of ours to `key` was sent of which the feed has not heard yet."""
        return key in self._unheard

    def doubt(self) -> None:
        """The store may have forgotten something: nothing that is known may hold."""
        self._floor = self.tick = self.tick + 1
        self._last = {}
