"""The user's own merge: asked about writes that were lost behind their caller's back, and about no other."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from remanence import MISSING, AsyncMemory, ConversationMemory, Memory
from remanence.commands.journals import outcomes, survey
from remanence.errors import InvalidArgument, Rejected, Unavailable
from remanence.events import Merged, MergeFailed
from remanence.model import Append, Delete, Put
from remanence.runtime.blocking import run
from remanence.stores.outcomes import CONFLICTS, MERGED
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import QUICK, Heard, child, eventually
from remanence.testing.servers import Server

Command = Callable[..., tuple[int, Any, str]]


class Calls:
    """A merge that unites lists, and what it was asked."""

    def __init__(self, answer: Callable[[Any, Any], Any] = lambda ours, theirs: sorted({*ours, *theirs})) -> None:
        self.asked: list[tuple[str, Any, Any]] = []
        self.answer = answer

    def __call__(self, name: str, ours: Any, theirs: Any) -> Any:
        self.asked.append((name, ours, theirs))
        return self.answer(ours, theirs)


@contextmanager
def away(proxy: FaultProxy) -> Iterator[None]:
    """The server is not there meanwhile."""
    proxy.refuse()
    proxy.reset_all()
    yield
    proxy.accept()


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultProxy]:
    with FaultProxy(server) as made:
        yield made


@pytest.fixture
def memory(proxy: FaultProxy, namespace: str) -> Iterator[Any]:
    """The one whose server goes away."""
    with Memory(url=proxy.url, namespace=namespace, **QUICK) as made:
        yield made


@pytest.fixture
def other(server: Server, namespace: str) -> Iterator[Any]:
    """The one that goes on writing."""
    with Memory(url=server.url, namespace=namespace, **QUICK) as made:
        yield made


def kinds(memory: Any) -> list[str]:
    """Of the whole log, merged ones included, newest first."""
    return [each.kind for each in memory.engine.gateway.journal.outcomes(*CONFLICTS, MERGED)]


def conflicting(memory: Any, other: Any, proxy: FaultProxy, name: str = "x") -> str:
    """Let `memory` lose 3 in {1, 3} against 2 in {1, 2}; the id of its write."""
    memory.set(name, [1])
    with away(proxy):
        memory.update(name, lambda value: [*value, 3])
        assert memory.engine.status().pending == 1
        other.set(name, [1, 2])
        op_id = str(memory.engine.gateway.journal.rows_of(memory.key_of(name), 0)[-1].op_id)
    assert memory.engine.flush(5)
    return op_id


# --- what is merged -------------------------------------------------------------------------------


def test_a_lost_compare_and_set_is_merged(memory: Any, other: Any, proxy: FaultProxy):
    calls, heard = Calls(), Heard(memory.engine)
    memory.on_conflict(calls)
    op_id = conflicting(memory, other, proxy)
    assert eventually(lambda: other.x == [1, 2, 3]), memory.engine.conflicts()
    assert calls.asked == [("x", [1, 3], [1, 2])]
    assert eventually(lambda: memory.engine.conflicts() == []) and memory.engine.status().conflicts == 0
    (entry,) = memory.engine.gateway.journal.outcomes(MERGED)
    assert entry.op_id == op_id and "merged by write" in entry.reason
    assert [(each.key, each.op_id, each.count) for each in heard.soon(Merged)] == [("memory:x", op_id, 1)]
    time.sleep(0.3)
    assert len(calls.asked) == 1 and memory.x == [1, 2, 3], "once"


def test_a_write_that_came_too_late_is_merged(memory: Any, other: Any, proxy: FaultProxy):
    calls = Calls()
    memory.on_conflict(calls)
    memory.x = memory.gone = memory.cleared = [1]
    run(memory.engine.gateway.write([Append("memory:items", (b"1",))]))
    with away(proxy):
        run(memory.engine.gateway.write([Append("memory:items", (b"2",))]))
        for name in ("x", "gone", "cleared", "kept"):
            memory.set(name, [3])
        del memory.cleared
        time.sleep(2.1)  # longer than a write counts as made just now
        other.x = other.kept = other.cleared = [2]
        del other.gone
        run(other.engine.gateway.write([Delete("memory:items")]))
    calls.answer = lambda ours, theirs: (
        ["ours"] if theirs is MISSING else MISSING if ours is MISSING else [*ours, *theirs]
    )
    assert memory.engine.flush(5)
    assert eventually(lambda: sorted(kinds(memory)) == [MERGED] * 5 + ["stale"]), memory.engine.conflicts()
    asked = {name: (ours, theirs) for name, ours, theirs in calls.asked}
    assert asked == {
        "x": ([3], [2]),
        "gone": ([3], MISSING),
        "cleared": (MISSING, [2]),
        "kept": ([3], [2]),
    }, "of both writes to `cleared` the last alone"
    assert (other.x, other.gone, other.kept, "cleared" in other) == ([3, 2], ["ours"], [3, 2], False)


def test_of_many_to_one_name_the_last_alone(proxy: FaultProxy, other: Any, namespace: str):
    calls = Calls()
    options: Any = {"url": proxy.url, "namespace": namespace, "batch_ops": 1, **QUICK, "deadline": 2.0}
    with Memory(**options) as memory:
        memory.on_conflict(calls)
        memory.set("x", [1])
        gateway: Any = memory.engine.gateway
        assert eventually(lambda: gateway.take_lead(calls)), "nobody else sends from here on"
        for n in range(10):
            base = gateway.journal.rows_of("memory:x", 0)[-1].op_id
            body = b'{"value":%s}' % str([1, *range(10, 11 + n)]).encode()
            run(gateway.write([Put("memory:x", body, base=base)], ack="journal"))
        other.x = [2]
        run(gateway.pump(gateway.drain, time.monotonic() + 2))
        assert memory.engine.status().pending == 9 and kinds(memory) == ["conflict"]
        time.sleep(0.3)
        assert calls.asked == [], "first the others are to be sent"
        gateway.pass_on(calls)
        assert eventually(lambda: 19 in other.x)
        assert eventually(lambda: memory.engine.conflicts() == []) and kinds(memory) == [MERGED] * 10
    assert calls.asked == [("x", [1, *range(10, 20)], [2])]


def test_what_won_may_stay(memory: Any, other: Any, proxy: FaultProxy):
    versions: list[str] = []

    def merge(name: str, ours: Any, theirs: Any) -> Any:
        versions.append(other.history(name)[0].id)
        return theirs

    memory.on_conflict(merge)
    conflicting(memory, other, proxy)
    assert eventually(lambda: kinds(memory) == [MERGED])
    assert other.x == [1, 2] and [other.history("x")[0].id] == versions, "nothing was written"
    (entry,) = memory.engine.gateway.journal.outcomes(MERGED)
    assert "kept" in entry.reason


def test_it_may_change_what_it_is_given(memory: Any, other: Any, proxy: FaultProxy):
    def merge(name: str, ours: Any, theirs: Any) -> Any:
        theirs.append(ours[-1])
        return theirs

    memory.on_conflict(merge)
    conflicting(memory, other, proxy)
    assert eventually(lambda: other.x == [1, 2, 3])


def test_others_that_are_faster_have_it_asked_again(memory: Any, other: Any, proxy: FaultProxy):
    calls = Calls()

    def merge(name: str, ours: Any, theirs: Any) -> Any:
        if len(calls.asked) < 3:
            other.update("x", lambda value: [*value, 10 + len(calls.asked)])
        return calls(name, ours, theirs)

    memory.on_conflict(merge)
    conflicting(memory, other, proxy)
    assert eventually(lambda: other.x == [1, 2, 3, 10, 11, 12])
    assert [theirs for _, _, theirs in calls.asked] == [[1, 2], [1, 2, 10], [1, 2, 10, 11], [1, 2, 10, 11, 12]]
    assert eventually(lambda: kinds(memory) == [MERGED] * 4), "the attempts are no conflicts of anybody's"
    assert memory.engine.conflicts() == []


def test_it_ends_when_others_are_always_faster(memory: Any, other: Any, proxy: FaultProxy):
    calls, heard = Calls(lambda ours, theirs: "mine"), Heard(memory.engine)

    def merge(name: str, ours: Any, theirs: Any) -> Any:
        other.x = f"theirs {len(calls.asked)}"
        return calls(name, ours, theirs)

    memory.on_conflict(merge)
    op_id = conflicting(memory, other, proxy)
    assert eventually(lambda: heard.of(MergeFailed))
    assert len(calls.asked) == 20 and other.x == "theirs 19"
    assert [each.op_id for each in memory.engine.conflicts()] == [op_id], "one, to be looked at"


# --- what is not ----------------------------------------------------------------------------------


def test_it_is_never_asked_about_what_was_not_lost(memory: Any, other: Any, proxy: FaultProxy):
    calls = Calls()
    memory.on_conflict(calls)
    memory.x = {"n": 0, "log": []}
    with away(proxy):
        memory.x["log"].append("offline")  # an edit merges by itself
        memory.y = "alone"
        other.x["n"] = 1
    assert memory.engine.flush(5)
    assert other.x == {"n": 1, "log": ["offline"]} and other.y == "alone"
    assert not memory.compare_and_set("y", "wrong", 1), "its caller is told"
    receipt = run(memory.engine.gateway.write([Put("memory:y", b'{"value":1}', base="A" * 22)]))[0]
    assert receipt.state == "rejected" and len(memory.engine.conflicts()) == 1
    with pytest.raises(Rejected):
        memory.edit("y").append(1)
    with away(proxy):
        memory.increment("y")  # journalled, and no number when it arrives
    assert memory.engine.flush(5)
    assert {each.kind for each in memory.engine.conflicts()} == {"conflict", "rejected"}
    time.sleep(0.3)
    assert calls.asked == []


def test_only_the_names_of_its_memory(proxy: FaultProxy, server: Server, namespace: str):
    options: Any = {"namespace": namespace, **QUICK}
    mine, theirs = Calls(), Calls()
    with (
        ConversationMemory("a", url=proxy.url, **options) as a,
        ConversationMemory("b", url=proxy.url, **options) as b,
        ConversationMemory("b", url=server.url, **options) as other,
        Memory(url=proxy.url, **options) as shared,
    ):
        for memory, calls in ((a, mine), (shared, mine), (b, theirs)):
            memory.on_conflict(calls)
        conflicting(b, other, proxy)
        assert eventually(lambda: other.get("x") == [1, 2, 3])
    assert mine.asked == [] and theirs.asked == [("x", [1, 3], [1, 2])]


def test_the_first_decides_and_what_is_ended_does_not(memory: Any, other: Any, proxy: FaultProxy):
    first, second = Calls(lambda ours, theirs: "first"), Calls(lambda ours, theirs: "second")
    end = memory.on_conflict(first)
    memory.on_conflict(second)
    conflicting(memory, other, proxy)
    assert eventually(lambda: other.x == "first")
    end()
    conflicting(memory, other, proxy, "y")
    assert eventually(lambda: other.y == "second")
    assert (len(first.asked), len(second.asked)) == (1, 1)


def test_a_wrong_function_is_refused(memory: Any):
    for wrong in (None, 1, "merge"):
        with pytest.raises(InvalidArgument, match="function"):
            memory.on_conflict(wrong)


@pytest.mark.parametrize("backend", ["sqlite", "memory"])
def test_without_a_journal_nothing_is_lost_unheard(backend: Any):
    calls = Calls()
    with Memory(backend=backend) as memory:
        end = memory.on_conflict(calls)
        memory.set("x", 1)
        assert not memory.compare_and_set("x", 2, 3)
        end()
    assert calls.asked == []


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [lambda ours, theirs: 1 / 0, lambda ours, theirs: {1, 2}, lambda ours, theirs: float("nan")],
    ids=["raises", "no value", "not a number"],
)
def test_a_merge_that_fails_harms_nobody(memory: Any, other: Any, proxy: FaultProxy, answer: Any):
    heard = Heard(memory.engine)
    memory.on_conflict(Calls(answer))
    op_id = conflicting(memory, other, proxy)
    assert eventually(lambda: heard.of(MergeFailed))
    assert [each.op_id for each in memory.engine.conflicts()] == [op_id]
    memory.y = 1
    assert (other.x, other.y) == ([1, 2], 1)
    (failed,) = heard.of(MergeFailed)
    assert (failed.key, failed.op_id) == ("memory:x", op_id)
    assert "[1" not in str(failed), "no value"


def test_a_slow_one_holds_up_no_write(memory: Any, other: Any, proxy: FaultProxy):
    asked, go_on = threading.Event(), threading.Event()

    def merge(name: str, ours: Any, theirs: Any) -> Any:
        asked.set()
        assert go_on.wait(10)
        return "merged"

    memory.on_conflict(merge)
    conflicting(memory, other, proxy)
    assert asked.wait(5)
    started = time.monotonic()
    memory.x = "live"
    memory.y = 1
    assert run(memory.engine.gateway.write([Put("memory:z", b'{"value":1}')], ack="journal"))[0].state == "journalled"
    assert memory.engine.flush(2) and other.y == other.z == 1 and time.monotonic() - started < 2
    assert memory.engine.conflicts(), "not yet"
    go_on.set()
    assert eventually(lambda: other.x == "merged" and not memory.engine.conflicts())


def test_a_server_that_goes_away_again_is_waited_for(memory: Any, other: Any, proxy: FaultProxy):
    calls, heard = Calls(), Heard(memory.engine)

    def merge(name: str, ours: Any, theirs: Any) -> Any:
        if not calls.asked:
            proxy.refuse()
            proxy.reset_all()
        return calls(name, ours, theirs)

    memory.on_conflict(merge)
    conflicting(memory, other, proxy)
    assert eventually(lambda: calls.asked and not memory.engine.status().available)
    other.x = [1, 2, 4]
    proxy.accept()
    assert eventually(lambda: other.x == [1, 2, 3, 4]), "what was journalled meanwhile lost, and was merged itself"
    assert eventually(lambda: memory.engine.conflicts() == [])
    assert not heard.of(MergeFailed)


def test_it_is_not_asked_about_what_is_only_remembered_here(memory: Any, other: Any, proxy: FaultProxy):
    calls = Calls()

    def merge(name: str, ours: Any, theirs: Any) -> Any:
        if not calls.asked:
            assert [memory.get(each) for each in "xy"] == [[1, 2], [1, 2]], "known here from now on"
            proxy.refuse()
            proxy.reset_all()
        return calls(name, ours, theirs)

    memory.on_conflict(merge)
    calls.answer = lambda ours, theirs: theirs
    memory.x = memory.y = [1]
    with away(proxy):
        memory.update("x", lambda value: [*value, 3])
        memory.update("y", lambda value: [*value, 3])
        other.x = other.y = [1, 2]
    assert eventually(lambda: calls.asked and not memory.engine.status().available)
    other.x = other.y = [1, 2, 4]
    proxy.accept()
    assert eventually(lambda: kinds(memory) == [MERGED] * 2)
    assert [theirs for _, _, theirs in calls.asked] == [[1, 2], [1, 2, 4]]


def test_close_waits_for_it_and_not_for_ever(proxy: FaultProxy, other: Any, namespace: str):
    never = threading.Event()
    for answer, wanted in ((lambda ours, theirs: "merged", "merged"), (lambda ours, theirs: never.wait(20), [1, 2])):
        memory: Any = Memory(url=proxy.url, namespace=namespace, **QUICK)
        memory.on_conflict(Calls(answer))
        conflicting(memory, other, proxy)
        started = time.monotonic()
        memory.close()
        assert time.monotonic() - started < 3
        assert other.x == wanted
    never.set()


DIES = """
import os, sys
from remanence import Memory
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import QUICK
url, port, namespace = sys.argv[1:]
proxy = FaultProxy(int(port)).start()
options = {"namespace": namespace, **QUICK}
with Memory(url=url, **options) as other, Memory(url=proxy.url, **options) as memory:
    memory.on_conflict(lambda name, ours, theirs: os._exit(0))
    memory.x = [1]
    proxy.refuse(); proxy.reset_all()
    memory.update("x", lambda value: [*value, 3])
    other.x = [1, 2]
    print(os.path.dirname(memory.engine.gateway.journal.path), flush=True)
    proxy.accept()
    memory.engine.flush(5)
    memory.get("x")
    memory.close(10)
