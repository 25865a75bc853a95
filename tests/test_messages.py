"""Session messages on every backend: what the seed promised, and what it got wrong."""

import asyncio
import inspect
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import redis

from remanence.aio.messages import AsyncMemoryClient, AsyncMemoryClientSelector
from remanence.errors import (
    InvalidArgument,
    InvalidKey,
    InvalidSetting,
    InvalidTTL,
    InvalidValue,
    Unavailable,
    ValueTooLarge,
    WrongKind,
)
from remanence.events import Event, RecordSkipped
from remanence.faces.history import LATE, PAGE, Message
from remanence.faces.messages import AsyncBaseMemory, BaseMemory
from remanence.sync.messages import MemoryClient, MemoryClientSelector
from remanence.testing.servers import Server, available_servers

KINDS = ["memory", "sqlite", *available_servers()]
Open = Callable[..., MemoryClient]


@pytest.fixture(params=KINDS)
def where(request: pytest.FixtureRequest, namespace: str) -> dict[str, Any]:
    """The arguments that name each backend in turn, in a namespace of the test's own."""
    if request.param in ("memory", "sqlite"):
        return {"backend": request.param, "namespace": namespace}
    started: dict[str, Server] = request.getfixturevalue("_shared_servers")
    if request.param not in started:
        started[request.param] = Server(request.param, unix_socket=True).start()
    return {"url": started[request.param].url, "namespace": namespace}


@pytest.fixture
def make(where: dict[str, Any]) -> Iterator[Open]:
    """Open a client on the backend; closed after the test."""
    made: list[MemoryClient] = []

    def start(**options: Any) -> MemoryClient:
        made.append(MemoryClient(**{**where, **options}))
        return made[-1]

    yield start
    for each in made:
        each.close(0.5)


@pytest.fixture
def memory(make: Open) -> MemoryClient:
    return make()


def contents(messages: list[Message]) -> list[str]:
    return [message["content"] for message in messages]


def heard(client: MemoryClient) -> list[Event]:
    events: list[Event] = []
    client.engine.observe(events.append)
    return events


def put_raw(server: Server, key: str, *items: bytes | str) -> None:
    """Append entries as another program would."""
    with server.client() as plain:
        plain.rpush(key, *items)


# --- what the seed promised -----------------------------------------------------------------------


def test_messages_come_back_in_order_with_what_was_given(memory: MemoryClient):
    before = datetime.now(UTC) - timedelta(seconds=1)
    assert memory.add("user-123", "user", "What is RAG?") is None
    memory.add(session_id="user-123", role="assistant", content="", metadata={"model": "m", "tokens": 120})
    first, second = memory.get("user-123")
    assert list(first) == ["role", "content", "timestamp"]
    assert (first["role"], first["content"]) == ("user", "What is RAG?")
    assert (second["role"], second["content"]) == ("assistant", "")
    assert second["metadata"] == {"model": "m", "tokens": 120}
    made = datetime.fromisoformat(first["timestamp"])
    assert made.utcoffset() == timedelta(0)
    assert before < made < datetime.now(UTC) + timedelta(seconds=1)


def test_what_is_missing_is_empty(memory: MemoryClient):
    assert (memory.get("nobody"), memory.get("nobody", 5)) == ([], [])
    assert (memory.exists("nobody"), memory.count("nobody"), memory.ttl("nobody")) == (False, 0, 0.0)
    memory.clear("nobody")
    assert memory.get("nobody", since=datetime.now(UTC)) == []


def test_clear_count_and_exists(memory: MemoryClient):
    for number in range(3):
        memory.add("s", "user", str(number))
    memory.add("other", "user", "stays")
    assert (memory.count("s"), memory.exists("s")) == (3, True)
    memory.clear("s")
    assert (memory.count("s"), memory.exists("s"), memory.get("s")) == (0, False, [])
    memory.add("s", "user", "again")
    assert contents(memory.get("s")) == ["again"]
    assert memory.count("other") == 1


def test_limit_gives_the_last_ones_oldest_first(memory: MemoryClient):
    memory.add_many("s", [("user", str(number)) for number in range(20)])
    assert contents(memory.get("s", 3)) == ["17", "18", "19"]
    assert contents(memory.get("s", limit=1)) == ["19"]
    assert len(memory.get("s", 10**30)) == 20


@pytest.mark.parametrize("limit", [0, -1, True, False, 1.0, "5"])
def test_a_limit_below_one_is_refused(make: Open, limit: Any):
    memory = make(namespace="")
    with pytest.raises(InvalidArgument, match="limit"):
        memory.get("s", limit)
    with pytest.raises(InvalidArgument, match="limit"):
        memory.sessions(limit=limit)


