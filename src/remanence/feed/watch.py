"""A watch: one listener over the feeds of one place or of several partitions, resumable by its cursor."""

import re
from collections import deque
from collections.abc import Sequence
from typing import Final

from remanence.errors import InvalidArgument, RemanenceError
from remanence.feed.feed import COUNT, Feed
from remanence.feed.subscription import Subscription, left_of, limit_of
from remanence.feed.trail import notice_of, place
from remanence.model import BEGINNING, RESYNC, Cursor, Notice, Wanted
from remanence.protocols import Runtime

_CURSOR: Final = re.compile(r"((?:\d{1,20}(?:-\d{1,20})?)?)/([\w-]*)", re.ASCII)
LAGGING = 0.02
"""Seconds between two looks at whether a feed has read as far as a cursor."""
LEVELLING = 0.0005
"""The same where somebody waits for what was applied a moment ago."""
_NEW: Final = object()
_NUMBERS: Final = 1 << 64
"""Those in a position are below it."""


class Watch:
    """Hears of the changes of some keys, in the order of the log, from now or from a cursor on."""

    def __init__(self, feeds: Sequence[Feed], wanted: Wanted, runtime: Runtime, since: str | None = None) -> None:
        """`since`: a `cursor` of an earlier watch. Raises `InvalidArgument` for one that is none of this place's."""
        self._feeds = feeds
        self._wanted = wanted
        self._runtime = runtime
        self._behind = dict(enumerate(parsed(since, len(feeds)))) if since is not None else {}
        """The feeds whose past is still to be read, and from where on."""
        self._untried = set(self._behind)
        """Those of which nothing was read yet: the cursor may be another place's."""
        self._heard = dict(self._behind)
        """Up to where the listener was told; of other feeds, nothing yet."""
        self._past: deque[Notice] = deque()
        self._passed: dict[int, tuple[int, ...]] = {}
        """Up to where the past was read: what a feed tells of that is told already."""
        self._ahead: dict[int, dict[tuple[str, str], None]] = {}
        """The operations, each with its key, that were read in the past while the feed told already."""
        self._live = Subscription(wanted, runtime, deaf=self._behind)
        for feed in feeds:
            feed.join(self._live)

    async def ready(self, timeout: float) -> bool:
        """Wait until nothing that changes from now on is missed; False after `timeout` seconds, or when closed."""
        return await self._live.ready(len(self._feeds), timeout)

    @property
    def waiting(self) -> bool:
        """See `Watching.waiting`."""
        return bool(self._past or self._behind or self._live.waiting)

    async def stirred(self, timeout: float) -> bool:
        """See `Watching.stirred`."""
        return self.waiting or await self._live.stirred(timeout)

    async def level(self, timeout: float) -> bool:
        """See `Watching.level`."""
        limit = self._runtime.monotonic() + timeout
        for feed in self._feeds:
            end = place(await feed.end())
            while place(feed.reached()) < end:
                if self._runtime.monotonic() >= limit or self.closed:
                    return False
                await self._runtime.sleep(LEVELLING)
        return True

    @property
    def cursor(self) -> str:
        """Where to go on later, behind what was heard so far; "" before anything is known."""
        found = {**self._live.starts, **self._heard}
        if len(found) < len(self._feeds):
            return ""
        return ";".join(f"{found[number].position}/{found[number].op_id}" for number in range(len(self._feeds)))

    async def next(self, timeout: float | None) -> Notice | None:
        """The next notice; None after `timeout` seconds without one, or when closed.

        Raises `WorldError` where the server goes away while the past is read.
        """
        limit = limit_of(self._runtime, timeout)
        if self._behind and not self._past and not await self._caught_up(limit):
            return None
        if self.closed:
            return None
        notice = self._past.popleft() if self._past else await self._new(limit)
        if notice is not None:
            self._heard[notice.source] = notice.cursor
        return notice

    async def _new(self, limit: float | None) -> Notice | None:
        while True:
            notice = await self._live.next(left_of(self._runtime, limit))
            if notice is None or not self._is_told(notice):
                return notice

    def _is_told(self, notice: Notice) -> bool:
        ahead = self._ahead.get(notice.source, {})
        if notice.kind == RESYNC:  # its log is another than it was, which the past may have been read from already
            self._passed.pop(notice.source, None)
            for what in [each for each in ahead if notice.key in ("", each[1])]:
                del ahead[what]
            return False
        if place(notice.cursor) <= self._passed.get(notice.source, ()):
            return True
        self._passed.pop(notice.source, None)  # it comes in order
        return ahead.pop((notice.op_id, notice.key), _NEW) is None

    # --- the past -------------------------------------------------------------------------------

    async def _caught_up(self, limit: float | None) -> bool:
        """Read on in the past until there is something to tell, or nothing more of it; False past the time."""
        # A feed must tell what comes behind the last page before that is read.
        if not await self._live.ready(len(self._feeds), left_of(self._runtime, limit)):
            return False
        try:
            while self._behind and not self._past and not self.closed:
                if not await self._read_on(next(iter(self._behind))) and not await self._pause(limit):
                    return False
        except RemanenceError:
            if not self.closed:
                raise
        return not self.closed

    async def _pause(self, limit: float | None) -> bool:
        """Wait a moment; False past the time."""
        left = left_of(self._runtime, limit)
        await self._runtime.sleep(LAGGING if left is None else min(LAGGING, left))
        return left is None or left > 0

    async def _read_on(self, number: int) -> bool:
        """Read what is there of a feed's past; False where the feed itself has not read as far as that begins."""
        if number in self._untried and not may_meet(self._behind[number], self._live.starts[number]):
            self._give_up(number)
        elif not await self._page(number) and number in self._behind:
            if place(self._feeds[number].reached()) < place(self._behind[number]):
                return False
            self._live.listen(number)
            self._ahead.setdefault(number, {})  # it may be there from a reading that failed
            while await self._page(number):  # at once: what is new waits meanwhile, and there is not room for all
                pass
            if number in self._behind:
                self._passed[number] = place(self._behind.pop(number))
        return True

    async def _page(self, number: int) -> bool:
        """Read one page of the past; whether there is more."""
        page = await self._feeds[number].past(self._behind[number])
        if not page.whole:
            self._give_up(number)
            return False
        self._untried.discard(number)
        found = [notice for each in page.entries if (notice := notice_of(each, number)) is not None]
        self._past.extend(notice for notice in found if self._wanted.matches(notice.key))
        if number in self._ahead:
            self._ahead[number].update(((each.op_id, each.key), None) for each in found)
        self._behind[number] = page.cursor
        if not self._past:
            self._heard[number] = page.cursor
        return len(page.entries) >= COUNT

    def _give_up(self, number: int) -> None:
        """The log does not have the cursor any more: all may have changed since."""
        self._live.listen(number)
        reached = self._feeds[number].reached()
        self._past.append(Notice("", RESYNC, reached, "", number))
        self._passed[number] = place(reached)
        del self._behind[number]

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


def parsed(text: str, count: int) -> list[Cursor]:
    """A watch's cursor as one for each of `count` feeds. Raises `InvalidArgument`."""
    found = [_CURSOR.fullmatch(part) for part in text.split(";")] if isinstance(text, str) else []
    cursors = [Cursor(match[1], match[2]) for match in found if match is not None]
    if not len(cursors) == len(found) == count or any(n >= _NUMBERS for each in cursors for n in place(each)):
        raise InvalidArgument("since must be the cursor of an earlier watch of the same place")
    return cursors


def may_meet(cursor: Cursor, other: Cursor) -> bool:
    """Whether both can be of one log: those of different kinds of stores cannot, nor does an empty log have a past."""
    return cursor == BEGINNING or len(place(cursor)) == len(place(other))
