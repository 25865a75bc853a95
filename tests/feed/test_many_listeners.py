"""Many, slow and raising listeners: none harms another."""

import threading
import time
from typing import Any

import pytest

from remanence import events
from remanence.faces.watching import Watcher, call
from remanence.feed.feed import COUNT
from remanence.feed.subscription import QUEUE
from remanence.feed.trail import place
from remanence.model import BEGINNING, RESYNC, Wanted
from remanence.testing.feed_scenes import AWAY, LONG, SHORT, Play, World, ids, take
from remanence.testing.store_case import op_id, put


def test_a_slow_listener_gets_the_last_of_each_key(play: Play):
    async def scene(world: World) -> None:
        slow, quick = await world.begun(), await world.begun(Wanted(("k3",)))
        total = QUEUE + 300
        world.store.send(*[put(n, f"k{n % 10}") for n in range(1, total + 1)])
        await world.until(lambda: world.feed._cursor == world.store.end())
        assert len(await take(quick, total // 10)) == total // 10, "another's slowness is not its own"
        found = []
        while (each := await slow.next(SHORT)) is not None:
            found.append(each)
        assert len(found) <= QUEUE and RESYNC not in {each.kind for each in found}
        assert len(set(ids(found))) == len(found) and ids(found) == sorted(ids(found), key=int)
        last = {each.key: each.op_id for each in found}
        assert last == {f"k{n % 10}": op_id(n) for n in range(total - 9, total + 1)}
        world.store.send(put(total + 1))
        assert ids(await take(slow, 1)) == [str(total + 1)]

    play(scene)


def test_a_slow_listener_of_too_many_keys_gets_a_resync(play: Play):
    async def scene(world: World) -> None:
        slow = await world.begun()
        world.store.send(*[put(n, f"k{n}") for n in range(1, QUEUE + 2)])
        await world.until(lambda: world.feed._cursor == world.store.end())
        first = await slow.next(LONG)
        assert first is not None and (first.key, first.kind) == ("", RESYNC)
        assert first.cursor != BEGINNING and slow.cursor == f"{first.cursor.position}/{first.cursor.op_id}"
        rest = []
        while (each := await slow.next(SHORT)) is not None:
            rest.append(each)
        start = place(first.cursor)[0]
        assert ids(rest) == [str(n) for n in range(start + 1, QUEUE + 2)], "behind it, all"

    play(scene)


def test_t48_ten_thousand_listeners(play: Play):
    async def scene(world: World) -> None:
        many = [world.watch() for _ in range(10_000)]
        assert await many[-1].ready(LONG)
        started = time.monotonic()
        world.store.send(put(1), put(2), put(3))
        for each in many:
            assert ids(await take(each, 3)) == ["1", "2", "3"]
        assert time.monotonic() - started < 10.0
        started = time.monotonic()
        for each in many[:5000]:
            each.close()
        assert time.monotonic() - started < 3.0, "to leave takes the longer the more there are"
        world.feed.close()
        assert all(each.closed for each in many)

    play(scene)


def test_t48_one_slow_and_one_raising_callback_harm_nobody(play: Play):
    async def scene(world: World) -> None:
        runtime = world.runtime
        heard: list[tuple[str, str]] = []
        release = threading.Event()

        async def slow(changed: Any) -> None:
            heard.append(("slow", changed.name))
            while not release.is_set():
                await runtime.sleep(0.005)

        def raising(changed: Any) -> None:
            heard.append(("raising", changed.name))
            raise ValueError("a secret of the user's")

        watchers = []
        for callback in (slow, raising, lambda changed: heard.append(("well", changed.name))):
            watcher = Watcher(await world.begun(), lambda key: key, None, runtime, 1.0)
            watchers.append(watcher)
            runtime.spawn("remanence-listener", lambda w=watcher, c=callback: call(w, c, runtime))
        plain = await world.begun()
        started = time.monotonic()
        world.store.send(put(1, "a"), put(2, "b"), put(3, "c"))
        assert len(await take(plain, 3)) == 3
        await world.until(lambda: len(heard) >= 7)
        assert time.monotonic() - started < 2.0
        for who, names in (("well", "abc"), ("raising", "abc"), ("slow", "a")):
            assert [name for each, name in heard if each == who] == list(names)
        assert world.of(events.ListenerFailed) == [events.ListenerFailed("ValueError")] * 3
        assert "secret" not in "".join(map(str, world.told))
        release.set()
        await world.until(lambda: len(heard) == 9)
        for watcher in watchers:
            watcher.close()

    play(scene)


def test_a_callback_of_the_past_waits_for_a_server_that_is_away(play: Play, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("remanence.faces.watching.RETRY", 0.02)

    async def scene(world: World) -> None:
        world.store.send(*[put(n) for n in range(1, COUNT + 3)])
        heard: list[str] = []
        watcher = Watcher(world.watch(since="/"), lambda key: key, None, world.runtime, 1.0)

        def callback(changed: Any) -> None:
            heard.append(changed.cursor)
            if len(heard) == COUNT:
                world.store.away = AWAY

        task = world.runtime.spawn("remanence-listener", lambda: call(watcher, callback, world.runtime))
        await world.until(lambda: len(heard) == COUNT)
        await world.runtime.sleep(SHORT)
        world.store.away = None
        await world.until(lambda: len(heard) == COUNT + 2)
        assert len(set(heard)) == COUNT + 2
        watcher.close()
        assert await task.join(LONG)

    play(scene)
