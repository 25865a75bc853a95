"""Connections that lose answers or break, and callers that give up: exactly once, never another's answer."""

import asyncio
import json
import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import pytest

from remanence import AsyncMemory, Memory
from remanence.model import Append
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import QUICK, child, eventually, judge, open_files, stored_value
from remanence.testing.servers import PortClaim, Server
from remanence.testing.simple import append, items_of
from remanence.wire.keys import Keyspace

Fresh = Callable[..., Server]


def number_of(server: Server, namespace: str, name: str = "n") -> Any:
    with closing(server.client()) as client:
        return stored_value(client, Keyspace(namespace).data(f"memory:{name}"))


def exact(server: Server, namespace: str, count: int) -> None:
    assert number_of(server, namespace) == count
    assert not judge(items_of(server, namespace), [f"w:{i + 1}" for i in range(count)])


def test_t06_lost_replies(server: Server, namespace: str):
    """Every batch is executed and its answer lost; redis-py's own retry would count up to eleven times."""
    with FaultProxy(server) as proxy, Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
        memory.n = 0
        for i in range(20):
            proxy.drop_replies(1, after=b"EVALSHA")
            append(memory, f"w:{i + 1}")
            proxy.drop_replies(1, after=b"EVALSHA")
            memory.increment("n")
        proxy.heal()
        assert memory.engine.flush(5)
        assert proxy.counts.dropped >= 5  # of 40: what waited while the link was down went together
    exact(server, namespace, 20)


def test_t06_lost_replies_to_reads_cost_no_error(server: Server, namespace: str):
    with FaultProxy(server) as proxy, Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
        memory.x = 1
        for _ in range(5):
            proxy.drop_replies(1, after=b"GET")
            assert memory.x == 1
            assert not memory.read("x").stale


def test_t06_what_an_edit_returned_is_not_made_up_after_a_lost_reply(server: Server, namespace: str):
    with FaultProxy(server) as proxy, Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
        memory.n = 0
        told = []
        for _ in range(10):
            proxy.drop_replies(1, after=b"EVALSHA")
            told.append(memory.increment("n"))
        assert told == list(range(1, 11))


@pytest.mark.parametrize("lengths", [range(0, 60, 3), pytest.param(range(200), marks=pytest.mark.soak)])
def test_t07_replies_cut_short(server: Server, namespace: str, lengths: range):
    with FaultProxy(server) as proxy, Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
        memory.n = 0
        memory.text = "x" * 100
        for i, length in enumerate(lengths):
            proxy.cut_reply_after(length, after=b"EVALSHA")
            append(memory, f"w:{i + 1}")
            memory.increment("n")
            proxy.cut_reply_after(length, after=b"GET")
            assert memory.text == "x" * 100
        proxy.heal()
        assert memory.engine.flush(5)
        assert proxy.counts.cut >= len(lengths)
    exact(server, namespace, len(lengths))


def test_t07_replies_that_stop_in_the_middle(server: Server, namespace: str):
    with (
        FaultProxy(server) as proxy,
        Memory(url=proxy.url, namespace=namespace, **{**QUICK, "deadline": 0.1}) as memory,
    ):
        memory.n = 0
        for i, length in enumerate((0, 1, 5, 17)):
            proxy.cut_reply_after(length, hang=True, after=b"EVALSHA")
            started = time.monotonic()
            append(memory, f"w:{i + 1}")
            assert time.monotonic() - started < 1.0
            memory.increment("n")
            proxy.heal()
            assert memory.engine.flush(5)
    exact(server, namespace, 4)


def reset_storm(server: Server, namespace: str, seconds: float) -> None:
    with FaultProxy(server) as proxy, Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
        memory.n = 0
        append(memory, "w:1")
        memory.increment("n")
        files, threads = open_files(), threading.active_count()
        stop, number = time.monotonic() + seconds, 1
        storm = threading.Thread(target=lambda: resets(proxy, stop))
        storm.start()
        while time.monotonic() < stop:
            number += 1
            append(memory, f"w:{number}")
            memory.increment("n")
            assert memory.read("n").value >= 0
        storm.join()
        assert memory.engine.flush(5)
        assert proxy.counts.reset > seconds * 5
        # a link is three files here, two of them the proxy's: a few more links, but not one for each reset
        assert eventually(lambda: open_files() <= files + 12), f"{files} files open before, {open_files()} now"
        assert threading.active_count() <= threads
    exact(server, namespace, number)


