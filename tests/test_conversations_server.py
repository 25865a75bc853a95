"""Conversation working memory on real servers: what is stored, and outages."""

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from remanence.aio.conversations import AsyncRedisWorkingMemoryManager
from remanence.errors import AuthenticationFailed, CorruptRecord, Misconfigured, ServerFull, Unavailable, WrongKind
from remanence.faces.conversation_types import IWorkingMemory
from remanence.sync.conversations import RedisWorkingMemoryManager
from remanence.testing.conversing import about, words
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import eventually
from remanence.testing.servers import Server
from remanence.wire.keys import Keyspace

Make = Callable[..., RedisWorkingMemoryManager]


@pytest.fixture
def make(namespace: str) -> Iterator[Make]:
    """Managers at an address, closed after the test."""
    made: list[RedisWorkingMemoryManager] = []

    def build(url: str, **options: Any) -> RedisWorkingMemoryManager:
        made.append(RedisWorkingMemoryManager(url, **{"namespace": namespace, **options}))
        return made[-1]

    yield build
    for each in made:
        each.close(0.1)


@pytest.fixture
def raw(server: Server, namespace: str) -> Iterator["Raw"]:
    with server.client(decode_responses=True) as client:
        yield Raw(client, namespace)


@dataclass
class Raw:
    """A plain client that sees one namespace's keys by their own names."""

    client: "redis.Redis"
    namespace: str

    def name(self, key: str) -> str:
        return Keyspace(self.namespace).data(key)

    def get(self, key: str) -> Any:
        text: Any = self.client.get(self.name(key))
        return None if text is None else json.loads(text)


# --- on the server --------------------------------------------------------------------------------


def test_the_stored_value_is_the_documented_one(server: Server, raw: Raw, make: Make):
    manager = make(server.url)
    before = datetime.now(UTC)
    key = manager.store(about("conv_123", "Likes tea", metadata={"source": "web"}))
    stored = raw.get(key)
    assert len(stored.pop("stamp")) == 38
    created, updated = stored.pop("created_at"), stored.pop("last_update")
    assert stored == {"data": {"working_memory": "Likes tea"}, "metadata": {"source": "web"}}
    assert created == updated
    assert datetime.fromisoformat(created).utcoffset() == timedelta(0)
    assert timedelta(0) <= datetime.fromisoformat(created) - before < timedelta(seconds=5)
    manager.update(about("conv_123", "Likes coffee"))
    stored = raw.get(key)
    assert stored["created_at"] == created
    assert stored["last_update"] > created
    assert stored["data"] == {"working_memory": "Likes coffee"}
    assert stored["metadata"] == {"source": "web"}
    manager.store(about("conv_123", "one", "two"))
    stored = raw.get(key)
    assert stored["data"] == [{"working_memory": "one"}, {"working_memory": "two"}]
    assert stored["metadata"] == {}
    manager.delete(about("conv_123", memory_id=f"{key}#0"))
    assert raw.get(key)["data"] == {"working_memory": "two"}, "one item has the documented shape again"


def test_the_default_namespace_adds_nothing_to_the_key(server: Server, make: Make):
    conversation = f"c{os.urandom(8).hex()}"
    key = make(server.url, namespace="").store(about(conversation, "x"))
    with server.client() as client:
        assert client.get(key)
        client.delete(key)


@pytest.mark.parametrize(("ttl", "seconds"), [(3600, 3600), (90.5, 90), (timedelta(days=7), 604800), (None, -1)])
def test_the_lifetime_is_the_servers(server: Server, raw: Raw, make: Make, ttl: Any, seconds: int):
    manager = make(server.url, ttl=ttl)
    name = raw.name(manager.store(about("c", "x")))
    assert seconds - 1 <= raw.client.ttl(name) <= seconds + 1
    raw.client.expire(name, 5)
    manager.update(about("c", "y"))
    assert seconds - 1 <= raw.client.ttl(name) <= seconds + 1, "an update renews it"


def test_the_lifetime_is_twelve_hours_unless_set(server: Server, raw: Raw, make: Make, monkeypatch: pytest.MonkeyPatch):
    assert raw.client.ttl(raw.name(make(server.url).store(about("c", "x")))) in (43199, 43200)
    monkeypatch.setenv("REMANENCE_CONVERSATION_TTL", "100")
    manager = make(server.url)
    assert raw.client.ttl(raw.name(manager.store(about("c", "x")))) in (99, 100)
    manager.ttl = 50
    assert raw.client.ttl(raw.name(manager.store(about("c", "x")))) in (49, 50)


