"""What an agent remembers: frozen values, with the names that users of the third seed know.

Times are UTC with their zone, durations seconds. Lists in them are the reader's own copies.
"""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec

MemoryType = Literal["episodic", "semantic", "skill"]
TYPES: Final[tuple[MemoryType, ...]] = ("episodic", "semantic", "skill")

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=10 * 366 * 86400)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class WorkingMemoryStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing an agent did, and what came of it."""

    step_number: Count
    action: str
    observation: str
    timestamp: Moment
    reasoning: str = ""
    tool_calls: list[Any] = []
    success: bool = True
    error: str | None = None


class Remembered(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every memory has.

    `agent_id`, `session_id`, `source` and `trust` (0 to 1) tell where it came from. `access_count` and `last_accessed`
    tell how often it was found and used; they are noted together, some seconds later.
    """

    memory_id: str
    created_at: Moment
    updated_at: Moment
    last_accessed: Moment
    access_count: Count = 0
    importance: Share = 0.5
    tags: list[str] = []
    agent_id: str = ""
    session_id: str = ""
    source: str = ""
    trust: Share = 1.0
    pinned: bool = False
    expires_at: Moment | None = None
    """None: for ever."""


class Lent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a merge gave to the episode that stays, so that it can be taken back: pairs are before and after."""

    merged_at: datetime
    importance: tuple[Share, Share]
    last_accessed: tuple[datetime, datetime]
    expires_at: tuple[datetime | None, datetime | None]
    access_count: Count = 0
    """How many of its uses were those of others."""
    tags: list[str] = []
    """Those it had not itself."""


class EpisodicMemory(Remembered, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="episodic"):
    """What was tried, and how it went.

    `steps` are the steps since the episode before. `original_tokens` counts them as they are, `compressed_tokens` as
    a context tells them.
    """

    task_prompt: str
    outcome: str
    success: bool
    duration_seconds: Seconds
    task_id: str | None = None
    steps: list[WorkingMemoryStep] = []
    tools_used: list[str] = []
    error_messages: list[str] = []
    original_tokens: Count = 0
    compressed_tokens: Count = 0
    merged_into: str | None = None
    """The episode that stands for this one, where consolidation found both to be nearly the same: searches and
    lists leave this one out."""
    merged_from: list[str] = []
    lent: Lent | None = None
    """With `merged_from`: what the merge changed here."""
    stands_alone: bool = False
    """It was taken out of a merge: consolidation merges it no more."""


class SemanticMemory(Remembered, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="semantic"):
    """Something learned that holds beyond the episodes it came from."""

    pattern: str
    context: str = ""
    examples: list[str] = []
    confidence: Share = 0.5
    times_validated: Count = 0
    source_episodes: list[str] = []


class SkillMemory(Remembered, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="skill"):
    """How to do something, and how well that went. The counts are exact however many agents count at once."""

    skill_name: str
    description: str
    action_sequence: list[Any] = []
    preconditions: list[str] = []
    postconditions: list[str] = []
    times_executed: Count = 0
    times_succeeded: Count = 0
    total_microseconds: Count = 0
    """Whole numbers, so that the sum is the same in whatever order agents add to it."""

    @property
    def success_rate(self) -> float:
        """The share of executions that succeeded, 0.0 before the first."""
        return self.times_succeeded / self.times_executed if self.times_executed else 0.0

    @property
    def average_duration(self) -> float:
        """Seconds an execution took on average, 0.0 before the first."""
        return self.total_microseconds / 1e6 / self.times_executed if self.times_executed else 0.0


AgentMemory = EpisodicMemory | SemanticMemory | SkillMemory


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A memory that a search found: its score (comparable within one answer) and, if asked, what made it."""

    memory: Any
    """An `EpisodicMemory`, `SemanticMemory`, `SkillMemory` or a `SessionMessage`."""
    score: float
    parts: dict[str, float] | None = None


class SessionMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a session as a search gives it: what was stored, and where it stands there."""

    memory_id: str
    session_id: str
    position: int
    role: str
    content: str
    timestamp: str
    metadata: dict[str, Any] = {}