def test_a_write_that_begins_while_the_server_is_away_does_not_keep_the_lead_when_it_is_back(
    server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
):
    """Nothing of this process would be sent any more."""
    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        memory.n = 0
        gateway = memory.engine.gateway
        take = gateway._intake.take

        async def back_meanwhile(ticket: Any) -> None:
            gateway.contact.available = True
            await take(ticket)

        monkeypatch.setattr(gateway._intake, "take", back_meanwhile)
        gateway.contact.available = False
        append(memory, "w:1")
        monkeypatch.undo()
        append(memory, "w:2")
        assert memory.engine.flush(2) and gateway.leader is None
        assert items_of(server, namespace) == ["w:1", "w:2"]


def resets(proxy: FaultProxy, until: float) -> None:
    while time.monotonic() < until:
        time.sleep(0.05)
        proxy.reset_all()


def test_t08_resets(server: Server, namespace: str):
    reset_storm(server, namespace, 1.0)


@pytest.mark.soak
def test_t08_resets_long(server: Server, namespace: str):
    reset_storm(server, namespace, 20.0)


def test_t08_something_that_is_no_redis_at_all(namespace: str):
    """Another service answers on the port: writes are kept, and the keeper goes on."""
    claim = PortClaim()
    listener = socket.create_server(("127.0.0.1", claim.number))
    stop = threading.Event()

    def serve() -> None:
        listener.settimeout(0.05)
        while not stop.is_set():
            with suppress(TimeoutError), listener.accept()[0] as link:
                link.settimeout(0.2)
                with suppress(OSError):
                    link.recv(4096)
                    link.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n<html>")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with Memory(url=f"redis://127.0.0.1:{claim.number}/0", namespace=namespace, **QUICK) as memory:
            memory.answer = 42
            assert memory.answer == 42
            assert memory.engine.status().pending == 1
            assert memory.engine.status().reason
            time.sleep(0.1)
            keeper = memory.engine.gateway.keeper._task._thread  # type: ignore[attr-defined]
            assert keeper.is_alive(), "the background ended"
    finally:
        stop.set()
        thread.join()
        listener.close()
        claim.release()


# --- callers that give up -------------------------------------------------------------------------


async def cancelling(url: str, namespace: str, rounds: int) -> dict[str, str]:
    """Cancel writes and reads at random moments; what became of each write as its caller saw it."""
    chance = random.Random(17)
    fate: dict[str, str] = {}
    async with AsyncMemory(url=url, namespace=namespace, **QUICK) as memory:
        gateway = memory.engine.gateway
        for i in range(50):
            await memory.set(f"v{i}", f"value of v{i}")

        async def write(name: str) -> None:
            await gateway.write([Append("list", (name.encode(),))])
            fate[name] = "acknowledged"

        async def read(i: int) -> None:
            assert await memory.get(f"v{i}") == f"value of v{i}", "another call's answer"

        async def one(i: int) -> None:
            name = f"w:{i + 1}"
            fate[name] = "cancelled"
            tasks = [asyncio.create_task(write(name)), asyncio.create_task(read(i % 50))]
            if i % 20:
                await asyncio.sleep(chance.random() * 0.03)
            else:  # one that ends, however slow the machine is
                await asyncio.wait(tasks)
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                    raise result

        for start in range(0, rounds, 20):
            await asyncio.gather(*(one(i) for i in range(start, min(rounds, start + 20))))
        started = time.monotonic()
        await memory.set("after", 1)
        assert time.monotonic() - started < 0.5, "a call after the cancelled ones waited for nothing"
        assert await memory.engine.flush(5)
    return fate


@pytest.mark.parametrize("rounds", [200, pytest.param(1000, marks=pytest.mark.soak)])
def test_t17_cancelled_calls(server: Server, namespace: str, rounds: int):
    with FaultProxy(server) as proxy:
        proxy.delay(0.005)
        fate = asyncio.run(cancelling(proxy.url, namespace, rounds))
    found = items_of(server, namespace)
    assert len(found) == len(set(found)), "a cancelled write was applied twice"
    assert {name for name, end in fate.items() if end == "acknowledged"} <= set(found)
    assert "cancelled" in fate.values() and "acknowledged" in fate.values()


def test_t17_a_write_cancelled_before_it_was_journalled_never_comes_back(server: Server, namespace: str):
    async def scene() -> list[str]:
        async with AsyncMemory(url=server.url, namespace=namespace, **QUICK) as memory:
            gateway = memory.engine.gateway
            await memory.set("x", 1)
            task = asyncio.create_task(gateway.write([Append("list", (b"w:1",))]))
            await asyncio.sleep(0)  # it has begun, and waits for others to come along
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            assert await memory.engine.flush(1)
            await asyncio.sleep(0.05)
            before = items_of(server, namespace)
            await memory.set("x", 2)
            assert items_of(server, namespace) == before, "a cancelled write was sent with somebody else's"
            return before

    assert asyncio.run(scene()) in ([], ["w:1"])


