"""Agents' memories as commands see them: opened to be looked at, found by their ids, and told to people."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from rich.padding import Padding
from rich.text import Text

from remanence.commands.journal import grid
from remanence.commands.output import Output, opened, visible
from remanence.engine import BlockingEngine
from remanence.errors import InvalidArgument, Unavailable
from remanence.faces.agents.agents import Agents
from remanence.faces.agents.base import Identity
from remanence.faces.agents.types import TYPES, EpisodicMemory, MemoryType, SemanticMemory, SessionMessage, SkillMemory
from remanence.settings import Settings

INDEXING: Final = 600.0
"""Seconds that a command waits for what was never indexed on this machine."""
_WIDTH: Final = 100
_ROOMY: Final = 100
"""Columns from which on there is room for a table beside the name of a memory."""


@contextmanager
def looking(settings: Settings, output: Output) -> Iterator[tuple[Agents, BlockingEngine]]:
    """Agents' memories, all of them indexed, for somebody whose looking leaves no trace in them."""
    with opened(replace(settings, ack="store")) as engine:
        yield agents_of(engine, settings, output), engine


def agents_of(engine: BlockingEngine, settings: Settings, output: Output) -> Agents:
    """The agents' memories of an open engine, all of them indexed. Raises `Unavailable`."""
    who = Identity(agent_id="command", pubsub=False, counts_uses=False)
    _wait(engine, settings, output)
    return Agents(lambda: engine.gateway, lambda: engine.library(settings), settings, who, None)


def _wait(engine: BlockingEngine, settings: Settings, output: Output) -> None:
    """Until what the store holds can be found, telling how far it is. Raises `Unavailable` where it is away."""
    from remanence.runtime.blocking import run

    library = engine.library(settings)
    if run(library.follower.ready(0.3)):
        return
    limit = engine.gateway.runtime.monotonic() + settings.deadline
    run(engine.gateway.store.latest(limit))  # says so where the server is away
    output.note("reading memories into this machine's index…")
    waited = 0.0
    while not run(library.follower.ready(1.0)):
        waited += 1.0
        if waited >= INDEXING:
            raise Unavailable("not everything is in this machine's index yet: run it again, it goes on where it was")
        output.note(f"{sum(run(library.catalogue.counts()).values()):,} indexed")


def add_filters(parser: ArgumentParser) -> None:
    """The options that say which memories are meant."""
    parser.add_argument("--agent", metavar="ID", help="only those of this agent")
    parser.add_argument("--session", metavar="ID", help="only those of this session")
    parser.add_argument("--tag", action="append", default=[], metavar="TAG", help="only those with it; may be repeated")
    parser.add_argument("--days", type=float, metavar="N", help="only those made in the last N days")
    parser.add_argument("--importance", type=float, metavar="X", help="only those of at least this (0 to 1)")
    parser.add_argument("--trust", type=float, metavar="X", help="only those of at least this (0 to 1)")


def filters(call: Namespace) -> dict[str, Any]:
    """What these options say, as the face takes it. Raises `InvalidArgument`."""
    since = None
    if call.days is not None:
        if not 0 < call.days < 100_000:
            raise InvalidArgument("--days must be a number above zero")
        since = datetime.now(UTC) - timedelta(days=call.days)
    told = {
        "agent_id": call.agent,
        "session_id": call.session,
        "tags": call.tag or None,
        "since": since,
        "importance": call.importance,
        "trust": call.trust,
    }
    return {name: value for name, value in told.items() if value is not None}


def named(text: str) -> list[tuple[MemoryType, str]]:
    """What a memory's name may mean: type:memory_id, or an id alone, of any type. Raises `InvalidArgument`."""
    kind, colon, memory_id = text.partition(":")
    if text and not colon:
        return [(each, text) for each in TYPES]
    for each in TYPES:
        if colon and each == kind and memory_id:
            return [(each, memory_id)]
    raise InvalidArgument(f"name a memory as its type and id: {', '.join(f'{each}:ID' for each in TYPES)}")


def name_of(memory: Any) -> str:
    """How commands name a memory."""
    if isinstance(memory, SessionMessage):
        return memory.memory_id
    return f"{memory.__struct_config__.tag}:{memory.memory_id}"


def gist(memory: Any) -> str:
    """A line about a memory."""
    match memory:
        case EpisodicMemory():
            text = f"{memory.task_prompt} → {memory.outcome}"
        case SemanticMemory():
            text = memory.pattern
        case SkillMemory():
            text = f"{memory.skill_name}: {memory.description}"
        case _:
            text = f"{memory.role}: {memory.content}"
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) <= _WIDTH else f"{line[:_WIDTH]}…"


def listing(output: Output, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows for people: in a table where there is room, else each under its first cell, a name that can be copied."""
    if output.screen.width >= _ROOMY:
        table = grid(*titles)
        for row in rows:
            table.add_row(*row)
        if rows:
            output.say(table)
        return
    for name, *between, last in rows:
        output.whole(visible(name))
        told = ", ".join(f"{title} {cell}" for title, cell in zip(titles[1:-1], between, strict=True) if cell)
        output.say(*(Padding(Text(visible(each)), (0, 0, 0, 2)) for each in (told, last)))


def spelled(memory: Any) -> dict[str, Any]:
    """A memory for programs."""
    found: dict[str, Any] = {"name": name_of(memory), **msgspec.to_builtins(memory)}
    if isinstance(memory, SkillMemory):
        found |= {"success_rate": memory.success_rate, "average_duration": memory.average_duration}
    return found


def kinds_of(wanted: Sequence[str]) -> Sequence[str]:
    """The types that are meant: those named, or all."""
    return wanted or TYPES
