"""A log that is another than it was: cut off, emptied, or promoted with another past."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from remanence import events
from remanence.feed.trail import REMEMBERED
from remanence.model import RESYNC, Changes, Cursor, Delete, Notice, Op, Wanted
from remanence.testing.feed_scenes import AWAY, LONG, SHORT, Place, Play, World, ids, in_threads, quiet, take, told
from remanence.testing.store_case import op_id, put


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
