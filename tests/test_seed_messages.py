"""Every snippet of the document that session messages were asked for with, changed in its import lines alone.

The document assumes some names (`memory`, a LangGraph workflow) and a server on localhost:6379. The names
are given here; connections to that port are led to a server of the tests' own.
"""

import os
import socket
import textwrap
import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from remanence import BaseMemory, MemoryClient
from remanence.testing.servers import Server

DOCUMENTED_PORT = 6379


@pytest.fixture
def documented_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server of this test behind port 6379 of localhost, as a port forwarder would put it there."""
    connect = socket.socket.connect

    def forwarded(link: socket.socket, address: Any) -> None:
        if link.family != socket.AF_UNIX and address[1] == DOCUMENTED_PORT:
            assert address[0] in ("127.0.0.1", "::1", "localhost")
            if link.family == socket.AF_INET6:
                raise ConnectionRefusedError("the test's server listens on IPv4 alone")
            address = ("127.0.0.1", server.port)
        connect(link, address)

    monkeypatch.setattr(socket.socket, "connect", forwarded)
    yield server
    with server.client() as plain:
        plain.delete("session:user-123", "session:user-123-conv-1", "session:langgraph")


@pytest.fixture
def memory(documented_server: Server) -> Iterator[MemoryClient]:
    """What the examples of methods call `memory`."""
    with MemoryClient(port=DOCUMENTED_PORT) as client:
        yield client


def run(snippet: str, **names: Any) -> dict[str, Any]:
    """Run a snippet with the names that the document assumes; what it defined."""
    exec(compile(snippet, "document", "exec"), names)
    return names


# What the document spells `from tools.database.memory….main import MemoryClient`, and so on.

CLASS_DEFINITION = '''
from remanence import MemoryClient

class MemoryClient(BaseMemory):
    """Redis client for storing conversation history.

    Stores session-based messages in Redis with automatic TTL expiration.
    Each session is a Redis list containing JSON-encoded messages.
    """
'''

CONSTRUCTOR = """
memory = MemoryClient(
    host="localhost",
    port=6379,
    password=None,
    db=0,
    session_ttl=3600,
    key_prefix="session:"
)
"""

SELECTOR = """
from remanence import MemoryClientSelector

memory = MemoryClientSelector.create(
    provider="redis",
    host="localhost",
    port=6379,
    session_ttl=3600
)
"""

ADD = """
# Add user message
memory.add(
    session_id="user-123",
    role="user",
    content="What is RAG?"
)

# Add assistant response
memory.add(
    session_id="user-123",
    role="assistant",
    content="RAG stands for Retrieval-Augmented Generation...",
    metadata={"model": "gpt-4", "tokens": 120}
)
"""

GET = """
# Get all messages
history = memory.get(session_id="user-123")
for msg in history:
    print(f"{msg['role']}: {msg['content']}")
    print(f"  Timestamp: {msg['timestamp']}")

# Get last 10 messages only
recent = memory.get(session_id="user-123", limit=10)
"""

CLEAR = """
# Clear session history
memory.clear(session_id="user-123")

# Verify cleared
history = memory.get(session_id="user-123")
assert len(history) == 0
"""

EXISTS = """
if memory.exists(session_id="user-123"):
    print("Session found, loading history")
else:
    print("New session, starting fresh")
"""

MULTI_TURN = """
from remanence import MemoryClientSelector

memory = MemoryClientSelector.create(provider="redis")
session_id = "user-123-conv-1"

# Turn 1
memory.add(session_id=session_id, role="user", content="What is RAG?")
memory.add(session_id=session_id, role="assistant", content="RAG is...")

# Turn 2 (with context)
memory.add(session_id=session_id, role="user", content="How does it work?")
history = memory.get(session_id=session_id)
# Use history for context in LLM call
"""

MANAGEMENT = """
import uuid

# Create new session
session_id = str(uuid.uuid4())

# Add initial message
memory.add(session_id=session_id, role="user", content="Hello")

# Return session_id to user for continuation
return {"session_id": session_id, "response": "Hi!"}
"""

CONTEXT_WINDOW = """
# Get last 10 messages to fit context window
history = memory.get(session_id="user-123", limit=10)

# Build prompt
messages = [{"role": msg["role"], "content": msg["content"]}
            for msg in history]
