"""Sentinel, clusters and partitions: addresses, names, routing, and all faces on the real thing."""

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from remanence import (
    AsyncConversationMemory,
    AsyncMemory,
    AsyncMemoryClient,
    ConversationMemory,
    Memory,
    MemoryClient,
    events,
)
from remanence.cli import main
from remanence.errors import InvalidArgument, InvalidSetting, Misconfigured, Unavailable
from remanence.model import Append, Put
from remanence.protocols import Fetch, Status, Tail
from remanence.runtime.blocking import BlockingRuntime, run
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
from remanence.testing.clusters import Cluster, Watched, told
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import QUICK, Heard, child, eventually
from remanence.testing.servers import HOST, Certificates, PortClaim, Server, supports_tls
from remanence.wire.address import Address, Node
from remanence.wire.cluster import Range, Topology, read_slots, serving, topology_of
from remanence.wire.keys import Keyspace, partition_of, tag
from remanence.wire.redis import blocking_connect
from remanence.wire.refusals import Refusal, refused
from remanence.wire.sentinel import Sentinels, read_sentinels

LONG = 10.0
"""Seconds that a forming or busy cluster may take in a test."""


@pytest.fixture(scope="module")
def cluster(server_kind: str) -> Iterator[Cluster]:
    """Three primaries with a replica each, for all tests here: write under `namespace`, leave it whole."""
    with Cluster(server_kind) as made:
        yield made


@pytest.fixture(scope="module")
def watched(server_kind: str) -> Iterator[Watched]:
    """A primary with its replica behind three Sentinels, for all tests here."""
    with Watched(server_kind) as made:
        yield made


def address(url: str) -> Address:
    return Address(url, connect_timeout=1.0)


# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://h:1/2", "h:1/2"),
        ("redis+cluster://b:2,a:1", "cluster://a:1,b:2"),
        ("redis+cluster://a:1,b:2/", "cluster://a:1,b:2"),
        ("redis+cluster://a:1,b:2,a:1/0", "cluster://a:1,b:2"),
        ("rediss+cluster://u:secret@a", "cluster://a:6379"),
        ("redis+cluster://[::1]:7000,[::2]", "cluster://[::1]:7000,[::2]:6379"),
        ("redis+sentinel://b:2,a/main", "sentinel://a:26379,b:2/main/0"),
        ("redis+sentinel://:secret@a:1,b:2/main/3", "sentinel://a:1,b:2/main/3"),
        ("rediss+sentinel://u:secret@a:1/my%20main/3", "sentinel://a:1/my main/3"),
    ],
)
def test_the_public_name_tells_deployments_apart_and_no_secret(url: str, name: str):
    found = address(url)
    assert found.name == name
    assert "secret" not in repr(found)
    assert found.scheme == ("rediss" if url.startswith("rediss") else "redis")


def test_login_and_database_go_to_every_node():
    found = address("redis+sentinel://us%40er:se%3Acret@a:1/main/3").at(Node("n", 7))
    wanted = {"host": "n", "port": 7, "username": "us@er", "password": "se:cret", "db": 3}
    assert {name: found.options[name] for name in wanted} == wanted
    assert found.kind == "server" and found.name == "n:7/3"


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("redis+sentinel://u:secret@a:1", "/service"),
        ("redis+sentinel://u:secret@a:1/", "/service"),
        ("redis+sentinel://u:secret@a:1/main/x", "/service"),
        ("redis+sentinel://u:secret@a:port/main", "/service"),
        ("redis+sentinel://u:secret@/main", "/service"),
        ("redis+sentinel://u:secret@a:1/main?x=1", "/service"),
        ("redis+cluster://u:secret@a:99999", "host:port[,host:port"),
        ("redis+cluster://u:secret@a:1,,b:2", "host:port[,host:port"),
        ("redis+cluster://", "host:port[,host:port"),
        ("redis+cluster://u:secret@a:1/1", "database 0 alone"),
        ("unix+cluster://u:secret@a", "must begin with"),
        ("sentinel://u:secret@a", "must begin with"),
    ],
)
def test_a_bad_address_says_what_to_write(url: str, advice: str):
    with pytest.raises(InvalidSetting, match=re.escape(advice)) as refusal:
        address(url)
    assert "secret" not in str(refusal.value)


def test_the_sentinels_password_is_never_shown():
    settings = Settings.build({}, sentinel_password="canary", url="redis+sentinel://a/main")
    assert "canary" not in repr(settings)
    assert "canary" not in str(Settings.explain({"REMANENCE_SENTINEL_PASSWORD": "canary"}))
    assert Settings.build({}).shown("sentinel_password") == ""


# --- names ----------------------------------------------------------------------------------------