def test_t17_followers_go_on_when_the_one_they_follow_is_cancelled(server: Server, namespace: str):
    async def scene(url: str) -> float:
        async with AsyncMemory(url=url, namespace=namespace, **{**QUICK, "deadline": 5.0, "heartbeat": 5.0}) as memory:
            gateway = memory.engine.gateway
            await memory.set("x", 0)
            tasks = []
            for i in range(30):
                tasks.append(asyncio.create_task(gateway.write([Append("list", (f"w:{i}".encode(),))])))
                await asyncio.sleep(0.001)
            for task in tasks[:15]:
                task.cancel()
            started = time.monotonic()
            await asyncio.gather(*tasks[15:])
            took = time.monotonic() - started
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks)
            return took

    with FaultProxy(server) as proxy:
        proxy.delay(0.02)
        assert asyncio.run(scene(proxy.url)) < 0.6


INTERRUPTED = """
import faulthandler, json, random, signal, sys, time
from remanence import Memory
from remanence.model import Append
from remanence.runtime.blocking import run

url, namespace, rounds, options = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
faulthandler.dump_traceback_later(60, exit=True)
chance, armed, hits, acknowledged = random.Random(60), False, 0, []

def interrupt(*_):
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt

def append(name):
    run(memory.engine.gateway.write([Append("list", (name.encode(),))]))

signal.signal(signal.SIGALRM, interrupt)
memory = Memory(url=url, namespace=namespace, **options)
memory.x = "x"
for i in range(rounds):
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, 1e-6 + chance.random() * 6e-4)
        append(f"w:{i + 1}")
        acknowledged.append(f"w:{i + 1}")
        assert memory.x == "x"
        armed = False
    except KeyboardInterrupt:
        hits += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    armed = False
    if i % 20 == 0:
        faulthandler.dump_traceback_later(20, exit=True)
        started = time.monotonic()
        append(f"check:{i // 20 + 1}")
        acknowledged.append(f"check:{i // 20 + 1}")
        assert memory.x == "x"
        took = time.monotonic() - started
        status = memory.engine.status()
        assert took < 0.45, f"the call after interruption {hits} took {took:.2f} s: {status}"
        assert status.pending == 0 or memory.engine.flush(2), status
assert memory.engine.flush(2)
memory.close()
print(json.dumps([hits, acknowledged]))
"""


@pytest.mark.parametrize("rounds", [300, pytest.param(20_000, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_t17_t60_a_blocking_call_interrupted_anywhere(server: Server, namespace: str, rounds: int):
    """Ctrl-C at any bytecode of a call: the next call works, and each write is there once at most."""
    # a write that was sent and not committed makes the journal fork, and each fork is asked for while it is retained
    options = json.dumps({**QUICK, "heartbeat": 60.0, "retain": 5.0})
    # what it leaves open where it is interrupted is closed with it: no warning is an error there
    told = child(INTERRUPTED, server.url, namespace, rounds, options, timeout=60 + rounds / 50, PYTHONWARNINGS="ignore")
    hits, acknowledged = json.loads(told)
    found = items_of(server, namespace)
    assert hits > rounds / 10
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)
    for kind in ("w", "check"):
        assert not judge([each for each in found if each.startswith(f"{kind}:")], []).disordered


# --- the two faults of the system this one replaces -----------------------------------------------


def test_append_from_four_threads(server: Server, namespace: str):
    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        memory.log = []

        def add(name: int) -> None:
            for i in range(200):
                memory.log.append(f"{name}:{i + 1}")

        threads = [threading.Thread(target=add, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = number_of(server, namespace, "log")
    assert len(found) == 800
    assert not judge(found, [f"{name}:{i + 1}" for name in range(4) for i in range(200)])


def test_append_from_four_threads_with_the_server_away_half_of_the_time(server: Server, namespace: str):
    with FaultProxy(server) as proxy, Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
        memory.log = []
        stop = threading.Event()

        def away() -> None:
            while not stop.is_set():
                time.sleep(0.05)
                proxy.refuse()
                proxy.reset_all()
                time.sleep(0.05)
                proxy.accept()

        def add(name: int) -> None:
            for i in range(200):
                memory.log.append(f"{name}:{i + 1}")

        threads = [threading.Thread(target=add, args=(name,)) for name in range(4)]
        outage = threading.Thread(target=away)
        for thread in (*threads, outage):
            thread.start()
        for thread in threads:
            thread.join()
        stop.set()
        outage.join()
        assert memory.engine.flush(10)
    found = number_of(server, namespace, "log")
    assert not judge(found, [f"{name}:{i + 1}" for name in range(4) for i in range(200)])
    assert len(found) == 800
