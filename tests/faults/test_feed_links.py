"""Listening while links break and the server is out of reach: nothing missed in silence, nothing left open."""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import pytest

from remanence import Memory, events
from remanence.stores.resilient import SILENT_SECONDS
from remanence.testing.faults import FaultProxy
from remanence.testing.listening import LONG, SHORT, SWIFT, names, rest, taken
from remanence.testing.oracle import QUICK, Heard, eventually
from remanence.testing.servers import Server

Fresh = Callable[..., Server]


def test_t09_a_half_open_link(any_server: Server, namespace: str):
    """Noticed within 3 s by the reader itself, and nothing is missed."""
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(any_server))
        there = {"namespace": namespace, **QUICK}
        memory = stack.enter_context(Memory(url=proxy.url, **there))
        writer = stack.enter_context(Memory(url=any_server.url, **there))
        watcher = stack.enter_context(memory.watch())
        writer.x1 = 1
        assert taken(watcher, 1) == names(1)
        before = proxy.counts.accepted
        proxy.half_open()
        started = time.monotonic()
        writer.x2 = 2
        writer.x3 = 3
        assert eventually(lambda: proxy.counts.accepted > before, 3.0), "the dead link was not noticed"
        assert time.monotonic() - started < 3.0
        proxy.heal()
        proxy.reset_all()
        assert taken(watcher, 2) == names(2, 3)
        writer.x4 = 4
        assert taken(watcher, 1) == names(4)


def test_resets_all_the_time(any_server: Server, namespace: str, impatient: None):
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(any_server))
        memory = stack.enter_context(Memory(url=proxy.url, namespace=namespace, **SWIFT))
        writer = stack.enter_context(Memory(url=any_server.url, namespace=namespace))
        watcher = stack.enter_context(memory.watch())
        for n in range(200):
            writer.set(f"x{n}", n)
            if n % 20 == 0:
                proxy.reset_all()
                time.sleep(0.05)
        assert taken(watcher, 200) == names(*range(200))
        assert proxy.counts.reset > 5


@pytest.mark.parametrize("fault", ["refused", "hung"])
def test_away_when_the_watch_begins(any_server: Server, namespace: str, fault: str, impatient: None):
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(any_server))
        writer = stack.enter_context(Memory(url=any_server.url, namespace=namespace))
        (proxy.refuse if fault == "refused" else proxy.half_open)()
        memory = stack.enter_context(Memory(url=proxy.url, namespace=namespace, **{**SWIFT, "deadline": 0.1}))
        started = time.monotonic()
        watcher = stack.enter_context(memory.watch())
        assert time.monotonic() - started < 1.0
        assert not watcher.ready(0.05) and watcher.cursor == ""
        writer.x1 = 1
        proxy.heal()
        assert watcher.next(LONG) is not None and watcher.ready(LONG)
        writer.x2 = 2
        assert taken(watcher, 1) == names(2)


def test_a_cursor_waits_for_a_server_that_is_away(any_server: Server, namespace: str, impatient: None):
    """Nothing is doubtful then: the past is in the log."""
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(any_server))
        writer = stack.enter_context(Memory(url=any_server.url, namespace=namespace))
        with writer.watch() as first:
            writer.x1 = 1
            taken(first, 1)
            saved = first.cursor
        writer.x2 = 2
        proxy.refuse()
        memory = stack.enter_context(Memory(url=proxy.url, namespace=namespace, **SWIFT))
        watcher = stack.enter_context(memory.watch(since=saved))
        found: list[Any] = []
        stack.enter_context(memory.on_change(found.append, since=saved))
        assert watcher.next(SHORT) is None and not found
        writer.x3 = 3
        proxy.accept()
        assert taken(watcher, 2) == names(2, 3)
        assert eventually(lambda: len(found) == 2)
        assert [(each.name, each.kind) for each in found] == names(2, 3)


def test_closing_ends_what_waits_for_a_hung_server(any_server: Server, namespace: str):
    with FaultProxy(any_server) as proxy:
        proxy.half_open()
        memory = Memory(url=proxy.url, namespace=namespace, **{**SWIFT, "deadline": 0.1})
        watchers = [memory.watch(), memory.watch(since="1-1/abc")]
        threads = [threading.Thread(target=lambda w=each: list(w)) for each in watchers]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        started = time.monotonic()
        memory.close()
        for thread in threads:
            thread.join(3.0)
            assert not thread.is_alive()
        assert time.monotonic() - started < 3.0


def test_nothing_is_left_open(any_server: Server, namespace: str, impatient: None):
    with FaultProxy(any_server) as proxy:
        memory = Memory(url=proxy.url, namespace=namespace, **SWIFT)
        with memory.watch() as watcher, memory.watch(), memory.on_change(print):
            memory.x1 = 1
            taken(watcher, 1)
            links = proxy.counts.open
        assert eventually(lambda: not feed_threads(), 3.0)
        for _ in range(3):
            with memory.watch() as watcher:
                memory.x2 = 1
                taken(watcher, 1)
        assert proxy.counts.open <= links, "one link, however often it is watched"
        waiting = memory.watch()
        memory.close()
        assert waiting.closed
        assert eventually(lambda: proxy.counts.open == 0 and not feed_threads(), 3.0)


def feed_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name in ("remanence-feed", "remanence-listener")]


def test_a_user_who_may_not_read_the_log_is_told(fresh_server: Fresh, namespace: str, impatient: None):
    server = fresh_server()
    with closing(server.client()) as client:
        client.execute_command("ACL", "SETUSER", "default", "-xread")
        with Memory(url=server.url, namespace=namespace, **SWIFT) as memory, ExitStack() as stack:
            heard = Heard(memory.engine)
            watcher = stack.enter_context(memory.watch())
            assert eventually(lambda: heard.of(events.FeedFailed) or rest(watcher, 0.01), 3.0)
            time.sleep(0.3)
            assert len(heard.of(events.FeedFailed)) <= 1, "once, not with every attempt"
            memory.x1 = 1
            assert watcher.next(SHORT) is None
            client.execute_command("ACL", "SETUSER", "default", "+xread")
            assert ("x1", "set") in rest(watcher)


def test_t09_who_only_listens_is_told_that_the_server_is_gone(fresh_server: Callable[..., Server], namespace: str):
    with fresh_server() as server, Memory(url=server.url, namespace=namespace) as memory, memory.watch():
        memory.x = 1
        time.sleep(SILENT_SECONDS)
        server.pause()
        paused = time.monotonic()
        try:
            while memory.engine.status().available:
                assert time.monotonic() - paused < 3.5
                time.sleep(0.02)
        finally:
            server.resume()
        while not memory.engine.status().available:
            assert time.monotonic() - paused < 15
            time.sleep(0.02)


def test_who_is_told_to_read_again_is_answered_by_the_server(server: Server, namespace: str):
    """Though it was away until then for who reads and writes, and is to be tried again only later."""
    patient = {**QUICK, "backoff_least": 60.0, "backoff_most": 60.0}
    with (
        FaultProxy(server) as proxy,
        Memory(url=proxy.url, namespace=namespace, **patient) as memory,
        Memory(url=server.url, namespace=namespace) as other,
    ):
        other.x = 1
        proxy.refuse()
        proxy.reset_all()
        memory.mine = 2
        assert not memory.engine.status().available
        with memory.watch() as watcher:
            proxy.accept()
            change = watcher.next(10)
            assert change is not None and (change.name, change.kind) == ("", "resync")
            assert sorted(memory.keys()) == ["mine", "x"] and (memory.x, memory.mine) == (1, 2)