def test_one_partition_keeps_the_documented_names():
    assert Keyspace().data("memory:x") == "memory:x"
    assert Keyspace("n").data("k") == Keyspace("n", 0, tagged=True).data("k")
    assert Keyspace().tag == Keyspace("", 0, tagged=True).tag == tag("")
    assert Keyspace("", 0, tagged=True).data("k") == f"{{{tag('')}}}:k"


def test_each_partition_has_a_tag_of_its_own():
    tags = [Keyspace(name, at).tag for name in ("", "1:", "n", "1:n") for at in range(50)]
    assert len(set(tags)) == len(tags)


def test_all_names_of_a_partition_are_in_its_slot(cluster: Cluster):
    for at in range(5):
        keys = Keyspace("n", at, tagged=True)
        for name in (keys.data("k{x}"), keys.tombstone("k"), keys.watermark("L"), keys.log, keys.partitions):
            assert told(cluster.servers[0], "CLUSTER", "KEYSLOT", name) == keys.slot


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


# --- decisions ------------------------------------------------------------------------------------


def test_slots_are_read_as_the_cluster_tells_them():
    asked = Node("asked", 1)
    ranges, nodes = read_slots([[0, 9, [b"a", 7, b"id"], [b"b", 8, b"id"]], [11, 20, [b"", 9], [b"?", 5]]], asked)
    assert ranges == [Range(0, 9, Node("a", 7)), Range(11, 20, Node("asked", 9))]
    assert set(nodes) == {Node("a", 7), Node("b", 8), Node("asked", 9), Node("asked", 5)}
    assert serving(ranges, 9) == Node("a", 7)
    assert serving(ranges, 10) is None
    assert read_slots([[0, 1, [None, 3]]], asked)[0] == [Range(0, 1, Node("asked", 3))]


def test_who_was_lost_lately_is_asked_last():
    topology = Topology(address("redis+cluster://a:1,b:2,c:3"))
    for name, port in (("b", 2), ("a", 1)):
        topology.doubt(Node(name, port))
    assert topology._in_order(BlockingRuntime()) == [Node("c", 3), Node("b", 2), Node("a", 1)]


def test_sentinels_are_learned():
    reply = [[b"name", b"x", b"ip", b"10.0.0.1", b"port", b"26379"], [b"name", b"y"]]
    assert read_sentinels(reply) == [Node("10.0.0.1", 26379)]


@pytest.mark.parametrize("text", ["MOVED 5 h:1", "ASK 5 h:1", "CLUSTERDOWN Hash slot not served", "TRYAGAIN later"])
def test_redirections_pass_by_themselves(text: str):
    error = refused(Refusal(text))
    assert isinstance(error, Unavailable) and error.retryable
    assert error.answered == text.startswith(("ASK", "TRYAGAIN"))


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


# --- the faces ------------------------------------------------------------------------------------


def all_faces(url: str, namespace: str) -> None:
    options: Any = {**QUICK, "deadline": 2.0, "url": url, "namespace": namespace}
    with Memory(**options) as memory:
        memory.settings = {"theme": "light"}
        memory.settings["theme"] = "dark"
        assert memory.increment("n", 3) == 3
        memory.log = []
        memory.log.append("x")
        assert (memory.settings, memory.log, memory.n) == ({"theme": "dark"}, ["x"], 3)
        assert sorted(memory.keys()) == ["log", "n", "settings"]
        del memory.n
        assert "n" not in memory
    with ConversationMemory("c-1", **options) as conversation:
        conversation.topic = "weather"
        assert conversation.topic == "weather"
    with MemoryClient(**options) as client:
        client.add_many("s-1", [("user", "a"), ("assistant", "b")])
        for session in ("s-2", "s-3"):
            client.add(session, "user", "c")
        assert [message["content"] for message in client.get("s-1")] == ["a", "b"]
        assert sorted(client.sessions("s-")) == ["s-1", "s-2", "s-3"]
        client.clear("s-2")
        assert not client.exists("s-2") and client.count("s-1") == 2


async def all_faces_awaited(url: str, namespace: str) -> None:
    options: Any = {**QUICK, "deadline": 2.0, "url": url, "namespace": namespace}
    async with AsyncMemory(**options) as memory:
        await asyncio.gather(*(memory.set(f"k{i}", i) for i in range(20)))
        assert await asyncio.gather(*(memory.get(f"k{i}") for i in range(20))) == list(range(20))
        assert await memory.increment("n") == 1
    async with AsyncConversationMemory("c-1", **options) as conversation:
        await conversation.set("topic", "weather")
        assert await conversation.get("topic") == "weather"
    async with AsyncMemoryClient(**options) as client:
        await client.add_many("s-1", [("user", "a"), ("assistant", "b")])
        await client.add("s-2", "user", "c")
        assert [message["content"] for message in await client.get("s-1")] == ["a", "b"]
        assert sorted(await client.sessions("s-")) == ["s-1", "s-2"]


