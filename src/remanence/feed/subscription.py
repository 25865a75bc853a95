"""One listener's part of a feed: what it wants to hear, and what waits for it to be heard."""

from collections import deque
from collections.abc import Callable, Sequence

from remanence.model import RESYNC, Notice, Wanted
from remanence.protocols import Runtime

QUEUE = 1000
"""Notices that wait for a listener; of more, only the last of each key is kept."""


class Subscription:
    """What waits for one listener, from one feed or several."""

    def __init__(self, wanted: Wanted, runtime: Runtime) -> None:
        self.wanted = wanted
        self.closed = False
        self._queue: deque[Notice] = deque()
        self._signal = runtime.signal()
        self._mutex = runtime.mutex()
        self._leave: list[Callable[[], None]] = []

    def joined(self, leave: Callable[[], None]) -> None:
        """`leave` ends what a feed puts in here."""
        self._leave.append(leave)

    def offer(self, notices: Sequence[Notice]) -> None:
        """Put notices behind those that wait."""
        with self._mutex:
            self._queue.extend(notices)
            if len(self._queue) > QUEUE:
                self._queue = coalesced(self._queue)
        self._signal.set()

    async def next(self, timeout: float | None) -> Notice | None:
        """The next notice; None after `timeout` seconds without one, or when the listener was closed."""
        while True:
            with self._mutex:
                if self._queue:
                    return self._queue.popleft()
                if self.closed:
                    return None
                self._signal.clear()
            if not await self._signal.wait(timeout):
                return None

    def close(self) -> None:
        """Hear no more."""
        with self._mutex:
            self.closed = True
            leave, self._leave = self._leave, []
        for each in leave:
            each()
        self._signal.set()


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