"""

LANGGRAPH = """
from remanence import MemoryClientSelector

# Initialize memory
memory = MemoryClientSelector.create(provider="redis")

# After agent execution
final_state = agent_workflow.invoke(state, config=config)

# Store conversation
for msg in final_state["messages"]:
    memory.add(
        session_id=state["session_id"],
        role="assistant" if msg.type == "ai" else "user",
        content=msg.content
    )
"""


def test_the_class_definition():
    made = run(CLASS_DEFINITION, BaseMemory=BaseMemory)["MemoryClient"]
    assert issubclass(made, BaseMemory)
    assert issubclass(MemoryClient, BaseMemory)


def test_the_constructor(documented_server: Server):
    with run(CONSTRUCTOR, MemoryClient=MemoryClient)["memory"] as made:
        made.add("user-123", "user", "x")
        with documented_server.client() as plain:
            assert plain.llen("session:user-123") == 1
            assert 3590 < plain.ttl("session:user-123") <= 3600


def test_the_selector(documented_server: Server):
    with run(SELECTOR)["memory"] as made:
        assert made.engine.place == "localhost:6379/0"
        made.add("user-123", "user", "x")
        with documented_server.client() as plain:
            assert plain.llen("session:user-123") == 1


def test_adding_getting_and_clearing(memory: MemoryClient, capsys: pytest.CaptureFixture[str]):
    run(EXISTS, memory=memory)
    run(ADD, memory=memory)
    run(EXISTS, memory=memory)
    found = run(GET, memory=memory)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "New session, starting fresh"
    assert shown[1] == "Session found, loading history"
    assert shown[2] == "user: What is RAG?"
    assert shown[3].startswith("  Timestamp: 2")
    assert shown[4] == "assistant: RAG stands for Retrieval-Augmented Generation..."
    assert found["history"] == found["recent"]
    assert found["history"][1]["metadata"] == {"model": "gpt-4", "tokens": 120}
    run(CLEAR, memory=memory)


def test_multi_turn_conversation(documented_server: Server):
    found = run(MULTI_TURN)
    assert [message["content"] for message in found["history"]] == [
        "What is RAG?",
        "RAG is...",
        "How does it work?",
    ]
    found["memory"].close()


def test_session_management(memory: MemoryClient):
    names = run("def manage():\n" + textwrap.indent(MANAGEMENT, "    "), memory=memory)
    answer = names["manage"]()
    assert answer["response"] == "Hi!"
    assert uuid.UUID(answer["session_id"])
    assert memory.count(answer["session_id"]) == 1
    memory.clear(answer["session_id"])


def test_context_window_management(memory: MemoryClient):
    memory.add_many("user-123", [("user", str(number)) for number in range(30)])
    messages = run(CONTEXT_WINDOW, memory=memory)["messages"]
    assert messages == [{"role": "user", "content": str(number)} for number in range(20, 30)]


def test_integration_with_langgraph(documented_server: Server):
    class Workflow:
        def invoke(self, state: dict[str, str], config: dict[str, str]) -> dict[str, Any]:
            said = [SimpleNamespace(type="human", content="Hi"), SimpleNamespace(type="ai", content="Hello")]
            return {"messages": said}

    found = run(LANGGRAPH, agent_workflow=Workflow(), state={"session_id": "langgraph"}, config={})
    roles = [message["role"] for message in found["memory"].get("langgraph")]
    assert roles == ["user", "assistant"]
    found["memory"].close()


ENVIRONMENT = """
# Redis connection
REDIS_HOST=localhost
REDIS_PORT=6379
REDIS_PASSWORD=  # Optional
REDIS_DB=0

# Session settings
SESSION_TTL=3600  # 1 hour
KEY_PREFIX=session:
"""


def test_the_environment(documented_server: Server, monkeypatch: pytest.MonkeyPatch):
    lines = [line.partition("#")[0].strip() for line in ENVIRONMENT.splitlines()]
    for name, _, value in (line.partition("=") for line in lines if line):
        monkeypatch.setenv(name, value)
    assert os.environ["REDIS_PASSWORD"] == ""
    with MemoryClient() as made:
        assert made.engine.place == "localhost:6379/0"
        made.add("user-123", "user", "x")
        assert made.key_of("user-123") == "session:user-123"
        assert made.ttl("user-123") == pytest.approx(3600, abs=10)
