"""The hygiene report: what is wrong with what is remembered, in counts and ids, never a text. Changes nothing."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import numpy as np

from remanence.errors import InvalidSetting
from remanence.faces.agents.tending import secrets
from remanence.faces.agents.tending.gathering import grouped
from remanence.faces.agents.tending.hands import Hands
from remanence.faces.agents.tending.likeness import Floats, Likeness, Sketch, alike, richness, sketch, told
from remanence.faces.agents.tending.policy import DAY, typed
from remanence.faces.agents.tending.worker import Progress
from remanence.faces.agents.types import TYPES, AgentMemory, EpisodicMemory, SemanticMemory


class Checks(msgspec.Struct, frozen=True, kw_only=True):
    """From when on something is a finding. Times are seconds.

    `stale_after`: since the last use. `unused_after`: since it was made, if it was never used. `loop_within`: between a
    use of one memory and the making of one that repeats it. `trust_below`: whose origin is doubtful.
    """

    duplicate_cosine: float = 0.9
    duplicate_overlap: float = 0.8
    stale_after: float = 90 * DAY
    unused_after: float = 30 * DAY
    loop_within: float = 60.0
    trust_below: float = 0.5

    def __post_init__(self) -> None:
        typed(self)
        for name in ("duplicate_cosine", "duplicate_overlap", "trust_below"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidSetting(f"{name} must be between 0 and 1")
        for name in ("stale_after", "unused_after", "loop_within"):
            if not getattr(self, name) >= 0:
                raise InvalidSetting(f"{name} must be a number of seconds, 0 or more")


class Duplicates(msgspec.Struct, frozen=True):
    """Memories of one type that say nearly what `memory_id` says."""

    memory_id: str
    others: tuple[str, ...]


class SecretFound(msgspec.Struct, frozen=True):
    """Something like a secret: in which memory, under which of its fields, and of which kind."""

    memory_id: str
    field: str
    kind: str


class Loop(msgspec.Struct, frozen=True):
    """A memory that repeats another one, which had been recalled `seconds` before."""

    memory_id: str
    repeats: str
    seconds: float


class Broken(msgspec.Struct, frozen=True):
    """A memory that names episodes which do not exist (any more)."""

    memory_id: str
    missing: tuple[str, ...]


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What an audit found, by the ids of memories. Those that are merged into others count as looked at alone."""

    looked_at: Mapping[str, int]
    """How many memories of each type."""
    duplicates: tuple[Duplicates, ...] = ()
    stale: tuple[str, ...] = ()
    never_used: tuple[str, ...] = ()
    secrets: tuple[SecretFound, ...] = ()
    loops: tuple[Loop, ...] = ()
    low_trust: tuple[str, ...] = ()
    broken_links: tuple[Broken, ...] = ()
    unreadable: tuple[str, ...] = ()
    """Keys of records that are no memory, as far as they can be read."""
    left_out: tuple[str, ...] = ()
    """What was not looked at, and what to do about it."""

    @property
    def counts(self) -> dict[str, int]:
        """How much of each there is. Of duplicates those that are too many."""
        found = {
            name: len(getattr(self, name)) for name in self.__struct_fields__ if name not in ("looked_at", "left_out")
        }
        return {**found, "duplicates": sum(len(each.others) for each in self.duplicates)}


class _Row(msgspec.Struct, frozen=True):
    """What is kept of a memory until all were seen."""

    memory_id: str
    created_at: datetime
    last_accessed: datetime
    uses: int
    sketch: Sketch


class _Seen:
    """What is gathered on the way through all memories."""

    def __init__(self) -> None:
        self.looked_at: dict[str, int] = dict.fromkeys(TYPES, 0)
        self.rows: list[_Row] = []
        self.vectors: list[Floats] = []
        self.found: dict[str, list[Any]] = {
            name: [] for name in ("stale", "never_used", "secrets", "low_trust", "unreadable")
        }
        self.episodes: set[str] = set()
        self.links: list[tuple[str, list[str]]] = []


async def audit(hands: Hands, checks: Checks | None = None, progress: Progress | None = None) -> Audit:
    """Look through all memories and report. Nothing is changed, and nothing of any text is in the report.

    Secrets are looked for where detect-secrets is installed (`pip install 'remanence[audit]'`); else `left_out` says
    so. A loop is seen where its older memory was not used again since. Raises the `WorldError` family.
    """
    checks = checks or Checks()
    found_by = secrets.detectors()
    seen = _Seen()
    for kind in TYPES:
        known: set[str] = set()
        async for page in hands.pages(kind):
            seen.found["unreadable"] += page.unreadable
            fresh = [each for each in page.memories if each.memory_id not in known]
            known.update(each.memory_id for each in fresh)
            await _take(seen, fresh, hands, checks, found_by)
            if progress is not None:
                progress(kind, len(known), 0)
        seen.looked_at[kind] = len(known)
    vectors = np.concatenate(seen.vectors) if seen.vectors else np.zeros((0, 1), dtype=np.float32)
    rule = Likeness(checks.duplicate_cosine, checks.duplicate_overlap, whole=True)
    note = f"secrets: detect-secrets is not installed ({secrets.INSTALL})"
    return Audit(
        looked_at=seen.looked_at,
        duplicates=await _duplicates(seen.rows, vectors, rule, hands),
        loops=await _loops(seen.rows, vectors, rule, checks.loop_within, hands),
        broken_links=_broken(seen),
        left_out=() if found_by is not None else (note,),
        **{name: tuple(dict.fromkeys(found)) for name, found in seen.found.items()},
    )


