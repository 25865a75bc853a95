"""Session messages on every backend: what the seed promised, and what it got wrong."""

import asyncio
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from remanence.aio.messages import AsyncMemoryClient, AsyncMemoryClientSelector
from remanence.errors import (
    InvalidArgument,
    InvalidKey,
    InvalidTTL,
    InvalidValue,
    ValueTooLarge,
)
from remanence.faces.history import LATE, PAGE
from remanence.sync.messages import MemoryClient
from remanence.testing.messaging import START, at, contents
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


# --- several processes ----------------------------------------------------------------------------

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
