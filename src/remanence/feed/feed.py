"""The feed: one reader of a store's change log in this process, however many listen.

It reads behind a cursor with bounded waits, so that a dead link is noticed. The cursor is an entry's
position and its operation id; where the log has no such entry any more, something was missed or undone:
the log was cut off, emptied, or belongs to a server that was promoted without its last entries. Then the
feed goes back through what it heard to an entry that the log still has, tells that the keys of the entries
behind it may be other than was heard, and reads on from there; where it finds none, that concerns every key.
"""

from collections.abc import Callable, Sequence

from remanence import events
from remanence.errors import Misconfigured, RemanenceError, WorldError
from remanence.feed.subscription import Subscription
from remanence.feed.trail import Trail, in_one, notice_of, up_to
from remanence.model import BEGINNING, RESYNC, Change, Changes, Cursor, Notice
from remanence.protocols import Runtime, Store, Task

COUNT = 500
"""Entries in one reading."""
WAIT = 1.0
"""Seconds that one reading waits for the first entry."""
SLACK = 1.0
"""Seconds behind that until the link counts as dead."""
POLL = 0.005
"""Seconds between two looks at a store that cannot be waited for."""
BACKOFF = 2.0
"""Seconds between two attempts at a server that is away, at most."""
Heard = Callable[[Sequence[Change]], None]
Doubt = Callable[[], None]


