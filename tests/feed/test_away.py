"""A feed whose server is away: who waits, what is told of it, and what is heard afterwards."""

import threading
from typing import Any

import pytest

from remanence import events
from remanence.errors import RemanenceError
from remanence.feed import feed as feeds
from remanence.model import RESYNC, Changes, Cursor, Wanted
from remanence.testing.feed_scenes import AWAY, LONG, SHORT, Play, World, ids, quiet, take, told
from remanence.testing.store_case import op_id, put


def test_away_when_the_watch_begins(play: Play):
    async def scene(world: World) -> None:
        world.store.away = AWAY
        watch = world.watch()
        assert not await watch.ready(SHORT) and watch.cursor == ""
        assert await watch.next(SHORT) is None
        world.store.send(put(1))
        world.store.away = None
        assert told(await take(watch, 1)) == [("", RESYNC)]
        assert await watch.ready(0.0)
        world.store.send(put(2))
        assert ids(await take(watch, 1)) == ["2"]
        assert world.of(events.FeedFailed) == []

    play(scene)


def test_away_when_the_watch_begins_and_nobody_asked(play: Play):
    async def scene(world: World) -> None:
        world.store.away = AWAY
        watch = world.watch()
        await world.until(lambda: world.feed._failures)
        world.store.send(put(1))
        world.store.away = None
        assert told(await take(watch, 1)) == [("", RESYNC)]

    play(scene)


def test_who_goes_on_before_the_feed_has_begun_is_told_a_resync(play: Play):
    """The server hung and then answered: no error was met, and yet changes may have been missed."""

    async def scene(world: World) -> None:
        answer = threading.Event()

        async def late(deadline: float) -> Cursor:
            while not answer.is_set():
                await world.runtime.sleep(0.005)
            return world.store.end()

        world.store.latest = late  # type: ignore[method-assign]
        watch, patient = world.watch(), world.watch()
        assert not await watch.ready(SHORT)
        world.store.send(put(1))
        answer.set()
        assert told(await take(watch, 1)) == [("", RESYNC)]
        assert await patient.ready(LONG) and await quiet(patient)

    play(scene)


def test_away_for_a_while(play: Play):
    async def scene(world: World) -> None:
        watch = await world.begun()
        for n in range(1, 4):
            world.store.away = AWAY
            world.store.send(put(n))
            assert await quiet(watch)
            world.store.away = None
            assert ids(await take(watch, 1)) == [str(n)]
        late = await world.begun()
        assert await quiet(late), "it joined a feed that is well"

    play(scene)


def test_an_error_of_ours_is_told_and_tried_again(play: Play, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(feeds, "BACKOFF", 0.02)

    async def scene(world: World) -> None:
        watch = await world.begun()
        world.store.away = RemanenceError("cannot be read")
        await world.until(lambda: world.of(events.FeedFailed))
        assert world.of(events.FeedFailed)[0].reason == "cannot be read"
        world.store.away = None
        world.store.send(put(1))
        assert ids(await take(watch, 1)) == ["1"]

    play(scene)


def test_an_error_that_comes_of_closing_is_not_told(play: Play):
    async def scene(world: World) -> None:
        await world.begun()
        asked, closed = threading.Event(), threading.Event()

        async def changes(after: Cursor, count: int, wait: float, deadline: float) -> Changes:
            asked.set()
            while not closed.is_set():
                await world.runtime.sleep(0.002)
            raise RemanenceError("the store was closed")

        world.store.changes = changes  # type: ignore[method-assign]
        await world.until(asked.is_set)
        task = world.feed._task
        world.feed.close()
        closed.set()
        assert task is not None and await task.join(LONG)
        assert world.of(events.FeedFailed) == []

    play(scene)


def test_closing_does_not_wait_for_the_next_attempt(play: Play):
    async def scene(world: World) -> None:
        await world.begun()
        world.store.away = RemanenceError("cannot be read")
        await world.until(lambda: world.of(events.FeedFailed))
        task = world.feed._task
        world.feed.close()
        assert task is not None and await task.join(feeds.BACKOFF / 2)

    play(scene)


def test_closed_amid_the_past_it_ends_without_an_error(play: Play):
    async def scene(world: World) -> None:
        world.store.send(put(1))
        watch = world.watch(since="/")
        assert await watch.ready(LONG)
        plain, asked = world.store.changes, threading.Event()

        async def changes(after: Cursor, count: int, wait: float, deadline: float) -> Changes:
            if wait > 0:
                return await plain(after, count, wait, deadline)
            asked.set()
            while not watch.closed:
                await world.runtime.sleep(0.002)
            raise RemanenceError("the store was closed")

        world.store.changes = changes  # type: ignore[method-assign]
        found: list[object] = []

        async def wait() -> None:
            found.append(await watch.next(None))

        task = world.runtime.spawn("waiting", wait)
        await world.until(asked.is_set)
        world.feed.close()
        assert await task.join(LONG) and found == [None]

    play(scene)


def test_hooks_hear_before_listeners_and_of_every_doubt(play: Play):
    async def scene(world: World) -> None:
        calls: list[Any] = []
        world.feed.hook(lambda news: calls.append([each.op_id for each in news]), lambda: calls.append("doubt"))
        watch = await world.begun(Wanted(("k",)))
        assert calls == ["doubt"], "at the beginning nothing is known"
        older = world.store.snapshot()
        world.store.send(put(1))
        await take(watch, 1)
        assert calls == ["doubt", [op_id(1)]], "before the listener"
        world.store.send(put(2, "other"))
        await world.until(lambda: len(calls) == 3)
        world.store.restore(older)
        await world.until(lambda: len(calls) == 4)
        assert calls[3] == "doubt"
        assert world.feed.heard_at is not None and world.feed.heard_wall is not None

    play(scene)