def test_values_written_by_others_are_read(server: Server, raw: Raw, make: Make):
    manager = make(server.url)
    now = datetime.now().isoformat()  # noqa: DTZ005 - as the other package writes it
    theirs = {
        "data": {"working_memory": "theirs"},
        "metadata": {"a": 1},
        "created_at": now,
        "last_update": now,
    }
    raw.client.set(raw.name("memory:WORKING_MEMORY:c"), json.dumps(theirs), ex=100)
    assert words(manager.retrieve(about("c", filters={"a": 1}))) == ["theirs"]
    manager.update(about("c", "ours"))
    assert raw.get("memory:WORKING_MEMORY:c")["created_at"] == now
    assert words(manager.retrieve(about("c"))) == ["ours"]
    bare = json.dumps({"data": {"working_memory": "bare"}})
    raw.client.set(raw.name("memory:WORKING_MEMORY:d"), bare)
    assert words(manager.retrieve(about("d"))) == ["bare"]
    manager.update(about("d", "more"))
    assert words(manager.retrieve(about("d"))) == ["more"]


@pytest.mark.parametrize(
    "value",
    [
        b"", b"\x80\x04pickle", b"{", b"null", b"5", b"[]", b"{}", b'{"data":null}', b'{"data":"x"}',
        b'{"data":{"working_memory":5},"metadata":{}}', b'{"data":[{"working_memory":"x"},5]}',
        b'{"data":{"working_memory":"x"},"metadata":[]}', b'{"value":1,"last_modified":2}',
    ],
)  # fmt: skip
def test_a_corrupt_value_is_an_error_for_its_key_alone(server: Server, raw: Raw, make: Make, value: bytes):
    manager = make(server.url)
    manager.store(about("fine", "x"))
    raw.client.set(raw.name("memory:WORKING_MEMORY:bad"), value)
    with pytest.raises(CorruptRecord, match="memory:WORKING_MEMORY:bad") as caught:
        manager.retrieve(about("bad"))
    assert "working_memory" not in str(caught.value)
    with pytest.raises(CorruptRecord):
        manager.retrieve_safe(about("bad"))
    with pytest.raises(CorruptRecord):
        manager.update(about("bad", "y", memory_id="memory:WORKING_MEMORY:bad#0"))
    assert manager.retrieve(about("fine"))
    with server.client() as client:
        assert client.get(raw.name("memory:WORKING_MEMORY:bad")) == value


@pytest.mark.parametrize("value", [b"{", b"null", b"[]", b"{}", b'{"data":"x"}', b'{"value":1,"last_modified":2}'])
def test_an_update_never_overwrites_what_is_no_memory(server: Server, raw: Raw, make: Make, value: bytes):
    manager = make(server.url)
    raw.client.set(raw.name("memory:WORKING_MEMORY:bad"), value)
    with pytest.raises(CorruptRecord, match="memory:WORKING_MEMORY:bad"):
        manager.update(about("bad", "y"))
    with server.client() as client:
        assert client.get(raw.name("memory:WORKING_MEMORY:bad")) == value


def test_a_key_of_another_type_is_an_error(server: Server, raw: Raw, make: Make):
    manager = make(server.url)
    raw.client.rpush(raw.name("memory:WORKING_MEMORY:c"), "x")
    for verb in (manager.retrieve, manager.store, manager.update):
        with pytest.raises(WrongKind, match="memory:WORKING_MEMORY:c"):
            verb(about("c", "y"))
    assert raw.client.lrange(raw.name("memory:WORKING_MEMORY:c"), 0, -1) == ["x"]


def test_cleanup_touches_nothing_else_and_never_calls_keys(server: Server, raw: Raw, make: Make):
    manager = make(server.url)
    others = ["memory:answer", "memory:episodic:1", "memory:WORKING_MEMORY", "session:conv_1"]
    for name in others:
        raw.client.set(raw.name(name), "1")
    with server.client() as client:
        client.set(raw.name("memory:WORKING_MEMORY:").encode() + b"\xff\xfe", "no text")
    manager.store_many(about(f"conv_{n}", "x") for n in range(50))
    raw.client.config_resetstat()
    assert manager.cleanup("*") == 50
    calls = raw.client.info("commandstats")
    assert "cmdstat_keys" not in calls
    assert "cmdstat_scan" in calls
    assert all(raw.client.exists(raw.name(name)) for name in others)


