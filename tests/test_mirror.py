"""`reads="mirror"`: a copy of the namespace on disk, which follows the change log."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from remanence import Memory, MemoryClient
from remanence.stores.mirror import Mirror
from remanence.testing.servers import Server
from remanence.wire.keys import Keyspace


def until(found: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until it is so."""
    limit = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < limit, "not within its time"
        time.sleep(0.005)


def mirror_of(memory: Any) -> Mirror:
    found: Mirror = memory.engine.gateway.mirror
    return found


@contextmanager
def mirrored(server: Server, namespace: str, kind: type = Memory, **options: Any) -> Iterator[Any]:
    """A memory whose mirror has caught up."""
    with kind(url=server.url, namespace=namespace, reads="mirror", **options) as memory:
        assert memory.get("none", None) is None if kind is Memory else memory.get("none") == []
        until(lambda: mirror_of(memory).caught_up)
        yield memory


@pytest.fixture
def other(server: Server, namespace: str) -> Iterator[Memory]:
    with Memory(url=server.url, namespace=namespace, deadline=1.01) as memory:
        yield memory


def test_what_was_there_is_read_from_disk(server: Server, namespace: str, other: Memory):
    for n in range(700):
        other.set(f"n{n}", {"n": n})
    with mirrored(server, namespace) as memory, closing(server.client()) as client:
        before = client.info("commandstats")["cmdstat_get"]["calls"]
        for n in range(700):
            reading = memory.read(f"n{n}")
            assert (reading.value, reading.source) == ({"n": n}, "mirror")
        assert memory.get("absent", None) is None, "the mirror is whole: what it lacks is not there"
        assert client.info("commandstats")["cmdstat_get"]["calls"] == before
        assert reading.as_of is not None and abs(time.time() - reading.as_of) < 4


def test_it_follows_what_others_change(server: Server, namespace: str, other: Memory):
    other.x = 1
    other.gone = 1
    with mirrored(server, namespace) as memory:
        other.x = 2
        until(lambda: memory.x == 2)
        del other.gone
        until(lambda: "gone" not in memory)
        other.log = []
        for n in range(30):
            other.log.append(n)
        until(lambda: memory.get("log", None) == list(range(30)))
        other.set("soon", 1, ttl=0.3)
        until(lambda: memory.get("soon", None) == 1)
        time.sleep(0.35)
        assert memory.get("soon", None) is None
        until(lambda: mirror_of(memory).told.__self__.caught_up)


def test_sessions_are_followed_item_by_item(server: Server, namespace: str):
    with MemoryClient(url=server.url, namespace=namespace) as writer:
        for n in range(40):
            writer.add("s", "user", str(n))
        with mirrored(server, namespace, MemoryClient) as client:

            def told(**how: Any) -> list[str]:
                return [message["content"] for message in client.get("s", **how)]

            assert told() == [str(n) for n in range(40)]
            assert client.read("s").source == "mirror"
            for n in range(40, 60):
                writer.add("s", "user", str(n))
            until(lambda: told() == [str(n) for n in range(60)])
            assert told(limit=3) == ["57", "58", "59"]
            writer.clear("s")
            for n in range(80):
                writer.add("s", "user", f"new {n}")
            until(lambda: told() == [f"new {n}" for n in range(80)])
            client.add("s", "user", "own")
            assert told(limit=2) == ["new 79", "own"]


def test_own_writes_are_seen_at_once(server: Server, namespace: str, other: Memory):
    with mirrored(server, namespace) as memory:
        for n in range(200):
            memory.set(f"k{n % 90}", n)
            assert memory.get(f"k{n % 90}") == n
            memory.increment("count")
            assert memory.count == n + 1
            if n % 7 == 0:
                other.increment("count", 0)


def test_a_restart_goes_on_from_its_cursor(server: Server, namespace: str, other: Memory):
    for n in range(300):
        other.set(f"n{n}", n)
    with mirrored(server, namespace) as memory:
        path = Path(mirror_of(memory).file.path)
    other.n7 = "changed"
    del other.n8
    with closing(server.client()) as client, closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*) FROM kept").fetchone()[0] == 300
        before = client.info("commandstats").get("cmdstat_scan", {"calls": 0})["calls"]
        with mirrored(server, namespace) as memory:
            assert mirror_of(memory).file.path == str(path)
            assert (memory.n7, memory.get("n8", None), memory.n9) == ("changed", None, 9)
            assert memory.read("n9").source == "mirror"
        assert client.info("commandstats").get("cmdstat_scan", {"calls": 0})["calls"] == before, (
            "nothing looked through"
        )


