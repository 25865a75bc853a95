"""Where conversation memory goes: settings, the factory, and clients of the user's."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from redis.sentinel import Sentinel

from remanence.aio.conversations import AsyncRedisWorkingMemoryManager
from remanence.errors import InvalidKey, InvalidSetting
from remanence.sync.conversations import (
    ConversationManager,
    InMemoryManager,
    RedisWorkingMemoryManager,
    create_memory_manager,
)
from remanence.testing.conversing import about
from remanence.testing.servers import Certificates, Server, supports_tls
from remanence.wire.clients import options_of_client
from remanence.wire.keys import Keyspace

# --- settings -------------------------------------------------------------------------------------


def place_of(manager: ConversationManager) -> str:
    return manager.engine.place


def test_the_class_names_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert place_of(RedisWorkingMemoryManager()) == "localhost:6379/1"
    monkeypatch.setenv("REDIS_HOST", "example.invalid")
    monkeypatch.setenv("REDIS_DB", "3")
    assert place_of(RedisWorkingMemoryManager()) == "example.invalid:6379/3"
    monkeypatch.setenv("REDIS_URL", "redis://:hidden@other.invalid:7000/2")
    assert place_of(RedisWorkingMemoryManager()) == "other.invalid:7000/2"
    assert place_of(RedisWorkingMemoryManager(storage_url=os.getenv("NOT_SET"))) == "other.invalid:7000/2"
    assert place_of(RedisWorkingMemoryManager("redis://third.invalid/5")) == "third.invalid:6379/5"
    assert place_of(RedisWorkingMemoryManager(url="redis://fourth.invalid")) == "fourth.invalid:6379/0"
    monkeypatch.setenv("MEMORY_BACKEND", "sqlite")
    assert place_of(RedisWorkingMemoryManager()) == "other.invalid:7000/2"
    assert place_of(RedisWorkingMemoryManager(backend="sqlite")).startswith(str(tmp_path))
    assert place_of(RedisWorkingMemoryManager(backend="memory")) == "memory"
    assert repr(RedisWorkingMemoryManager()) == "RedisWorkingMemoryManager(other.invalid:7000/2)"
    assert repr(AsyncRedisWorkingMemoryManager()) == "AsyncRedisWorkingMemoryManager(other.invalid:7000/2)"


@pytest.mark.parametrize(
    "options",
    [
        {"storage_url": "http://localhost"},
        {"storage_url": "redis://a.invalid", "url": "redis://b.invalid"},
        {"storage_url": "redis://a.invalid", "redis_client": redis.Redis()},
        {"url": "redis://a.invalid", "redis_client": redis.Redis()},
        {"storage_url": 5},
        {"unknown": 1},
        {"backend": "postgres"},
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any]):
    for kind in (RedisWorkingMemoryManager, AsyncRedisWorkingMemoryManager):
        with pytest.raises(InvalidSetting):
            kind(**options)


@pytest.mark.parametrize("prefix", ["", 5, "\ud800"])
def test_a_bad_prefix_is_refused(prefix: Any):
    with pytest.raises(InvalidKey, match="prefix"):
        InMemoryManager(prefix=prefix)


def test_the_prefix_is_the_first_part_of_keys():
    manager = InMemoryManager(prefix="notes")
    assert manager.store(about("c", "x")) == "notes:WORKING_MEMORY:c"
    manager.prefix = "more"
    assert manager.retrieve(about("c")) == []


def test_the_factory_goes_by_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("ENVIRONMENT", raising=False)
    made = create_memory_manager()
    assert (type(made), made.ttl) == (InMemoryManager, 3600)
    monkeypatch.setenv("REDIS_URL", "redis://example.invalid:7000/2")
    monkeypatch.setenv("ENVIRONMENT", "production")
    made = create_memory_manager()
    assert (type(made), made.ttl) == (RedisWorkingMemoryManager, 86400)
    assert place_of(made) == "example.invalid:7000/2"
    assert type(create_memory_manager("development")) is InMemoryManager, "the argument wins"
    assert type(create_memory_manager(environment=" Production ")) is RedisWorkingMemoryManager
    for word in ("prodution", "", "postgres", 5):
        with pytest.raises(InvalidSetting, match=r"production.*development"):
            create_memory_manager(word)  # type: ignore[arg-type]


# --- clients of the user's ------------------------------------------------------------------------


def test_a_users_client_names_the_server(fresh_server: Callable[..., Server], namespace: str):
    server = fresh_server(password="p@ss:wörd/%", unix_socket=True)
    given = {"password": server.password, "db": 2}
    clients = [
        server.client(db=2),
        redis.Redis(connection_pool=redis.BlockingConnectionPool(host="127.0.0.1", port=server.port, **given)),
        redis.Redis(unix_socket_path=server.socket_path, **given),
        redis.asyncio.Redis(host="127.0.0.1", port=server.port, **given),
    ]
    for number, client in enumerate(clients):
        with RedisWorkingMemoryManager(redis_client=client, namespace=namespace) as manager:
            assert manager.redis_client is client
            manager.store(about(f"c{number}", "x"))
            assert server.password not in f"{manager!r}{manager.engine.settings!r}"
    with server.client(db=2) as plain:
        found = list(plain.scan_iter(match=f"{Keyspace(namespace).prefix}memory:WORKING_MEMORY:*"))
        assert len(found) == len(clients)
    assert clients[0].ping(), "the user's client was not closed"
    for client in clients[:3]:
        client.close()


def test_a_users_client_with_certificates(
    fresh_server: Callable[..., Server], server_kind: str, certificates: Certificates, namespace: str
):
    if not supports_tls(server_kind):
        pytest.skip(f"this {server_kind} was built without TLS")
    server = fresh_server(tls=certificates, extra_args=["--tls-auth-clients", "yes"])
    with (
        server.client() as client,
        RedisWorkingMemoryManager(redis_client=client, namespace=namespace) as manager,
    ):
        manager.store(about("c", "x"))
        assert manager.engine.status().pending == 0
        assert manager.engine.settings.url.startswith("rediss://")


def test_a_url_of_a_client_is_whole():
    of = options_of_client
    assert of(redis.Redis.from_url("redis://u:p%40@h:1/2")) == {"url": "redis://u:p%40@h:1/2"}
    assert of(redis.Redis(host="h", password=b"p")) == {"url": "redis://:p@h:6379/0"}
    assert of(redis.Redis.from_url("redis://[::1]:7/0")) == {"url": "redis://[::1]:7/0"}
    assert of(redis.Redis.from_url("unix://u:p@/a/b%20c?db=3")) == {"url": "unix://u:p@/a/b%20c?db=3"}
    assert of(redis.Redis.from_url("rediss://h:1/2")) == {"url": "rediss://h:1/2"}
    secure = redis.Redis(host="h", ssl=True, ssl_ca_certs="ca", ssl_certfile="c", ssl_keyfile="k")
    assert of(secure) == {"url": "rediss://h:6379/0", "tls_ca": "ca", "tls_cert": "c", "tls_key": "k"}


@pytest.mark.parametrize(
    "client",
    [
        Sentinel([("127.0.0.1", 1)]).master_for("primary"),
        redis.Redis(credential_provider=redis.UsernamePasswordCredentialProvider("u", "hidden")),
        redis.Redis(ssl=True, ssl_password="hidden"),
        SimpleNamespace(),
        SimpleNamespace(connection_pool=SimpleNamespace(connection_kwargs=object())),
        "redis://localhost",
    ],
)
def test_a_client_that_cannot_be_taken_over_is_refused(client: Any):
    with pytest.raises(InvalidSetting, match="storage_url") as caught:
        RedisWorkingMemoryManager(redis_client=client)
    assert "hidden" not in str(caught.value)


def test_a_subclass_that_sets_nothing_has_the_defaults(monkeypatch: pytest.MonkeyPatch):
    class Bare(RedisWorkingMemoryManager):
        def __init__(self) -> None:
            pass

    monkeypatch.setenv("REDIS_URL", "redis://example.invalid:7000/2")
    manager = Bare()
    assert (manager.ttl, manager.prefix, manager.redis_client) == (43200, "memory", None)
    assert place_of(manager) == "example.invalid:7000/2"