def conversations(url: str) -> None:
    from remanence import RedisWorkingMemoryManager
    from remanence.faces.conversation_types import ConversationMemoryType, IMemoryInput, IWorkingMemory

    kind = ConversationMemoryType.WORKING_MEMORY
    manager = RedisWorkingMemoryManager(storage_url=url, prefix="topologies")
    try:
        stored = IMemoryInput(conversation_id="c", memory_type=kind, data=[IWorkingMemory("hello")])
        assert manager.store(stored)
        found = manager.retrieve(IMemoryInput(conversation_id="c", memory_type=kind))
        assert [each.working_memory for each in found] == ["hello"]
        assert manager.cleanup("c") == 1
    finally:
        manager.close()


def test_all_faces_on_a_cluster(cluster: Cluster, namespace: str):
    all_faces(cluster.url, namespace)
    all_faces(cluster.url, "")  # where even the default namespace is tagged
    conversations(cluster.url)


def test_all_faces_on_a_cluster_awaited(cluster: Cluster, namespace: str):
    asyncio.run(all_faces_awaited(cluster.url, namespace))


def test_all_faces_behind_sentinels(watched: Watched, namespace: str):
    all_faces(watched.url, namespace)
    conversations(watched.url)


def test_all_faces_behind_sentinels_awaited(watched: Watched, namespace: str):
    asyncio.run(all_faces_awaited(watched.url, namespace))


def test_a_namespace_spreads_over_the_cluster(cluster: Cluster, namespace: str):
    with Memory(url=cluster.url, namespace=namespace, **QUICK) as memory:
        for i in range(40):
            memory.set(f"k{i}", i)
    used = {cluster.primary_of(Keyspace(namespace, at, tagged=True).slot).port for at in range(8)}
    assert len(used) >= 2
    with closing(cluster.client()) as client:
        for i in range(40):
            keys = Keyspace(namespace, partition_of(f"memory:k{i}", 8), tagged=True)
            assert client.exists(keys.data(f"memory:k{i}"))


# --- who serves what ------------------------------------------------------------------------------


def test_the_cluster_is_asked_once_for_everybody(cluster: Cluster, namespace: str):
    options: Any = {**QUICK, "deadline": 2.0, "url": cluster.url, "namespace": namespace}
    topology = topology_of(Address(cluster.url, connect_timeout=QUICK["connect_timeout"]))
    before = topology.asked
    with Memory(**options) as memory, Memory(**{**options, "namespace": namespace + "x"}) as other:
        for i in range(40):
            memory.set(f"k{i}", i)
            other.set(f"k{i}", i)
        assert 1 <= topology.asked - before <= 4  # once for both, and for each link that compared


def test_many_at_once_wait_for_one_answer(cluster: Cluster):
    with FaultProxy(cluster.servers[0].port) as proxy:
        proxy.delay(0.1)  # longer than the pause between two questions
        many_at_once(Topology(Address(proxy.url.replace("redis:", "redis+cluster:"), connect_timeout=2.0)))


def many_at_once(topology: Topology) -> None:

    async def all_of_them() -> None:
        from remanence.runtime.asynchronous import AsyncRuntime
        from remanence.wire.redis import async_connect

        runtime = AsyncRuntime()
        deadline = runtime.monotonic() + 5
        slots = range(0, 16384, 400)
        links = await asyncio.gather(*(topology.connect(s, async_connect, runtime)(deadline) for s in slots))
        assert topology.asked == 1
        for link in links:
            link.close()
        again = await asyncio.gather(*(topology.connect(s, async_connect, runtime)(deadline) for s in slots))
        assert topology.asked == 2
        for link in again:
            link.close()

    asyncio.run(all_of_them())


def test_dead_nodes_among_those_named_are_no_hindrance(cluster: Cluster, namespace: str):
    dead = ",".join(f"{HOST}:{port}" for port in range(1, 8))
    url = f"redis+cluster://{dead},{HOST}:{cluster.servers[0].port}"
    with Memory(url=url, namespace=namespace, **QUICK) as memory:
        memory.set("x", 1, ttl=60)
        assert memory.engine.status().available


