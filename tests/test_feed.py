"""The feed over the memory store: each change once and in order, whatever becomes of the log, in both runtimes."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remanence import events
from remanence.errors import InvalidArgument, RemanenceError, Unavailable
from remanence.faces.watching import Watcher, call
from remanence.feed import feed as feeds
from remanence.feed.feed import COUNT, Feed
from remanence.feed.subscription import QUEUE, Subscription, coalesced
from remanence.feed.trail import REMEMBERED, TOLD, Trail, notice_of, place
from remanence.feed.watch import Watch, may_meet, parsed
from remanence.model import BEGINNING, RESYNC, Batch, Change, Changes, Cursor, Delete, Notice, Op, Wanted
from remanence.protocols import Runtime
from remanence.runtime.asynchronous import AsyncRuntime
from remanence.runtime.blocking import BlockingRuntime, run
from remanence.stores.memory import MemoryStore
from remanence.testing.store_case import append, delete, op_id, put, touch

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
        if self.away is not None:
            raise self.away
        return await super().changes(after, count, wait, deadline)

    async def latest(self, deadline: float) -> Cursor:
        if self.away is not None:
            raise self.away
        return await super().latest(deadline)

    def send(self, *ops: Op) -> Sequence[str]:
        return run(self.apply(Batch("", "", 1, ops), 0.0)).results

    def end(self) -> Cursor:
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
        return Watch([self.feed], wanted, self.runtime, since)

    async def begun(self, wanted: Wanted = ALL) -> Watch:
        made = self.watch(wanted)
        assert await made.ready(LONG)
        return made

    def of(self, kind: type[events.Event]) -> list[Any]:
        return [each for each in self.told if isinstance(each, kind)]

    async def until(self, fact: Callable[[], object], timeout: float = LONG) -> None:
        limit = time.monotonic() + timeout
        while not fact():
            assert time.monotonic() < limit, "it never came so far"
            await self.runtime.sleep(0.002)


Scene = Callable[[World], Awaitable[None]]
Play = Callable[..., None]


def feed_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name in ("remanence-feed", "remanence-listener")]


def in_threads(scene: Scene, **options: Any) -> None:
    world = World(BlockingRuntime(), **options)
    run(_played(world, scene))
    for thread in feed_threads():
        thread.join(LONG)
        assert not thread.is_alive()


def in_a_loop(scene: Scene, **options: Any) -> None:
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


@pytest.fixture(params=[in_threads, in_a_loop])
def play(request: pytest.FixtureRequest) -> Play:
    return request.param  # type: ignore[no-any-return]


async def take(watch: Watch, count: int) -> list[Notice]:
    """The next notices, and no more of them."""
    found = []
    for _ in range(count):
        notice = await watch.next(LONG)
        assert notice is not None, f"only {len(found)} of {count} came"
        found.append(notice)
    return found


async def quiet(watch: Watch) -> bool:
    return await watch.next(SHORT) is None


def ids(notices: Sequence[Notice]) -> list[str]:
    return [each.op_id.lstrip("0") for each in notices]


def told(notices: Sequence[Notice]) -> list[tuple[str, str]]:
    return [(each.key, each.kind) for each in notices]


# --- pure ---------------------------------------------------------------------------------------


def change(n: int, key: str = "k", kind: str = "put", result: str = "ok") -> Change:
    return Change(str(n), op_id(n), "L", n, kind, result, key)


def notice(n: int, key: str, source: int = 0) -> Notice:
    return Notice(key, "put", Cursor(str(n), op_id(n)), op_id(n), source)


def test_a_trail_tells_each_operation_once():
    trail = Trail()
    assert trail.news([change(1), change(2)]) == [change(1), change(2)]
    assert trail.news([change(2), change(3)]) == [change(3)]


@pytest.mark.parametrize(
    ("kind", "result"),
    [
        ("put", "conflict"),
        ("put", "stale"),
        ("append", "wrongtype"),
        ("append", "expired"),
        ("touch", "expired"),
        ("blank", "ok"),
        ("blank", "refused"),
    ],
)
def test_what_changed_nothing_is_no_news(kind: str, result: str):
    assert Trail().news([change(1, kind=kind, result=result)]) == []
    assert notice_of(change(1, kind=kind, result=result), 0) is None


def test_a_put_past_its_lifetime_deleted():
    assert Trail().news([change(1, result="expired")])
    found = notice_of(change(1, result="expired"), 3)
    assert found is not None and (found.kind, found.key, found.source) == ("delete", "k", 3)


def test_what_a_log_lost_is_news_again_and_the_rest_is_not():
    trail = Trail()
    trail.news([change(n) for n in range(1, 6)])
    assert trail.cut(3) == [change(4), change(5)] and len(trail) == 3
    assert trail.news([change(3), change(4)]) == [change(4)]


def test_all_may_be_news_again_once_a_log_has_nothing_of_what_was_heard():
    trail = Trail()
    old = [change(n) for n in range(1, REMEMBERED + 100)]
    trail.news(old)
    trail.cut(0)
    assert trail.news(old) == old


def test_a_trail_is_bounded():
    trail = Trail()
    for start in range(0, TOLD + 5000, 500):
        trail.news([change(n) for n in range(start, start + 500)])
    assert len(trail) == REMEMBERED and len(trail._told) == TOLD


def test_too_many_notices_come_down_to_the_last_of_each_key_in_order():
    queue = [notice(n, key) for n, key in enumerate(["a", "b", "a", "c", "b"], 1)]
    assert list(coalesced(queue)) == [queue[2], queue[3], queue[4]]
    apart = [notice(1, "a", 0), notice(1, "a", 1)]
    assert list(coalesced(apart)) == apart, "two partitions' keys are two"


def test_too_many_keys_come_down_to_a_resync_of_each_partition():
    queue = [notice(n, f"k{n}", n % 2) for n in range(QUEUE + 1)]
    left = list(coalesced(queue))
    assert [(each.key, each.kind, each.source) for each in left] == [("", RESYNC, 0), ("", RESYNC, 1)]
    assert [each.cursor for each in left] == [queue[-1].cursor, queue[-2].cursor]


@pytest.mark.parametrize("text", ["/", f"17/{op_id(3)}", f"1700000000000-3/{op_id(3)}", "5/"])
def test_a_cursor_is_read_as_it_was_told(text: str):
    (found,) = parsed(text, 1)
    assert f"{found.position}/{found.op_id}" == text


BAD: list[Any] = ["", "17", "x/y", "1-2-3/a", "-1/a", "1 /a", "1/a b", "1/a/b", "1/a;2/b", "1/a\n", "\u0661/a"]
BAD += [f"{1 << 64}/a", f"1-{1 << 64}/a", 17, None, b"1/a"]


@pytest.mark.parametrize("text", BAD)
def test_another_text_is_no_cursor(text: Any):
    with pytest.raises(InvalidArgument, match="since"):
        parsed(text, 1)


def test_positions_compare_as_numbers():
    assert place(Cursor("10")) > place(Cursor("9")) and place(Cursor("5-10")) > place(Cursor("5-9"))
    assert place(BEGINNING) < place(Cursor("1"))


def test_cursors_of_other_kinds_of_logs_are_told():
    assert may_meet(Cursor("9"), Cursor("10")) and may_meet(BEGINNING, Cursor("1-1"))
    assert not may_meet(Cursor("9"), Cursor("10-1")) and not may_meet(Cursor("9"), BEGINNING)


# --- what is told --------------------------------------------------------------------------------


def test_each_change_once_and_in_order(play: Play):
    async def scene(world: World) -> None:
        watch, other = await world.begun(), await world.begun()
        world.store.send(put(1), append(2, "l"), touch(3, "k", 5000), delete(4), put(5, base="no"), append(6, "l"))
        wanted = [("k", "put"), ("l", "append"), ("k", "touch"), ("k", "delete"), ("l", "append")]
        for each in (watch, other):
            found = await take(each, 5)
            assert told(found) == wanted and ids(found) == ["1", "2", "3", "4", "6"]
            assert await quiet(each)
            assert each.cursor == f"{found[-1].cursor.position}/{found[-1].cursor.op_id}"

    play(scene)


def test_only_what_is_wanted(play: Play):
    async def scene(world: World) -> None:
        keys = await world.begun(Wanted(("a", "bc")))
        prefixes = await world.begun(Wanted((), ("b", "bc", "xyz")))
        both = await world.begun(Wanted(("bc",), ("b",)))
        world.store.send(*[put(n, key) for n, key in enumerate(["a", "ab", "b", "bc", "bcd", "c", ""], 1)])
        assert [each.key for each in await take(keys, 2)] == ["a", "bc"]
        assert [each.key for each in await take(prefixes, 3)] == ["b", "bc", "bcd"]
        assert [each.key for each in await take(both, 3)] == ["b", "bc", "bcd"], "once, though wanted twice"
        assert await quiet(keys) and await quiet(prefixes) and await quiet(both)

    play(scene)


def test_more_than_one_reading_of_the_log(play: Play):
    async def scene(world: World) -> None:
        watch = await world.begun(Wanted(("k",)))
        world.store.send(*[put(n, "k" if n % 10 == 0 else "other") for n in range(1, 3 * COUNT + 11)])
        assert ids(await take(watch, 151)) == [str(n) for n in range(10, 3 * COUNT + 11, 10)]
        assert await quiet(watch)

    play(scene)


def test_a_listener_hears_what_comes_behind_it_and_no_more(play: Play):
    async def scene(world: World) -> None:
        world.store.send(put(1))
        watch = await world.begun()
        world.store.send(put(2))
        assert ids(await take(watch, 1)) == ["2"]
        late = await world.begun()
        world.store.send(put(3))
        assert ids(await take(late, 1)) == ["3"]

    play(scene)


def test_the_cursor_is_where_it_began_until_something_was_heard(play: Play):
    """Not where the feed is: what waits to be heard lies between."""

    async def scene(world: World) -> None:
        assert world.watch().cursor == ""
        watch = await world.begun()
        world.store.send(put(1), put(2))
        await world.until(lambda: world.feed._cursor == world.store.end())
        assert await watch.ready(LONG) and watch.cursor == "/"
        again = world.watch(since=watch.cursor)
        assert ids(await take(again, 2)) == ["1", "2"]

    play(scene)


def test_several_partitions_are_one_watch(play: Play):
    async def scene(world: World) -> None:
        other = Place()
        second = Feed(other, world.runtime, world.events, number=1)
        try:
            watch = Watch([world.feed, second], ALL, world.runtime)
            assert await watch.ready(LONG) and watch.cursor == "/;/"
            world.store.send(put(1, "a"))
            assert ids(await take(watch, 1)) == ["1"]
            other.send(put(2, "b"))
            found = await take(watch, 1)
            assert (found[0].key, found[0].source) == ("b", 1)
            saved = watch.cursor
            assert saved == f"1/{op_id(1)};1/{op_id(2)}"
            watch.close()
            world.store.send(put(3, "a"))
            other.send(put(4, "b"))
            again = Watch([world.feed, second], ALL, world.runtime, saved)
            assert sorted(ids(await take(again, 2))) == ["3", "4"] and await quiet(again)  # of two logs
            other.send(put(5, "b"))
            assert ids(await take(again, 1)) == ["5"] and await quiet(again)
        finally:
            second.close()

    play(scene)


def test_one_partition_is_read_from_its_log_until_it_has_caught_up(play: Play):
    """However much it writes while another's past is told: there is room for all that in the log alone."""

    async def scene(world: World) -> None:
        other = Place()
        second = Feed(other, world.runtime, world.events, number=1)
        try:
            world.store.send(put(1), put(2))
            watch = Watch([world.feed, second], ALL, world.runtime, "/;/")
            assert ids(await take(watch, 1)) == ["1"]
            total = 2 * QUEUE
            other.send(*[put(n, f"k{n}") for n in range(1, total + 1)])
            await world.until(lambda: second._cursor == other.end())
            assert ids(await take(watch, total + 1)) == ["2", *[str(n) for n in range(1, total + 1)]]
            assert await quiet(watch)
        finally:
            second.close()

    play(scene)


