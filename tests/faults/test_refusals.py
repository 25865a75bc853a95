"""Servers that answer and refuse: out of memory, read-only, rights taken away. What waits is kept."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from remanence import Memory, events
from remanence.testing.oracle import (
    QUICK,
    Heard,
    eventually,
)
from remanence.testing.servers import Server
from remanence.testing.simple import append, items_of
from remanence.wire.keys import Keyspace

Fresh = Callable[..., Server]


def refusing(
    memory: Memory,
    server: Server,
    namespace: str,
    word: str,
    refuse: Callable[[], Any],
    relent: Callable[[], Any],
) -> Heard:
    """Write before, during and after a refusal: the queue is kept, the reason named, and all is exact."""
    heard = Heard(memory.engine)
    append(memory, "w:1")
    refuse()
    number = 1
    for _ in range(20):
        number += 1
        started = time.monotonic()
        append(memory, f"w:{number}")
        assert time.monotonic() - started < 0.5 + 0.1
        time.sleep(0.002)
    status = memory.engine.status()
    assert word in status.reason, status.reason
    assert not status.available and status.pending > 0
    relent()
    number += 1
    append(memory, f"w:{number}")
    assert memory.engine.flush(5)
    assert items_of(server, namespace) == [f"w:{i + 1}" for i in range(number)]
    assert not heard.of(events.DeadLettered) and memory.engine.status().dead_letters == 0
    assert not heard.of(events.ConfigurationRefused), "it passes by itself"
    assert eventually(lambda: memory.engine.status().available and memory.engine.status().reason == "")
    return heard


def test_t15_busy_script(fresh_server: Fresh, namespace: str):
    server = fresh_server(extra_args=("--lua-time-limit", "50"))
    spin = "local t = redis.call('TIME')[1] while true do end"
    spinning: list[threading.Thread] = []

    def refuse() -> None:
        def evaluate() -> None:
            with (
                closing(server.client(socket_timeout=10.0)) as client,
                pytest.raises(Exception, match="kill"),
            ):
                client.eval(spin, 0)

        spinning.append(threading.Thread(target=evaluate))
        spinning[0].start()
        time.sleep(0.2)

    def relent() -> None:
        with closing(server.client()) as client:
            client.script_kill()
        spinning[0].join()

    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        refusing(memory, server, namespace, "BUSY", refuse, relent)


def test_t15_misconf(fresh_server: Fresh, namespace: str):
    server = fresh_server(extra_args=("--save", "3600 1", "--enable-protected-configs", "yes"))

    def snapshot(status: str) -> None:
        with closing(server.client()) as client:
            client.bgsave()
            assert eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == status)

    def refuse() -> None:
        shutil.rmtree(server.data_folder)
        snapshot("err")

    def relent() -> None:
        server.data_folder.mkdir()
        with closing(server.client()) as client:
            client.config_set("dir", str(server.data_folder))
        snapshot("ok")

    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        refusing(memory, server, namespace, "MISCONF", refuse, relent)


def test_t15_noreplicas(fresh_server: Fresh, namespace: str):
    server = fresh_server()

    def want(replicas: int) -> Callable[[], Any]:
        def ask() -> None:
            with closing(server.client()) as client:
                client.config_set("min-replicas-to-write", replicas)

        return ask

    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        refusing(memory, server, namespace, "NOREPLICAS", want(1), want(0))


def test_t15_out_of_memory(fresh_server: Fresh, namespace: str):
    server = fresh_server()

    def limit(size: int) -> Callable[[], Any]:
        def ask() -> None:
            with closing(server.client()) as client:
                client.config_set("maxmemory", size)

        return ask

    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        memory.known = "here"
        refusing(memory, server, namespace, "OOM", limit(1), limit(0))


def test_t15_a_server_that_only_refuses_writes_still_answers_reads(fresh_server: Fresh, namespace: str):
    server = fresh_server()
    with closing(server.client()) as client, Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        memory.x = 1
        client.config_set("maxmemory", 1)
        memory.x = 2
        name = Keyspace(namespace).data("memory:foreign")
        client.config_set("maxmemory", 0)
        client.set(name, json.dumps({"value": "new", "last_modified": 1}))
        client.config_set("maxmemory", 1)
        memory.y = 3
        assert not memory.engine.status().available
        assert memory.foreign == "new"
        assert not memory.read("foreign").stale
        assert memory.x == 2 and memory.y == 3
        client.config_set("maxmemory", 0)
        assert memory.engine.flush(5)


def test_t16_the_server_becomes_a_replica(fresh_server: Fresh, namespace: str):
    server, other = fresh_server(), fresh_server()

    def demote() -> None:
        with closing(server.client()) as client:
            client.execute_command("REPLICAOF", "127.0.0.1", other.port)

    def promote() -> None:
        with closing(server.client()) as client:
            client.execute_command("REPLICAOF", "NO", "ONE")

    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        heard = refusing(memory, server, namespace, "READONLY", demote, promote)
    assert heard.soon(events.BecameUnavailable)


# --- permissions ----------------------------------------------------------------------------------


def app(server: Server, rules: str) -> None:
    with closing(server.client()) as client:
        client.execute_command("ACL", "SETUSER", "app", *rules.split())


ALL = "reset on >first ~* &* +@all"


def as_app(server: Server, password: str = "first") -> str:
    return f"redis://app:{password}@127.0.0.1:{server.port}/0"


@pytest.mark.parametrize(
    ("rules", "word", "kicked"),
    [
        (ALL.replace("first", "second"), "password", True),
        ("off", "password", True),
        ("-evalsha -eval", "NOPERM", False),
        ("-@all", "NOPERM", False),
        ("resetkeys ~other:*", "NOPERM", False),
        ("-rpush", "NOPERM", False),
        ("-set -setrange", "NOPERM", False),
        ("-@write", "NOPERM", False),
        ("-hset", "NOPERM", False),
        ("-xadd", "NOPERM", False),
        ("-hmget", "NOPERM", False),
    ],
)
def test_t22_rights_taken_away(fresh_server: Fresh, namespace: str, rules: str, word: str, kicked: bool):
    server = fresh_server()
    app(server, ALL)

    def refuse() -> None:
        app(server, rules)
        if kicked:
            with closing(server.client()) as client:
                client.execute_command("CLIENT", "KILL", "USER", "app")

    with Memory(url=as_app(server), namespace=namespace, **QUICK) as memory:
        heard = Heard(memory.engine)
        append(memory, "w:1")
        memory.n = 0
        refuse()
        for i in range(10):
            append(memory, f"w:{i + 2}")
            memory.increment("n")
        status = memory.engine.status()
        assert not status.available
        assert any(word in str(each) for each in heard.soon(events.ConfigurationRefused)), status.reason
        assert status.dead_letters == 0 and not heard.of(events.DeadLettered)
        app(server, ALL)
        assert memory.engine.flush(5)
        assert memory.n == 10
        assert items_of(server, namespace) == [f"w:{i + 1}" for i in range(11)]
        assert heard.soon(events.ConfigurationRefused)
        assert memory.engine.status().dead_letters == 0