def test_a_session_expires_after_its_last_message(make: Open):
    memory = make(session_ttl=0.5)
    memory.add("s", "user", "first")
    time.sleep(0.3)
    memory.add("s", "user", "second")
    left = memory.ttl("s")
    assert left is not None
    assert 0.3 < left <= 0.5
    time.sleep(0.3)
    assert memory.count("s") == 2, "the second message gave both a new lifetime"
    time.sleep(0.4)
    assert (memory.get("s"), memory.exists("s"), memory.count("s"), memory.ttl("s")) == ([], False, 0, 0.0)


@pytest.mark.parametrize(
    ("given", "left"), [(None, 3600), (60, 60), (90.5, 90.5), (timedelta(days=2), 172800), (math.inf, None)]
)
def test_lifetimes(make: Open, given: Any, left: float | None):
    memory = make(session_ttl=given)
    memory.add("s", "user", "x")
    assert memory.ttl("s") == (None if left is None else pytest.approx(left, abs=1.5))


@pytest.mark.parametrize("ttl", [0, -1, True, "60", math.nan, -math.inf, 10**12, timedelta(0)])
def test_a_lifetime_that_is_none_is_refused(ttl: Any):
    with pytest.raises(InvalidTTL, match="session_ttl"):
        MemoryClient(backend="memory", session_ttl=ttl)


def test_extra_keywords_are_ignored(memory: MemoryClient):
    memory.add("s", "user", "x", None, tokens=5, self="too")
    assert list(memory.get("s")[0]) == ["role", "content", "timestamp"]


# --- what is refused, and stores nothing ----------------------------------------------------------


def test_roles_are_those_allowed(make: Open):
    memory = make()
    for role in ("system", "User", "", None, 5, ["user"]):
        with pytest.raises(InvalidArgument, match="role must be one of user, assistant ") as refusal:
            memory.add("s", role, "x")  # type: ignore[arg-type]
        assert isinstance(refusal.value, ValueError)
    assert memory.count("s") == 0
    wider = make(roles="user, assistant,system,tool,developer")
    wider.add("s", "developer", "x")
    with pytest.raises(ValueError, match="developer"):
        wider.add("s", "root", "x")
    assert [message["role"] for message in memory.get("s")] == ["developer"]


def test_roles_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REMANENCE_ROLES", "human,ai")
    with MemoryClient(backend="memory") as memory:
        memory.add("s", "ai", "x")
    with pytest.raises(InvalidSetting, match="role"):
        MemoryClient(backend="memory", roles=" , ")


CYCLE: dict[str, Any] = {}
CYCLE["self"] = CYCLE


@pytest.mark.parametrize(
    ("message", "error", "told"),
    [
        ({"content": None}, InvalidValue, "content must be text"),
        ({"content": b"x"}, InvalidValue, "content must be text"),
        ({"content": ["x"]}, InvalidValue, "content must be text"),
        ({"content": "half \ud83d"}, InvalidValue, "surrogate"),
        ({"content": "x" * 70_000}, ValueTooLarge, "limit of 65536"),
        ({"metadata": [1]}, InvalidValue, "metadata must be a dict"),
        ({"metadata": {"a": {1}}}, InvalidValue, r'\["metadata"\]\["a"\]'),
        ({"metadata": {1: "a"}}, InvalidValue, "keys of a JSON object are text"),
        ({"metadata": {"a": math.nan}}, InvalidValue, "NaN"),
        ({"metadata": {"\ud83d": 1}}, InvalidValue, "surrogate"),
        ({"metadata": CYCLE}, InvalidValue, "contains itself"),
        ({"metadata": {"a": ["x" * 70_000]}}, ValueTooLarge, "limit"),
        ({"timestamp": "yesterday"}, InvalidArgument, "timestamp"),
        ({"timestamp": "2024-01-15T10:30:00"}, InvalidArgument, "zone"),
        ({"timestamp": datetime(2024, 1, 15)}, InvalidArgument, "zone"),  # noqa: DTZ001 - the point of it
        ({"timestamp": datetime.max.replace(tzinfo=timezone(timedelta(hours=-14)))}, InvalidArgument, "zone"),
        ({"timestamp": "0001-01-01T00:00:00+14:00"}, InvalidArgument, "zone"),
        ({"timestamp": 1.5}, InvalidArgument, "zone"),
        ({"session_id": ""}, InvalidKey, "session_id"),
        ({"session_id": None}, InvalidKey, "session_id"),
        ({"session_id": 5}, InvalidKey, "session_id"),
        ({"session_id": "half \ud83d"}, InvalidKey, "surrogate"),
        ({"session_id": "x" * 600}, InvalidKey, "600 bytes"),
    ],
)
def test_what_cannot_be_stored_is_refused(make: Open, message: Any, error: type[Exception], told: str):
    memory = make(value_bytes=65536)
    whole = {"session_id": "s", "role": "user", "content": "x", **message}
    with pytest.raises(error, match=told) as refusal:
        memory.add(**whole)
    assert len(str(refusal.value)) < 500, "no value in an error"
    if whole["session_id"] == "s":
        del whole["session_id"]
        with pytest.raises(error, match=r"messages\[1\]"):
            memory.add_many("s", [("user", "fine"), whole])
    assert memory.sessions() == []