def test_a_closed_subscription_tells_nothing():
    made = Subscription(ALL, BlockingRuntime())
    made.offer([notice(1, "k")])
    made.close()
    made.offer([notice(2, "k")])
    assert run(made.next(None)) is None


# --- ending ---------------------------------------------------------------------------------------


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


# --- going on from a cursor ----------------------------------------------------------------------


def test_a_cursor_goes_on_just_behind_it(play: Play):
    async def scene(world: World) -> None:
        first = await world.begun()
        world.store.send(put(1), put(2), put(3))
        await take(first, 2)
        saved = first.cursor
        first.close()
        world.store.send(put(4))
        again = world.watch(since=saved)
        assert again.cursor == saved
        assert sorted(ids(await take(again, 2))) == ["3", "4"] and await quiet(again)  # of two logs
        world.store.send(put(5))
        assert ids(await take(again, 1)) == ["5"] and await quiet(again)

    play(scene)


def test_the_past_is_read_in_parts_and_only_what_is_wanted_of_it(play: Play):
    async def scene(world: World) -> None:
        world.store.send(*[put(n, "k" if n % 100 == 0 else "other") for n in range(1, 3 * COUNT + 101)])
        world.store.send(put(9000, base="no"), touch(9001, "none", 5))
        watch = world.watch(Wanted(("k",)), since="/")
        assert ids(await take(watch, 16)) == [str(n) for n in range(100, 3 * COUNT + 101, 100)]
        assert await quiet(watch)

    play(scene)


