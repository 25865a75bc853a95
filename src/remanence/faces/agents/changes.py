"""What was done to a memory, as other agents hear of it."""

from collections.abc import Sequence

import msgspec

from remanence.errors import CorruptRecord
from remanence.faces.agents.records import PREFIXES, stored
from remanence.search.bodies import Body


class Told(msgspec.Struct, frozen=True):
    """What somebody did to a memory. `action` is add, update or delete."""

    action: str
    kind: str
    memory_id: str
    agent_id: str


Heard = Sequence[tuple[str, Told]]
"""What was done, each with its operation where this process did it, else with ""."""


def named(key: str) -> tuple[str, str] | None:
    """The type and the id of the memory at a key; None for another key."""
    kind = next((kind for kind, prefix in PREFIXES.items() if key.startswith(prefix)), None)
    return None if kind is None else (kind, key.removeprefix(PREFIXES[kind]))


def action_of(known: bool, body: Body) -> str:
    """What was done last to a memory; "" where it was only used, which is noted in it, too.

    Another process of this machine may have put it into the catalogue before: what it was there tells nothing.
    """
    memory = stored(body.body, body.id)
    if known and memory.updated_at < memory.last_accessed:
        return ""
    return "add" if memory.updated_at == memory.created_at else "update"


def told_of(action: str, body: Body) -> Told:
    """What is told of a memory as it was last seen: by whom it was made, where that can be read."""
    _, kind, memory = body.id.split(":", 2)
    try:
        agent = stored(body.body, body.id).agent_id
    except CorruptRecord:
        agent = ""
    return Told(action, kind, memory, agent)


__all__ = ["Heard", "Told", "action_of", "named", "told_of"]
