"""Writes without effect: told from code and on the command line, kept in bounds, and handed on with a journal."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from remanence.aio.state import AsyncMemory
from remanence.commands.journals import survey
from remanence.errors import InvalidArgument
from remanence.model import Append, Delete, Edit, Patch, Put, Receipt, Write
from remanence.runtime.blocking import BlockingRuntime, run
from remanence.stores.journal import Journal
from remanence.stores.outcomes import CONFLICTS, bound, hand_on, newest, within
from remanence.sync.state import Memory
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import QUICK, child, eventually
from remanence.testing.servers import Server
from remanence.wire.keys import Keyspace
from remanence.wire.sqlite import Database

Command = Callable[..., tuple[int, Any, str]]
REFUSED_EDIT = Patch("memory:none", (Edit(("value",), "increment", b"[1]"),))


def write(memory: Memory, *writes: Write) -> list[Receipt]:
    return run(memory.engine.gateway.write(writes, ack="store"))


def journal_of(memory: Memory) -> Journal:
    return memory.engine.gateway.journal  # type: ignore[attr-defined, no-any-return]


def conflicting(key: str = "memory:x") -> Put:
    """A write for a version of the record that never was."""
    return Put(key, b'{"value":"secret"}', base="A" * 22)


# --- from code ------------------------------------------------------------------------------------


def test_each_kind_is_told_newest_first(server: Server, namespace: str):
    before = time.time()
    with (
        FaultProxy(server) as proxy,
        Memory(url=proxy.url, namespace=namespace, **QUICK) as memory,
        Memory(url=server.url, namespace=namespace, **QUICK) as other,
    ):
        assert memory.engine.conflicts() == memory.engine.dead_letters() == []
        memory.late = 1
        ids = [write(memory, each)[0].op_id for each in (conflicting(), REFUSED_EDIT)]
        proxy.refuse()
        proxy.reset_all()
        memory.late = "old"
        time.sleep(2.1)  # longer than a write counts as made just now
        other.late = "new"
        back = time.time()
        proxy.accept()
        assert memory.engine.flush(5)
        stale, rejected, conflict = memory.engine.conflicts()
        assert [each.kind for each in (conflict, rejected, stale)] == ["conflict", "rejected", "stale"]
        assert [conflict.op_id, rejected.op_id] == ids
        assert [each.key for each in (conflict, rejected, stale)] == ["memory:x", "memory:none", "memory:late"]
        assert [each.write for each in (conflict, rejected, stale)] == ["put", "patch", "put"]
        assert all(each.reason for each in (conflict, rejected, stale))
        assert before <= conflict.wall <= rejected.wall < back <= stale.wall, "when it became known, not when made"
        assert memory.engine.conflicts(1) == [stale]
        assert other.engine.conflicts() == []
        assert "secret" not in repr(memory.engine.conflicts())
        for wrong in (0, -1, True, 1.5, None):
            with pytest.raises(InvalidArgument):
                memory.engine.conflicts(wrong)  # type: ignore[arg-type]


def test_dead_letters_are_told_apart(server: Server, namespace: str):
    with closing(server.client()) as client, Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        client.hset(Keyspace(namespace).data("list"), "a", "b")
        (receipt,) = write(memory, Append("list", (b"secret",)))
        (letter,) = memory.engine.dead_letters()
        assert (letter.op_id, letter.key, letter.kind, letter.write) == (receipt.op_id, "list", "dead", "append")
        assert memory.engine.conflicts() == []


def test_the_same_on_asyncio(server: Server, namespace: str):
    async def check() -> None:
        async with AsyncMemory(url=server.url, namespace=namespace, **QUICK) as memory:
            (receipt,) = await memory.engine.gateway.write([conflicting()], ack="store")
            assert [each.op_id for each in await memory.engine.conflicts()] == [receipt.op_id]
            assert await memory.engine.conflicts(limit=5) == await memory.engine.conflicts()
            assert await memory.engine.dead_letters() == []

    asyncio.run(check())


@pytest.mark.parametrize("backend", ["sqlite", "memory"])
def test_without_a_journal_there_are_none(backend: Any, answered: Command):
    with Memory(backend=backend) as memory:
        assert write(memory, conflicting())[0].state == "rejected", "the call itself was told"
        assert memory.engine.conflicts() == memory.engine.dead_letters() == []
    code, told, _ = answered("--backend", backend, "conflicts", "--json")
    assert (code, told) == (0, {"conflicts": []})


# --- on the command line --------------------------------------------------------------------------


def test_the_command_lists_those_of_every_journal(server: Server, namespace: str, answered: Command):
    words = ("--url", server.url, "--namespace", namespace, "conflicts")
    assert answered(*words)[:2] == (0, "no conflicts\n")
    one, two = (Memory(url=server.url, namespace=namespace, deadline=d, heartbeat=0.2) for d in (0.5, 0.6))
    with one, two:
        assert journal_of(one).path != journal_of(two).path
        first = write(one, conflicting("memory:a"))[0].op_id
        second = write(two, conflicting("memory:b"))[0].op_id
        third = write(one, conflicting("memory:c"))[0].op_id
        code, told, err = answered(*words, "--json")
        assert (code, err) == (0, "")
        assert [each["op_id"] for each in told["conflicts"]] == [third, second, first]
    out = " ".join(answered(*words)[1].split())
    assert all(each in out for each in (first, second, third, "memory:a", "had changed since it was read"))
    assert "secret" not in out
    _, out, err = answered(*words, "--limit", "2")
    assert third in out and first not in out and "the newest 2" in err
    _, told, _ = answered(*words, "--key", "memory:b", "--json")
    assert [each["op_id"] for each in told["conflicts"]] == [second]
    assert answered(*words, "--key", "memory:_")[1] == "no conflicts\n", "a prefix is taken literally"
    assert answered(*words, "--since", "0.000001")[1] == "no conflicts\n"
    _, told, _ = answered(*words, "--since", "60", "--json")
    assert len(told["conflicts"]) == 3


@pytest.mark.parametrize("words", [("--since", "0"), ("--since", "nan"), ("--limit", "-1"), ("x",)], ids=" ".join)
def test_a_wrong_call_is_one_clear_line(answered: Command, words: Sequence[str]):
    code, out, err = answered("conflicts", *words)
    assert (code, out) == (2, "")
    assert err.startswith("remanence: ") and err.count("\n") == 1


def test_a_journal_that_cannot_be_read_is_told(server: Server, namespace: str, answered: Command):
    words = ("--url", server.url, "--namespace", namespace, "conflicts")
    with Memory(url=server.url, namespace=namespace, adopt=False, **QUICK) as memory:
        (receipt,) = write(memory, conflicting())
        (Path(journal_of(memory).path).parent / "0.journal").write_bytes(b"no database at all" * 99)
        code, out, err = answered(*words)
    assert code == 1 and receipt.op_id in out and "0.journal: not a journal" in err


# --- bounds ---------------------------------------------------------------------------------------


def test_the_oldest_conflicts_are_forgotten_and_no_dead_letter(server: Server, namespace: str):
    with (
        closing(server.client()) as client,
        Memory(url=server.url, namespace=namespace, outcomes_kept=20, **QUICK) as memory,
    ):
        client.hset(Keyspace(namespace).data("list"), "a", "b")
        memory.get("none", None)  # the keeper begins
        assert eventually(lambda: not journal_of(memory).outcomes_grew), "counted once, and nothing there"
        dead = [each.op_id for each in write(memory, *[Append("list", (b"x",))] * 30)]
        refused = [each.op_id for each in write(memory, *[conflicting()] * 100)]
        assert eventually(lambda: memory.engine.status().conflicts <= 20)
        kept = [each.op_id for each in memory.engine.conflicts()]
        assert len(kept) == 18, "a tenth more goes than must"
        assert kept == refused[:-19:-1]
        assert {each.op_id for each in memory.engine.dead_letters()} == set(dead)
        assert memory.engine.status().dead_letters == 30
        assert "none" not in memory, "what was refused and forgotten is no key"


def filled(sizes: Sequence[int], path: str = ":memory:") -> Journal:
    """A journal whose writes of these sizes were refused, with a dead letter at its beginning."""
    journal = Journal(Database(path), BlockingRuntime(), "print")
    for i, size in enumerate([10, *sizes]):
        (row,) = journal.append([(f"{i:022}", i + 1, Put(f"k{i}", b"x" * size))])
        journal.record(row, "conflict" if i else "dead", "why")
    return journal


def held(journal: Journal) -> list[int]:
    return sorted(int(each.op_id) for each in journal.outcomes(*CONFLICTS, "dead"))


def test_bounds_of_number_and_of_bytes():
    journal = filled([1000] * 10)
    assert bound(journal, 100, 1 << 20) == 0
    assert not journal.outcomes_grew
    assert bound(journal, 5, 1) == 0, "nothing is counted again until another was refused"
    journal.outcomes_grew = True
    assert bound(journal, 100, 5000) == 6
    assert held(journal) == [0, 7, 8, 9, 10]
    journal.outcomes_grew = True
    assert bound(journal, 0, 1 << 20) == 4
    assert held(journal) == [0]


def test_a_refused_write_that_is_forgotten_is_no_key():
    journal = filled([10])
    assert [each.key for each in journal.last_writes("k")] == []
    journal.outcomes_grew = True
    bound(journal, 0, 0)
    assert held(journal) == [0]
    assert [each.key for each in journal.last_writes("k")] == []


def test_the_last_writes_behind_a_row():
    journal = Journal(Database(":memory:"), BlockingRuntime(), "print")
    writes = [Put("ka", b"1"), Put("kb", b"1"), Delete("ka"), Put("other", b"1"), Put("kc", b"1")]
    rows = journal.append([(f"{i:022}", i + 1, each) for i, each in enumerate(writes)])
    assert journal.settled() == 0
    assert journal.last_writes("k") == [writes[1], writes[2], writes[4]]
    assert journal.last_writes("k", rows[1].n) == [writes[2], writes[4]]
    assert journal.last_writes("k", rows[2].n) == [writes[4]]
    (lineage,) = journal.lineages
    journal.acknowledge(lineage, 2)
    assert journal.settled() == rows[1].n
    journal.acknowledge(lineage, 5)
    assert journal.settled() == rows[4].n
    assert journal.last_writes("k", journal.settled()) == []


def test_as_many_as_fit():
    assert within([], 10) == 0
    assert within([50, 1], 10) == 1, "one, or nothing would ever move"
    assert within([4, 4, 4], 10) == 2
    assert within([4, 4], 10) == 2


# --- a journal that goes --------------------------------------------------------------------------


def test_conflicts_are_handed_on_some_at_a_time():
    source, target = filled([2 << 20] * 3 + [10] * 600), filled([10])
    rounds = 1
    while not hand_on(source, target):
        rounds += 1
        assert rounds < 9
    assert rounds > 2, "by bytes, and by number"
    assert held(source) == [0], "dead letters stay with their journal"
    found = target.outcomes("conflict", limit=9999)
    assert sorted(int(each.op_id) for each in found) == sorted([1, *range(1, 604)])
    before = target.active.end
    target.append([("B" * 22, 9999, Put("k", b"later"))])
    assert target.active.end == before + 1, "the numbers of rows are untouched"
    assert hand_on(source, target), "nothing left"
    assert len(newest(found, 9999)) == 603, "each once"


LEAVE = """
import sys, time
from remanence import Memory
from remanence.testing.oracle import QUICK
url, namespace = sys.argv[1:]
memory = Memory(url=url, namespace=namespace, **{**QUICK, "close_timeout": 0.0})
memory.late = "old"
assert memory.engine.status().pending == 1
print(memory.engine.gateway.journal.path)
memory.close(0)
"""


@pytest.mark.parametrize("retain", [0.0, 600.0], ids=["its journal goes", "its journal is kept"])
def test_the_conflicts_of_an_ended_process_are_told(server: Server, namespace: str, answered: Command, retain: float):
    options: Any = {"url": server.url, "namespace": namespace, **QUICK}
    with Memory(**options) as memory:
        memory.late = "first"
        home = Path(journal_of(memory).path).parent  # what is claimed first by whoever comes next
        with FaultProxy(server) as proxy:
            proxy.refuse()
            left = Path(child(LEAVE, proxy.url, namespace).strip())
        time.sleep(2.1)  # longer than a write counts as made just now
        memory.late = "new"
    for suffix in ("", "-wal", "-shm"):  # into the folder of the server's own address, behind the other
        if (path := left.with_name(left.name + suffix)).exists():
            path.rename(home / f"z.journal{suffix}")
    with Memory(**options, retain=retain) as memory:
        assert memory.late == "new"
        assert eventually(lambda: [each.kind for each in memory.engine.conflicts()] == ["stale"])
        if not retain:
            assert eventually(lambda: not (home / "z.journal").exists()), "nothing keeps the file"
            assert memory.engine.status().conflicts == 1
        (stale,) = memory.engine.conflicts()
        assert (stale.key, memory.late) == ("memory:late", "new")
        words = ("--url", server.url, "--namespace", namespace, "conflicts", "--json")
        assert [each["op_id"] for each in answered(*words)[1]["conflicts"]] == [stale.op_id]
        assert len(survey(home)) == (2 if retain else 1)


def test_those_of_every_partition(server: Server, namespace: str, answered: Command):
    options: Any = {"url": server.url, "namespace": namespace, "partitions": 4, **QUICK}
    with Memory(**options) as memory:
        ids = {write(memory, conflicting(f"memory:{n}"))[0].op_id for n in range(12)}
        assert {each.op_id for each in memory.engine.conflicts()} == ids
        assert len(memory.engine.conflicts(3)) == 3
        _, told, _ = answered("--url", server.url, "--namespace", namespace, "conflicts", "--json")
        assert {each["op_id"] for each in told["conflicts"]} == ids
