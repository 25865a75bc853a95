"""The real agents of the `arshai` package on our conversation memory."""

import asyncio
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from remanence.errors import RemanenceError
from remanence.faces.conversation_types import IWorkingMemory
from remanence.sync.conversations import InMemoryManager, RedisWorkingMemoryManager
from remanence.testing.servers import Server, available_servers

if find_spec("arshai") is None:
    pytest.skip("arshai is not installed: it has no build for this Python", allow_module_level=True)

with warnings.catch_warnings():  # of arshai's own: settings that pydantic 2 no longer knows
    warnings.simplefilter("ignore")
    from arshai.agents.hub.working_memory import WorkingMemoryAgent
    from arshai.core.interfaces import imemorymanager as theirs
    from arshai.core.interfaces.iagent import IAgentInput
    from arshai.memory.memory_types import ConversationMemoryType as TheirType


class Listener:
    """A language model that notes down what it is told about: each answer adds the newest message."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    async def chat(self, asked: Any) -> dict[str, str]:
        self.prompts.append(asked.user_message)
        before = asked.user_message.partition("Current Working Memory:\n")[2].partition("\n\nConversation")[0]
        said = asked.user_message.partition("New Interaction:\n")[2].partition("\n\nPlease")[0]
        return {"llm_response": said if before == "No existing memory" else f"{before} | {said}"}


@pytest.fixture(params=[*available_servers(), "sqlite", "InMemoryManager"])
def manager(
    request: pytest.FixtureRequest, _shared_servers: dict[str, Server], namespace: str
) -> Iterator[RedisWorkingMemoryManager | InMemoryManager]:
    if request.param == "InMemoryManager":
        made: RedisWorkingMemoryManager | InMemoryManager = InMemoryManager()
    elif request.param == "sqlite":
        made = RedisWorkingMemoryManager(backend="sqlite")
    else:
        if request.param not in _shared_servers:
            _shared_servers[request.param] = Server(request.param, unix_socket=True).start()
        made = RedisWorkingMemoryManager(_shared_servers[request.param].url, namespace=namespace)
    with made:
        yield made


def tell(manager: Any, message: str, conversation: str = "conv_123", model: Any = None, **metadata: Any) -> str:
    """What the real agent answers to `message`."""
    agent = WorkingMemoryAgent(llm_client=model or Listener(), memory_manager=manager)
    given = IAgentInput(message=message, metadata={"conversation_id": conversation, **metadata})
    answer: str = asyncio.run(agent.process(given))
    return answer


def test_the_agent_remembers(manager: Any):
    model = Listener()
    assert tell(manager, "My name is Bob and I like Python", model=model) == "success"
    assert tell(manager, "What's my name?", model=model) == "success"
    assert "No existing memory" in model.prompts[0]
    assert "My name is Bob and I like Python" in model.prompts[1]
    found = manager.retrieve({"conversation_id": "conv_123"})
    assert [each.working_memory for each in found] == ["My name is Bob and I like Python | What's my name?"]


def test_conversations_of_an_agent_are_kept_apart(manager: Any):
    model = Listener()
    tell(manager, "I am Alice", "conv_1", model)
    tell(manager, "I am Bob", "conv_2", model)
    assert "No existing memory" in model.prompts[1]


def test_metadata_of_the_agent_is_kept(manager: Any):
    tell(manager, "I am Alice", source="web")
    assert manager.retrieve({"conversation_id": "conv_123", "filters": {"source": "web"}})
    assert not manager.retrieve({"conversation_id": "conv_123", "filters": {"source": "mail"}})


def test_the_agent_is_told_why_metadata_cannot_be_stored(manager: Any):
    answer = tell(manager, "I am Alice", handle={"open"})
    assert answer.startswith("error: storage failed")
    assert 'metadata["handle"]' in answer
    assert manager.retrieve({"conversation_id": "conv_123"}) == []


def test_their_objects_are_taken(manager: Any):
    def of(**fields: Any) -> Any:
        kind = theirs.ConversationMemoryType.WORKING_MEMORY
        return theirs.IMemoryInput(conversation_id="conv_123", memory_type=kind, **fields)

    told = [theirs.IWorkingMemory(working_memory=text) for text in ("Likes tea", "Likes Python")]
    assert manager.store(of(data=told, metadata={"a": 1})) == "memory:WORKING_MEMORY:conv_123"
    assert manager.retrieve(of(query="TEA", filters={"a": 1})) == [IWorkingMemory("Likes tea")]
    manager.update(of(data=[theirs.IWorkingMemory.initialize_memory()]))
    assert "### USER CONTEXT:" in manager.retrieve(of())[0].working_memory
    manager.delete(of())
    assert manager.retrieve(of()) == []


def test_their_types_and_defaults_are_ours(manager: Any):
    data = [theirs.IWorkingMemory(working_memory="x")]
    plain = theirs.IMemoryInput(conversation_id="c", data=data)
    assert manager.store(plain) == "memory:SHORT_TERM_MEMORY:c"
    assert plain.limit == 5
    for kind in (*TheirType, *theirs.ConversationMemoryType):
        assert manager.key_of({"conversation_id": "c", "memory_type": kind}) == f"memory:{kind.value}:c"


def test_what_their_manager_stored_is_found(server: Server, namespace: str):
    """Their class writes, ours reads, updates, and theirs reads again: on the same keys."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from arshai.memory.working_memory import RedisWorkingMemoryManager as Theirs

        conversation = namespace
        kind = theirs.ConversationMemoryType.WORKING_MEMORY
        asked = theirs.IMemoryInput(conversation_id=conversation, memory_type=kind)
        data = [theirs.IWorkingMemory(working_memory="theirs")]
        said = theirs.IMemoryInput(conversation_id=conversation, memory_type=kind, data=data)
        old = Theirs(storage_url=server.url)
        try:
            old.store(said)
            with RedisWorkingMemoryManager(server.url) as manager:
                assert manager.retrieve(asked) == [IWorkingMemory("theirs")]
                manager.update({"conversation_id": conversation, "working_memory": "ours"})
                assert [each.working_memory for each in old.retrieve(asked)] == ["ours"]
                manager.delete(asked)
                assert old.retrieve(asked) == []
        finally:
            old.redis_client.close()


