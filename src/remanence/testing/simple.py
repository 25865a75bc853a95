"""The plainest things a test does: add to one list, look at it with a plain client, name no server, double a number."""

from contextlib import closing
from typing import Any

from remanence.model import Append
from remanence.runtime.blocking import run
from remanence.sync.state import Memory
from remanence.testing.servers import HOST, PortClaim, Server
from remanence.wire.keys import Keyspace

LIST = "list"


def append(memory: Memory, *items: str) -> None:
    """Add items to the list through the journal, in one write."""
    run(memory.engine.gateway.write([Append(LIST, tuple(item.encode() for item in items))]))


def items_of(server: Server, namespace: str) -> list[str]:
    """What a plain client finds in the list."""
    with closing(server.client()) as client:
        found: Any = client.lrange(Keyspace(namespace).data(LIST), 0, -1)
        return [item.decode() for item in found]


def nowhere() -> str:
    """The address of a server that is not there."""
    claim = PortClaim()
    claim.release()
    return f"redis://{HOST}:{claim.number}/0"


def doubled(value: Any) -> Any:
    """What an update makes of a value in many tests."""
    return value * 2
