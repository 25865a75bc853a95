"""Clusters and Sentinels: all faces on the real thing, and who is asked for what."""

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import closing
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
from remanence.errors import Misconfigured, Unavailable
from remanence.runtime.blocking import BlockingRuntime, run
from remanence.stores.partitioned import (
    parts_of,
)
from remanence.testing.clusters import Cluster, Watched, address, told
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import QUICK, Heard, eventually
from remanence.testing.servers import HOST, Certificates, PortClaim, Server, supports_tls
from remanence.wire.address import Address, Node
from remanence.wire.cluster import Topology, topology_of
from remanence.wire.keys import Keyspace, partition_of
from remanence.wire.redis import blocking_connect
from remanence.wire.sentinel import Sentinels


@pytest.fixture(scope="module")
def watched(server_kind: str) -> Iterator[Watched]:
    """A primary with its replica behind three Sentinels, for all tests here."""
    with Watched(server_kind) as made:
        yield made


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


def test_all_names_of_a_partition_are_in_its_slot(cluster: Cluster):
    for at in range(5):
        keys = Keyspace("n", at, tagged=True)
        for name in (keys.data("k{x}"), keys.tombstone("k"), keys.watermark("L"), keys.log, keys.partitions):
            assert told(cluster.servers[0], "CLUSTER", "KEYSLOT", name) == keys.slot


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
        quick = QUICK | {"deadline": 2.0}  # a handshake of TLS for each of eight partitions
        with Memory(url=url, tls_ca=str(certificates.ca), namespace=namespace, **quick) as memory:
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
