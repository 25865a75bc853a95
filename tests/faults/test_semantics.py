"""Who wins when processes meet: compare-and-set, late writes, deletes, poison, the journal's limit."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from typing import Any

import pytest

from remanence import MISSING, Memory, events
from remanence.errors import JournalFull, WrongKind
from remanence.model import Append, Put
from remanence.runtime.blocking import run
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import QUICK, Child, Heard, child, eventually, judge, stored_value
from remanence.testing.servers import Server
from remanence.testing.simple import nowhere
from remanence.wire.keys import Keyspace

Fresh = Callable[..., Server]

CAS = """
import json, sys, threading
from remanence import MISSING, Memory
url, namespace, name, tasks, rounds, options = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6]
memory = Memory(url=url, namespace=namespace, **json.loads(options))
memory.engine.gateway
for round in range(rounds):
    sys.stdin.readline()
    before = MISSING if round == 0 else memory.get("cas")
    start, won = threading.Barrier(tasks), []
    def attempt(i):
        start.wait()
        if memory.compare_and_set("cas", before, f"{round}-{name}-{i}"):
            won.append(f"{round}-{name}-{i}")
    threads = [threading.Thread(target=attempt, args=(i,)) for i in range(tasks)]
    print("ready", flush=True)
    sys.stdin.readline()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(won), flush=True)
