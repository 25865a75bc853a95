"""A namespace in several partitions: their names, their number, and that they look like one."""

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from remanence import Memory
from remanence.errors import InvalidArgument, InvalidSetting, Misconfigured
from remanence.model import Append, Put
from remanence.protocols import Fetch, Status, Tail
from remanence.runtime.blocking import run
from remanence.settings import Settings
from remanence.stores.partitioned import (
    PartitionedReads,
    PartitionedStore,
    joined,
    next_cursor,
    parts_of,
    read_cursor,
    summed,
)
from remanence.stores.routes import partitions_of
from remanence.testing.clusters import address
from remanence.testing.oracle import QUICK, child, eventually
from remanence.testing.servers import Server
from remanence.wire.keys import Keyspace, partition_of, tag

LONG = 10.0
"""Seconds that a forming or busy cluster may take in a test."""


# --- names ----------------------------------------------------------------------------------------


def test_one_partition_keeps_the_documented_names():
    assert Keyspace().data("memory:x") == "memory:x"
    assert Keyspace("n").data("k") == Keyspace("n", 0, tagged=True).data("k")
    assert Keyspace().tag == Keyspace("", 0, tagged=True).tag == tag("")
    assert Keyspace("", 0, tagged=True).data("k") == f"{{{tag('')}}}:k"


def test_each_partition_has_a_tag_of_its_own():
    tags = [Keyspace(name, at).tag for name in ("", "1:", "n", "1:n") for at in range(50)]
    assert len(set(tags)) == len(tags)


def test_a_keys_partition_never_changes():
    assert [partition_of(key, 8) for key in ("memory:x", "session:s", "", "é")] == [7, 7, 5, 2]
    shares = [partition_of(f"session:{n}", 8) for n in range(8000)]
    assert all(850 < shares.count(at) < 1150 for at in range(8))


@pytest.mark.parametrize(("url", "count"), [("redis://h", 1), ("redis+sentinel://h/s", 1), ("redis+cluster://h", 8)])
def test_how_many_partitions(url: str, count: int):
    assert partitions_of(Settings.build({}, url=url), address(url)) == count
    assert partitions_of(Settings.build({"REMANENCE_PARTITIONS": "3"}, url=url), address(url)) == 3
    with pytest.raises(InvalidSetting, match="partitions"):
        Settings.build({}, url=url, partitions=1025)


# --- several as one -------------------------------------------------------------------------------


def test_cursors_walk_all_partitions_and_end():
    assert read_cursor("", 3) == (0, "")
    assert next_cursor(0, "17", 3) == "0:17"
    assert read_cursor("0:17", 3) == (0, "17")
    assert next_cursor(0, "", 3) == "1:"
    assert next_cursor(2, "", 3) == ""
    for bad in ("3:1", "17", "x:1", "-1:2"):
        with pytest.raises(InvalidArgument, match="cursor"):
            read_cursor(bad, 3)


def test_a_status_is_summed_and_of_the_worst():
    one = Status(True, True, "", 1, 10, 0.5, 100.0, 2, 3, 4, "/j/d/0-of-2/a", True, {"Applied": 9})
    two = Status(False, False, "away", 5, 50, 7.0, 90.0, 6, 7, 8, "/j/d/1-of-2/b", True, {"Applied": 9})
    assert summed([one, two]) == Status(False, True, "away", 6, 60, 7.0, 90.0, 8, 10, 12, "/j/d", True, {"Applied": 9})
    assert summed([one]).available


def test_facts_of_a_server_count_once():
    here = {"run_id": "a", "keys": "5", "used_memory": "100", "log": "2", "used_memory_human": "100B"}
    there = {"run_id": "b", "keys": "7", "used_memory": "200", "log": "4"}
    found = joined([here, {**here, "log": "3"}, there])
    assert (found["keys"], found["used_memory"], found["log"]) == ("12", "300", "9")
    assert "used_memory_human" not in found
    assert joined([here, here])["used_memory_human"] == "100B"


# --- partitions on one server ---------------------------------------------------------------------


def parted(server: Server, namespace: str, **options: Any) -> Memory:
    return Memory(url=server.url, namespace=namespace, **{**QUICK, "partitions": 4, **options})


def test_each_key_lives_in_its_partition_alone(server: Server, namespace: str):
    with parted(server, namespace) as memory, closing(server.client()) as client:
        for i in range(20):
            memory.set(f"k{i}", i)
        for i in range(20):
            key = f"memory:k{i}"
            spaces = [Keyspace(namespace, at, tagged=True) for at in range(4)]
            there = [at for at, keys in enumerate(spaces) if client.exists(keys.data(key))]
            assert there == [partition_of(key, 4)]
        assert sorted(memory.keys()) == sorted(f"k{i}" for i in range(20))
        assert [memory.get(f"k{i}") for i in range(20)] == list(range(20))
        folders = {Path(part.journal.path).parent.name for part in parts_of(memory.engine.gateway)}
        assert folders == {f"{at}-of-4" for at in range(4)}


def test_answers_come_in_the_callers_order(server: Server, namespace: str):
    with parted(server, namespace) as memory:
        gateway = memory.engine.gateway
        names = [f"k{i}" for i in range(12)]
        receipts = run(gateway.write([Put(name, b'{"value":%d}' % i) for i, name in enumerate(names)]))
        assert [receipt.state for receipt in receipts] == ["applied"] * 12
        alone = [run(gateway.read([Fetch(name)]))[0].value.etag for name in names]
        assert alone == [receipt.op_id for receipt in receipts]
        together = run(gateway.read([Fetch(name) for name in reversed(names)]))
        assert [reading.value.etag for reading in together] == alone[::-1]
        run(gateway.write([Append("l", (b"%d" % i,)) for i in range(9)]))
        assert run(gateway.read([Tail("l")]))[0].value == [b"%d" % i for i in range(9)]