def test_a_past_without_anything_wanted_moves_the_cursor_on(play: Play):
    async def scene(world: World) -> None:
        world.store.send(put(1, "other"), put(2, "other"))
        watch = world.watch(Wanted(("k",)), since="/")
        assert await quiet(watch)
        assert watch.cursor == f"2/{op_id(2)}"

    play(scene)


def test_nothing_twice_or_missing_while_others_write_at_full_speed(play: Play):
    async def scene(world: World) -> None:
        world.store.send(*[put(n) for n in range(1, 501)])
        total = 6000

        async def writing() -> None:
            for n in range(501, total + 1):
                world.store.send(put(n))
                while n % 50 == 0 and n > len(found) + QUEUE // 2:  # who falls further behind is told less
                    await world.runtime.sleep(0.001)

        found: list[str] = []
        task = world.runtime.spawn("writing", writing)
        saved = "/"
        while len(found) < total:
            watch = world.watch(since=saved)
            for _ in range(min(700, total - len(found))):
                found += ids(await take(watch, 1))
            saved = watch.cursor
            watch.close()
        assert await task.join(LONG)
        assert found == [str(n) for n in range(1, total + 1)]

    play(scene)


def test_a_feed_that_lags_behind_the_cursor_tells_nothing_twice(play: Play):
    """Another process heard more than this one's feed so far."""

    async def scene(world: World) -> None:
        keep = await world.begun()
        world.store.send(put(1))
        await take(keep, 1)
        hold, world.store.away = world.store, AWAY  # the feed cannot read on
        await world.runtime.sleep(0.02)
        hold.send(put(2), put(3), put(4))
        ahead = f"3/{op_id(3)}"
        watch = world.watch(since=ahead)
        assert await quiet_or_away(watch)
        hold.away = None
        assert ids(await take(watch, 1)) == ["4"] and await quiet(watch)
        assert ids(await take(keep, 3)) == ["2", "3", "4"]

    play(scene)