memory.close()
"""


@pytest.mark.parametrize("rounds", [5, pytest.param(200, marks=pytest.mark.soak)])
def test_t36_of_fifty_one_wins_each_round(server: Server, namespace: str, rounds: int):
    options = json.dumps({**QUICK, "deadline": 5.0})
    with ExitStack() as stack, Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        arguments = (10, rounds, options)
        racers = [stack.enter_context(Child(CAS, server.url, namespace, i, *arguments)) for i in range(5)]
        for _ in range(rounds):
            for command in ("prepare", "go"):
                for racer in racers:
                    racer.say(command)
                if command == "prepare":
                    assert [racer.line() for racer in racers] == ["ready"] * 5
            won = [winner for racer in racers for winner in json.loads(racer.line())]
            assert len(won) == 1, f"{len(won)} of fifty compare-and-sets won"
            assert memory.cas == won[0]
        for racer in racers:
            assert racer.end()[0] == 0


def test_t36_update_loses_nothing(server: Server, namespace: str):
    with Memory(url=server.url, namespace=namespace, **{**QUICK, "deadline": 5.0}) as memory:
        memory.n = {"count": 0}

        def raise_it() -> None:
            for _ in range(25):
                memory.update("n", lambda value: {"count": value["count"] + 1})

        threads = [threading.Thread(target=raise_it) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert memory.n == {"count": 100}
        assert not memory.compare_and_set("n", {"count": 99}, 0)
        assert memory.compare_and_set("fresh", MISSING, 1) and not memory.compare_and_set("fresh", MISSING, 2)


def test_t36_changes_of_several_values_in_one_batch(server: Server, namespace: str):
    """One value was changed elsewhere: the changes of the others in the same batch are not lost with it."""
    with (
        Memory(url=server.url, namespace=namespace, **{**QUICK, "heartbeat": 60.0}) as a,
        Memory(url=server.url, namespace=namespace, **QUICK) as b,
    ):
        gateway: Any = a.engine.gateway
        a.x = a.y = 0
        a.increment("x")
        a.increment("y")
        for _ in range(3):
            b.increment("y")
            assert gateway.take_lead("this test"), "nobody else may send meanwhile"
            threads = [threading.Thread(target=a.increment, args=(name,)) for name in "xyxy"]
            for i, thread in enumerate(threads):
                thread.start()
                assert eventually(lambda i=i: gateway.journal.pending == i + 1)  # type: ignore[misc]
            gateway.pass_on("this test")
            for thread in threads:
                thread.join()
        assert (b.x, b.y) == (7, 10)


def away(proxy: FaultProxy) -> None:
    proxy.refuse()
    proxy.reset_all()


def test_t37_a_late_write_does_not_replace_a_newer_one(server: Server, namespace: str):
    with (
        FaultProxy(server) as proxy,
        Memory(url=proxy.url, namespace=namespace, **QUICK) as a,
        Memory(url=server.url, namespace=namespace, **QUICK) as b,
    ):
        heard = Heard(a.engine)
        a.x = "first"
        away(proxy)
        a.x = "old"
        a.only = "mine"
        time.sleep(2.1)  # longer than a write counts as made just now
        b.x = "new"
        proxy.accept()
        assert a.engine.flush(5)
        assert a.x == b.x == "new"
        assert b.only == "mine"
        stale = heard.of(events.WriteStale)
        assert [each.key for each in stale] == ["memory:x"]
        assert a.engine.status().conflicts == 1
        kept = a.engine.gateway.journal.outcomes("stale")  # type: ignore[attr-defined]
        assert [each.op_id for each in kept] == [stale[0].op_id], "the refused write is kept for people to see"


def test_t37_changes_inside_a_value_are_merged_instead(server: Server, namespace: str):
    with (
        FaultProxy(server) as proxy,
        Memory(url=proxy.url, namespace=namespace, **QUICK) as a,
        Memory(url=server.url, namespace=namespace, **QUICK) as b,
    ):
        a.log = ["start"]
        assert b.log == ["start"]
        away(proxy)
        a.log.append("a, offline")
        time.sleep(2.1)
        b.log.append("b, online")
        proxy.accept()
        assert a.engine.flush(5)
        assert a.log == b.log == ["start", "b, online", "a, offline"]


def test_t38_a_deleted_value_is_not_brought_back(server: Server, namespace: str):
    with (
        FaultProxy(server) as proxy,
        Memory(url=proxy.url, namespace=namespace, **QUICK) as a,
        Memory(url=server.url, namespace=namespace, **QUICK) as b,
    ):
        a.x = "first"
        assert b.x == "first"
        away(proxy)
        a.x = "old"
        run(a.engine.gateway.write([Append("list", (b"old item",))]))
        time.sleep(2.1)
        run(b.engine.gateway.write([Append("list", (b"item",))]))
        del b.x
        proxy.accept()
        assert a.engine.flush(5)
        assert "x" not in a and "x" not in b
        with closing(server.client()) as client:
            assert not client.exists(Keyspace(namespace).data("memory:x"))


def test_t38_a_value_set_after_its_delete_is_there(server: Server, namespace: str):
    with (
        FaultProxy(server) as proxy,
        Memory(url=proxy.url, namespace=namespace, **QUICK) as a,
        Memory(url=server.url, namespace=namespace, **QUICK) as b,
    ):
        a.x = "first"
        away(proxy)
        with pytest.raises(AttributeError):
            del a.missing
        del a.x
        time.sleep(2.1)
        b.x = "again"
        proxy.accept()
        assert a.engine.flush(5)
        assert a.x == b.x == "again"


def test_t39_poison_in_the_middle(server: Server, namespace: str):
    """Of a batch with one write that can never be applied, that one is set aside and the rest is in order."""
    with closing(server.client()) as client, FaultProxy(server) as proxy:
        with Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
            heard = Heard(memory.engine)
            memory.n = 0
            client.hset(Keyspace(namespace).data("memory:poison"), "a", "hash")
            client.set(Keyspace(namespace).data("text"), "no list")
            away(proxy)
            for i in range(10):
                run(memory.engine.gateway.write([Append("list", (f"w:{i + 1}".encode(),))]))
                memory.increment("n")
                if i == 4:
                    memory.poison = 1
                    run(memory.engine.gateway.write([Append("text", (b"x",))]))
                    memory.increment("poison")
            proxy.accept()
            assert memory.engine.flush(5)
            assert memory.n == 10
            status = memory.engine.status()
            assert status.dead_letters == 3
            assert {each.key for each in heard.soon(events.DeadLettered, 3)} == {"memory:poison", "text"}
            with pytest.raises(WrongKind):
                memory.poison = 2
            with pytest.raises(WrongKind):
                _ = memory.poison
        found: Any = client.lrange(Keyspace(namespace).data("list"), 0, -1)
        assert not judge([item.decode() for item in found], [f"w:{i + 1}" for i in range(10)])
        assert client.hgetall(Keyspace(namespace).data("memory:poison")) == {b"a": b"hash"}
        assert client.get(Keyspace(namespace).data("text")) == b"no list"


# --- the journal's limit --------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [{"journal_rows": 20}, {"journal_bytes": 4096}])
def test_t47_a_full_journal_raises(namespace: str, limit: dict[str, int]):
    with Memory(url=nowhere(), namespace=namespace, **QUICK, **limit) as memory:  # type: ignore[misc]
        heard = Heard(memory.engine)
        taken = 0
        with suppress(JournalFull):
            while taken < 1000:
                memory.set(f"v{taken}", "x" * 100)
                taken += 1
        with pytest.raises(JournalFull, match="REMANENCE_JOURNAL_ROWS"):
            memory.more = "x" * 100
        assert 10 <= taken <= 40
        assert memory.v0 == "x" * 100, "what was taken can be read"
        assert heard.of(events.JournalFilling)
        assert memory.engine.status().pending == taken


def test_t47_a_full_journal_blocks_until_there_is_room(server: Server, namespace: str):
    with FaultProxy(server) as proxy:
        proxy.refuse()
        options = {**QUICK, "deadline": 1.0, "journal_rows": 10, "on_full": "block"}
        with Memory(url=proxy.url, namespace=namespace, **options) as memory:  # type: ignore[misc]
            for i in range(10):
                memory.set(f"v{i}", i)
            started = time.monotonic()
            with pytest.raises(JournalFull):
                memory.v10 = 10
            assert 0.9 < time.monotonic() - started < 1.2
            threading.Timer(0.3, proxy.accept).start()
            started = time.monotonic()
            memory.v11 = 11
            assert 0.1 < time.monotonic() - started < 1.0
            assert memory.engine.flush(5)
            assert memory.v9 == 9 and memory.v11 == 11 and "v10" not in memory


def test_t47_a_full_journal_drops_the_new_and_says_so(namespace: str):
    with Memory(url=nowhere(), namespace=namespace, journal_rows=10, on_full="drop_new", **QUICK) as memory:
        for i in range(10):
            assert memory.set(f"v{i}", i).state == "journalled"
        receipts = run(memory.engine.gateway.write([Put("memory:v10", b'{"value":10}')]))
        assert [(each.state, each.reason) for each in receipts] == [("rejected", "dropped: the journal is full")]
        assert memory.engine.status().pending == 10
        assert memory.v0 == 0, "the old are kept"


def test_t47_puts_that_were_replaced_before_they_were_sent_take_no_room(server: Server, namespace: str):
    with FaultProxy(server) as proxy:
        proxy.refuse()
        with Memory(url=proxy.url, namespace=namespace, journal_bytes=20_000, **QUICK) as memory:
            for i in range(500):
                memory.status = "x" * 100 + str(i)
            proxy.accept()
            assert memory.engine.flush(5)
            assert memory.status == "x" * 100 + "499"


def test_two_processes_append_to_one_value(server: Server, namespace: str):
    """Of two times 200 appends to one list the replaced system kept 302."""
    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        memory.log = []
        with FaultProxy(server) as proxy:
            run_two(proxy.url, server.url, namespace)
        found = list(memory.log)
    assert len(found) == 400
    assert not judge(found, [f"{name}:{i + 1}" for name in "ab" for i in range(200)])


def test_two_processes_append_to_one_value_with_the_server_away_half_of_the_time(server: Server, namespace: str):
    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        memory.log = []
        stop = threading.Event()
        with FaultProxy(server) as proxy:

            def outages() -> None:
                while not stop.wait(0.1):
                    away(proxy)
                    stop.wait(0.1)
                    proxy.accept()

            outage = threading.Thread(target=outages)
            outage.start()
            try:
                run_two(proxy.url, proxy.url, namespace)
            finally:
                stop.set()
                outage.join()
        found = list(memory.log)
    findings = judge(found, [f"{name}:{i + 1}" for name in "ab" for i in range(200)])
    assert not findings, findings


APPENDING = """
import json, sys, time
from remanence import Memory
name, url, namespace, options = sys.argv[1:5]
memory = Memory(url=url, namespace=namespace, **json.loads(options))
while not hasattr(memory, "log"):  # what was never read here cannot be read while the server is away
    time.sleep(0.01)
for i in range(200):
    memory.log.append(f"{name}:{i + 1}")
assert memory.engine.flush(10), memory.engine.status()
memory.close()
"""


def run_two(first: str, second: str, namespace: str) -> None:
    options = json.dumps(QUICK)
    with (
        Child(APPENDING, "a", first, namespace, options) as a,
        Child(APPENDING, "b", second, namespace, options) as b,
    ):
        for process in (a, b):
            code, _, complaints = process.end(60)
            assert code == 0, complaints


def test_helpers_say_what_is_wrong():
    """The judge of these tests sees each kind of fault."""
    assert not judge(["a:1", "b:1", "a:2"], ["a:1", "a:2", "b:1"])
    assert judge(["a:1"], ["a:1", "a:2"]).lost == ["a:2"]
    assert judge(["a:1", "a:1"], []).doubled == ["a:1"]
    assert judge(["a:2", "a:1"], []).disordered == ["a:1"]
    assert judge(["a:1", "a:3"], []).skipped == ["a:2"]
    assert eventually(lambda: True) and not eventually(lambda: False, 0.01)
    assert child("print(1)") == "1\n" and stored_value