def test_links_to_who_serves_no_more_are_outdated(cluster: Cluster):
    runtime, topology = BlockingRuntime(), Topology(Address(cluster.url, connect_timeout=2.0))
    slot = 7
    source = cluster.primary_of(slot)
    target = next(each for each in map(cluster.primary_of, (100, 6000, 16000)) if each is not source)
    link = run(topology.connect(slot, blocking_connect, runtime)(time.monotonic() + 5))  # type: ignore[arg-type]
    other = run(topology.connect(100, blocking_connect, runtime)(time.monotonic() + 5))  # type: ignore[arg-type]
    try:
        cluster.migrate(slot, target)
        topology.doubt()
        third = run(topology.connect(slot, blocking_connect, runtime)(time.monotonic() + 5))  # type: ignore[arg-type]
        third.close()
        assert link.outdated and not other.outdated
        with pytest.raises(Unavailable):
            link.post([("PING",)], time.monotonic() + 1)
    finally:
        other.close()
        cluster.migrate(slot, source)


def test_a_cluster_over_tls_that_does_not_know_its_own_host(
    certificates: Certificates, namespace: str, request: pytest.FixtureRequest
):
    if not supports_tls("redis"):
        pytest.skip("no server with TLS here")
    bus = PortClaim()
    request.addfinalizer(bus.release)
    extra = ["--cluster-enabled", "yes", "--tls-cluster", "yes", "--cluster-port", str(bus.number)]
    with Server("redis", tls=certificates, extra_args=extra) as alone:
        told(alone, "CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        assert eventually(lambda: "cluster_state:ok" in told(alone, "CLUSTER", "INFO"))
        url = f"rediss+cluster://localhost:{alone.port}"
        with Memory(url=url, tls_ca=str(certificates.ca), namespace=namespace, **QUICK) as memory:
            for i in range(10):
                memory.set(f"k{i}", i)
            assert memory.engine.status().available and memory.engine.status().pending == 0


# --- Sentinels ------------------------------------------------------------------------------------


def joined_by(watched: Watched, url: str, password: str = "") -> Sentinels:
    made = Sentinels(Address(url, connect_timeout=1.0), blocking_connect, BlockingRuntime(), password)
    run(made.connect(time.monotonic() + 5)).close()  # type: ignore[arg-type]
    return made


def test_one_sentinel_tells_of_the_others(watched: Watched):
    made = joined_by(watched, watched.url_by(watched.sentinels[1:2]))
    assert set(made.known) == {Node(HOST, each.port) for each in watched.sentinels}


def test_dead_sentinels_are_passed_over_and_asked_last(watched: Watched):
    url = watched.url.replace("://", f"://{HOST}:1,")
    made = joined_by(watched, url)
    assert made.known[0] != Node(HOST, 1)


def test_an_unknown_service_is_named_as_a_setting(watched: Watched, namespace: str):
    url = watched.url.replace("/memories/", "/others/")
    with Memory(url=url, namespace=namespace, **QUICK) as memory, pytest.raises(Misconfigured, match="service"):
        memory.get("x")


def test_a_replica_is_not_taken_for_the_primary(watched: Watched):
    made = Sentinels(Address(watched.url, connect_timeout=1.0), blocking_connect, BlockingRuntime())
    replica = next(server for server in watched.servers if server is not watched.primary)
    with pytest.raises(Unavailable, match="no primary"):
        run(made._joined(Node(HOST, replica.port), time.monotonic() + 1))


def test_sentinels_with_a_password_of_their_own(server_kind: str, namespace: str):
    with Watched(server_kind, password="their own") as guarded:
        options: Any = {**QUICK, "deadline": 2.0, "namespace": namespace}
        with Memory(url=guarded.url, sentinel_password="their own", **options) as memory:
            memory.set("x", 1)
            assert memory.engine.status().available
        with Memory(url=guarded.url, namespace=namespace + "x", **QUICK) as memory:
            heard = Heard(memory.engine)
            memory.set("x", 1)
            assert eventually(lambda: heard.of(events.ConfigurationRefused))
        # the servers want none, and refuse a login: that the Sentinels took it is all there is to see
        made = Sentinels(address(guarded.url.replace("://", "://:their%20own@")), blocking_connect, BlockingRuntime())
        assert run(made._named(time.monotonic() + 1)) == Node(HOST, guarded.primary.port)


# --- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["cluster", "watched"])
def test_the_commands_know_such_addresses(
    place: str, cluster: Cluster, watched: Watched, namespace: str, capsys: pytest.CaptureFixture[str]
):
    url = {"cluster": cluster, "watched": watched}[place].url

    def said(verb: str) -> str:
        assert main([verb, "--url", url, "--namespace", namespace]) == 0
        return capsys.readouterr().out

    with Memory(url=url, namespace=namespace, **QUICK) as memory:
        for i in range(10):
            memory.set(f"k{i}", i)
        stats = said("stats")
        assert "10 keys" in stats and stats.count("in use") == len(parts_of(memory.engine.gateway))
        assert len(re.findall(r'"memory:k\d"', said("export"))) == 10
        assert "are allowed" in said("doctor")