APPLICATION = """
import asyncio, json, os, signal, sys, warnings
warnings.simplefilter("ignore")
from arshai.agents.hub.working_memory import WorkingMemoryAgent
from arshai.core.interfaces.iagent import IAgentInput
from remanence import RedisWorkingMemoryManager

class Model:
    async def chat(self, asked):
        self.prompt = asked.user_message
        return {"llm_response": sys.argv[1]}

model = Model()
agent = WorkingMemoryAgent(llm_client=model, memory_manager=RedisWorkingMemoryManager())
given = IAgentInput(message=sys.argv[1], metadata={"conversation_id": "conv_123"})
answer = asyncio.run(agent.process(given))
print(json.dumps([answer, model.prompt]), flush=True)
if "--killed" in sys.argv:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def run_application(environment: dict[str, str], message: str, *flags: str) -> tuple[str, str]:
    """What a whole application answered in a process of its own, and what its model was asked."""
    command = [sys.executable, "-c", APPLICATION, message, *flags]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == (-9 if flags else 0), ended.stderr
    answer, prompt = json.loads(ended.stdout.splitlines()[-1])  # before it, arshai's own log
    return answer, prompt


def test_the_agent_remembers_over_restarts(fresh_server: Callable[..., Server]):
    """Also over kill -9 of the application, and over a server that was away while it was told."""
    server = fresh_server(persistence="aof")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "REDIS_URL": server.url}
    assert run_application(environment, "My name is Bob", "--killed")[0] == "success"
    answer, prompt = run_application(environment, "I like Python")
    assert answer == "success"
    assert "My name is Bob" in prompt
    server.kill()
    answer, prompt = run_application(environment, "I moved to Oslo", "--killed")
    assert answer == "success"
    server.start()
    with RedisWorkingMemoryManager(server.url) as manager:
        _wait_for(manager, "I moved to Oslo")


def _wait_for(manager: RedisWorkingMemoryManager, text: str) -> None:
    limit = time.monotonic() + 15
    while [each.working_memory for each in manager.retrieve({"conversation_id": "conv_123"})] != [text]:
        assert time.monotonic() < limit, "what the killed application journalled did not arrive"
        manager.store({"conversation_id": "another", "working_memory": "so that the journals are looked at"})
        time.sleep(0.05)


def test_the_agent_works_while_the_server_is_away(fresh_server: Callable[..., Server], namespace: str):
    server = fresh_server()
    with RedisWorkingMemoryManager(server.url, namespace=namespace) as manager:
        model = Listener()
        assert tell(manager, "I am Bob", model=model) == "success"
        server.kill()
        assert tell(manager, "I like tea", model=model) == "success"
        assert "I am Bob" in model.prompts[1], "it still knows what it was told"
        server.start()
        assert manager.engine.flush(10)
        assert manager.retrieve({"conversation_id": "conv_123"}) == [IWorkingMemory("I am Bob | I like tea")]


def test_an_agent_whose_memory_is_refused_says_so(fresh_server: Callable[..., Server], namespace: str):
    server = fresh_server()
    with RedisWorkingMemoryManager(server.url, namespace=namespace, fallback=False) as manager:
        server.kill()
        answer = tell(manager, "I am Bob")
        assert answer.startswith("error: storage failed")
        assert "cannot be reached" in answer
        with pytest.raises(RemanenceError):
            manager.retrieve({"conversation_id": "nobody"})