_AT_ONCE: Final = 100
"""Memories that are read before others have their turn: secrets are slow to look for."""


async def _take(
    seen: _Seen,
    memories: Sequence[AgentMemory],
    hands: Hands,
    checks: Checks,
    found_by: Mapping[str, secrets.Detector] | None,
) -> None:
    for begin in range(0, len(memories), _AT_ONCE):
        part = memories[begin : begin + _AT_ONCE]
        for each in part:
            _note(seen, each, hands.now(), checks)
        said = [(each, told(each)) for each in part if not _is_merged(each)]
        seen.vectors.append(np.asarray(await hands.vectors([text for _, text in said]), dtype=np.float32))
        found, rows = await hands.aside(lambda: _examined(part, said, found_by or {}))  # noqa: B023 - it is awaited at once
        seen.found["secrets"] += found
        seen.rows += rows
        await hands.pause()


def _examined(
    memories: Sequence[AgentMemory], said: Sequence[tuple[AgentMemory, str]], found_by: Mapping[str, secrets.Detector]
) -> tuple[list[SecretFound], list[_Row]]:
    """What takes long: the secrets in memories, and the rows of those that are compared."""
    return [one for each in memories for one in secrets_of(each, found_by)], [
        _Row(each.memory_id, each.created_at, each.last_accessed, each.access_count, sketch(text, _peers(each)))
        for each, text in said
    ]


def _note(seen: _Seen, memory: AgentMemory, now: datetime, checks: Checks) -> None:
    """What one memory alone tells of itself."""
    name = memory.memory_id
    if isinstance(memory, EpisodicMemory):
        seen.episodes.add(name)
    if isinstance(memory, SemanticMemory) and memory.source_episodes:
        seen.links.append((name, memory.source_episodes))
    if isinstance(memory, EpisodicMemory) and memory.merged_into is not None:
        seen.links.append((name, [memory.merged_into]))
        return  # whatever else there is, is said of the one that stands for it
    if memory.trust < checks.trust_below:
        seen.found["low_trust"].append(name)
    age, idle = (now - memory.created_at).total_seconds(), (now - memory.last_accessed).total_seconds()
    if memory.access_count == 0:
        if age > checks.unused_after and not memory.pinned:
            seen.found["never_used"].append(name)
    elif idle > checks.stale_after and not memory.pinned:
        seen.found["stale"].append(name)


def secrets_of(memory: AgentMemory, found_by: Mapping[str, secrets.Detector]) -> list[SecretFound]:
    """Where in a memory, merged or not, there is something like a secret."""
    if not found_by:
        return []
    found = []
    for field in memory.__struct_fields__:
        value = msgspec.to_builtins(getattr(memory, field))
        kinds = {kind for text in secrets.texts(value) for kind in secrets.kinds(text, found_by)}
        found += [SecretFound(memory.memory_id, field, kind) for kind in sorted(kinds)]
    return found


def _is_merged(memory: AgentMemory) -> bool:
    return isinstance(memory, EpisodicMemory) and memory.merged_into is not None


def _peers(memory: AgentMemory) -> tuple[str, str, bool]:
    """Memories that may be duplicates of each other: of one type and agent, episodes with one outcome."""
    return type(memory).__name__, memory.agent_id, isinstance(memory, EpisodicMemory) and memory.success


async def _duplicates(rows: Sequence[_Row], vectors: Floats, rule: Likeness, hands: Hands) -> tuple[Duplicates, ...]:
    order = sorted(
        range(len(rows)), key=lambda at: (-richness(rows[at].sketch), rows[at].created_at, rows[at].memory_id)
    )
    names = [rows[at].memory_id for at in order]
    found: list[Duplicates] = []
    async for groups in grouped(hands, [rows[at].sketch for at in order], vectors[order], rule):
        found += [Duplicates(names[first], tuple(names[at] for at in others)) for first, others in groups]
        await hands.pause()
    return tuple(found)


async def _loops(
    rows: Sequence[_Row], vectors: Floats, rule: Likeness, within: float, hands: Hands
) -> tuple[Loop, ...]:
    """For each memory the nearest that it repeats, of those recalled within so many seconds before it was made."""
    used = sorted((at for at, row in enumerate(rows) if row.uses), key=lambda at: rows[at].last_accessed)
    moments = np.array([rows[at].last_accessed.timestamp() for at in used])
    found: list[Loop] = []
    for at, row in enumerate(rows):
        made = row.created_at.timestamp()
        begin = int(np.searchsorted(moments, made - within, side="left"))
        end = int(np.searchsorted(moments, made, side="right"))
        older = [one for one in used[begin:end] if rows[one].created_at < row.created_at]
        if older and (loop := _repeated(at, older, rows, vectors, rule)) is not None:
            found.append(loop)
        if at % 1000 == 999:
            await hands.pause()
    return tuple(found)


def _repeated(at: int, older: list[int], rows: Sequence[_Row], vectors: Floats, rule: Likeness) -> Loop | None:
    cosines = vectors[older] @ vectors[at]
    for place in np.argsort(-cosines, kind="stable"):
        if cosines[place] < rule.cosine:
            return None
        other = rows[older[place]]
        if alike(rows[at].sketch, other.sketch, rule):
            passed = (rows[at].created_at - other.last_accessed).total_seconds()
            return Loop(rows[at].memory_id, other.memory_id, round(passed, 3))
    return None


def _broken(seen: _Seen) -> tuple[Broken, ...]:
    lost = ((name, tuple(one for one in names if one not in seen.episodes)) for name, names in seen.links)
    return tuple(Broken(name, missing) for name, missing in lost if missing)
