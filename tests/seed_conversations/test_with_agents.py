"""The documented uses of working memory by agents, in one process, in several, and when moving to Redis."""

import asyncio
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest

from remanence import InMemoryManager, RedisWorkingMemoryManager

Play = Callable[[str], dict[str, Any]]

AGENTS = """
from agents import WorkingMemoryAgent, OpenAIClient, ILLMConfig, IAgentInput
import asyncio
"""


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A module `agents` with the real agent, as the snippets call it; the prompts its model gets."""
    if find_spec("arshai") is None:
        pytest.skip("arshai is not installed: it has no build for this Python")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from arshai.agents.hub.working_memory import WorkingMemoryAgent as Agent
        from arshai.core.interfaces.iagent import IAgentInput
        from arshai.core.interfaces.illm import ILLMConfig
    prompts: list[str] = []

    class OpenAIClient:
        def __init__(self, config: Any) -> None:
            assert config.model

        async def chat(self, asked: Any) -> dict[str, str]:
            prompts.append(asked.user_message)
            return {"llm_response": asked.user_message.partition("New Interaction:\n")[2].partition("\n")[0]}

    class WorkingMemoryAgent(Agent):  # type: ignore[misc]
        def __init__(self, llm_client: Any, memory_manager: Any) -> None:
            super().__init__(llm_client, memory_manager=memory_manager)

    module: Any = ModuleType("agents")
    module.WorkingMemoryAgent, module.OpenAIClient = WorkingMemoryAgent, OpenAIClient
    module.ILLMConfig, module.IAgentInput = ILLMConfig, IAgentInput
    monkeypatch.setitem(sys.modules, "agents", module)
    return prompts


def test_with_agent(play: Play, agents: list[str], capsys: pytest.CaptureFixture[str]):
    play(AGENTS)
    play("""
        async def main():
            llm_client = OpenAIClient(ILLMConfig(model="gpt-3.5-turbo"))
            memory_manager = RedisWorkingMemoryManager()
            agent = WorkingMemoryAgent(
                llm_client=llm_client,
                memory_manager=memory_manager
            )
            response1 = await agent.process(IAgentInput(
                message="My name is Bob and I like Python",
                metadata={"conversation_id": "conv_123"}
            ))
            print(f"Agent: {response1}")
            response2 = await agent.process(IAgentInput(
                message="What's my name and what do I like?",
                metadata={"conversation_id": "conv_123"}
            ))
            print(f"Agent: {response2}")
        asyncio.run(main())
        """)
    assert capsys.readouterr().out.count("Agent: success") == 2
    assert "My name is Bob and I like Python" in agents[1]


def test_multi_process_deployment(play: Play, agents: list[str]):
    play(AGENTS)
    names = play("""
        llm_client = OpenAIClient(ILLMConfig(model="gpt-3.5-turbo"))
        async def process_1():
            memory_manager = RedisWorkingMemoryManager()
            agent = WorkingMemoryAgent(llm_client, memory_manager)
            await agent.process(IAgentInput(
                message="I'm Alice",
                metadata={"conversation_id": "conv_123"}
            ))
        async def process_2():
            memory_manager = RedisWorkingMemoryManager()
            agent = WorkingMemoryAgent(llm_client, memory_manager)
            response = await agent.process(IAgentInput(
                message="What's my name?",
                metadata={"conversation_id": "conv_123"}
            ))
        """)
    asyncio.run(names["process_1"]())
    asyncio.run(names["process_2"]())
    assert "I'm Alice" in agents[1]


@pytest.mark.parametrize(("environment", "ttl"), [("production", 86400), ("development", 3600), ("", 3600)])
def test_migration_from_in_memory(
    play: Play, agents: list[str], monkeypatch: pytest.MonkeyPatch, environment: str, ttl: int
):
    if environment:
        monkeypatch.setenv("ENVIRONMENT", environment)
    play(AGENTS)
    names = play('''
        import os
        def create_memory_manager():
            """Factory function for environment-specific memory manager."""
            environment = os.getenv("ENVIRONMENT", "development")
            if environment == "production":
                from remanence import RedisWorkingMemoryManager
                return RedisWorkingMemoryManager(
                    storage_url=os.getenv("REDIS_URL"),
                    ttl=86400
                )
            else:
                from remanence import InMemoryManager
                return InMemoryManager(ttl=3600)
        llm_client = OpenAIClient(ILLMConfig(model="gpt-3.5-turbo"))
        memory_manager = create_memory_manager()
        agent = WorkingMemoryAgent(llm_client, memory_manager)
        ''')
    manager = names["memory_manager"]
    assert type(manager) is (RedisWorkingMemoryManager if environment == "production" else InMemoryManager)
    assert manager.ttl == ttl
    play("from remanence import create_memory_manager as ours; made = ours()")
    assert (type(names["made"]), names["made"].ttl) == (type(manager), ttl)
    for message in ("I'm Alice", "What's my name?"):
        given = names["IAgentInput"](message=message, metadata={"conversation_id": "conv_123"})
        assert asyncio.run(names["agent"].process(given)) == "success"
    assert "I'm Alice" in agents[1], "the same code works in both environments"