@pytest.mark.parametrize("call", ["get", "clear", "exists", "count", "ttl", "read", "key_of"])
@pytest.mark.parametrize("session_id", ["", None, "\udfff", "x" * 505])
def test_every_call_refuses_an_impossible_session_id(call: str, session_id: Any):
    with MemoryClient(backend="memory") as memory, pytest.raises(InvalidKey, match="session_id"):
        getattr(memory, call)(session_id)


def test_metadata_that_is_empty_is_left_out(memory: MemoryClient):
    memory.add("s", "user", "x", {})
    assert "metadata" not in memory.get("s")[0]


def test_metadata_may_nest_as_deep_as_the_setting_says(make: Open):
    memory = make(depth=3)
    memory.add("s", "user", "x", {"a": {"b": {}}})
    with pytest.raises(ValueTooLarge, match="nested"):
        memory.add("s", "user", "x", {"a": {"b": {"c": {}}}})
    assert memory.count("s") == 1


# --- several at once ------------------------------------------------------------------------------


def test_many_at_once_in_every_form(memory: MemoryClient):
    moment = "2024-01-15T11:30:00+01:00"
    forms: list[Any] = [
        ("user", "a"),
        ["assistant", "b", {"x": 1}],
        {"role": "user", "content": "c", "metadata": None},
        ("user", "d", None, moment),
        {"role": "user", "content": "e", "timestamp": datetime.fromisoformat(moment)},
    ]
    memory.add_many("s", (each for each in forms))
    found = memory.get("s")
    assert contents(found) == ["a", "b", "c", "d", "e"]
    assert found[1]["metadata"] == {"x": 1}
    assert found[3]["timestamp"] == found[4]["timestamp"] == "2024-01-15T10:30:00.000000+00:00"
    memory.add_many("copy", found)
    assert memory.get("copy") == found


def test_nothing_at_once_is_nothing(memory: MemoryClient):
    memory.add_many("s", [])
    assert memory.sessions() == []


@pytest.mark.parametrize(
    "messages",
    [
        "", "text", b"", {}, {"role": "user", "content": "x"}, 5, None, ["user"], [("user",)],
        [("user", "x", {}, None, 1)],
        [{"role": "user", "content": "x", "name": "Ann"}],
    ],
)  # fmt: skip
def test_what_is_no_list_of_messages_is_refused(messages: Any):
    with MemoryClient(backend="memory") as memory:
        with pytest.raises((InvalidArgument, InvalidValue), match="messages"):
            memory.add_many("s", messages)
        assert memory.count("s") == 0


def test_more_than_the_server_takes_at_once_goes_in_parts(make: Open):
    memory = make(batch_bytes=20_000, deadline=10.0)
    memory.add_many("s", [("user", f"{number}") for number in range(2500)])
    memory.add_many("s", [("user", "x" * 15_000) for _ in range(4)])
    assert contents(memory.get("s")) == [f"{number}" for number in range(2500)] + ["x" * 15_000] * 4


# --- by time --------------------------------------------------------------------------------------

