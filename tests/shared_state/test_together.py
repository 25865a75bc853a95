"""Shared state that several change at once: nothing is lost when they meet."""

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from remanence import MISSING, Memory
from remanence.errors import Unavailable
from remanence.testing.oracle import QUICK, Child
from remanence.testing.servers import Server


def together(work: Sequence[Callable[[], Any]]) -> list[Any]:
    """Do all at once, each in a thread; what they returned. Raises what the first of them raised."""
    start = threading.Barrier(len(work))

    def one(task: Callable[[], Any]) -> Any:
        start.wait(10)
        return task()

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(one, work))


def test_increments_of_threads_are_exact(memory: Any, other: Any):
    def count(each: Any) -> list[int]:
        return [each.increment("n") for _ in range(25)]

    told = together([lambda each=each: count(each) for each in (memory, other, memory, other)])
    assert all(sums == sorted(sums) for sums in told)
    assert sorted(total for sums in told for total in sums) == list(range(1, 101))
    assert memory.n == other.n == 100


def test_of_two_racers_one_wins(memory: Any, other: Any):
    before: Any = MISSING
    for turn in range(8):
        racers = [
            lambda each=each, mark=mark, before=before: each.compare_and_set("leader", before, mark)
            for each, mark in ((memory, [turn, "memory"]), (other, [turn, "other"]))
        ]
        won = together(racers)
        assert sorted(won) == [False, True]
        before = [turn, "memory" if won[0] else "other"]
        assert memory.leader == other.leader == before


@pytest.mark.parametrize(
    ("stored", "expected", "same"),
    [(True, 1, False), (0, False, False), ([1, 2], (1, 2), True), (1, 1.0, True), ({"a": [True]}, {"a": [1]}, False)],
)
def test_values_are_compared_as_json(stored: Any, expected: Any, same: bool):
    with Memory(backend="memory", namespace="compared") as memory:
        memory.value = stored
        assert memory.compare_and_set("value", expected, "won") is same


def test_nobody_wins_while_the_server_is_away(fresh_server: Callable[..., Server], namespace: str):
    server = fresh_server()
    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        assert memory.compare_and_set("leader", MISSING, "first")
        server.kill()
        memory.other = 1
        with pytest.raises(Unavailable, match="needs the server"):
            memory.compare_and_set("leader", "first", "second")
        assert memory.leader == "first" and memory.engine.status().pending == 1
        server.restart()
        assert memory.engine.flush(5.0)


def test_updates_of_threads_lose_nothing(memory: Any, other: Any):
    calls: list[str] = []

    def with_one_more(seen: dict[str, bool], name: str) -> dict[str, bool]:
        calls.append(name)
        return {**seen, name: True}

    def add(each: Any, number: int) -> None:
        for turn in range(8):
            each.update("seen", lambda seen, name=f"{number}:{turn}": with_one_more(seen, name), {})

    together([lambda each=each, i=i: add(each, i) for i, each in enumerate((memory, other, memory, other))])
    assert sorted(memory.seen) == sorted(f"{number}:{turn}" for number in range(4) for turn in range(8))
    assert len(calls) >= 32


def test_an_update_that_fails_changes_nothing(memory: Any, other: Any):
    memory.log = [1]

    def spoil(value: Any) -> Any:
        value.append(2)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        memory.update("log", spoil)
    assert memory.log == other.log == [1]


COUNTING = """
import json, sys
from remanence import Memory
with Memory(backend="sqlite") as memory:
    memory.increment("started")
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps([memory.increment("n") for _ in range(100)]))
"""


def test_processes_that_count_in_one_file_are_exact():
    with ExitStack() as stack, Memory(backend="sqlite") as memory:
        counters = [stack.enter_context(Child(COUNTING)) for _ in range(3)]
        for counter in counters:
            assert counter.line() == "ready"
        for counter in counters:
            counter.say()
        told = [counter.end() for counter in counters]
        assert [code for code, _, _ in told] == [0, 0, 0], told
        sums = [total for _, out, _ in told for total in json.loads(out)]
        assert sorted(sums) == list(range(1, 301))
        assert (memory.n, memory.started) == (300, 3)