class Feed:
    """Follows one store's change log from the first listener to the last."""

    def __init__(
        self, store: Store, runtime: Runtime, tell: events.Events, *, number: int = 0, wait: float = WAIT
    ) -> None:
        """`number` tells the feeds of several partitions apart; `wait`: seconds that one reading waits at most."""
        self.number = number
        self._store = store
        self._runtime = runtime
        self._wait = wait
        self._tell = tell
        self.mutex = runtime.mutex()
        self._wake = runtime.signal()
        self._task: Task | None = None
        self._closed = False
        self._cursor: Cursor | None = None
        self._trail = Trail()
        self._by_key: dict[str, dict[Subscription, None]] = {}
        self._by_prefix: dict[str, dict[Subscription, None]] = {}
        self._hooks: list[tuple[Heard, Doubt]] = []
        self._failures = 0
        self.lost: Callable[[WorldError], None] = lambda error: None
        """Hears why the server could not be reached."""
        self.answered: Callable[[], None] = lambda: None
        """Hears that it answers, before listeners are told to read again: else that would be answered from here."""
        self.heard_at: float | None = None
        """When the log was last known to the end, on the monotonic clock; None before the first time."""
        self.heard_wall: float | None = None
        """The same by the wall clock."""

    # --- who listens ----------------------------------------------------------------------------

    def hook(self, heard: Heard, doubt: Doubt) -> None:
        """Have `heard` called with changes before any listener is told, and `doubt` where the store may be another
        than was heard. Both must be quick, and must not raise.
        """
        self._hooks.append((heard, doubt))
        self._start()

    def join(self, made: Subscription) -> None:
        """Let it hear of changes from now on; from `made.starts` on, as soon as the server said where that is."""
        with self.mutex:
            for table, names in self._places(made):
                for name in names:
                    table.setdefault(name, {})[made] = None
            made.joined(lambda: self._leave(made))
            closed = self._closed
            if self._cursor is not None:
                made.begin(self.number, self._cursor)
        if closed:
            made.close()
        self._start()

    def _leave(self, gone: Subscription) -> None:
        with self.mutex:
            for table, names in self._places(gone):
                for name in names:
                    there = table.get(name, {})
                    there.pop(gone, None)
                    if not there:
                        table.pop(name, None)

    def _places(self, each: Subscription) -> Sequence[tuple[dict[str, dict[Subscription, None]], Sequence[str]]]:
        return (self._by_key, each.wanted.keys), (self._by_prefix, each.wanted.prefixes)

    async def page(self, after: Cursor) -> Changes:
        """Some of the log behind a cursor, for who wants to hear of the past. Raises `WorldError`."""
        return await self._store.changes(after, COUNT, 0.0, self._runtime.monotonic() + SLACK)

    async def past(self, after: Cursor) -> Changes:
        """As `page`, but only what this feed has read, too: of the rest it could not tell that it vanished."""
        page = await self.page(after)
        return up_to(page, after, self.reached())

    def reached(self) -> Cursor:
        """Up to where this feed has read; the beginning where it reads no more."""
        with self.mutex:
            return self._cursor or BEGINNING

    async def end(self) -> Cursor:
        """The end of the log now. Raises `WorldError`."""
        return await self._store.latest(self._runtime.monotonic() + SLACK)

    @property
    def wanted(self) -> bool:
        """Whether anybody listens."""
        return bool(self._by_key or self._by_prefix or self._hooks)

    # --- reading --------------------------------------------------------------------------------

    def _start(self) -> None:
        with self.mutex:
            if self._task is None and not self._closed:
                self._task = self._runtime.spawn("remanence-feed", self._run)

    async def _run(self) -> None:
        while self._go_on():
            try:
                await self._step()
                self._failures = 0
            except WorldError as error:  # told by whoever writes or reads; here nothing is lost but time
                if isinstance(error, Misconfigured):  # it may be this command alone
                    if not self._failures:
                        self._tell.tell(events.FeedFailed(str(error)))
                elif not self._closed:
                    self.lost(error)
                self._failures += 1
                pause = min(BACKOFF, 0.05 * 2 ** min(self._failures, 10)) * (0.5 + 0.5 * self._runtime.jitter())
                await self._wake.wait(pause)
            except RemanenceError as error:
                await self._failed(str(error))
            except Exception as error:  # a fault of ours: told and tried again, for else all would hear of nothing
                await self._failed(f"a fault inside ({type(error).__name__}): please report it")

    async def _failed(self, reason: str) -> None:
        if not self._closed:  # else the store was closed, too
            self._tell.tell(events.FeedFailed(reason))
        await self._wake.wait(BACKOFF)

    def _go_on(self) -> bool:
        """Whether somebody still listens; who comes later starts the feed anew, at the end of the log."""
        with self.mutex:
            if self.wanted and not self._closed:
                return True
            self._task = self._cursor = self.heard_at = self.heard_wall = None
            self._trail, self._failures = Trail(), 0
            return False

    async def _step(self) -> None:
        runtime = self._runtime
        started, wall = runtime.monotonic(), runtime.wall()
        if self._cursor is None:
            self._begin(await self.end(), started, wall)
            return
        page = await self._store.changes(self._cursor, COUNT, self._wait, started + self._wait + SLACK)
        if not page.whole:
            await self._resync()
            return
        if self._failures:  # the link was lost: the server may have forgotten what was read and not yet logged
            self._doubt()
        news = self._trail.news(page.entries)
        for heard, _ in self._hooks if news else ():
            heard(news)
        with self.mutex:  # in one, so that who joins hears just what lies behind the cursor
            self._cursor = page.cursor
            if len(page.entries) < COUNT:  # else there is more already
                self.heard_at, self.heard_wall = started, wall
            self._tell_listeners([found for each in news if (found := notice_of(each, self.number)) is not None])
        if not news and not page.entries and runtime.monotonic() - started < self._wait / 2:
            await self._wake.wait(POLL)

    def _begin(self, cursor: Cursor, started: float, wall: float) -> None:
        self._doubt()
        with self.mutex:
            self._cursor, self.heard_at, self.heard_wall = cursor, started, wall
            for each in self._all():  # where the server was away, nobody knows what changed since they joined
                each.begin(self.number, cursor, doubtful=self._failures > 0)

    def _all(self) -> list[Subscription]:
        found = [each for table in (self._by_key, self._by_prefix) for some in table.values() for each in some]
        return list(dict.fromkeys(found))

    def _resynced(self, key: str, cursor: Cursor) -> Notice:
        return Notice(key, RESYNC, cursor, "", self.number)

    # --- telling --------------------------------------------------------------------------------

    def _tell_listeners(self, notices: Sequence[Notice]) -> None:
        lengths = {len(prefix) for prefix in self._by_prefix}
        boxes: dict[Subscription, list[Notice]] = {}
        for notice in notices:
            found = dict(self._by_key.get(notice.key, ()))
            for length in lengths:
                found |= self._by_prefix.get(notice.key[:length], {})
            for each in found:
                boxes.setdefault(each, []).append(notice)
        for each, box in boxes.items():
            each.offer(in_one(box) if box[0].kind == RESYNC else box)

    # --- a log that is another than it was -------------------------------------------------------

    def _doubt(self) -> None:
        self.answered()
        for _, doubt in self._hooks:
            doubt()

    async def _resync(self) -> None:
        kept = await self._common()
        cursor = self._trail[kept - 1].cursor if kept else await self.end()
        with self.mutex:
            keys = list(dict.fromkeys(each.key for each in self._trail.cut(kept)))
            self._cursor = cursor
        self._tell.tell(events.Resynced(len(keys) if kept else -1))
        self._doubt()
        with self.mutex:
            if kept:
                self._tell_listeners([self._resynced(key, cursor) for key in keys])
            else:
                for each in self._all():
                    each.offer([self._resynced("", cursor)])

    async def _common(self) -> int:
        """How many of the entries that are remembered the log still has: those up to a point, none behind it."""
        low, high = 0, len(self._trail)
        while low < high:
            middle = (low + high + 1) // 2
            if await self._has(self._trail[middle - 1].cursor):
                low = middle
            else:
                high = middle - 1
        return low

    async def _has(self, cursor: Cursor) -> bool:
        return (await self.page(cursor)).whole

    def failed(self, error: str) -> None:
        """A listener's callback raised an error of this type."""
        self._tell.tell(events.ListenerFailed(error))

    def close(self) -> None:
        """Stop reading, and let every listener's waiting end."""
        with self.mutex:
            self._closed = True
            everybody = self._all()
        for each in everybody:
            each.close()
        self._wake.set()
