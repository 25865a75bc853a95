"""Patterns that somebody deleted: of which episodes they were, so that the same is not learned from them again.

A note for each, at `agent:tending:unwanted:{agent_id}:{pattern_id}`, holds ids alone. It is written with the deletion,
and goes with the last of its episodes: a pass deletes it then. So there are never more than patterns were learned from
what is stored.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from remanence.errors import CorruptRecord, WrongKind
from remanence.faces.agents.tending.patterns import SOURCE
from remanence.faces.agents.types import SemanticMemory
from remanence.model import ABSENT, Delete, Put, Record
from remanence.protocols import Fetch, Gateway
from remanence.wire.keys import component, final

_PREFIX: Final = "agent:tending:unwanted:"


class Unwanted(msgspec.Struct, frozen=True):
    """A note: at which key, under which stamp, and the ids of the episodes that the pattern was learned from."""

    key: str
    etag: str
    source_episodes: frozenset[str]


def beginning(agent_id: str, limit: int) -> str:
    """What the keys of the notes of an agent's patterns begin with; "": of those of several agents."""
    return f"{_PREFIX}{component(agent_id, 'agent_id', limit=limit // 2) if agent_id else ''}:"


def note_of(memory: Any, limit: int) -> Put | None:
    """What is to be written before this memory is deleted; None for what was not learned by consolidation.

    `limit`: bytes that a key may have.
    """
    if not isinstance(memory, SemanticMemory) or memory.source != SOURCE or not memory.source_episodes:
        return None
    start = beginning(memory.agent_id, limit)
    key = start + final(memory.memory_id, "memory_id", limit=limit - len(start.encode()))
    return Put(key, msgspec.json.encode({"source_episodes": memory.source_episodes}))


async def noted(gateway: Gateway) -> list[Unwanted]:
    """All notes. One that cannot be read is none. Raises `Unavailable`."""
    found: list[Unwanted] = []
    cursor = ""
    while True:
        keys, cursor = await gateway.scan(_PREFIX, cursor)
        for key in keys:
            note = await _read(gateway, key)
            found += [] if note is None else [note]
        if not cursor:
            return found


async def _read(gateway: Gateway, key: str) -> Unwanted | None:
    try:
        record: Record | None = (await gateway.read([Fetch(key)], fresh=True))[0].value
        if record is None:
            return None
        told = msgspec.json.decode(record.body, type=dict[str, frozenset[str]])
    except (CorruptRecord, WrongKind, msgspec.DecodeError):
        return None
    return Unwanted(key, record.etag or ABSENT, told.get("source_episodes", frozenset()))


async def drop(gateway: Gateway, notes: Sequence[Unwanted]) -> None:
    """Delete notes that say nothing any more. Raises `Unavailable`."""
    if notes:
        await gateway.write([Delete(each.key, each.etag) for each in notes], ack="store")
