"""Going on from a cursor: the past is told once and in order, or one resync for it."""

from typing import Any

import pytest

from remanence import events
from remanence.errors import InvalidArgument, Unavailable
from remanence.feed.feed import COUNT
from remanence.feed.subscription import QUEUE
from remanence.feed.trail import place
from remanence.feed.watch import Watch, may_meet, parsed
from remanence.model import BEGINNING, RESYNC, Changes, Cursor, Wanted
from remanence.testing.feed_scenes import AWAY, LONG, SHORT, Play, World, ids, quiet, take, told
from remanence.testing.store_case import op_id, put, touch

# --- how a cursor is written ----------------------------------------------------------------------


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


# --- going on from a cursor -----------------------------------------------------------------------


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
