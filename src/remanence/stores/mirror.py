"""The mirror: a copy of the namespace on this machine's disk that follows the change log.

The feed tells which keys changed; their values are fetched from the store, and committed together with the cursor
behind them. A key that changed and was not fetched yet is `late`: it is not answered from here. Where the log cannot
be read on from the cursor, the whole namespace is looked through, without stopping anybody: what changes meanwhile
is in the log behind the place where the look began.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

from remanence import events
from remanence.errors import RemanenceError, WorldError, WrongKind
from remanence.feed.feed import COUNT, Feed
from remanence.model import Change, Cursor, Erasure, Record
from remanence.protocols import Ask, Fetch, Length, Lifetime, Runtime, Store, Tail, Told
from remanence.stores.journal import Journal
from remanence.stores.known import Knowledge
from remanence.stores.mirror_file import Found, MirrorFile

PAGE: Final = 500
"""Keys that are fetched at a time."""
LATELY: Final = 10.0
"""Seconds in which a server may forget what was fetched before the feed heard of it: looked at again when in doubt."""
RETRY: Final = 5.0
"""Seconds until a file that could not be written is tried again."""
PATIENCE: Final = 5.0
"""Seconds for one trip to the store: a thousand values take their time."""


class Mirror:
    """Follows one store into one file, from `start` on."""

    def __init__(
        self,
        file: MirrorFile,
        store: Store,
        feed: Feed,
        runtime: Runtime,
        journal: Callable[[], Journal],
        guard: AbstractContextManager[Any],
        tell: Callable[[events.Event], None],
    ) -> None:
        """`journal`: that of this process, whose writes are folded over what is read here; `guard`: its mutex."""
        self.file = file
        self.caught_up = False
        """Whether the file is what the log says, but for the keys that are `late`."""
        self._store = store
        self._feed = feed
        self._runtime = runtime
        self._journal = journal
        self._guard = guard
        self._tell = tell
        self._mutex = runtime.mutex()
        self._wake = runtime.signal()
        self._queue: deque[Change] = deque()
        self._late: dict[str, int] = {}
        self._lately: deque[tuple[float, str]] = deque()
        self._closed = self._started = self._doubted = False

    def start(self) -> None:
        """Begin to follow, once."""
        if not self._started:
            self._started = True
            self._feed.hook(self._heard, self._doubt)
            self._runtime.spawn("remanence-mirror", self._run)

    def _heard(self, changes: Sequence[Change]) -> None:
        with self._mutex:
            self._queue.extend(changes)
            for change in changes:
                self._late[change.key] = self._late.get(change.key, 0) + 1
        self._wake.set()

    def _doubt(self) -> None:
        with self._mutex:
            self._doubted, self.caught_up = True, False
        self._wake.set()

    # --- following ------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._closed:
            try:
                if not self.caught_up:
                    await self._catch_up()
                elif not await self._follow():
                    await self._wake.wait(1.0)
                    self._wake.clear()
            except WorldError:  # whoever reads or writes tells of it; here nothing is lost but time
                await self._runtime.sleep(0.2 + 0.2 * self._runtime.jitter())
            except RemanenceError as error:  # the disk is full, or the file is damaged: reads are answered elsewhere
                await self._failed(str(error))
            except Exception as error:  # a fault of ours: told and tried again, for nobody else would ever see it
                await self._failed(f"a fault inside ({type(error).__name__}): please report it")

    async def _failed(self, reason: str) -> None:
        self.caught_up = False
        if not self._closed:  # else the file was closed in the middle of it
            self._tell(events.MirrorFailed(self.file.path, reason))
            await self._runtime.sleep(RETRY)

    async def _follow(self) -> bool:
        """Fetch what changed; False where nothing did."""
        with self._mutex:
            batch = [self._queue.popleft() for _ in range(min(PAGE, len(self._queue)))]
        if not batch:
            return False
        try:
            await self._fetch_changed(batch, batch[-1].cursor)
        except BaseException:  # cancelled too: what was taken from the queue is in the log behind the cursor still
            self.caught_up = False
            raise
        with self._mutex:
            for change in batch:
                left = self._late.get(change.key, 1) - 1
                if left:
                    self._late[change.key] = left
                else:
                    self._late.pop(change.key, None)
        return True

    async def _catch_up(self) -> None:
        """Read on from the cursor to the log's end, or look through everything."""
        if self._feed.heard_at is None:  # what is behind the log's end now would not be heard
            await self._runtime.sleep(0.02)
            return
        with self._mutex:  # all of it is in the log behind the cursor
            self._queue.clear()
            self._late.clear()
            self._doubted = False
        await self._read_on()
        await self._look_again()
        with self._mutex:
            self.caught_up = not self._doubted

    async def _read_on(self) -> None:
        cursor = self.file.cursor
        if cursor is None:
            cursor = await self._look_through()
        while True:
            page = await self._feed.page(cursor)
            if not page.whole:
                cursor = await self._look_through()
                continue
            if page.entries:
                await self._fetch_changed(page.entries, page.cursor)
            cursor = page.cursor
            if len(page.entries) < COUNT:
                return

    async def _look_again(self) -> None:
        """At what was fetched lately: the server may have forgotten it before it was in the log."""
        now = self._runtime.monotonic()
        keys = dict.fromkeys(key for when, key in self._lately if now - when < LATELY)
        self._lately.clear()
        await self._fetch(list(keys), set(), None)

    async def _look_through(self) -> Cursor:
        """Fetch every key of the namespace; the place in the log from where on to read."""
        end = await self._feed.end()
        with self._mutex:
            self.file.keep_copy()
            self.file.begin_anew()
        cursor = ""
        while True:
            names, cursor = await self._store.scan("", cursor, PAGE, self._deadline())
            keys = [name for name in names if _is_text(name)]
            with self._mutex:
                self.file.seen(keys)
            await self._fetch(keys, set(), None)
            if not cursor:
                break
        with self._mutex:
            self.file.end_anew(end)
        return end

    # --- fetching -------------------------------------------------------------------------------

    async def _fetch_changed(self, changes: Sequence[Change], cursor: Cursor) -> None:
        keys = list(dict.fromkeys(change.key for change in changes if _is_text(change.key)))
        appended = {change.key for change in changes if change.kind == "append"}
        replaced = {change.key for change in changes if change.kind in ("put", "delete")}
        await self._fetch(keys, appended - replaced, cursor)

    async def _fetch(self, keys: Sequence[str], grown: set[str], cursor: Cursor | None) -> None:
        """Fetch keys into the file; of those `grown`, only the items that are not here."""
        if not keys and cursor is None:
            return
        lists, found = [key for key in keys if key in grown], list[Found]()
        documents = [key for key in keys if key not in grown]
        for start in range(0, len(documents), PAGE):
            made, others = await self._documents(documents[start : start + PAGE])
            found += made
            lists += others
        for start in range(0, len(lists), PAGE):
            found += await self._lists(lists[start : start + PAGE], grown)
        with self._mutex:
            self.file.take(found, self._runtime.wall(), self._journal().active.name, cursor)
        now = self._runtime.monotonic()
        self._lately.extend((now, key) for key in keys)
        while self._lately and now - self._lately[0][0] > LATELY:
            self._lately.popleft()

    async def _documents(self, keys: Sequence[str]) -> tuple[list[Found], list[str]]:
        """What the store has of keys, and those of them that are lists."""
        asks: list[Ask] = [*map(Fetch, keys), *map(Lifetime, keys)]
        told, n = await self._ask(asks)
        found, others = [], []
        for key, record, lifetime in zip(keys, told, told[len(keys) :], strict=False):
            if isinstance(record, Record) or record is None:
                found.append(Found(key, record, lifetime=_lifetime(lifetime), n=n))
            elif isinstance(record, WrongKind):
                others.append(key)
        return found, others

    async def _lists(self, keys: Sequence[str], grown: Iterable[str]) -> list[Found]:
        wall = self._runtime.wall()
        with self._mutex:
            ends = [self.file.ends(key, wall) if key in grown else (0, None) for key in keys]
        asks: list[Ask] = [Tail(key, max(0, length - 1)) for key, (length, _) in zip(keys, ends, strict=True)]
        told, n = await self._ask([*asks, *map(Length, keys), *map(Lifetime, keys)])
        count, found, again = len(keys), list[Found](), list[str]()
        for i, (key, (length, last)) in enumerate(zip(keys, ends, strict=True)):
            items, lifetime = told[i], _lifetime(told[2 * count + i])
            if not isinstance(items, list):
                continue  # of a kind that is nobody's here, or a document by now: which the log tells
            if length == 0:
                found.append(Found(key, None, items, 0, lifetime, n))
            elif items and items[0] == last:
                found.append(Found(key, None, items[1:], length, lifetime, n))
            else:  # it was emptied and filled anew
                again.append(key)
        return found + (await self._lists(again, ()) if again else [])

    async def _ask(self, asks: Sequence[Ask]) -> tuple[list[Told], int]:
        """Answers, and the row of the own journal up to which they have its writes; -1 where nobody can tell."""
        lineage = self._journal().active
        told, ((seq, op_id),) = await self._store.read(asks, self._deadline(), [lineage.name])
        with self._guard:  # a write that was sent while it is committed is committed by then
            same = seq <= lineage.count and (seq == 0 or self._journal().op_id(lineage, seq) == op_id)
        return told, lineage.row(seq) if same else -1

    def _deadline(self) -> float:
        return self._runtime.monotonic() + PATIENCE

    # --- reading --------------------------------------------------------------------------------

    def told(self, ask: Ask) -> Told:
        """The answer to an ask. Raises KeyError where only the store can tell."""
        if not self.caught_up or ask.key in self._late:
            raise KeyError(ask.key)
        with self._mutex:
            return self.file.told(ask, self._runtime.wall())

    def knowledge(self, key: str) -> Knowledge | None:
        """What is kept of a key, for reads while the store is away; None where nothing is known."""
        journal = self._journal()
        active = journal.active
        acked = [lineage.row(lineage.acked) for lineage in journal.lineages if lineage.pending]
        with self._mutex:
            return self.file.knowledge(key, self._runtime.wall(), active.name, min(acked, default=active.end))

    def keys(self, prefix: str) -> list[str]:
        """Keys that are kept and begin with `prefix`."""
        with self._mutex:
            return self.file.keys(prefix, self._runtime.wall())

    def erase(self, erasures: Sequence[Erasure]) -> None:
        """Let go of what was erased, on the disk too."""
        with self._mutex:
            self.file.erase(erasures)

    def close(self) -> None:
        """Stop following and close the file."""
        self._closed = True
        self._wake.set()
        with self._mutex:
            self.file.close()


def _lifetime(told: Any) -> int:
    return told if isinstance(told, int) else -1


def _is_text(key: str) -> bool:
    """Whether a key is text, and so may be ours; names of others may be any bytes."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True
