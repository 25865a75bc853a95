"""The documented uses of `RedisWorkingMemoryManager`, as their users wrote them, with our import lines.

Each snippet runs in the names that the first one makes, as they build on each other. What else is changed:

* the address `localhost:6379` is that of a server of the test's own;
* the agents of `arshai` stand under `arshai.agents.hub`, take the memory by its keyword, and talk to a
  language model that answers without a network;
* the unit test that replaced the redis client by a mock runs against a real server instead, where one looks
  whether the value is there; marks and fixtures of pytest become a call with arguments.
"""

import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from remanence import RedisWorkingMemoryManager
from remanence.testing.servers import Server

IMPORTS = """
from remanence import RedisWorkingMemoryManager
from remanence import IMemoryInput, IWorkingMemory
from remanence import ConversationMemoryType
"""


Play = Callable[[str], dict[str, Any]]


@pytest.fixture
def own(fresh_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server of this test's own, which the environment names."""
    server: Server = fresh_server()
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{server.port}/1")
    monkeypatch.delenv("ENVIRONMENT", raising=False)
    return server


@pytest.fixture
def play(own: Server) -> Iterator[Play]:
    """Runs a snippet after the others of the test, and gives the names there are then."""
    names: dict[str, Any] = {}

    def run(snippet: str) -> dict[str, Any]:
        text = textwrap.dedent(snippet).replace("localhost:6379", f"127.0.0.1:{own.port}")
        exec(compile(text, "snippet", "exec"), names)
        return names

    run(IMPORTS)
    yield run
    for each in names.values():
        if isinstance(each, RedisWorkingMemoryManager):
            each.close(0.1)


@pytest.fixture
def client(own: Server) -> Iterator["redis.Redis"]:
    """Database 1, as redis-cli would see it."""
    with own.client(db=1, decode_responses=True) as made:
        yield made