def test_pages_show_every_key_once(server: Server, namespace: str):
    with parted(server, namespace) as memory:
        for i in range(50):
            memory.set(f"k{i}", i)
        found, cursor, pages = [], "", 0
        while True:
            keys, cursor = run(memory.engine.gateway.scan("memory:", cursor, 7))
            found += keys
            pages += 1
            if not cursor:
                break
        assert pages >= 4
        assert sorted(set(found)) == sorted(f"memory:k{i}" for i in range(50))


def test_writes_wait_in_every_partition_and_are_flushed(fresh_server: Any, namespace: str):
    server = fresh_server(persistence="aof")
    with parted(server, namespace) as memory:
        memory.set("k", 0)
        server.kill()
        for i in range(20):
            memory.set(f"k{i}", i)
        status = memory.engine.status()
        assert status.pending == 20 and not status.available and status.reason
        started = time.monotonic()
        assert not memory.engine.flush(0.3)
        assert time.monotonic() - started < 1.0
        server.start()
        assert memory.engine.flush(LONG)
        assert memory.engine.status().pending == 0
        assert [memory.get(f"k{i}") for i in range(20)] == list(range(20))


def test_the_next_process_sends_what_all_partitions_kept(fresh_server: Any, namespace: str):
    server = fresh_server(persistence="aof")
    with parted(server, namespace) as memory:
        memory.set("k", 0)
        server.kill()
        for i in range(20):
            memory.set(f"k{i}", i)
    server.start()
    with parted(server, namespace) as memory, closing(server.client()) as client:
        memory.set("k", 1)  # to one of the partitions: the others are looked after all the same
        names = [Keyspace(namespace, partition_of(f"memory:k{i}", 4)).data(f"memory:k{i}") for i in range(20)]
        assert eventually(lambda: client.exists(*names) == 20)
        assert [memory.get(f"k{i}") for i in range(20)] == list(range(20))


def test_a_watch_hears_of_all_partitions(server: Server, namespace: str):
    with parted(server, namespace) as memory, memory.watch(timeout=LONG) as changes:
        names = {f"k{i}" for i in range(10)}
        for name in names:
            memory.set(name, 1)
        heard = set()
        for change in changes:
            heard.add(change.name)
            if heard == names:
                break
        assert heard == names
        since = changes.cursor
        for i in range(10):
            memory.set(f"later{i}", i)
        with memory.watch(since=since, timeout=LONG) as resumed:
            again = [next(iter(resumed)).name for _ in range(10)]
        assert sorted(again) == [f"later{i}" for i in range(10)]


FORKING = """
import os, sys
from remanence import Memory
url, namespace = sys.argv[1:]
with Memory(url=url, namespace=namespace, partitions=4) as memory:
    for i in range(20):
        memory.set(f"k{i}", 0)
    pid = os.fork()
    for i in range(20):
        memory.increment(f"k{i}")
        memory.increment(f"k{i}")
    if not pid:
        assert memory.engine.flush(10)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [memory.get(f"k{i}") for i in range(20)] == [4] * 20
    print("exact")
"""


def test_a_forked_process_opens_its_own_partitions(server: Server, namespace: str):
    assert child(FORKING, server.url, namespace) == "exact\n"


def test_reads_of_all_partitions_refuse_what_belongs_to_one(server: Server, namespace: str):
    with parted(server, namespace) as memory:
        gateway = memory.engine.gateway
        assert isinstance(gateway, PartitionedStore) and isinstance(gateway.store, PartitionedReads)
        with pytest.raises(InvalidArgument, match="one partition"):
            run(gateway.store.history("L", 1, time.monotonic() + 1))
        with pytest.raises(InvalidArgument, match="one partition"):
            run(gateway.store.read([Fetch("k")], time.monotonic() + 1, ["L"]))
        facts = run(gateway.store.facts(time.monotonic() + 1))
        assert int(facts["keys"]) > 0


# --- how many there are ---------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "then"), [(4, 2), (2, 4), (4, 1), (1, 4)])
def test_another_number_of_partitions_is_refused(server: Server, namespace: str, first: int, then: int):
    with parted(server, namespace, partitions=first) as memory:
        memory.set("x", 1)
    with parted(server, namespace, partitions=then) as memory:
        with pytest.raises(Misconfigured, match=f"has {first} partition.*and {then} were"):
            memory.get("x")
        if then > 1:
            with pytest.raises(Misconfigured, match=f"has {first} partition"):
                memory.set("x", 2)
            assert memory.engine.status().pending == 0
    with parted(server, namespace, partitions=first) as memory:
        assert memory.get("x") == 1


def test_one_partition_leaves_no_mark(server: Server, namespace: str):
    with parted(server, namespace, partitions=1) as memory, closing(server.client()) as client:
        memory.set("x", 1)
        assert not client.exists(Keyspace(namespace).partitions)
        assert not isinstance(memory.engine.gateway, PartitionedStore)


def test_a_server_that_forgot_is_told_again_how_many(fresh_server: Any, namespace: str):
    server = fresh_server()
    with parted(server, namespace) as memory:
        memory.set("x", 1)
        server.restart_empty()
        with closing(server.client()) as client:
            assert eventually(lambda: client.get(Keyspace(namespace).partitions) == b"4")
