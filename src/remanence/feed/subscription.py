"""One listener's part of a feed: what it wants to hear, and what waits for it to be heard."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from remanence.feed.trail import midst
from remanence.model import RESYNC, Cursor, Notice, Wanted
from remanence.protocols import Runtime

QUEUE = 1000
"""Notices that wait for a listener; of more, only the last of each key is kept."""


class Subscription:
    """What waits for one listener, from one feed or several. One caller at a time waits for it.

    What it is deaf to it is not told: its owner reads that log itself until it has caught up.
    """

    def __init__(self, wanted: Wanted, runtime: Runtime, deaf: Iterable[int] = ()) -> None:
        """`deaf`: the feeds that it is deaf to, until it shall `listen`."""
        self.wanted = wanted
        self.closed = False
        self.starts: dict[int, Cursor] = {}
        """From where on each feed tells; none of a feed that has not heard the server yet."""
        self._deaf = set(deaf)
        self._late = False
        self._runtime = runtime
        self._queue: deque[Notice] = deque()
        self._signal = runtime.signal()
        self._begun = runtime.signal()
        self._mutex = runtime.mutex()
        self._leave: list[Callable[[], None]] = []

    def joined(self, leave: Callable[[], None]) -> None:
        """`leave` ends what a feed puts in here."""
        self._leave.append(leave)

    def begin(self, source: int, cursor: Cursor, doubtful: bool = False) -> None:
        """From `cursor` on a feed tells; a resync first where something may have changed unheard before."""
        with self._mutex:
            if source in self.starts:
                return
            doubtful = doubtful or self._late
            self.starts[source] = midst(cursor) if doubtful else cursor
        if doubtful:
            self.offer([Notice("", RESYNC, cursor, "", source)])
        self._begun.set()

    async def ready(self, feeds: int, timeout: float | None) -> bool:
        """Wait until that many feeds tell; False after `timeout` seconds, or when closed.

        Whoever was told False goes on without them, and is told a resync by those that begin later.
        """
        limit = limit_of(self._runtime, timeout)
        while True:
            with self._mutex:
                if len(self.starts) >= feeds:
                    return True
                if self.closed:
                    return False
                self._begun.clear()
            if not await self._begun.wait(left_of(self._runtime, limit)):
                with self._mutex:
                    self._late = len(self.starts) < feeds
                    return not self._late

    @property
    def waiting(self) -> bool:
        """Whether there is a notice that nobody took yet."""
        with self._mutex:
            return bool(self._queue)

    async def stirred(self, timeout: float) -> bool:
        """Wait until there is one; False after `timeout` seconds."""
        with self._mutex:
            if not self._queue and not self.closed:
                self._signal.clear()
        return await self._signal.wait(timeout)

    def listen(self, source: int) -> None:
        """Be deaf to a feed no more."""
        with self._mutex:
            self._deaf.discard(source)

    def offer(self, notices: Sequence[Notice]) -> None:
        """Put notices of one feed behind those that wait."""
        with self._mutex:
            if self.closed or notices[0].source in self._deaf:
                return
            self._queue.extend(notices)
            if len(self._queue) > QUEUE:
                self._queue = coalesced(self._queue)
        self._signal.set()

    async def next(self, timeout: float | None) -> Notice | None:
        """The next notice; None after `timeout` seconds without one, or when the listener was closed."""
        limit = limit_of(self._runtime, timeout)
        while True:
            with self._mutex:
                if self._queue:
                    return self._queue.popleft()
                if self.closed:
                    return None
                self._signal.clear()
            if not await self._signal.wait(left_of(self._runtime, limit)):
                return None

    def close(self) -> None:
        """Hear no more, not even what waited."""
        with self._mutex:
            self.closed = True
            self._queue.clear()
            leave, self._leave = self._leave, []
        for each in leave:
            each()
        self._signal.set()
        self._begun.set()


def limit_of(runtime: Runtime, timeout: float | None) -> float | None:
    """The moment that lies `timeout` seconds ahead; None: never."""
    return None if timeout is None else runtime.monotonic() + timeout


def left_of(runtime: Runtime, limit: float | None) -> float | None:
    """Seconds until a moment, none below zero."""
    return None if limit is None else max(0.0, limit - runtime.monotonic())


def coalesced(queue: Sequence[Notice]) -> deque[Notice]:
    """The last notice of each key, in order; of too many keys, that everything may have changed."""
    last: dict[tuple[int, str], Notice] = {}
    for notice in queue:
        last.pop((notice.source, notice.key), None)  # so that it comes behind what came before
        last[notice.source, notice.key] = notice
    if len(last) <= QUEUE // 2:  # else the next one would do this again
        return deque(last.values())
    ends = {notice.source: notice for notice in queue}
    return deque(Notice("", RESYNC, end.cursor, "", source) for source, end in ends.items())