async def quiet_or_away(watch: Watch) -> bool:
    try:
        return await watch.next(SHORT) is None
    except Unavailable:
        return True


def test_the_past_waits_for_a_server_that_is_away(play: Play):
    async def scene(world: World) -> None:
        world.store.send(put(1), put(2))
        world.store.away = AWAY
        watch = world.watch(since="/")
        assert await watch.next(SHORT) is None, "the feed has not begun"
        world.store.away = None
        assert ids(await take(watch, 2)) == ["1", "2"] and await quiet(watch)

    play(scene)


def test_a_server_that_goes_away_amid_the_past_is_told_and_nothing_lost(play: Play):
    async def scene(world: World) -> None:
        world.store.send(*[put(n) for n in range(1, COUNT + 11)])
        watch = world.watch(since="/")
        assert len(await take(watch, COUNT)) == COUNT
        world.store.away = AWAY
        with pytest.raises(Unavailable):
            await watch.next(LONG)
        world.store.away = None
        assert ids(await take(watch, 10)) == [str(n) for n in range(COUNT + 1, COUNT + 11)]
        assert await quiet(watch)

    play(scene)


def test_the_cursor_does_not_run_ahead_of_what_was_told(play: Play):
    """The server went away when a part of the past was read, and not yet told."""

    async def scene(world: World) -> None:
        world.store.send(*[put(n) for n in range(1, 11)])
        watch = world.watch(since="/")
        assert await watch.ready(LONG)
        plain = world.store.changes

        async def once(after: Cursor, count: int, wait: float, deadline: float) -> Changes:
            page = await plain(after, count, wait, deadline)
            if wait == 0:
                world.store.away = AWAY
            return page

        world.store.changes = once  # type: ignore[method-assign]
        with pytest.raises(Unavailable):
            await watch.next(LONG)
        assert watch.cursor == "/"
        world.store.changes = plain  # type: ignore[method-assign]
        world.store.away = None
        assert ids(await take(watch, 10)) == [str(n) for n in range(1, 11)] and await quiet(watch)

    play(scene)