"""


def test_a_process_that_dies_in_the_middle_leaves_it_in_the_log(server: Server, namespace: str):
    folder = Path(child(DIES, server.url, str(server.port), namespace).strip())
    (entry,) = outcomes(survey(folder), (*CONFLICTS, MERGED), 9)
    assert (entry.kind, entry.key) == ("conflict", "memory:x")
    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        assert memory.get("x") == [1, 2]


# --- what ended processes left, other colours, and the command line -------------------------------

LEAVES = """
import sys
from remanence import Memory
from remanence.testing.oracle import QUICK
url, namespace = sys.argv[1:]
memory = Memory(url=url, namespace=namespace, **{**QUICK, "close_timeout": 0.0})
memory.x = [3]
print(memory.engine.gateway.journal.path)
memory.close(0)
"""


def test_what_an_ended_process_lost_is_merged(server: Server, namespace: str):
    calls = Calls()
    options: Any = {"url": server.url, "namespace": namespace, **QUICK}
    with Memory(**options) as memory:
        memory.x = [1]
        home = Path(memory.engine.gateway.journal.path).parent
        with FaultProxy(server) as proxy:
            proxy.refuse()
            left = Path(child(LEAVES, proxy.url, namespace).strip())
        time.sleep(2.1)  # longer than a write counts as made just now
        memory.x = [2]
    for suffix in ("", "-wal", "-shm"):  # into the folder of the server's own address, behind the other
        if (path := left.with_name(left.name + suffix)).exists():
            path.rename(home / f"z.journal{suffix}")
    with Memory(**options, retain=0.0) as memory:
        memory.on_conflict(calls)
        assert memory.get("x") == [2]
        assert eventually(lambda: memory.get("x") == [2, 3]) and calls.asked == [("x", [3], [2])]
        assert eventually(lambda: not (home / "z.journal").exists()), "handed on, and deleted"
        assert eventually(lambda: not memory.engine.conflicts())


@pytest.mark.parametrize("awaited", [True, False])
def test_the_same_on_asyncio(proxy: FaultProxy, other: Any, namespace: str, awaited: bool):
    calls = Calls()

    async def slowly(name: str, ours: Any, theirs: Any) -> Any:
        await asyncio.sleep(0.05)
        return calls(name, ours, theirs)

    async def check() -> None:
        async with AsyncMemory(url=proxy.url, namespace=namespace, **QUICK) as memory:
            memory.on_conflict(slowly if awaited else calls)
            await memory.set("x", [1])
            with away(proxy):
                await memory.update("x", lambda value: [*value, 3])
                await asyncio.to_thread(other.set, "x", [1, 2])
            assert await memory.engine.flush(5)
            for _ in range(500):
                if await memory.get("x") == [1, 2, 3] and not await memory.engine.conflicts():
                    break
                await asyncio.sleep(0.01)
            assert await memory.get("x") == [1, 2, 3] and not await memory.engine.conflicts()

    asyncio.run(check())
    assert calls.asked == [("x", [1, 3], [1, 2])]


def test_in_several_partitions(proxy: FaultProxy, server: Server, namespace: str):
    options: Any = {"namespace": namespace, "partitions": 3, **QUICK}
    names = "abcdefgh"
    with Memory(url=proxy.url, **options) as memory, Memory(url=server.url, **options) as other:
        memory.on_conflict(Calls())
        for name in names:
            memory.set(name, [1])
        with away(proxy):
            for name in names:
                memory.update(name, lambda value: [*value, 3])
                other.set(name, [1, 2])
        assert memory.engine.flush(5)
        assert eventually(lambda: all(other.get(name) == [1, 2, 3] for name in names))
        assert eventually(lambda: memory.engine.conflicts() == [])


def test_the_command_shows_them_where_asked(
    memory: Any, other: Any, proxy: FaultProxy, namespace: str, answered: Command
):
    words = ("--url", proxy.url, "--namespace", namespace, "conflicts")
    end = memory.on_conflict(Calls())
    merged = conflicting(memory, other, proxy)
    assert eventually(lambda: kinds(memory) == [MERGED])
    code, out, err = answered(*words)
    assert code == 0 and out == "no conflicts\n" and "1 more were merged: --merged shows them" in err
    end()
    lost = conflicting(memory, other, proxy, "y")
    _, told, _ = answered(*words, "--json")
    assert [(each["op_id"], each["kind"]) for each in told["conflicts"]] == [(lost, "conflict")]
    _, told, _ = answered(*words, "--merged", "--json")
    assert [(each["op_id"], each["kind"]) for each in told["conflicts"]] == [(lost, "conflict"), (merged, "merged")]
    out = " ".join(answered(*words, "--merged")[1].split())
    assert merged in out and "merged by" in out


def test_a_hidden_server_is_no_reason_to_call_it(proxy: FaultProxy, namespace: str):
    calls = Calls()
    with Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
        memory.on_conflict(calls)
        with away(proxy), pytest.raises(Unavailable):
            memory.get("unseen")
    assert calls.asked == []
