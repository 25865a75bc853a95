"""Every snippet of the document that shared state was asked for with, changed in its import lines alone.

Each runs where the environment names a server, as in the document, and where nothing names one.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from remanence import ConversationMemory, Memory
from remanence.testing.oracle import child
from remanence.testing.servers import Server, available_servers

QUICKSTART = """
from remanence import Memory

mem = Memory()
mem.answer = 42
print(mem.answer)  # 42

# Across processes or instances:
mem2 = Memory()
print(mem2.answer)  # 42

mem.settings = {"theme": "dark", "volume": 0.75}
print(mem.settings)  # {'theme': 'dark', 'volume': 0.75}
"""

ACROSS_PROCESSES = """
from remanence import Memory

mem2 = Memory()
print(mem2.answer)  # 42
print(mem2.settings)  # {'theme': 'dark', 'volume': 0.75}
"""

CONTEXT = """
with Memory() as memory:
    memory.session = "active"
    print(memory.session)  # "active"

# Later, in a new context:
with Memory() as memory:
    print(memory.session)  # "active"
"""

CONVERSATION = """
from remanence import ConversationMemory

conv_mem = ConversationMemory(conversation_id="user123")
conv_mem.state = {"step": 1}
print(conv_mem.state)  # {'step': 1}
"""

Play = Callable[..., dict[str, Any]]


@pytest.fixture
def play() -> Iterator[Play]:
    """Runs a snippet with the names it is given; what it opened is closed after the test."""
    played: list[dict[str, Any]] = []

    def run(snippet: str, **names: Any) -> dict[str, Any]:
        played.append(names)
        exec(compile(snippet, "document", "exec"), names)
        return names

    yield run
    for names in played:
        for each in names.values():
            if isinstance(each, Memory):
                each.close()


@pytest.fixture
def own(fresh_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server of this test's own, which the environment names as the document does."""
    server = fresh_server()
    monkeypatch.setenv("REDIS_HOST", "localhost")
    monkeypatch.setenv("REDIS_PORT", str(server.port))
    return server


@pytest.fixture(params=["sqlite", *available_servers()])
def somewhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Either the embedded file, where nothing is named, or each kind of server in turn."""
    if request.param == "sqlite":
        yield "sqlite"
        return
    with Server(request.param) as server:
        monkeypatch.setenv("REDIS_HOST", "localhost")
        monkeypatch.setenv("REDIS_PORT", str(server.port))
        yield request.param


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_the_quickstart(somewhere: str, play: Play, capsys: pytest.CaptureFixture[str]):
    mem = play(QUICKSTART)["mem"]
    assert told(capsys) == ["42", "42", "{'theme': 'dark', 'volume': 0.75}"]
    assert mem.engine.settings.backend == ("sqlite" if somewhere == "sqlite" else "redis")
    assert child(ACROSS_PROCESSES) == "42\n{'theme': 'dark', 'volume': 0.75}\n"


def test_the_context_block(somewhere: str, play: Play, capsys: pytest.CaptureFixture[str]):
    play(CONTEXT, Memory=Memory)
    assert told(capsys) == ["active", "active"]


def test_the_conversation(somewhere: str, play: Play, capsys: pytest.CaptureFixture[str]):
    conversation = play(CONVERSATION)["conv_mem"]
    assert told(capsys) == ["{'step': 1}"]
    assert list(conversation) == ["state"]
    with ConversationMemory(conversation_id="user124") as another, Memory() as outer:
        assert not hasattr(another, "state") and not hasattr(outer, "state")


def test_the_keys_and_values_are_the_documented_ones(own: Server, play: Play):
    started = time.time_ns()
    play(QUICKSTART)
    play(CONTEXT, Memory=Memory)
    play(CONVERSATION)
    stored = {
        "memory:answer": 42,
        "memory:settings": {"theme": "dark", "volume": 0.75},
        "memory:session": "active",
        "memory:user123:state": {"step": 1},
    }
    with own.client(decode_responses=True) as plain:
        assert set(plain.scan_iter("memory:*")) == stored.keys()
        for key, value in stored.items():
            document = json.loads(str(plain.get(key)))
            assert document["value"] == value
            assert started <= document["last_modified"] <= time.time_ns()
            assert plain.ttl(key) == -1


def test_the_environment_variables(own: Server, monkeypatch: pytest.MonkeyPatch, play: Play):
    monkeypatch.setenv("REDIS_PREFIX", "mine:")
    mem = play(QUICKSTART)["mem"]
    play(CONVERSATION)
    assert mem.engine.place == f"localhost:{own.port}/0"
    with own.client(decode_responses=True) as plain:
        assert set(plain.scan_iter("m*")) == {"mine:answer", "mine:settings", "mine:user123:state"}


@pytest.mark.parametrize("by_position", [True, False])
def test_an_argument_wins_over_the_environment(own: Server, monkeypatch: pytest.MonkeyPatch, by_position: bool):
    for name, value in {"REDIS_HOST": "redis.invalid", "REDIS_PORT": "1", "REDIS_PREFIX": "env:"}.items():
        monkeypatch.setenv(name, value)
    values = ("127.0.0.1", own.port, "argument:")
    named = dict(zip(("redis_hostname", "redis_port", "redis_prefix"), values, strict=True))
    # the document's names, and its order
    memory: Any = Memory(*values) if by_position else Memory(**named)  # type: ignore[arg-type]
    talk: Any = ConversationMemory("user123", *values) if by_position else ConversationMemory("user123", **named)  # type: ignore[arg-type]
    with memory, talk, own.client() as plain:
        memory.answer = talk.answer = 42
        assert plain.exists("argument:answer", "argument:user123:answer") == 2


def test_attributes_are_set_deleted_and_synced(somewhere: str):
    with Memory() as m:
        with suppress(AttributeError):
            del m.answer
        m.answer = 42
        m.sync("answer")
        del m.answer
        with pytest.raises(AttributeError, match="answer"):
            _ = m.answer
        m._local = object()
        with Memory() as other:
            assert not hasattr(other, "_local") and not list(other)