def test_a_log_emptied_between_two_readings_of_the_past(play: Play):
    async def scene(world: World) -> None:
        world.store.send(put(1))
        watch = world.watch(since="/")
        assert await watch.ready(LONG)
        plain = world.store.changes

        async def once(after: Cursor, count: int, wait: float, deadline: float) -> Changes:
            page = await plain(after, count, wait, deadline)
            if wait == 0:
                world.store.changes = plain  # type: ignore[method-assign]
                world.store.restore()
            return page

        world.store.changes = once  # type: ignore[method-assign]
        assert told(await take(watch, 2)) == [("k", "put"), ("", RESYNC)]
        await world.until(lambda: world.of(events.Resynced))
        world.store.send(put(2))
        while (found := await watch.next(LONG)) is not None and found.kind == RESYNC:
            continue  # the feed's own
        assert found is not None and found.op_id == op_id(2)

    play(scene)


def test_what_a_resync_covers_is_not_told_behind_it(play: Play):
    async def scene(world: World) -> None:
        world.store.send(put(1))
        watch = world.watch(since="9/abc")
        assert await watch.ready(LONG)

        changes = world.store.changes

        async def late(after: Cursor, *rest: Any) -> Changes:  # somebody writes, and the feed hears of it first
            found = await changes(after, *rest)
            if after.op_id == "abc":
                world.store.send(put(2))
                await world.until(lambda: world.feed.reached() == world.store.end())
            return found

        world.store.changes = late  # type: ignore[method-assign]
        (found,) = await take(watch, 1)
        assert found.kind == RESYNC and found.cursor == Cursor("2", op_id(2))
        assert await quiet(watch)

    play(scene)


