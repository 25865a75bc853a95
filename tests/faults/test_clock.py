"""Clocks that are wrong, jump or stop: online writes are never dropped, lifetimes stay right."""

import json
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from remanence import Memory, events
from remanence.runtime.machine import Machine
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import QUICK, Heard, child, eventually, stored_value
from remanence.testing.servers import Server
from remanence.wire.keys import Keyspace

Fresh = Callable[..., Server]

WRONG_CLOCK = """
import json, sys, time
from remanence import Memory
from remanence.runtime.machine import Machine
url, namespace, options = sys.argv[1], sys.argv[2], sys.argv[5]
offset, jump = float(sys.argv[3]), float(sys.argv[4])
started, real = time.time(), time.time
Machine.wall = lambda self: real() + offset + (jump if real() - started > 0.3 else 0.0)
with Memory(url=url, namespace=namespace, **json.loads(options)) as memory:
    for i in range(20):
        memory.shared = f"mine {i}"
        assert memory.shared == f"mine {i}", "an online write was dropped"
        memory.increment("count")
        time.sleep(0.03)
    memory.set("short", 1, ttl=5)
    assert memory.engine.status().conflicts == 0
    print(memory.ttl("short"))
"""


@pytest.mark.parametrize(
    ("offset", "jump"),
    [(-600, 0), (3600, 0), (0, -600), (0, 3600)],
    ids=["late", "early", "set back", "set ahead"],
)
def test_t33_a_writer_whose_clock_is_wrong(server: Server, namespace: str, offset: float, jump: float):
    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        memory.shared = "before"
        told = child(WRONG_CLOCK, server.url, namespace, offset, jump, json.dumps(QUICK))
        assert abs(float(told) - 5) < 1
        assert memory.shared == "mine 19" and memory.count == 20
        memory.shared = "after"  # a right clock is not beaten by what a wrong one wrote before
        assert memory.shared == "after"
        assert memory.engine.status().conflicts == 0
    with closing(server.client()) as client:
        left: Any = client.pttl(Keyspace(namespace).data("memory:short"))
        assert 3000 < left <= 5000
        assert stored_value(client, Keyspace(namespace).data("memory:shared")) == "after"


@pytest.mark.parametrize("jump", [-600.0, 3600.0])
def test_t33_a_jump_while_writes_wait(server: Server, namespace: str, jump: float, monkeypatch: pytest.MonkeyPatch):
    """Order and lifetimes of what waits do not depend on the wall clock."""
    with FaultProxy(server) as proxy, Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
        memory.n = 0
        proxy.refuse()
        proxy.reset_all()
        memory.value = "first"
        memory.set("short", 1, ttl=30)
        monkeypatch.setattr(Machine, "wall", lambda self: time.time() + jump)
        memory.value = "second"
        memory.increment("n")
        proxy.accept()
        assert memory.engine.flush(5)
        assert memory.value == "second" and memory.n == 1
        assert memory.engine.status().conflicts == 0
        left = memory.ttl("short")
        assert left is not None and 28 < left <= 30


def test_t34_a_lifetime_that_passes_while_offline(server: Server, namespace: str):
    """The server still has an older value without an end: it must not come to light again."""
    with FaultProxy(server) as proxy, Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
        memory.token = "old"
        proxy.refuse()
        proxy.reset_all()
        memory.set("token", "new", ttl=0.3)
        assert memory.token == "new"
        time.sleep(0.35)
        assert "token" not in memory, "it outlived its lifetime while the server was away"
        proxy.accept()
        assert memory.engine.flush(5)
        assert "token" not in memory
        with closing(server.client()) as client:
            assert not client.exists(Keyspace(namespace).data("memory:token"))


def test_t34_a_lifetime_that_passes_while_offline_and_the_process_ends(server: Server, namespace: str):
    with FaultProxy(server) as proxy:
        with Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
            memory.token = "old"
            proxy.refuse()
            proxy.reset_all()
            memory.set("token", "new", ttl=0.3)
        time.sleep(0.35)
        proxy.accept()
        with Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
            memory.other = 1
            assert eventually(lambda: "token" not in memory, 8)
    with closing(server.client()) as client:
        assert not client.exists(Keyspace(namespace).data("memory:token"))


def test_t34_what_was_read_expires_here_too(server: Server, namespace: str):
    with FaultProxy(server) as proxy:
        with Memory(url=server.url, namespace=namespace, **QUICK) as other:
            other.set("token", "theirs", ttl=2.0)
        with Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
            assert memory.token == "theirs"
            time.sleep(1.2)  # by then its lifetime is known
            proxy.refuse()
            proxy.reset_all()
            assert memory.token == "theirs"
            assert eventually(lambda: "token" not in memory, 3), "what had expired was shown from here"


def test_t35_sleep_counts_for_lifetimes(server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch):
    """The machine slept for an hour: its boot clock went on, and so did the lifetimes of what waits."""
    slept = [0.0]
    boottime = Machine.boottime
    monkeypatch.setattr(Machine, "boottime", lambda self: boottime(self) + slept[0])
    with FaultProxy(server) as proxy, Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
        memory.known = 1
        proxy.refuse()
        proxy.reset_all()
        memory.set("gone", 1, ttl=1800)
        memory.set("there", 1, ttl=7200)
        assert memory.gone == 1
        slept[0] = 3600.0
        assert "gone" not in memory
        proxy.accept()
        assert memory.engine.flush(5)
        assert "gone" not in memory
        left = memory.ttl("there")
        assert left is not None and 3590 < left <= 3600


def test_t33_a_late_write_of_a_slow_clock_does_not_beat_a_newer_one(server: Server, namespace: str):
    """What waited is judged by when it was made, and that by the server's clock, not the writer's."""
    with FaultProxy(server) as proxy, Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
        heard = Heard(memory.engine)
        memory.x = 0
        proxy.refuse()
        proxy.reset_all()
        memory.x = "old"
        time.sleep(2.1)  # longer than a write counts as made just now
        with Memory(url=server.url, namespace=namespace, **QUICK) as other:
            other.x = "new"
        proxy.accept()
        assert memory.engine.flush(5)
        assert memory.x == "new"
        assert heard.soon(events.WriteStale)
