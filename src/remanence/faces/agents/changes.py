"""What was done to a memory, as other agents hear of it."""

from collections.abc import Sequence
from typing import Final

import msgspec

from remanence.errors import CorruptRecord
from remanence.faces.agents.records import stored

DELETED: Final = "delete"
UNKNOWN: Final = "unknown"
"""Who deleted a memory that nobody here knows any more."""


class Told(msgspec.Struct, frozen=True):
    """What somebody did to a memory. `action` is add, update or delete."""

    action: str
    kind: str
    memory_id: str
    agent_id: str


Heard = Sequence[tuple[str, Told]]
"""What was done, each with its operation where this process did it, else with ""."""


def change_of(key: str, body: bytes, *, known: bool) -> Told | None:
    """What was done last to the memory in these bytes; None where it cannot be read.

    `known`: it was seen before, and None also tells that it was only used, which is noted in it, too. What it was then
    tells nothing more: another process of this machine may have put it into the catalogue.
    """
    try:
        memory = stored(body, key)
    except CorruptRecord:
        return None
    if known and memory.updated_at < memory.last_accessed:
        return None
    _, kind, memory_id = key.split(":", 2)
    return Told("add" if memory.updated_at == memory.created_at else "update", kind, memory_id, memory.agent_id)


def deletion_of(key: str, body: bytes | None = None) -> Told:
    """That a memory was deleted. `body` is what it was, None where nobody here knows: the agent is `UNKNOWN` then."""
    agent = UNKNOWN
    if body is not None:
        try:
            agent = stored(body, key).agent_id
        except CorruptRecord:
            agent = ""
    _, kind, memory_id = key.split(":", 2)
    return Told(DELETED, kind, memory_id, agent)


__all__ = ["DELETED", "Heard", "Told", "change_of", "deletion_of"]