@pytest.mark.parametrize("since", ["1-1/abc", f"3/{op_id(9)}", f"2/{op_id(2)}", f"99/{op_id(99)}"])
def test_a_cursor_that_the_log_does_not_have_is_one_resync(play: Play, since: str):
    """Of another kind of store, of another history, cut off, or of a server that had more."""

    async def scene(world: World) -> None:
        world.store.send(*[put(n) for n in range(1, 11)])
        watch = world.watch(since=since)
        (found,) = await take(watch, 1)
        assert (found.key, found.kind, found.cursor) == ("", RESYNC, world.store.end())
        assert await quiet(watch)
        world.store.send(put(11))
        assert ids(await take(watch, 1)) == ["11"] and await quiet(watch)

    play(scene, log_length=5)


def test_a_cursor_in_a_log_that_was_emptied_is_one_resync(play: Play):
    async def scene(world: World) -> None:
        watch = world.watch(since="1700-1/abc")
        assert told(await take(watch, 1)) == [("", RESYNC)]
        world.store.send(put(1))
        assert ids(await take(watch, 1)) == ["1"]

    play(scene)


# --- a log that is another than it was ------------------------------------------------------------


def test_a_log_cut_off_past_a_feed_that_hangs_behind(play: Play):
    async def scene(world: World) -> None:
        one, every = await world.begun(Wanted(("k",))), await world.begun()
        world.store.send(put(1))
        assert ids(await take(one, 1)) == ids(await take(every, 1)) == ["1"]
        world.store.away = AWAY
        await world.runtime.sleep(0.02)
        world.store.send(*[put(n, f"k{n}") for n in range(2, 12)])
        world.store.away = None
        for each in (one, every):
            (found,) = await take(each, 1)
            assert (found.key, found.kind, found.cursor) == ("", RESYNC, world.store.end())
        assert world.of(events.Resynced) == [events.Resynced(-1)]
        world.store.send(put(12))
        assert ids(await take(one, 1)) == ids(await take(every, 1)) == ["12"]

    play(scene, log_length=5)


def test_t43_a_server_promoted_without_its_last_entries(play: Play):
    """Just the keys of what vanished are doubtful; sent again, it is told again, and the rest is not."""

    async def scene(world: World) -> None:
        every, b, x = await world.begun(), await world.begun(Wanted(("b",))), await world.begun(Wanted(("x",)))
        world.store.send(put(1, "x"), put(2, "a"))
        older = world.store.snapshot()
        common = world.store.end()
        world.store.send(put(3, "b"), put(4, "c"), put(5, "b"))
        assert ids(await take(every, 5)) == ["1", "2", "3", "4", "5"]
        assert ids(await take(b, 2)) == ["3", "5"] and ids(await take(x, 1)) == ["1"]
        world.store.restore(older)
        found = await take(every, 2)
        assert told(found) == [("b", RESYNC), ("c", RESYNC)] and found[1].cursor == common
        (only,) = await take(b, 1)
        assert told([only]) == [("b", RESYNC)] and only.cursor == common
        assert world.of(events.Resynced) == [events.Resynced(2)]
        world.store.send(put(6, "d"), put(3, "b", live=False), put(4, "c", live=False), put(5, "b", live=False))
        assert ids(await take(every, 4)) == ["6", "3", "4", "5"]
        assert ids(await take(b, 2)) == ["3", "5"]
        for each in (every, b, x):
            assert await quiet(each)

    play(scene)


