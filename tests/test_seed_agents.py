"""Every snippet of the document that agents' memory was asked for with, changed in its import lines alone.

The document assumes a server on localhost:6379: connections there are led to a server of the tests' own. It writes
`...` for arguments of the reader's own, which are given here.
"""

import ast
import asyncio
import inspect
import logging
import socket
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from remanence import MemoryArchitecture, MemorySerializer, RedisMemoryAdapter, create_memory_adapter
from remanence.testing.oracle import child
from remanence.testing.servers import PortClaim, Server

DOCUMENTED_PORT = 6379
EPISODE = "'Look up', 'found a relevant query', True, 1.5"
Run = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def adapters(monkeypatch: pytest.MonkeyPatch) -> list[RedisMemoryAdapter]:
    """What the snippets opened, which close little of it."""
    opened: list[RedisMemoryAdapter] = []
    begin = RedisMemoryAdapter.__init__

    def noted(adapter: RedisMemoryAdapter, *args: Any, **named: Any) -> None:
        begin(adapter, *args, **named)
        opened.append(adapter)

    monkeypatch.setattr(RedisMemoryAdapter, "__init__", noted)
    return opened


@pytest.fixture
def run(adapters: list[RedisMemoryAdapter]) -> Run:
    """Run a snippet, which may await, with the names that the document assumes; what it defined.

    `also` is awaited with those names before everything is closed.
    """

    def snippet(text: str, also: Callable[[dict[str, Any]], Any] | None = None, **names: Any) -> dict[str, Any]:
        code = compile(textwrap.dedent(text), "document", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

        async def everything() -> None:
            try:
                for name, value in names.items():
                    names[name] = await value if inspect.isawaitable(value) else value
                ended = eval(code, names)
                if inspect.isawaitable(ended):
                    await ended
                if also is not None:
                    await also(names)
            finally:
                for each in adapters:
                    await each.close(0.2)

        names.setdefault("__name__", "document")
        asyncio.run(everything())
        return names

    return snippet


def lead_to(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    connect = socket.socket.connect

    def forwarded(link: socket.socket, address: Any) -> None:
        if link.family != socket.AF_UNIX and address[1] == DOCUMENTED_PORT:
            assert address[0] in ("127.0.0.1", "::1", "localhost")
            if link.family == socket.AF_INET6:
                raise ConnectionRefusedError("the test's server listens on IPv4 alone")
            address = ("127.0.0.1", port)
        connect(link, address)

    monkeypatch.setattr(socket.socket, "connect", forwarded)


@pytest.fixture
def own_server() -> Iterator[Server]:
    """For one snippet alone: it writes where no namespace is named."""
    with Server() as server:
        yield server


@pytest.fixture
def documented_server(own_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    lead_to(monkeypatch, own_server.port)
    return own_server


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No server answers behind the documented port."""
    claim = PortClaim()
    lead_to(monkeypatch, claim.number)
    monkeypatch.setenv("REMANENCE_DEADLINE", "0.1")
    yield
    claim.release()


# What the document spells `from redis_memory_adapter import …`, and so on.

CONFIGURATION = """
from remanence import create_memory_adapter

# Using Redis
memory = await create_memory_adapter(
    backend="redis",
    agent_id="agent_001",
    redis_host="localhost",
    redis_port=6379,
    enable_pubsub=True
)

# Using SQLite (fallback)
memory = await create_memory_adapter(
    backend="sqlite",
    agent_id="agent_001"
)

# Using environment variable
memory = await create_memory_adapter(agent_id="agent_001")
"""

BASIC = """
import asyncio
from remanence import create_memory_adapter

async def main():
    # Create adapter
    memory = await create_memory_adapter(
        backend="redis",
        agent_id="agent_001",
        session_id="task_session_001"
    )

    try:
        # Add working memory steps
        await memory.add_step(
            action="search_web",
            observation="Found 10 results",
            reasoning="User requested information",
            success=True
        )

        await memory.add_step(
            action="extract_data",
            observation="Extracted key facts",
            reasoning="Consolidating information",
            success=True
        )

        # Save as episode
        episode = await memory.save_episode(
            task_prompt="Research topic X",
            outcome="Successfully gathered information",
            success=True,
            duration_seconds=5.2,
            tags=["research", "web_search"],
            importance=0.8
        )

        print(f"Saved episode: {episode.memory_id}")

        # Search memories
        results = await memory.search_episodes("research", limit=5)
        print(f"Found {len(results)} matching episodes")

        # Save a skill
        skill = await memory.save_skill(
            skill_name="web_research",
            description="Search web and extract information",
            action_sequence=[
                {"action": "search_web", "params": {"query": "{{query}}"}},
                {"action": "extract_data", "params": {"format": "structured"}}
            ],
            tags=["research"]
        )

        # Record skill execution
        await memory.record_skill_execution(
            skill_name="web_research",
            success=True,
            duration=5.2
        )

        # Get enriched context for LLM
        context = await memory.get_enriched_context(
            query="how to do research",
            detailed_steps=5,
            limit_per_type=2
        )

        print("\\nEnriched context:")
        print(context)

    finally:
        # Cleanup
        await memory.close()

if __name__ == "__main__":
    asyncio.run(main())
"""

SHARING = f"""
# Agent 1
agent1_memory = await create_memory_adapter(
    backend="redis",
    agent_id="agent_001",
    enable_pubsub=True  # Enable real-time sync
)

# Agent 2
agent2_memory = await create_memory_adapter(
    backend="redis",
    agent_id="agent_002",
    enable_pubsub=True
)

# When agent_001 saves an episode, agent_002 will be notified via pub/sub
await agent1_memory.save_episode({EPISODE})

# Agent 2 can search and find it
results = await agent2_memory.search_episodes("relevant query")
"""

SESSIONS = """
# Create memory with specific session
memory = await create_memory_adapter(
    backend="redis",
    agent_id="agent_001",
    session_id="session_001"
)

# Rotate to new session (maintains continuity)
new_session_id = await memory.rotate_session()

# Get session history
history = await memory.get_session_history()
print(f"Session chain: {history}")
"""

UNIFIED = """
# Search all memory types at once
results = await memory.search_all(
    query="web scraping",
    limit_per_type=3
)

# Results contain:
# - results["episodic"]: Past experiences
# - results["semantic"]: Generalized knowledge
# - results["skills"]: Relevant skills

for episode in results["episodic"]:
    print(f"Episode: {episode.task_prompt}")

for semantic in results["semantic"]:
    print(f"Knowledge: {semantic.pattern}")

for skill in results["skills"]:
    print(f"Skill: {skill.skill_name} (success rate: {skill.success_rate:.1%})")
"""

CONNECTION = """
if memory.redis_manager.available:
    print("Redis is connected")
else:
    print("Using SQLite fallback")
"""

ERRORS = f"""
# Example with error handling
try:
    episode = await memory.save_episode({EPISODE})
except Exception as e:
    logger.error(f"Failed to save episode: {{e}}")
    # Episode is still saved to SQLite fallback
"""

LOGURU = """
from loguru import logger

logger.add("redis_memory.log", level="DEBUG")

# Now you'll see detailed logs:
# - Redis connections/disconnections
# - Pub/sub messages
# - Fallback events
# - Batch operations
"""

BEFORE = f"""
# Before (using SQLite only)
from remanence import MemoryArchitecture
memory = MemoryArchitecture()

memory.add_step("a", "o")
episode = memory.save_episode({EPISODE})
"""

AFTER = f"""
# After (using Redis with fallback)
from remanence import create_memory_adapter
memory = await create_memory_adapter(backend="redis", agent_id="agent_001")
await memory.initialize()

# All methods work the same:
await memory.add_step("a", "o")
episode = await memory.save_episode({EPISODE})
"""

MANUAL = """
import asyncio
from remanence import create_memory_adapter

async def test():
    memory = await create_memory_adapter(
        backend='redis',
        agent_id='test_agent'
    )

    await memory.add_step('test', 'observation', success=True)
    print('Test passed!')
    await memory.close()

asyncio.run(test())
"""


# --- with a server --------------------------------------------------------------------------------


def test_configuration(run: Run, documented_server: Server):
    names = run(CONFIGURATION)
    assert names["memory"].agent_id == "agent_001"


@pytest.mark.parametrize("backend", ["redis", "sqlite"])
def test_configuration_by_the_environment(
    run: Run, documented_server: Server, monkeypatch: pytest.MonkeyPatch, backend: str
):
    monkeypatch.setenv("MEMORY_BACKEND", backend)
    for name, value in {"HOST": "localhost", "PORT": "6379", "DB": "0", "PASSWORD": ""}.items():
        monkeypatch.setenv(f"REDIS_{name}", value)
    names = run(CONFIGURATION)
    assert names["memory"].engine.settings.backend == backend
    assert ("6379" in names["memory"].engine.place) == (backend == "redis")


def told_of_basic(out: str) -> None:
    assert "Saved episode: " in out and "Found 1 matching episodes" in out
    context = out.partition("Enriched context:")[2]
    for part in ("search_web", "extract_data", "Search web and extract information", "worked 1 of 1 times"):
        assert part in context


def test_basic_operations(run: Run, documented_server: Server, capsys: pytest.CaptureFixture[str]):
    async def main(names: dict[str, Any]) -> None:
        await names["main"]()

    run(BASIC, main)
    told_of_basic(capsys.readouterr().out)
    with documented_server.client() as plain:
        names = sorted(plain.scan_iter("memory:*")) + sorted(plain.scan_iter("agent:*"))
        kinds = [name.decode().rpartition(":")[0] for name in names]
        assert kinds == ["memory:episodic", "memory:skill", "agent:agent_001:working", "agent:session"]
        for name in names[:2]:
            raw: Any = plain.get(name)
            assert raw[:1] in (b"\x00", b"\x01"), "the flag byte tells how it is stored"


def test_agents_share(run: Run, documented_server: Server, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG, "remanence")
    heard: list[str] = []

    async def told(names: dict[str, Any]) -> None:
        (found,) = names["results"]
        heard.append(f"Received memory update: add episodic {found.memory_id} from agent_001")
        async with asyncio.timeout(10):
            while heard[0] not in caplog.messages:
                await asyncio.sleep(0.01)

    with MemoryArchitecture(backend="redis", agent_id="agent_002") as before:
        before.get_stats()  # this machine follows the log from here on
    run(SHARING, told, create_memory_adapter=create_memory_adapter)
    assert caplog.messages.count(heard[0]) == 1


def test_sessions(run: Run, documented_server: Server, capsys: pytest.CaptureFixture[str]):
    names = run(SESSIONS, create_memory_adapter=create_memory_adapter)
    assert names["history"] == ["session_001", names["new_session_id"]]
    assert "Session chain: ['session_001', '" in capsys.readouterr().out


def test_unified_search(run: Run, documented_server: Server, capsys: pytest.CaptureFixture[str]):
    async def scraper() -> RedisMemoryAdapter:
        memory = await create_memory_adapter(backend="redis")
        await memory.save_episode("web scraping of pages", "done", True, 1.0)
        await memory.add_semantic("web scraping needs patience")
        await memory.save_skill("scraper", "web scraping", [])
        await memory.record_skill_execution("scraper", True, 1.0)
        return memory

    run(UNIFIED, memory=scraper())
    out = capsys.readouterr().out
    assert "Episode: web scraping of pages" in out and "Knowledge: web scraping needs patience" in out
    assert "Skill: scraper (success rate: 100.0%)" in out


def test_whether_the_server_is_there(run: Run, documented_server: Server, capsys: pytest.CaptureFixture[str]):
    run(CONNECTION, memory=create_memory_adapter(backend="redis"))
    assert capsys.readouterr().out == "Redis is connected\n"


def test_coming_from_the_architecture(run: Run, documented_server: Server):
    with run(BEFORE)["memory"] as memory:
        assert isinstance(memory, MemoryArchitecture)
        assert [step.action for step in memory.search_episodes("look")[0].steps] == ["a"]
    assert run(AFTER)["episode"].task_prompt == "Look up"


def test_by_hand(own_server: Server):
    assert child(MANUAL, REDIS_PORT=str(own_server.port)) == "Test passed!\n"


# --- without one ----------------------------------------------------------------------------------


def test_basic_operations_without_a_server(run: Run, nobody: None, capsys: pytest.CaptureFixture[str]):
    async def main(names: dict[str, Any]) -> None:
        await names["main"]()

    run(BASIC, main)
    told_of_basic(capsys.readouterr().out)


def test_a_server_that_has_no_address(monkeypatch: pytest.MonkeyPatch):
    told_of_basic(child(BASIC, REDIS_HOST="server.invalid", REMANENCE_DEADLINE="0.1"))


def test_without_a_server_it_is_said_and_nothing_fails(
    run: Run, nobody: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    named: dict[str, Any] = {"logger": logging.getLogger("document")}
    monkeypatch.setattr(named["logger"], "error", lambda text: pytest.fail(text))

    async def noted() -> RedisMemoryAdapter:
        memory = await create_memory_adapter(backend="redis")
        await memory.add_step("a", "o")
        return memory

    run(CONNECTION, memory=noted())
    assert capsys.readouterr().out == "Using SQLite fallback\n"
    assert run(ERRORS, memory=noted(), **named)["episode"].outcome == "found a relevant query"


# --- settings -------------------------------------------------------------------------------------


def test_loguru(run: Run, documented_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    loguru = pytest.importorskip("loguru")
    monkeypatch.chdir(tmp_path)

    async def logged(names: dict[str, Any]) -> None:
        memory = await create_memory_adapter(backend="redis")
        memory.engine.observe(lambda event: loguru.logger.log(event.level, "{}", event))
        await memory.add_step("a", "o")

    run(LOGURU, logged)
    loguru.logger.remove()
    assert "applied" in (tmp_path / "redis_memory.log").read_text()


def test_constants_are_settings(monkeypatch: pytest.MonkeyPatch):
    """What the document has its reader change in the source: times to live, batches, compression."""
    given: dict[str, Any] = {"working_ttl": 7200, "episodic_ttl": 86400 * 60, "batch_ops": 200, "linger": 0.2}
    with MemoryArchitecture(backend="memory", **given) as memory:
        episode = memory.save_episode("p", "o", True, 1.0)
        assert episode.expires_at is not None and (episode.expires_at - episode.created_at).days == 60
    for name, value in given.items():
        monkeypatch.setenv(f"REMANENCE_{name.upper()}", str(value))
    with MemoryArchitecture(backend="memory") as memory:
        settings = memory.engine.settings
        assert (settings.batch_ops, settings.linger) == (200, 0.2)
        assert (memory.save_episode("p", "o", True, 1.0).expires_at - episode.created_at).days == 60  # type: ignore[operator]


def test_compression():
    serializer = MemorySerializer(compression_threshold=2048)  # 2KB threshold
    assert isinstance(serializer, MemorySerializer)
