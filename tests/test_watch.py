"""`watch` and `on_change` of every face: on each server, in the embedded file, and in the process."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import pytest

from remanence import (
    AsyncConversationMemory,
    AsyncMemory,
    AsyncMemoryClient,
    AsyncRedisWorkingMemoryManager,
    ConversationMemory,
    Memory,
    MemoryClient,
    RedisWorkingMemoryManager,
    events,
)
from remanence.errors import Closed, InvalidArgument
from remanence.faces.watching import Changed
from remanence.model import Put, Wanted
from remanence.runtime.blocking import run
from remanence.sync.watching import BlockingWatcher
from remanence.testing.oracle import Heard, eventually
from remanence.testing.servers import Server

SHORT = 0.05
"""Seconds in which a change would have been heard."""
LONG = 5.0


def pairs(found: Iterable[Changed]) -> list[tuple[str, str]]:
    return [(each.name, each.kind) for each in found]


def take(watcher: BlockingWatcher, count: int) -> list[tuple[str, str]]:
    """The next changes as (name, kind), and that there are no more of them."""
    found = []
    for _ in range(count):
        changed = watcher.next(LONG)
        assert changed is not None, f"only {len(found)} of {count} came"
        found.append(changed)
    assert watcher.next(SHORT) is None
    return pairs(found)


def threads_of_ours() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name in ("remanence-feed", "remanence-listener")]


Options = dict[str, Any]


class EveryPlace:
    """What holds wherever memories live. Subclasses say where, as the fixture `options`."""

    # --- shared state

    def test_what_changes_is_heard_once_and_in_order(self, options: Options):
        with Memory(**options) as memory, Memory(**options) as other, memory.watch() as watcher:
            memory.a = 1
            other.b = {"list": []}
            memory.b["list"].append("x")
            other.increment("n")
            memory.expire("a", 60)
            assert other.compare_and_set("a", 1, 2)
            del other.a
            assert take(watcher, 7) == [
                ("a", "set"),
                ("b", "set"),
                ("b", "set"),
                ("n", "set"),
                ("a", "touched"),
                ("a", "set"),
                ("a", "deleted"),
            ]

    def test_the_key_is_where_the_server_keeps_it(self, options: Options):
        with Memory(**options) as memory, memory.watch("x") as watcher:
            memory.x = 1
            changed = watcher.next(LONG)
            assert changed is not None and changed.key == memory.key_of("x") == "memory:x"

    def test_names_and_prefixes(self, options: Options):
        odd = ["plan/a", "plan:b", "plan%c", "plan é", "plan"]
        with ExitStack() as stack:
            memory = stack.enter_context(Memory(**options))
            one = stack.enter_context(memory.watch("x", "plan:b"))
            some = stack.enter_context(memory.watch(prefix="plan"))
            colon = stack.enter_context(memory.watch(prefix="plan:"))
            both = stack.enter_context(memory.watch("x", prefix="plan/"))
            for name in ["x", "xx", *odd, "pla"]:
                memory.set(name, 1)
            assert take(one, 2) == [("x", "set"), ("plan:b", "set")]
            assert take(some, 5) == [(name, "set") for name in odd]
            assert take(colon, 1) == [("plan:b", "set")]
            assert take(both, 2) == [("x", "set"), ("plan/a", "set")]

    def test_what_had_no_effect_is_not_heard(self, options: Options):
        with Memory(**options) as memory, memory.watch() as watcher:
            memory.a = 1
            memory.b = []
            assert not memory.compare_and_set("a", 99, 2)
            with pytest.raises(IndexError):
                memory.b.pop()
            refused = run(memory.engine.gateway.write([Put(memory.key_of("a"), b"{}", base="x" * 22)]))
            assert refused[0].reason == "conflict"
            memory.c = 1
            assert take(watcher, 3) == [("a", "set"), ("b", "set"), ("c", "set")]

    def test_other_faces_and_conversations_are_apart(self, options: Options):
        with ExitStack() as stack:
            shared = stack.enter_context(Memory(**options))
            talk = stack.enter_context(ConversationMemory("c1", **options))
            other = stack.enter_context(ConversationMemory("c2", **options))
            client = stack.enter_context(MemoryClient(**options))
            watchers = [stack.enter_context(each.watch()) for each in (shared, talk, other, client)]
            shared.x = 1
            talk.y = 2
            other.z = 3
            client.add("s", "user", "hello")
            assert take(watchers[0], 1) == [("x", "set")]
            assert take(watchers[1], 1) == [("y", "set")]
            assert take(watchers[2], 1) == [("z", "set")]
            assert ("s", "appended") in take_all(watchers[3])

    def test_namespaces_are_apart(self, options: Options):
        there = {**options, "namespace": f"{options['namespace']}b"}
        with (
            Memory(**options) as here,
            Memory(**there) as elsewhere,
            here.watch() as ours,
            elsewhere.watch() as theirs,
        ):
            here.x = 1
            elsewhere.y = 1
            assert take(ours, 1) == [("x", "set")] and take(theirs, 1) == [("y", "set")]

    # --- messages and conversations

    def test_messages(self, options: Options):
        options = {**options, "key_prefix": "chat:"}
        with MemoryClient(**options) as client, client.watch() as every, client.watch("s1") as one:
            client.add("s1", "user", "hello")
            client.add("s2", "user", "hello")
            client.add_many("s1", [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
            client.clear("s1")
            assert take(every, 4) == [("s1", "appended"), ("s2", "appended"), ("s1", "appended"), ("s1", "deleted")]
            assert take(one, 3) == [("s1", "appended"), ("s1", "appended"), ("s1", "deleted")]

    def test_conversations(self, options: Options):
        with (
            RedisWorkingMemoryManager(**options) as manager,
            manager.watch() as every,
            manager.watch(about("c1")) as one,
        ):
            manager.store(about("c1"))
            manager.store(about("c2"))
            manager.store({**about("c1"), "memory_type": "LONG_TERM_MEMORY"})
            manager.delete(about("c1"))
            kinds = [("c1", "set"), ("c2", "set"), ("LONG_TERM_MEMORY:c1", "set"), ("c1", "deleted")]
            assert take(every, 4) == kinds
            assert take(one, 2) == [("c1", "set"), ("c1", "deleted")]

    # --- going on, and ending

    def test_a_cursor_goes_on_just_behind_it(self, options: Options):
        with Memory(**options) as memory:
            with memory.watch() as first:
                memory.a = 1
                memory.b = 1
                memory.c = 1
                changed = first.next(LONG)
                assert changed is not None and changed.name == "a" and changed.cursor == first.cursor
            saved = first.cursor
            memory.d = 1
            with memory.watch(since=saved) as again:
                assert take(again, 3) == [("b", "set"), ("c", "set"), ("d", "set")]
                memory.e = 1
                assert take(again, 1) == [("e", "set")]
            with memory.watch("c", "e", since=changed.cursor) as some:
                assert take(some, 2) == [("c", "set"), ("e", "set")]

    def test_a_text_that_is_no_cursor(self, options: Options):
        with Memory(**options) as memory:
            for text in ("", "x", "1/2/3", "1/a;2/b"):
                with pytest.raises(InvalidArgument, match="since"):
                    memory.watch(since=text)
                with pytest.raises(InvalidArgument, match="since"):
                    memory.on_change(print, since=text)
            assert eventually(lambda: not threads_of_ours(), 3.0)

    @pytest.mark.parametrize("since", ["17/abc", "1700000000000-5/abc"])
    def test_a_cursor_of_another_place_is_a_resync(self, options: Options, since: str):
        with Memory(**options) as memory:
            memory.x = 1
            with memory.watch(since=since) as watcher:
                assert take(watcher, 1) == [("", "resync")]
                memory.y = 1
                assert take(watcher, 1) == [("y", "set")]

    @pytest.mark.parametrize("what", ["watcher", "memory"])
    def test_closing_ends_a_waiting_iteration(self, options: Options, what: str):
        memory = Memory(**options)
        watcher = memory.watch()
        found: list[Changed] = []
        thread = threading.Thread(target=lambda: found.extend(watcher))
        thread.start()
        memory.x = 1
        assert eventually(lambda: found)
        (watcher if what == "watcher" else memory).close()
        thread.join(LONG)
        assert not thread.is_alive() and watcher.closed and watcher.next(60.0) is None
        memory.close()
        assert eventually(lambda: not threads_of_ours())

    def test_a_closed_gateway_is_not_watched(self, options: Options):
        memory = Memory(**options)
        gateway = memory.engine.gateway
        memory.close()
        with pytest.raises(Closed):
            gateway.watch(Wanted((), ("",)))
        assert eventually(lambda: not threads_of_ours(), 3.0)

    def test_no_thread_is_left_behind_the_last_watcher(self, options: Options):
        with Memory(**options, staleness=0.3) as memory:
            with memory.watch(), memory.watch("x"):
                assert eventually(lambda: threads_of_ours() == ["remanence-feed"]), "one reads, however many listen"
            assert eventually(lambda: not threads_of_ours(), 3.0)
            with memory.watch() as watcher:
                memory.x = 1
                assert take(watcher, 1) == [("x", "set")]

    # --- callbacks

    def test_callbacks_are_called_until_they_are_closed(self, options: Options):
        with Memory(**options) as memory:
            heard = Heard(memory.engine)
            found: list[Changed] = []

            def callback(changed: Changed) -> None:
                found.append(changed)
                if changed.name == "bad":
                    raise ValueError("what the user keeps to himself")

            with memory.on_change(callback, prefix="b") as watcher:
                for name in ("b1", "a", "bad", "b2"):
                    memory.set(name, 1)
                assert eventually(lambda: len(found) == 3)
                assert pairs(found) == [("b1", "set"), ("bad", "set"), ("b2", "set")]
                assert heard.soon(events.ListenerFailed) == [events.ListenerFailed("ValueError")]
            assert watcher.closed
            memory.b3 = 1
            with memory.on_change(found.append, "b4", since=found[-1].cursor):
                memory.b4 = 1
                assert eventually(lambda: len(found) == 4)
            assert pairs(found[3:]) == [("b4", "set")]
            assert "himself" not in "".join(map(str, heard.events))

    def test_a_callback_may_read_write_and_close(self, options: Options):
        with Memory(**options) as memory:
            values: list[int] = []

            def callback(changed: Changed) -> None:
                values.append(memory.get(changed.name))
                if values[-1] < 3:
                    memory.set(changed.name, values[-1] + 1)
                else:
                    watcher.close()

            watcher = memory.on_change(callback, "n")
            memory.n = 1
            assert eventually(lambda: watcher.closed)
            assert values == [1, 2, 3]

    def test_callbacks_of_the_other_faces(self, options: Options):
        found: list[Changed] = []
        with MemoryClient(**options) as client, client.on_change(found.append, "s"):
            client.add("s", "user", "hello")
            client.add("other", "user", "hello")
            assert eventually(lambda: found) and pairs(found) == [("s", "appended")]

    # --- asyncio

    def test_asyncio(self, options: Options):
        async def scene() -> None:
            async with AsyncMemory(**options) as memory, memory.watch(prefix="a", timeout=0.2) as watcher:
                await memory.set("a1", 1)
                await memory.set("b", 1)
                await memory.set("a2", 1)
                await memory.delete("a1")
                found = [changed async for changed in watcher]
                assert pairs(found) == [("a1", "set"), ("a2", "set"), ("a1", "deleted")]
                async with memory.watch(since=found[0].cursor) as again:
                    names = [(await again.next(LONG)).name for _ in range(3)]  # type: ignore[union-attr]
                    assert names == ["b", "a2", "a1"]

        asyncio.run(scene())

    def test_asyncio_faces(self, options: Options):
        async def scene() -> None:
            async with (
                AsyncConversationMemory("c", **options) as talk,
                AsyncMemoryClient(**options) as client,
                AsyncRedisWorkingMemoryManager(**options) as manager,
                talk.watch() as one,
                client.watch("s") as two,
                manager.watch() as three,
            ):
                await talk.set("x", 1)
                await client.add("s", "user", "hello")
                await manager.store(about("c"))
                found = [await each.next(LONG) for each in (one, two, three)]
                assert pairs(found) == [("x", "set"), ("s", "appended"), ("c", "set")]  # type: ignore[arg-type]

        asyncio.run(scene())

    def test_asyncio_callbacks(self, options: Options):
        async def scene() -> None:
            async with AsyncMemory(**options) as memory:
                told: list[events.Event] = []
                memory.engine.observe(told.append)
                found: list[str] = []

                async def slow(changed: Changed) -> None:
                    await asyncio.sleep(0.05)
                    found.append(f"slow {changed.name}")

                def raising(changed: Changed) -> None:
                    found.append(f"raising {changed.name}")
                    raise KeyError("no")

                watchers = [memory.on_change(slow), memory.on_change(raising)]
                for watcher in watchers:
                    assert await watcher.ready(LONG)
                await memory.set("a", 1)
                await memory.set("b", 1)
                await until(lambda: len(found) == 4)
                assert [each for each in found if each.startswith("slow")] == ["slow a", "slow b"]
                assert [each for each in found if each.startswith("raising")] == ["raising a", "raising b"]
                assert [each for each in told if isinstance(each, events.ListenerFailed)] == [
                    events.ListenerFailed("KeyError")
                ] * 2
                watchers[0].close()
                await until(lambda: len(listeners()) == 1)
            await until(lambda: not listeners() and not tasks("remanence-feed"))

        asyncio.run(scene())

    @pytest.mark.parametrize("what", ["watcher", "memory", "task"])
    def test_asyncio_waiting_ends(self, options: Options, what: str):
        async def scene() -> None:
            memory = AsyncMemory(**options)
            watcher = memory.watch()
            assert await watcher.ready(LONG)
            found: list[Changed] = []

            async def listen() -> None:
                async for changed in watcher:
                    found.append(changed)

            task = asyncio.create_task(listen())
            await memory.set("x", 1)
            await until(lambda: bool(found))
            if what == "task":
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await memory.set("y", 1)
                assert pairs([await watcher.next(LONG)]) == [("y", "set")]  # type: ignore[list-item]
            elif what == "watcher":
                watcher.close()
            await memory.close()
            if what != "task":
                await asyncio.wait_for(task, LONG)
            await until(lambda: not tasks("remanence-feed"))

        asyncio.run(scene())


def about(conversation: str) -> dict[str, str]:
    return {"conversation_id": conversation, "working_memory": "the user likes tea"}


def take_all(watcher: BlockingWatcher) -> list[tuple[str, str]]:
    found = []
    while (changed := watcher.next(SHORT)) is not None:
        found.append(changed)
    return pairs(found)


def tasks(name: str) -> list[str]:
    return [each.get_name() for each in asyncio.all_tasks() if each.get_name() == name]


def listeners() -> list[str]:
    return tasks("remanence-listener")


async def until(fact: Callable[[], object]) -> None:
    limit = time.monotonic() + LONG
    while not fact():
        assert time.monotonic() < limit, "it never came so far"
        await asyncio.sleep(0.01)


class TestInTheProcess(EveryPlace):
    @pytest.fixture
    def options(self, namespace: str) -> Options:
        return {"backend": "memory", "namespace": namespace}


class TestInTheFile(EveryPlace):
    @pytest.fixture
    def options(self, namespace: str) -> Options:
        return {"backend": "sqlite", "namespace": namespace}


class TestOnAServer(EveryPlace):
    @pytest.fixture
    def options(self, server: Server, namespace: str) -> Options:
        return {"url": server.url, "namespace": namespace}


def test_iteration_ends_after_its_timeout(namespace: str):
    with Memory(backend="memory", namespace=namespace) as memory, memory.watch(prefix="mine", timeout=0.2) as watcher:
        memory.mine = 1
        assert pairs(watcher) == [("mine", "set")]
        stop = time.monotonic() + 0.8
        thread = threading.Thread(target=lambda: write_until(memory, stop))
        thread.start()
        started = time.monotonic()
        assert pairs(watcher) == [] and time.monotonic() - started < 0.6, "others' changes put the end off"
        thread.join()


def write_until(memory: Memory, stop: float) -> None:
    while time.monotonic() < stop:
        memory.other = 1
        time.sleep(0.02)


def test_t48_ten_thousand_callbacks(namespace: str):
    """One is slow and one raises: the others hear all the same, and soon."""

    async def scene() -> None:
        async with AsyncMemory(backend="memory", namespace=namespace) as memory:
            told: list[events.Event] = []
            memory.engine.observe(told.append, lambda kind: kind is events.ListenerFailed)
            heard = 0
            never = asyncio.Event()

            def count(changed: Changed) -> None:
                nonlocal heard
                heard += 1

            async def slow(changed: Changed) -> None:
                await never.wait()

            def raising(changed: Changed) -> None:
                raise RuntimeError("what the user keeps to himself")

            watchers = [memory.on_change(each) for each in [slow, raising] + [count] * 9998]
            assert await watchers[-1].ready(LONG)
            started = time.monotonic()
            for n in range(3):
                await memory.set(f"x{n}", n)
            await until(lambda: heard == 3 * 9998)
            assert time.monotonic() - started < 4.0
            await until(lambda: told == [events.ListenerFailed("RuntimeError")] * 3)
            for watcher in watchers:
                watcher.close()
            never.set()
            await until(lambda: not listeners())

    asyncio.run(scene())


def test_the_memory_backend_goes_on_in_a_child_of_a_listener():
    with Memory(backend="memory") as memory, memory.watch():
        stop = threading.Event()

        def busy() -> None:
            while not stop.is_set():
                memory.set("busy", 1)

        thread = threading.Thread(target=busy)
        thread.start()
        try:
            for _ in range(20):
                assert os.waitpid(in_a_child(memory), 0)[1] == 0
        finally:
            stop.set()
            thread.join()


def in_a_child(memory: Memory) -> int:
    """A child that writes on two threads; it ends with 0 where both are done soon."""
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        memory.set("x", 1)
        thread = threading.Thread(target=lambda: memory.set("y", 2))
        thread.start()
        thread.join(3)
        os._exit(0 if memory.get("y", None) == 2 else 1)
    return child