def test_statistics_are_the_servers(server: Server, raw: Raw, make: Make):
    found = make(server.url).statistics()
    told: Any = raw.client.info("memory")
    assert set(found["used_memory_peak"]) & set("KMG")
    assert found["used_memory_peak"][-1] == told["used_memory_peak_human"][-1]
    assert found["total_keys"] == raw.client.dbsize()


def test_two_processes_worth_of_managers_share(server: Server, make: Make):
    one, other = make(server.url), make(server.url, connect_timeout=0.9)
    assert one.engine is not other.engine
    one.store(about("c", "from one"))
    assert words(other.retrieve(about("c"))) == ["from one"]
    other.update(about("c", "from other"))
    assert words(one.retrieve(about("c"))) == ["from other"]


def test_concurrent_updates_of_two_processes_lose_no_item(server: Server, make: Make):
    """Get, change and set back would: each engine only knows of the other's writes through the server."""
    managers = [make(server.url, connect_timeout=0.9 + n / 100) for n in range(3)]
    key = managers[0].store(about("c", *["0"] * 3))

    def count(place: int) -> None:
        for n in range(1, 21):
            managers[place].update(about("c", str(n), memory_id=f"{key}#{place}"))

    threads = [threading.Thread(target=count, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert words(managers[0].retrieve(about("c"))) == ["20"] * 3


def test_a_subclass_need_not_call_our_init(server: Server, raw: Raw):
    class Pooled(RedisWorkingMemoryManager):
        def __init__(self, redis_client: Any, **kwargs: Any) -> None:
            self.prefix = f"memory{raw.namespace}"
            self.ttl = kwargs.get("ttl", 60 * 60 * 12)
            self.redis_client = redis_client

    with server.client() as client:
        with Pooled(client, ttl=600) as manager:
            key = manager.store(about("c", "x"))
            assert key == f"memory{raw.namespace}:WORKING_MEMORY:c"
            assert raw.client.ttl(key) in (599, 600)
            assert words(manager.retrieve(about("c"))) == ["x"]
            assert manager.engine is manager.engine
            assert repr(manager) == f"Pooled(127.0.0.1:{server.port}/0)"
            assert manager.cleanup("*") == 1
        assert client.ping()


# --- the four troubles, and outages ---------------------------------------------------------------


def test_refused_writes_wait_and_arrive(fresh_server: Callable[..., Server], make: Make):
    server = fresh_server()
    manager, strict = make(server.url), make(server.url, ack="store")
    plain = make(server.url, fallback=False)
    manager.store(about("known", "before"))
    server.kill()
    for each in (strict, plain):
        with pytest.raises(redis.ConnectionError, match="cannot be reached"):
            each.store(about("strict", "x"))
    with pytest.raises(redis.ConnectionError, match="memory:WORKING_MEMORY:unknown is not known here") as caught:
        manager.retrieve(about("unknown"))
    assert isinstance(caught.value, Unavailable)
    assert manager.retrieve_safe(about("unknown")) == []
    spare = [IWorkingMemory("spare")]
    found = manager.retrieve_safe(about("unknown"), spare)
    assert found == spare
    assert found is not spare
    assert words(manager.retrieve(about("known"))) == ["before"], "what this process knows, it still tells"
    assert manager.read(about("known")).stale
    assert manager.store(about("later", "x")) == "memory:WORKING_MEMORY:later"
    manager.update(about("known", "changed"))
    manager.update(about("unknown", "of what may be there"))
    manager.delete(about("nobody"))
    assert words(manager.retrieve(about("later"))) == ["x"]
    assert words(manager.retrieve(about("known"))) == ["changed"]
    with pytest.raises(redis.ConnectionError):
        manager.statistics()
    rejected: list[str] = []
    manager.engine.observe(lambda event: rejected.append(type(event).__name__))
    server.start()
    assert eventually(lambda: manager.engine.status().pending == 0)
    assert words(make(server.url, connect_timeout=0.9).retrieve(about("later"))) == ["x"]
    assert "WriteRejected" in rejected, "the update of a memory that was not there is reported"


def test_a_wrong_password_is_told_and_what_was_written_arrives(fresh_server: Callable[..., Server], make: Make):
    server = fresh_server(password="right")
    url = f"redis://:wrong-secret@127.0.0.1:{server.port}/0"
    manager, strict = make(url), make(url, ack="store")
    with pytest.raises(redis.AuthenticationError, match="password") as caught:
        manager.retrieve(about("c"))
    assert isinstance(caught.value, AuthenticationFailed)
    assert isinstance(caught.value, redis.ConnectionError)
    assert "wrong-secret" not in f"{caught.value!r}{caught.value.__cause__!r}{manager!r}{manager.engine.settings!r}"
    with pytest.raises(redis.AuthenticationError, match="password"):
        strict.store(about("strict", "x"))
    bare = make(f"redis://127.0.0.1:{server.port}/0")
    with pytest.raises(redis.AuthenticationError, match="REDIS_PASSWORD"):
        bare.retrieve(about("c"))
    assert bare.retrieve_safe(about("c")) == []
    manager.store(about("c", "patience"))
    with server.client() as client:
        client.config_set("requirepass", "wrong-secret")
    assert eventually(lambda: manager.engine.status().pending == 0)
    assert words(manager.retrieve(about("c"))) == ["patience"]


def test_a_wrong_database_is_told_and_what_was_written_arrives(fresh_server: Callable[..., Server], make: Make):
    server = fresh_server()
    url = f"redis://127.0.0.1:{server.port}/99"
    manager, strict = make(url), make(url, ack="store")
    with pytest.raises(redis.ConnectionError, match=r"no such database.*REDIS_DB") as caught:
        manager.retrieve(about("c"))
    assert isinstance(caught.value, Misconfigured)
    with pytest.raises(redis.ConnectionError, match="no such database"):
        strict.store(about("strict", "x"))
    manager.store(about("c", "patience"))
    server._extra += ["--databases", "100"]
    server.restart()
    assert eventually(lambda: manager.engine.status().pending == 0)
    assert words(manager.retrieve(about("c"))) == ["patience"]


def test_a_full_server_is_told_and_what_was_written_arrives(fresh_server: Callable[..., Server], make: Make):
    server = fresh_server()
    manager, strict = make(server.url), make(server.url, ack="store")
    manager.store(about("before", "x"))
    with server.client() as client:
        client.config_set("maxmemory", "1")
        with pytest.raises(redis.OutOfMemoryError, match="maxmemory") as caught:
            strict.store(about("strict", "x"))
        assert isinstance(caught.value, ServerFull)
        assert isinstance(caught.value, redis.ConnectionError)
        assert manager.store(about("c", "patience"))
        assert words(manager.retrieve(about("before"))) == ["x"]
        assert words(manager.retrieve(about("c"))) == ["patience"]
        assert manager.statistics()["total_keys"] > 0, "most wanted when memory is short"
        client.config_set("maxmemory", "0")
    assert eventually(lambda: manager.engine.status().pending == 0)
    assert words(make(server.url, connect_timeout=0.9).retrieve(about("c"))) == ["patience"]


def test_a_restarted_application_finds_what_it_journalled(fresh_server: Callable[..., Server], make: Make):
    server = fresh_server()
    server.kill()
    with make(server.url, close_timeout=0.0) as manager:
        manager.store(about("c", "patience"))
    server.start()
    again = make(server.url, close_timeout=0.0, connect_timeout=0.9)
    again.store(about("other", "x"))
    assert eventually(lambda: words(again.retrieve(about("c"))) == ["patience"])


def test_a_hung_server_holds_a_call_no_longer_than_the_deadline(server: Server, make: Make):
    with FaultProxy(server) as proxy:
        manager = make(proxy.url, deadline=0.3)
        manager.store(about("c", "before"))
        proxy.half_open()
        started = time.monotonic()
        manager.store(about("c", "after"))
        assert time.monotonic() - started < 1.0
        assert words(manager.retrieve(about("c"))) == ["after"]
        proxy.heal()
        assert eventually(lambda: manager.engine.status().pending == 0)


def test_async_writes_wait_for_a_server_that_is_away(fresh_server: Callable[..., Server], namespace: str):
    server = fresh_server()

    async def main() -> None:
        async with AsyncRedisWorkingMemoryManager(server.url, namespace=namespace) as manager:
            await manager.store(about("c", "before"))
            server.kill()
            await manager.store(about("c", "after"))
            with pytest.raises(redis.ConnectionError):
                await manager.retrieve(about("unknown"))
            spare = [IWorkingMemory("spare")]
            found = await manager.retrieve_safe(about("unknown"), spare)
            assert found == spare
            assert found is not spare
            assert words(await manager.retrieve(about("c"))) == ["after"]
            server.start()
            assert await manager.engine.flush(10)
            assert words(await manager.retrieve(about("c"))) == ["after"]

    asyncio.run(main())
