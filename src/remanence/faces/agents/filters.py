"""Which memories are meant, in a caller's words and in the index's."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypedDict

from remanence.errors import InvalidArgument
from remanence.faces.agents import records
from remanence.faces.agents.types import Share
from remanence.search.types import NOTHING, Favour, Filter, Mode


class Sought(TypedDict, total=False):
    """Which memories may be found, and how they are judged.

    `mode`: "fused" by words and meaning, or "keyword" or "semantic" alone. `since` and `until` bound when a memory was
    made; `importance` and `trust` are the least. `favour` raises what is recent, important or used.
    """

    mode: Mode
    agent_id: str
    since: datetime | None
    until: datetime | None
    importance: float
    trust: float
    favour: Favour


class Listed(TypedDict, total=False):
    """Which memories to list, at most `limit`, behind the page that gave `after`."""

    agent_id: str
    session_id: str
    tags: Sequence[str]
    success: bool
    since: datetime | None
    until: datetime | None
    importance: float
    trust: float
    limit: int
    after: str


def filtered(kinds: tuple[str, ...], wanted: Any) -> Filter:
    """A filter of what a caller named. Raises `InvalidArgument`."""
    named = {"agent_id", "session_id", "tags", "success", "since", "until", "importance", "trust"}
    if unknown := sorted(set(wanted) - named - {"limit", "after", "mode", "favour"}):
        raise InvalidArgument(f"there is no argument {unknown[0]!r:.60}")
    agent, session = wanted.get("agent_id"), wanted.get("session_id")
    for name, text in (("agent_id", agent), ("session_id", session)):
        if text is not None and not isinstance(text, str):
            raise InvalidArgument(f"{name} must be text")
    if not isinstance(wanted.get("success"), bool | None):
        raise InvalidArgument("success must be True, False or None")
    if not isinstance(wanted.get("favour", NOTHING), Favour):
        raise InvalidArgument("favour must be a Favour")
    return Filter(
        kinds=kinds,
        tags=tuple(records.texts(wanted.get("tags"), "tags")),
        agents=() if agent is None else (agent,),
        sessions=() if session is None else (session,),
        success=wanted.get("success"),
        since=_moment(wanted.get("since"), "since"),
        until=_moment(wanted.get("until"), "until"),
        importance=_least(wanted.get("importance"), "importance"),
        trust=_least(wanted.get("trust"), "trust"),
    )


def _least(value: float | None, name: str) -> float | None:
    return None if value is None else records.part(Share, value, name)


def _moment(value: datetime | None, name: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise InvalidArgument(f"{name} must be a datetime with its zone")
    return value.timestamp()


__all__ = ["Listed", "Sought", "filtered"]