def test_who_goes_on_from_the_midst_of_a_resync_is_told_of_it_again(play: Play):
    async def scene(world: World) -> None:
        watch = await world.begun()
        world.store.send(put(1, "a"))
        older = world.store.snapshot()
        world.store.send(put(2, "b"), put(3, "c"))
        await take(watch, 3)
        world.store.restore(older)
        await take(watch, 1)
        midst = watch.cursor
        await take(watch, 1)
        for since, again in ((midst, [("", RESYNC)]), (watch.cursor, [])):
            other = world.watch(since=since)
            assert told(await take(other, len(again))) == again and await quiet(other)
            other.close()

    play(scene)


def test_who_goes_on_before_the_first_resync_is_told_of_it_all_the_same(play: Play):
    """The server was away when it began to listen: what changed until it was back, nobody knows."""

    async def scene(world: World) -> None:
        world.store.send(put(1))
        world.store.away = AWAY
        first = world.watch()
        assert not await first.ready(SHORT)
        world.store.send(put(2))
        world.store.away = None
        assert await first.ready(LONG)
        unheard = first.cursor
        first.close()
        assert told(await take(world.watch(since=unheard), 1)) == [("", RESYNC)]

    play(scene)


def test_the_past_is_told_as_far_as_the_feed_has_read_it(play: Play):
    """What vanished behind that, the feed could not tell."""

    async def scene(world: World) -> None:
        every = await world.begun()
        world.store.send(put(1, "a"))
        assert ids(await take(every, 1)) == ["1"]
        older = world.store.snapshot()
        changes, slow = world.store.changes, True

        async def lagging(after: Cursor, count: int, wait: float, deadline: float) -> Changes:
            while slow and wait:  # the feed's own reading
                await world.runtime.sleep(0.005)
            return await changes(after, count, wait, deadline)

        world.store.changes = lagging  # type: ignore[method-assign]
        await world.runtime.sleep(SHORT)
        world.store.send(put(2, "b"), put(3, "c"))
        other = world.watch(since="/")
        assert told(await take(other, 1)) == [("a", "put")] and await quiet(other)
        ahead = world.watch(since=f"3/{op_id(3)}")
        assert await quiet(ahead)
        slow = False
        assert ids(await take(every, 2)) == ids(await take(other, 2)) == ["2", "3"]
        assert await quiet(ahead), "it was told of them by another"
        world.store.restore(older)
        for each in (every, other, ahead):
            assert told(await take(each, 2)) == [("b", RESYNC), ("c", RESYNC)]

    play(scene)


def test_t43_a_promoted_server_that_wrote_on(play: Play):
    """Other entries lie where the lost ones lay: position and operation together tell."""

    async def scene(world: World) -> None:
        watch = await world.begun()
        world.store.send(put(1, "x"))
        older = world.store.snapshot()
        world.store.send(put(2, "a"), put(3, "b"))
        assert len(await take(watch, 3)) == 3
        with world.store.mutex:  # at once, so that the feed sees the log only as it is then
            world.store.restore(older)
            world.store.send(put(12, "y"), put(13, "y"), put(14, "y"))
        assert told(await take(watch, 2)) == [("a", RESYNC), ("b", RESYNC)]
        assert ids(await take(watch, 3)) == ["12", "13", "14"]
        assert await quiet(watch)

    play(scene)


def test_t43_a_server_that_lost_more_than_is_remembered(play: Play):
    async def scene(world: World) -> None:
        watch, other = await world.begun(), await world.begun(Wanted(("other",)))
        world.store.send(put(1))
        older = world.store.snapshot()
        lost = [put(n, f"k{n % 50}") for n in range(2, REMEMBERED + 10)]
        world.store.send(*lost)
        assert len(await take(watch, REMEMBERED + 9)) == REMEMBERED + 9
        world.store.restore(older)
        found = await take(watch, 1)
        assert told(found) == [("", RESYNC)] and told(await take(other, 1)) == [("", RESYNC)]
        world.store.send(*lost)
        assert len(await take(watch, len(lost))) == len(lost)
        assert await quiet(watch) and await quiet(other)

    play(scene)