def test_two_processes_have_a_file_each(server: Server, namespace: str, other: Memory):
    other.x = 1
    script = (
        "import sys, time\nfrom remanence import Memory\n"
        "m = Memory(url=sys.argv[1], namespace=sys.argv[2], reads='mirror')\n"
        "while not (m.get('x') and m.engine.gateway.mirror.caught_up): time.sleep(0.01)\n"
        "print(m.engine.gateway.mirror.file.path, m.x, flush=True)\nm.close()"
    )
    with mirrored(server, namespace) as memory:
        ended = subprocess.run(
            [sys.executable, "-c", script, server.url, namespace],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        path, value = ended.stdout.split()
        assert value == "1"
        assert path != mirror_of(memory).file.path


def test_a_log_cut_off_past_the_cursor(server: Server, namespace: str, other: Memory):
    other.x, other.y = 1, 1
    with mirrored(server, namespace):
        pass
    other.x = 2
    del other.y
    with closing(server.client()) as client:
        client.xtrim(Keyspace(namespace).log, maxlen=0, approximate=False)
    other.z = 3
    with mirrored(server, namespace) as memory:
        assert (memory.x, memory.get("y", None), memory.z) == (2, None, 3)
        assert memory.read("z").source == "mirror"


def test_the_server_goes_away_and_comes_back(fresh_server: Callable[..., Server], namespace: str):
    with fresh_server() as server, Memory(url=server.url, namespace=namespace, deadline=0.31) as other:
        for n in range(50):
            other.set(f"n{n}", n)
        with mirrored(server, namespace, deadline=0.3, staleness=0.5) as memory:
            server.kill()
            until(lambda: memory.read("n3").source == "local")
            assert [memory.get(f"n{n}") for n in range(50)] == list(range(50)), "never read before"
            assert memory.get("absent", None) is None
            memory.n3 = "offline"
            assert memory.n3 == "offline"
            assert {f"n{n}" for n in range(50)} <= set(memory.keys())
            server.restart_empty()
            until(lambda: other.get("n5", None) == 5, 10.0)
            until(lambda: memory.read("n5").source in ("near", "mirror"), 10.0)
            assert (memory.n3, memory.n5) == ("offline", 5)


@pytest.mark.parametrize("evict", ["lru", "lfu", "age"])
def test_a_bounded_mirror_lets_keys_go(server: Server, namespace: str, other: Memory, evict: str):
    for n in range(30):
        other.set(f"n{n}", n)
    with mirrored(server, namespace, mirror_records=20, mirror_evict=evict) as memory:
        assert mirror_of(memory).file.count <= 20
        assert [memory.get(f"n{n}") for n in range(30)] == list(range(30)), "the store has the rest"
        kept = [f"n{n}" for n in range(30) if memory.read(f"n{n}").source == "mirror"]
        assert kept
        for _ in range(5):
            memory.get(kept[0])
        for n in range(12):
            other.set(f"later{n}", n)
        until(lambda: memory.read("later11").source in ("mirror", "near"))
        until(lambda: mirror_of(memory).file.count <= 20)  # it lets go behind what it took in
        there = {row[0] for row in mirror_of(memory).file._database.run("SELECT key FROM kept")}
        assert (f"memory:{kept[0]}" in there) is (evict != "age"), "what was used stays, unless age decides"


def test_bytes_are_bounded_too(server: Server, namespace: str, other: Memory):
    for n in range(40):
        other.set(f"n{n}", "x" * 2000)
    with mirrored(server, namespace, mirror_bytes=30_000) as memory:
        assert 0 < mirror_of(memory).file.size <= 30_000
        assert memory.n0 == memory.n39 == "x" * 2000


def test_a_damaged_file_is_filled_again(server: Server, namespace: str, other: Memory):
    other.x = 1
    with mirrored(server, namespace) as memory:
        path = Path(mirror_of(memory).file.path)
    path.write_bytes(b"no database" * 500)
    with mirrored(server, namespace) as memory:
        assert memory.read("x").source == "mirror"


def test_what_is_not_ours_is_left_alone(server: Server, namespace: str, other: Memory):
    other.x = 1
    with closing(server.client()) as client:
        prefix = Keyspace(namespace).data("")
        client.hset(prefix + "hash", "a", "b")
        client.set(prefix.encode() + b"\xff\xfe", b"not text")
        client.set(prefix + "plain", b"\x80 anything")
    with mirrored(server, namespace) as memory:
        assert memory.x == 1
        assert sorted(mirror_of(memory).keys("")) == ["memory:x", "plain"]


def test_the_default_namespace_sees_nothing_of_others(fresh_server: Callable[..., Server]):
    with fresh_server() as server, Memory(url=server.url) as other, Memory(url=server.url, namespace="n") as apart:
        other.x = other.gone = apart.x = 1
        del other.gone
        with mirrored(server, "") as memory:
            assert memory.x == 1
            assert mirror_of(memory).keys("") == ["memory:x"]


def test_a_list_that_others_replaced_is_fetched_anew(server: Server, namespace: str):
    with (
        mirrored(server, namespace, MemoryClient) as client,
        MemoryClient(url=server.url, namespace=namespace) as writer,
    ):
        for n in range(5):
            writer.add("s", "user", str(n))
        until(lambda: len(client.get("s")) == 5)
        with closing(server.client()) as raw:
            name = Keyspace(namespace).data("session:s")
            items = raw.lrange(name, 0, -1)
            raw.delete(name)  # as somebody who leaves no trace in the log
            raw.rpush(name, *items[1:], *items[:3])
        writer.add("s", "user", "last")
        wanted = ["1", "2", "3", "4", "0", "1", "2", "last"]
        until(lambda: [message["content"] for message in client.get("s")] == wanted)


def test_own_messages_are_not_twice_in_what_is_read_offline(fresh_server: Callable[..., Server], namespace: str):
    with (
        fresh_server() as server,
        mirrored(server, namespace, MemoryClient, local_records=0, deadline=0.3, staleness=0.3) as client,
    ):
        for n in range(5):
            client.add("s", "user", str(n))
        until(lambda: client.read("s").source == "mirror")
        server.kill()
        until(lambda: client.read("s").source == "local")
        client.add("s", "user", "offline")
        told = [message["content"] for message in client.get("s")]
        assert told == ["0", "1", "2", "3", "4", "offline"]


def test_a_forked_child_follows_into_a_file_of_its_own(server: Server, namespace: str, other: Memory):
    other.x = 1
    with mirrored(server, namespace) as memory:
        mine = mirror_of(memory).file.path
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                found = memory.get("x")
                while not mirror_of(memory).caught_up:
                    memory.get("x")
                os.write(writer, f"{found} {mirror_of(memory).file.path}".encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        told, path = os.read(reader, 1000).decode().split()
        assert (told, path) == ("1", mine.replace("0.mirror", "1.mirror"))
        other.x = 2
        until(lambda: memory.x == 2)