START = datetime(2024, 1, 15, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def test_periods(memory: MemoryClient):
    memory.add_many("s", [("user", str(n), None, at(n)) for n in range(2 * PAGE + 10)])
    last = 2 * PAGE + 9
    assert contents(memory.get("s", since=at(last - 1))) == [str(last - 1), str(last)]
    assert contents(memory.get("s", before=at(2))) == ["0", "1"]
    assert contents(memory.get("s", since=at(5), before=at(8))) == ["5", "6", "7"]
    assert contents(memory.get("s", 2, since=at(5), before=at(8))) == ["6", "7"]
    assert contents(memory.get("s", 2, before=at(300))) == ["298", "299"]
    assert contents(memory.get("s", since="2024-01-15T00:05:00Z", before="2024-01-15T01:06:00+01:00")) == ["5"]
    assert memory.get("s", since=at(last + 1)) == []
    assert memory.get("s", since=at(9), before=at(9)) == []
    for wrong in ("soon", "2024-01-15", at(1).replace(tzinfo=None), 5):
        with pytest.raises(InvalidArgument, match="since"):
            memory.get("s", since=wrong)  # type: ignore[arg-type]


def test_messages_that_an_outage_held_back_hide_nothing(memory: MemoryClient):
    memory.add_many("s", [("user", f"new {n}", None, at(100 + n)) for n in range(3)])
    memory.add_many("s", [("user", f"late {n}", None, at(n / 1000)) for n in range(LATE - 1)])
    assert contents(memory.get("s", since=at(100))) == ["new 0", "new 1", "new 2"]
    memory.add("s", "user", "new 3", timestamp=at(103))
    memory.add_many("s", [("user", "late", None, at(0))] * (LATE - 1))
    assert contents(memory.get("s", since=at(100))) == ["new 0", "new 1", "new 2", "new 3"]


# --- entries of others ----------------------------------------------------------------------------


def test_a_redis_client_reads_what_the_seed_says(server: Server, namespace: str):
    with MemoryClient("127.0.0.1", server.port) as memory, server.client() as plain:
        memory.add(namespace, "user", "Größe?", {"client": "web"})
        (entry,) = plain.lrange(f"session:{namespace}", 0, -1)
        timestamp = memory.get(namespace)[0]["timestamp"]
        message = f'{{"role":"user","content":"Größe?","timestamp":"{timestamp}","metadata":{{"client":"web"}}}}'
        assert entry.decode() == message
        assert 3590 < plain.ttl(f"session:{namespace}") <= 3600
        memory.clear(namespace)
        assert not plain.exists(f"session:{namespace}")


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose local time is not UTC."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_tokyo")
def test_what_the_original_wrote_is_readable(server: Server, namespace: str):
    old = {"role": "system", "content": "x", "timestamp": "2024-01-15T10:30:00", "id": 7}
    with MemoryClient(url=server.url) as memory:
        put_raw(server, f"session:{namespace}", json.dumps(old))
        memory.add(namespace, "user", "new")
        assert memory.get(namespace)[0] == old
        assert memory.get(namespace, since="2024-01-15T10:29:59Z", before="2024-01-15T10:30:01Z") == [old]
        assert memory.get(namespace)[1]["timestamp"].endswith("+00:00")
        memory.clear(namespace)


GOOD = b'{"role":"user","content":"good","timestamp":"2024-01-15T10:30:00Z"}'
BAD = [
    b"{cut",
    b"\x80\x04pickle",
    b"[]",
    b"null",
    b'{"content":"x"}',
    b'{"role":"user"}',
    b'{"role":1,"content":"x"}',
    b"\xff",
    b"",
]


@pytest.mark.parametrize("bad", BAD)
def test_an_entry_that_is_no_message_is_skipped_and_reported(server: Server, namespace: str, bad: bytes):
    key = f"session:{namespace}"
    put_raw(server, key, GOOD, bad, GOOD, bad)
    with MemoryClient(url=server.url) as memory:
        events = heard(memory)
        assert contents(memory.get(namespace)) == ["good", "good"]
        skipped = [event for event in events if isinstance(event, RecordSkipped)]
        assert [(event.key, event.position) for event in skipped] == [(key, 1), (key, 3)]
        assert all("pickle" not in str(event) for event in skipped)
        assert memory.engine.status().counters["RecordSkipped"] == 2
        assert len(memory.get(namespace, 1)) == 1, "the limit counts messages"
        assert len(memory.get(namespace, 2)) == 2
        assert len(memory.get(namespace, since=START)) == 2
        assert memory.count(namespace) == 4
        memory.clear(namespace)


def test_many_bad_entries_do_not_hide_the_good(server: Server, namespace: str):
    key = f"session:{namespace}"
    put_raw(server, key, *[GOOD] * 3, *[b"?"] * (2 * PAGE))
    with MemoryClient(url=server.url) as memory:
        events = heard(memory)
        assert len(memory.get(namespace, 2)) == 2
        positions = [event.position for event in events if isinstance(event, RecordSkipped)]
        assert positions == list(range(3, 3 + 2 * PAGE))
        memory.clear(namespace)


def test_a_message_without_a_time_is_in_no_period(server: Server, namespace: str):
    put_raw(
        server,
        f"session:{namespace}",
        b'{"role":"user","content":"x"}',
        b'{"role":"user","content":"x","timestamp":1}',
    )
    with MemoryClient(url=server.url) as memory:
        assert len(memory.get(namespace)) == 2
        assert memory.get(namespace, since=START) == []
        memory.clear(namespace)