def test_a_server_that_came_back_empty(play: Play):
    """All that comes back is told, also what was told long ago."""

    async def scene(world: World) -> None:
        watch = await world.begun()
        sent = [put(n, f"k{n}") for n in range(1, REMEMBERED + 101)]
        world.store.send(*sent)
        assert len(await take(watch, len(sent))) == len(sent)
        world.store.restore()
        assert told(await take(watch, 1)) == [("", RESYNC)]
        world.store.send(*sent)
        assert ids(await take(watch, len(sent))) == [str(n) for n in range(1, REMEMBERED + 101)]
        assert await quiet(watch)

    play(scene)


def test_a_resync_met_behind_the_past(play: Play):
    """Positions begin anew in an emptied log: what is told there was not told before."""

    async def scene(world: World) -> None:
        world.store.send(*[put(n) for n in range(1, 21)])
        watch = world.watch(since="/")
        assert len(await take(watch, 20)) == 20 and await quiet(watch)
        world.store.restore()
        world.store.send(put(21))
        assert told(await take(watch, 1)) == [("", RESYNC)]
        await world.until(lambda: world.feed._cursor == world.store.end())
        world.store.send(put(22))
        assert ids(await take(watch, 1)) == ["22"]

    play(scene)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 5)),
        st.tuples(st.just("delete"), st.integers(0, 5)),
        st.tuples(st.just("snapshot"), st.just(0)),
        st.tuples(st.just("restore"), st.just(0)),
        st.tuples(st.just("empty"), st.just(0)),
        st.tuples(st.just("listen"), st.integers(0, 3)),
        st.tuples(st.just("again"), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=40)
@given(STEPS)
def test_i11_what_was_heard_and_read_again_is_what_is_stored(steps: list[tuple[str, int]]):
    """Whatever a server forgets and journals send again; no operation twice without a resync between."""

    async def scene(world: World) -> None:
        view = View(world.store)
        watch = await world.begun()
        sent: list[Op] = []
        older = world.store.snapshot()
        for n, (step, number) in enumerate(steps, 1):
            if step == "write":
                sent.append(put(n, f"k{number}", live=False))
            elif step == "delete":
                sent.append(Op(op_id(n), sent[-1].hlc + 1 if sent else 1, Delete(f"k{number}"), live=False))
            elif step == "snapshot":
                older = world.store.snapshot()
            elif step == "restore":
                world.store.restore(older)
            elif step == "empty":
                world.store.restore()
            elif step == "listen":
                view.note(await watch.next(number * 0.004))
            else:
                saved = watch.cursor
                watch.close()
                watch = world.watch(since=saved)
            replay(world.store, sent)
        while (found := await watch.next(0.03)) is not None:
            view.note(found)
        assert view.values == world.store.dump()

    in_threads(scene)


def replay(store: Place, sent: Sequence[Op]) -> None:
    """As journals do: what the log does not have is sent again, in order."""
    there = {each.op_id for each in store.log()}
    missing = [op for op in sent if op.op_id not in there]
    if missing:
        store.send(*missing)


class View:
    """What a listener knows who reads again whatever it hears of."""

    def __init__(self, store: Place) -> None:
        self._store = store
        self._told: dict[str, str] = {}
        self.values: dict[str, Any] = {}

    def note(self, found: Notice | None) -> None:
        if found is None:
            return
        if found.kind == RESYNC:
            self._told = {op: key for op, key in self._told.items() if found.key and key != found.key}
        else:
            assert found.op_id not in self._told, "told twice"
            self._told[found.op_id] = found.key
        stored = self._store.dump()
        for key in [found.key] if found.key else {*self.values, *stored}:
            self.values.pop(key, None)
            if key in stored:
                self.values[key] = stored[key]


# --- a server that is away ------------------------------------------------------------------------


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


# --- many, slow and raising listeners --------------------------------------------------------------


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


# --- what only one runtime has ---------------------------------------------------------------------


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
