"""What only one runtime has: tasks that are cancelled, and threads that close and offer meanwhile."""

import asyncio
import threading
import time

from remanence.feed.feed import COUNT
from remanence.feed.subscription import Subscription
from remanence.model import Changes, Cursor
from remanence.runtime.blocking import BlockingRuntime, run
from remanence.testing.feed_scenes import ALL, LONG, SHORT, World, in_a_loop, in_threads, notice
from remanence.testing.store_case import put


def test_cancelled_waiting_loses_nothing():
    async def scene(world: World) -> None:
        watch = await world.begun()
        found: list[str] = []
        for n in range(1, 301):
            task = asyncio.ensure_future(watch.next(None))
            await asyncio.sleep(0)
            if n % 3 == 0:
                watch._live.offer([notice(n, "k")])  # told in the moment in which it is cancelled
            else:
                world.store.send(put(n))
                await asyncio.sleep(0.002 * (n % 5))
            task.cancel()
            try:
                told = await task
            except asyncio.CancelledError:
                continue
            assert told is not None
            found.append(told.op_id.lstrip("0"))
        while (rest := await watch.next(SHORT)) is not None:
            found.append(rest.op_id.lstrip("0"))
        assert sorted(found, key=int) == [str(n) for n in range(1, 301)]

    in_a_loop(scene)


def test_cancelled_reading_of_the_past_loses_nothing():
    async def scene(world: World) -> None:
        world.store.send(*[put(n) for n in range(1, 3 * COUNT)])
        plain = world.store.changes

        async def slow(after: Cursor, count: int, wait: float, deadline: float) -> Changes:
            page = await plain(after, count, wait, deadline)
            await asyncio.sleep(0.004)
            return page

        world.store.changes = slow  # type: ignore[method-assign]
        watch = world.watch(since="/")
        found: list[str] = []
        for n in range(200):
            try:
                async with asyncio.timeout(0.0005 * (n % 20)):
                    while len(found) < 3 * COUNT - 1:
                        told = await watch.next(None)
                        assert told is not None
                        found.append(told.op_id.lstrip("0"))
                        await asyncio.sleep(0)
            except TimeoutError:
                continue
        assert found == [str(n) for n in range(1, 3 * COUNT)]

    in_a_loop(scene)


def test_a_listener_is_closed_by_another_thread_while_it_is_told():
    async def scene(world: World) -> None:
        def busy() -> None:
            for n in range(1, 2001):
                world.store.send(put(n))

        thread = threading.Thread(target=busy)
        thread.start()
        while thread.is_alive():
            watch = world.watch()
            threading.Thread(target=watch.close).start()
            while await watch.next(1.0) is not None:
                pass
            assert watch.closed
        thread.join()

    in_threads(scene)


def test_a_subscription_wakes_who_waits_for_what_is_offered_by_another_thread():
    made = Subscription(ALL, BlockingRuntime())
    found: list[str] = []

    def wait() -> None:
        while (told := run(made.next(None))) is not None:
            found.append(told.op_id.lstrip("0"))

    thread = threading.Thread(target=wait)
    thread.start()
    for n in range(1, 2001):
        made.offer([notice(n, "k")])
        if n % 100 == 0:
            time.sleep(0.001)
    limit = time.monotonic() + LONG
    while found[-1:] != ["2000"] and time.monotonic() < limit:
        time.sleep(0.001)
    made.close()
    thread.join(LONG)
    assert not thread.is_alive() and found == sorted(set(found), key=int) and found[-1] == "2000"
