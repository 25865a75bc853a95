"""How waiting and listening end: in time, by closing, and without a trace."""

import time

import pytest

from remanence.faces.watching import Watcher
from remanence.model import Wanted
from remanence.testing.feed_scenes import AWAY, LONG, SHORT, Play, World, ids, take
from remanence.testing.store_case import put


def test_waiting_ends_in_time_however_much_others_change(play: Play):
    async def scene(world: World) -> None:
        watcher = Watcher(await world.begun(), lambda key: key if key == "mine" else None, None, world.runtime, 1.0)
        busy = True

        async def others() -> None:
            n = 0
            while busy:
                n += 1
                world.store.send(put(n, "other"))
                await world.runtime.sleep(0.005)

        task = world.runtime.spawn("others", others)
        started = time.monotonic()
        assert await watcher.next(0.2) is None
        assert 0.15 < time.monotonic() - started < 2.0
        busy = False
        assert await task.join(LONG)

    play(scene)


@pytest.mark.parametrize("whose", ["its own", "the feed's"])
def test_closing_ends_a_waiting_next(play: Play, whose: str):
    async def scene(world: World) -> None:
        watch = await world.begun()
        found: list[object] = []

        async def wait() -> None:
            found.append(await watch.next(None))

        task = world.runtime.spawn("waiting", wait)
        await world.runtime.sleep(SHORT)
        (watch if whose == "its own" else world.feed).close()
        assert await task.join(LONG)
        assert found == [None] and watch.closed and await watch.next(None) is None

    play(scene)


@pytest.mark.parametrize("since", [None, "/"])
def test_closing_ends_the_waiting_for_a_server_that_is_away(play: Play, since: str | None):
    async def scene(world: World) -> None:
        world.store.away = AWAY
        watch = world.watch(since=since)
        found: list[object] = []

        async def wait() -> None:
            found.append(await watch.ready(60.0))
            found.append(await watch.next(None))

        task = world.runtime.spawn("waiting", wait)
        await world.runtime.sleep(SHORT)
        watch.close()
        assert await task.join(1.0)
        assert found == [False, None]

    play(scene)


def test_closed_it_tells_nothing_more_even_of_what_waited(play: Play):
    async def scene(world: World) -> None:
        world.store.send(put(1), put(2))
        past, live = world.watch(since="/"), await world.begun()
        assert ids(await take(past, 1)) == ["1"]
        world.store.send(put(3))
        await world.until(lambda: world.feed._cursor == world.store.end())
        past.close()
        live.close()
        assert await past.next(None) is None and await live.next(None) is None
        again = world.watch(since=past.cursor)
        assert ids(await take(again, 2)) == ["2", "3"]

    play(scene)


def test_who_joins_a_closed_feed_waits_for_nothing(play: Play):
    async def scene(world: World) -> None:
        world.feed.close()
        watch = world.watch()
        assert watch.closed and await watch.next(None) is None and not await watch.ready(60.0)

    play(scene)


def test_reading_ends_with_the_last_listener_and_begins_anew(play: Play):
    async def scene(world: World) -> None:
        first, second = await world.begun(), await world.begun()
        first.close()
        await world.runtime.sleep(SHORT)
        task = world.feed._task
        assert task is not None, "there is a second one"
        second.close()
        assert await task.join(LONG)
        assert world.feed._task is None and world.feed.heard_at is None
        world.store.send(put(1))
        third = await world.begun()
        world.store.send(put(2))
        assert ids(await take(third, 1)) == ["2"]

    play(scene)


def test_what_was_heard_before_a_pause_does_not_count_behind_it(play: Play):
    """A server emptied while nobody listened: what comes back is told to whoever listens now."""

    async def scene(world: World) -> None:
        first = await world.begun()
        world.store.send(put(1))
        await take(first, 1)
        task = world.feed._task
        first.close()
        assert task is not None and await task.join(LONG)
        world.store.restore()
        second = await world.begun()
        world.store.send(put(1))
        assert ids(await take(second, 1)) == ["1"]

    play(scene)


def test_listeners_leave_no_trace(play: Play):
    async def scene(world: World) -> None:
        world.store.away = AWAY
        for _ in range(5):
            world.watch(Wanted(("a",), ("b",))).close()
        assert not world.feed.wanted and not world.feed._all()

    play(scene)
