"""Session messages on real servers: how one is named, how much is read and sent, and outages."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from remanence.aio.messages import AsyncMemoryClient, AsyncMemoryClientSelector
from remanence.errors import InvalidArgument, InvalidSetting, InvalidTTL, Unavailable
from remanence.faces.history import PAGE
from remanence.faces.messages import AsyncBaseMemory, BaseMemory
from remanence.sync.messages import MemoryClient, MemoryClientSelector
from remanence.testing.messaging import START, at, contents
from remanence.testing.servers import Server

# --- where it lives -------------------------------------------------------------------------------


def test_the_signature_is_the_seeds():
    names = list(inspect.signature(MemoryClient).parameters)
    assert names[:6] == ["host", "port", "password", "db", "session_ttl", "key_prefix"]
    assert list(inspect.signature(MemoryClient.add).parameters)[:5] == [
        "self",
        "session_id",
        "role",
        "content",
        "metadata",
    ]


def test_both_clients_have_the_same_methods():
    def public(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in inspect.getmembers(kind, callable)
            if not name.startswith("_")
        }

    assert public(MemoryClient) == {n: p for n, p in public(AsyncMemoryClient).items() if n != "aclose"}
    made = inspect.signature(MemoryClient).parameters
    assert list(made) == list(inspect.signature(AsyncMemoryClient).parameters)


def test_positional_arguments_name_a_server(server: Server, namespace: str):
    with (
        MemoryClient("127.0.0.1", server.port, None, 3, 60, f"{namespace}:") as memory,
        server.client(db=3) as plain,
    ):
        memory.add("s", "user", "x")
        assert 55 < plain.ttl(f"{namespace}:s") <= 60
        memory.clear("s")


def test_the_environment_names_a_server(server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch):
    for name, value in {
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(server.port),
        "REDIS_PASSWORD": "",
        "REDIS_DB": "2",
        "SESSION_TTL": "90",
        "KEY_PREFIX": f"{namespace}-",
    }.items():
        monkeypatch.setenv(name, value)
    with MemoryClient() as memory, server.client(db=2) as plain:
        memory.add("s", "user", "x")
        assert 85 < plain.ttl(f"{namespace}-s") <= 90
        memory.clear("s")
    with MemoryClient(db=4, session_ttl=30) as memory, server.client(db=4) as plain:
        memory.add("s", "user", "x")
        assert 25 < plain.ttl(f"{namespace}-s") <= 30, "an argument wins over the environment"
        memory.clear("s")


def test_roles_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REMANENCE_ROLES", "human,ai")
    with MemoryClient(backend="memory") as memory:
        memory.add("s", "ai", "x")
    with pytest.raises(InvalidSetting, match="role"):
        MemoryClient(backend="memory", roles=" , ")


def test_a_password_opens_the_server_and_is_shown_nowhere(fresh_server: Callable[..., Server]):
    started = fresh_server(password="canary-secret")
    with MemoryClient("127.0.0.1", started.port, "canary-secret") as memory:
        memory.add("s", "user", "x")
        assert memory.count("s") == 1
        assert "canary" not in repr(memory) + repr(memory.engine.settings)


def test_nothing_named_is_one_file(tmp_path: Path):
    with MemoryClient() as memory:
        memory.add("s", "user", "x")
        assert memory.engine.settings.backend == "sqlite"
    assert list((tmp_path / "remanence").glob("*.db"))
    with MemoryClient() as memory:
        assert contents(memory.get("s")) == ["x"]


@pytest.mark.parametrize("backend", ["sqlite", "memory"])
def test_a_server_and_another_backend_contradict(backend: Any):
    with pytest.raises(InvalidSetting, match="leave them out"):
        MemoryClient(host="127.0.0.1", backend=backend)


def test_the_selector(server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch):
    assert MemoryClientSelector.list_providers() == ["redis", "sqlite", "memory"]
    assert AsyncMemoryClientSelector.list_providers() == ["redis", "sqlite", "memory"]
    with MemoryClientSelector.create("memory") as memory:
        assert memory.engine.place == "memory"
    with MemoryClientSelector.create() as memory:
        assert memory.engine.settings.backend == "sqlite"
    with MemoryClientSelector.create(provider="redis") as memory:
        assert memory.engine.place == "localhost:6379/0"
    monkeypatch.setenv("MEMORY_BACKEND", "memory")
    with MemoryClientSelector.create() as memory:
        assert memory.engine.place == "memory"
    with MemoryClientSelector.create(provider="redis", host="127.0.0.1", port=server.port) as memory:
        memory.add(namespace, "user", "x")
        memory.clear(namespace)
    for provider in ("Redis", "", "mongodb", 5):
        with pytest.raises(InvalidArgument, match="redis, sqlite, memory"):
            MemoryClientSelector.create(provider)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="provider and backend"):
        MemoryClientSelector.create("redis", backend="memory")


def test_the_selector_keeps_the_type_of_errors():
    with pytest.raises(InvalidTTL):
        MemoryClientSelector.create("redis", session_ttl=0)
    with pytest.raises(InvalidSetting):
        MemoryClientSelector.create("redis", port=99999999)
    with pytest.raises(InvalidSetting, match="hots"):
        MemoryClientSelector.create("redis", hots="x")


def test_the_base_is_for_others_too():
    assert issubclass(MemoryClient, BaseMemory)
    assert issubclass(AsyncMemoryClient, AsyncBaseMemory)
    assert sorted(BaseMemory.__abstractmethods__) == ["add", "clear", "count", "exists", "get"]
    assert AsyncBaseMemory.__abstractmethods__ == BaseMemory.__abstractmethods__
    with pytest.raises(TypeError, match="abstract"):
        BaseMemory()  # type: ignore[abstract]


# --- how much is read and sent --------------------------------------------------------------------


def commands(server: Server) -> dict[str, int]:
    with server.client() as plain:
        told: Any = plain.info("commandstats")
    return {name.removeprefix("cmdstat_"): each["calls"] for name, each in told.items()}


def sent_bytes(server: Server) -> int:
    with server.client() as plain:
        told: Any = plain.info("stats")
    return int(told["total_net_output_bytes"])


def test_the_end_of_a_long_session_is_all_that_is_read(fresh_server: Callable[..., Server]):
    started = fresh_server()
    with MemoryClient(url=started.url, deadline=30.0, heartbeat=600.0) as memory:
        memory.add_many("s", [("user", f"message {n}", None, at(n)) for n in range(20_000)])
        assert memory.engine.flush(30.0)
        memory.count("s")  # the first reading opens the link, and asks whether the server forgot
        before, calls = sent_bytes(started), commands(started)
        assert contents(memory.get("s", 10)) == [f"message {n}" for n in range(19_990, 20_000)]
        read = sent_bytes(started) - before
        assert read < 10_000, f"{read} bytes for ten messages and two INFO"
        assert commands(started)["lrange"] - calls.get("lrange", 0) == 1
        before = sent_bytes(started)
        assert len(memory.get("s", since=at(19_950))) == 50
        assert sent_bytes(started) - before < 2 * PAGE * 100


def test_message_and_lifetime_travel_together(fresh_server: Callable[..., Server]):
    started = fresh_server()
    with MemoryClient(url=started.url, heartbeat=600.0, batch_bytes=20_000) as memory:
        memory.add("s", "user", "the first opens the session")
        before = commands(started)
        memory.add("s", "user", "x")
        memory.add_many("s", [("user", str(n)) for n in range(100)])
        memory.add_many("s", [])
        after = commands(started)
        memory.add_many("s", [("user", "x" * 15_000) for _ in range(4)])
        in_parts = commands(started)
    assert after["evalsha"] - before["evalsha"] == 2, "one trip each"
    assert after["rpush"] - before["rpush"] == 2
    assert after["pexpire"] - before["pexpire"] >= 2
    assert in_parts["rpush"] - after["rpush"] == 4


# --- outages --------------------------------------------------------------------------------------


def test_an_outage_is_not_noticed_by_those_who_remember(fresh_server: Callable[..., Server]):
    started = fresh_server(persistence="aof")
    where: dict[str, Any] = {"url": started.url, "backoff_most": 0.2, "deadline": 2.0}
    with MemoryClient(**where) as memory:
        memory.add_many("s", [("user", f"before {n}") for n in range(5)])
        memory.add("gone", "user", "x")
        assert not memory.read("s").stale
        started.kill()
        memory.add("s", "user", "during 0")
        memory.add_many("s", [("user", "during 1"), ("assistant", "during 2")])
        memory.add("new", "user", "during")
        memory.clear("gone")
        expected = [f"before {n}" for n in range(5)] + [f"during {n}" for n in range(3)]
        reading = memory.read("s")
        assert (contents(reading.value), reading.stale) == (expected, True)
        assert contents(memory.get("s", 2)) == ["during 1", "during 2"]
        recent = memory.read("s", 2, since=START)
        assert (contents(recent.value), recent.source) == (["during 1", "during 2"], "local")
        assert (memory.count("s"), memory.exists("s")) == (8, True)
        assert (memory.count("gone"), memory.exists("gone"), memory.get("gone")) == (0, False, [])
        assert sorted(memory.sessions()) == ["new", "s"]
        left = memory.ttl("s")
        assert left is not None
        assert 3590 < left <= 3600
        started.start()
        assert memory.engine.flush(10.0)
        with started.client() as plain:
            stored = [json.loads(entry)["content"] for entry in plain.lrange("session:s", 0, -1)]
            assert stored == expected
            assert 3590 < plain.ttl("session:s") <= 3600
            assert plain.llen("session:new") == 1
            assert not plain.exists("session:gone")
        assert not memory.read("s").stale


def test_a_server_that_lost_everything_is_told_again(fresh_server: Callable[..., Server]):
    started = fresh_server()
    with MemoryClient(url=started.url, backoff_most=0.2, deadline=2.0) as memory:
        for number in range(20):
            memory.add("s", "user", str(number))
        started.restart_empty()
        memory.add("s", "user", "20")
        assert memory.engine.flush(10.0)
        assert contents(memory.get("s")) == [str(number) for number in range(21)]


def test_what_is_not_known_here_is_an_error_that_redis_users_catch(fresh_server: Callable[..., Server]):
    started = fresh_server()
    with MemoryClient(url=started.url, deadline=0.3) as memory:
        started.kill()
        for call in (memory.get, memory.count, memory.exists):
            with pytest.raises(redis.ConnectionError, match="session:unknown") as refusal:
                call("unknown")
            assert isinstance(refusal.value, Unavailable)


def test_whoever_wants_the_server_or_nothing_can_say_so(fresh_server: Callable[..., Server]):
    started = fresh_server()
    started.kill()
    with (
        MemoryClient(url=started.url, ack="store", deadline=0.3) as memory,
        pytest.raises(redis.ConnectionError),
    ):
        memory.add("s", "user", "x")
