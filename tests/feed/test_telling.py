"""What a feed tells its listeners: each change once and in order, and only what is wanted."""

from remanence.feed.feed import COUNT, Feed
from remanence.feed.subscription import QUEUE, Subscription
from remanence.feed.watch import Watch
from remanence.model import Wanted
from remanence.runtime.blocking import BlockingRuntime, run
from remanence.testing.feed_scenes import ALL, LONG, Place, Play, World, ids, notice, quiet, take, told
from remanence.testing.store_case import append, delete, op_id, put, touch


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
