"""A watch: one listener over the feeds of one place or of several partitions, resumable by its cursor."""

from collections import deque
from collections.abc import Sequence

from remanence.errors import InvalidArgument
from remanence.feed.feed import COUNT, Feed
from remanence.feed.subscription import Subscription
from remanence.model import EXPIRED, OK, RESYNC, Change, Cursor, Notice, Wanted
from remanence.protocols import Runtime

_LONG = 1e9
"""Seconds: for ever."""


class Watch:
    """Hears of the changes of some keys, in the order of the log, from now or from a cursor on."""

    def __init__(self, feeds: Sequence[Feed], wanted: Wanted, runtime: Runtime, since: str | None = None) -> None:
        """`since`: a `cursor` of an earlier watch. Raises `InvalidArgument` for one that is none of this place's."""
        self._feeds = feeds
        self._wanted = wanted
        self._runtime = runtime
        self._cursors: list[Cursor | None] = [None] * len(feeds) if since is None else parsed(since, len(feeds))
        self._behind = {number: cursor for number, cursor in enumerate(self._cursors) if cursor is not None}
        """The feeds whose past is still to be read, and from where on."""
        self._past: deque[Notice] = deque()
        self._told: set[str] = set()
        """Operations that were met in the past and may wait a second time among what is new."""
        self._live = Subscription(wanted, runtime)
        for feed in feeds:
            feed.join(self._live)

    async def ready(self, timeout: float) -> bool:
        """Wait until nothing that changes from now on is missed; False after `timeout` seconds."""
        limit = self._runtime.monotonic() + timeout
        for feed in self._feeds:
            if not await feed.ready(max(0.0, limit - self._runtime.monotonic())):
                return False
            if self._cursors[feed.number] is None:
                self._cursors[feed.number] = feed.cursor
        return True

    @property
    def cursor(self) -> str:
        """Where to go on later, behind what was heard so far; "" before anything is known."""
        if any(cursor is None for cursor in self._cursors):
            return ""
        return ";".join(f"{cursor.position}/{cursor.op_id}" for cursor in self._cursors if cursor is not None)

    async def next(self, timeout: float | None) -> Notice | None:
        """The next notice; None after `timeout` seconds without one, or when closed.

        Raises `WorldError` where the server goes away while the past is read.
        """
        if self._behind and not await self._caught_up(timeout):
            return None
        notice = self._past.popleft() if self._past else await self._new(timeout)
        if notice is not None:
            self._cursors[notice.source] = notice.cursor
        return notice

    async def _new(self, timeout: float | None) -> Notice | None:
        while True:
            notice = await self._live.next(timeout)
            if notice is None or notice.op_id not in self._told:
                self._told.clear()  # it comes in order: nothing of the past waits behind it
                return notice

    async def _caught_up(self, timeout: float | None) -> bool:
        """Read on in the past until there is something to tell, or nothing more of it; False past the time."""
        if not await self.ready(_LONG if timeout is None else timeout):  # what is new must be heard by then
            return False
        while self._behind and not self._past:
            number, cursor = next(iter(self._behind.items()))
            feed = self._feeds[number]
            page = await feed.page(cursor)
            if page.whole:
                found = [each for each in page.entries if self._is(each)]
                self._told.update(each.op_id for each in found)
                self._past.extend(Notice(each.key, each.kind, each.cursor, each.op_id, number) for each in found)
                self._behind[number] = page.cursor
            else:
                self._past.append(Notice("", RESYNC, await feed.end(), "", number))
            if not page.whole or len(page.entries) < COUNT:
                del self._behind[number]
        return True

    def _is(self, change: Change) -> bool:
        return change.result in (OK, EXPIRED) and change.kind != "blank" and self._wanted.matches(change.key)

    def failed(self, error: str) -> None:
        """See `Watching.failed`."""
        self._feeds[0].failed(error)

    def close(self) -> None:
        """Hear no more."""
        self._live.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed, or what it listened to."""
        return self._live.closed


def parsed(text: str, count: int) -> list[Cursor | None]:
    """A watch's cursor as one for each of `count` feeds. Raises `InvalidArgument`."""
    parts = text.split(";") if isinstance(text, str) else []
    if len(parts) != count or not all("/" in part for part in parts):
        raise InvalidArgument("since must be the cursor of an earlier watch of the same place")
    return [Cursor(*part.split("/", 1)) for part in parts]
