"""A feed over a memory store that can be out of reach, and scenes that are played with it in both runtimes."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from remanence import events
from remanence.errors import RemanenceError, Unavailable
from remanence.feed.feed import Feed
from remanence.feed.watch import Watch
from remanence.model import Batch, Changes, Cursor, Notice, Op, Wanted
from remanence.protocols import Runtime
from remanence.runtime.asynchronous import AsyncRuntime
from remanence.runtime.blocking import BlockingRuntime, run
from remanence.stores.memory import MemoryStore
from remanence.testing.store_case import op_id

LONG = 5.0
"""Seconds that a change may take to be heard on a busy machine."""
SHORT = 0.05
"""Seconds in which a change would have been heard."""
ALL = Wanted((), ("",))


class Place(MemoryStore):
    """A memory store that can be out of reach."""

    def __init__(self, **options: Any) -> None:
        super().__init__(time.time, mutex=threading.RLock(), **options)
        self.away: RemanenceError | None = None

    async def changes(self, after: Cursor, count: int, wait: float, deadline: float) -> Changes:
        """As a store does, unless it is away."""
        if self.away is not None:
            raise self.away
        return await super().changes(after, count, wait, deadline)

    async def latest(self, deadline: float) -> Cursor:
        """As a store does, unless it is away."""
        if self.away is not None:
            raise self.away
        return await super().latest(deadline)

    def send(self, *ops: Op) -> Sequence[str]:
        """Apply these as one batch; the result of each."""
        return run(self.apply(Batch("", "", 1, ops), 0.0)).results

    def end(self) -> Cursor:
        """Where the log ends, also while the store is away."""
        return run(super().latest(0.0))


AWAY = Unavailable("away")


class World:
    """A store, its feed, and who listens."""

    def __init__(self, runtime: Runtime, **options: Any) -> None:
        self.runtime = runtime
        self.store = Place(**options)
        self.events = events.Events()
        self.told: list[events.Event] = []
        self.events.observe(self.told.append)
        self.feed = Feed(self.store, runtime, self.events)

    def watch(self, wanted: Wanted = ALL, since: str | None = None) -> Watch:
        """Listen from now on, or behind `since`."""
        return Watch([self.feed], wanted, self.runtime, since)

    async def begun(self, wanted: Wanted = ALL) -> Watch:
        """Listen, and wait until the feed has begun."""
        made = self.watch(wanted)
        assert await made.ready(LONG)
        return made

    def of(self, kind: type[events.Event]) -> list[Any]:
        """The events of one kind that were told."""
        return [each for each in self.told if isinstance(each, kind)]

    async def until(self, fact: Callable[[], object], timeout: float = LONG) -> None:
        """Wait until `fact` holds; fail after `timeout` seconds."""
        limit = time.monotonic() + timeout
        while not fact():
            assert time.monotonic() < limit, "it never came so far"
            await self.runtime.sleep(0.002)


Scene = Callable[[World], Awaitable[None]]
Play = Callable[..., None]


def feed_threads() -> list[threading.Thread]:
    """The threads of feeds and listeners that run in this process."""
    return [each for each in threading.enumerate() if each.name in ("remanence-feed", "remanence-listener")]


def in_threads(scene: Scene, **options: Any) -> None:
    """Play a scene in the blocking runtime; no thread of it is left."""
    world = World(BlockingRuntime(), **options)
    run(_played(world, scene))
    for thread in feed_threads():
        thread.join(LONG)
        assert not thread.is_alive()


def in_a_loop(scene: Scene, **options: Any) -> None:
    """Play a scene in the asyncio runtime; no task of it is left."""

    async def play() -> None:
        await _played(World(AsyncRuntime(), **options), scene)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            _, left = await asyncio.wait(others, timeout=LONG)
            assert not left

    asyncio.run(play())


async def _played(world: World, scene: Scene) -> None:
    try:
        await scene(world)
    finally:
        world.feed.close()


async def take(watch: Watch, count: int) -> list[Notice]:
    """The next notices, and no more of them."""
    found: list[Notice] = []
    for _ in range(count):
        notice = await watch.next(LONG)
        assert notice is not None, f"only {len(found)} of {count} came"
        found.append(notice)
    return found


async def quiet(watch: Watch) -> bool:
    """True if nothing comes for a while."""
    return await watch.next(SHORT) is None


def ids(notices: Sequence[Notice]) -> list[str]:
    """The numbers of the operations that were told."""
    return [each.op_id.lstrip("0") for each in notices]


def told(notices: Sequence[Notice]) -> list[tuple[str, str]]:
    """Key and kind of each change that was told."""
    return [(each.key, each.kind) for each in notices]


def notice(n: int, key: str, source: int = 0) -> Notice:
    """The notice of an operation, by its number."""
    return Notice(key, "put", Cursor(str(n), op_id(n)), op_id(n), source)