def test_a_key_of_another_type_is_an_error_of_its_own(server: Server, namespace: str):
    with MemoryClient(url=server.url) as memory, server.client() as plain:
        plain.set(f"session:{namespace}", "a string")
        for call in (memory.get, memory.count, memory.exists):
            with pytest.raises(WrongKind, match=namespace):
                call(namespace)
        with pytest.raises(WrongKind, match=namespace):
            memory.add(namespace, "user", "x")
        assert plain.get(f"session:{namespace}") == b"a string"
        plain.delete(f"session:{namespace}")


# --- which sessions there are ---------------------------------------------------------------------

HOSTILE = [
    "a", "a:b", "a:", ":a", "*", "a*", "?", "[a]", "[^a]", "a\\", "\\*", "{a}", "{", "}", " ", "a b", "\n",
    "\r\n$1\r\n", "\x00", "a\x00", "a\x00b", "%3A", "a%3Ab", "..", "../../etc/passwd", '"', "%s", "é",
    "e\u0301",
    "'; DROP TABLE lists; --", "日本語", "🧠", "\u202eabc", "\ufeff", "session:a", "A", "0", "-1", "x" * 400,
]  # fmt: skip


def test_hostile_session_ids_stay_apart(memory: MemoryClient):
    for number, session_id in enumerate(HOSTILE):
        memory.add(session_id, "user", str(number))
    for number, session_id in enumerate(HOSTILE):
        assert contents(memory.get(session_id)) == [str(number)]
    assert sorted(memory.sessions()) == sorted(HOSTILE)
    for prefix in HOSTILE:
        assert sorted(memory.sessions(prefix)) == sorted(each for each in HOSTILE if each.startswith(prefix))
    memory.clear("a*")
    assert sorted(memory.sessions()) == sorted(set(HOSTILE) - {"a*"})


def test_sessions_come_in_pages_and_up_to_a_limit(memory: MemoryClient):
    names = [f"s{number}" for number in range(1200)]
    for name in names:
        memory.add(name, "user", "x")
    memory.add("other", "user", "x")
    assert sorted(memory.sessions("s")) == sorted(names)
    some = memory.sessions("s", limit=7)
    assert len(set(some)) == 7
    assert set(some) <= set(names)


def test_another_prefix_is_another_place(make: Open):
    one, other = make(key_prefix="chat*:"), make(key_prefix="chat")
    one.add("s", "user", "x")
    assert one.key_of("s") == "chat*:s"
    assert one.sessions() == ["s"]
    assert other.get("s") == []
    for wrong in ("", "\ud800", "x" * 512):
        with pytest.raises(InvalidKey, match="key_prefix"):
            make(key_prefix=wrong)


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


WRITER = """
import sys
from remanence.sync.messages import MemoryClient
url, namespace, name = sys.argv[1:]
with MemoryClient(url=url or None, namespace=namespace) as memory:
    for number in range(100):
        memory.add("shared", "user", f"{name} {number}")
"""


def test_four_processes_write_into_one_session(make: Open, where: dict[str, Any]):
    if where.get("backend") == "memory":
        pytest.skip("memory is one process's own")
    arguments = [sys.executable, "-W", "error", "-c", WRITER, where.get("url", ""), where["namespace"]]
    writers = [subprocess.Popen([*arguments, str(name)]) for name in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    found = contents(make().get("shared"))
    assert len(found) == 400
    for name in "0123":
        own = [each for each in found if each.startswith(f"{name} ")]
        assert own == [f"{name} {number}" for number in range(100)], "each process's order is kept"


# --- asyncio --------------------------------------------------------------------------------------


def test_asyncio_does_the_same(where: dict[str, Any]):
    async def story() -> None:
        async with AsyncMemoryClient(**where) as memory:
            await asyncio.gather(*(memory.add(f"s{n % 3}", "user", str(n)) for n in range(30)))
            await memory.add_many("s0", [("assistant", "x", {"a": 1})])
            assert await memory.count("s0") == 11
            assert (await memory.get("s0", 1))[0]["metadata"] == {"a": 1}
            assert await memory.exists("s1")
            assert sorted(await memory.sessions()) == ["s0", "s1", "s2"]
            reading = await memory.read("s1", 2, since=START)
            assert (len(reading.value), reading.source) == (2, "store")
            await memory.clear("s1")
            assert await memory.get("s1") == []
            with pytest.raises(InvalidArgument, match="user, assistant"):
                await memory.add("s1", "system", "x")
        async with AsyncMemoryClientSelector.create(**where) as memory:
            assert isinstance(memory, AsyncMemoryClient)

    asyncio.run(story())


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
