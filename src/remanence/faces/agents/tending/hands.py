"""What consolidation and the audit need of the face: a handful of coroutines, and writes as values."""

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from remanence.faces.agents.tending.likeness import Floats
from remanence.faces.agents.tending.unwanted import Unwanted
from remanence.faces.agents.types import AgentMemory, MemoryType

T = TypeVar("T")


class Replace(msgspec.Struct, frozen=True):
    """Store `now`, only if what is stored still equals `was`. It lives as long as `now.expires_at` says."""

    was: AgentMemory
    now: AgentMemory


class Add(msgspec.Struct, frozen=True):
    """Store a memory, only if there is none with its id."""

    memory: AgentMemory


class Remove(msgspec.Struct, frozen=True):
    """Delete a memory, only if what is stored still equals `was`."""

    was: AgentMemory


Step = Replace | Add | Remove


class Page(NamedTuple):
    """Some memories of one type, and the keys of records that cannot be read as one."""

    memories: Sequence[AgentMemory]
    unreadable: Sequence[str] = ()


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """How far a pass came: the stage that comes next, "" when it was finished, and under which policy."""

    stage: str
    begun: datetime
    policy: str
    finished: datetime | None = None


class Hands(Protocol):
    """A face as it is tended. All of it concerns one namespace. Methods raise the `WorldError` family."""

    def now(self) -> datetime:
        """The time, in UTC with its zone."""

    def pages(self, kind: MemoryType) -> AsyncIterator[Page]:
        """All memories of a type, the merged ones too, each at least once, in no order."""

    async def get(self, kind: MemoryType, memory_ids: Sequence[str]) -> list[AgentMemory | None]:
        """Memories as they are stored now, None for each that is not, or that cannot be read."""

    async def vectors(self, texts: Sequence[str]) -> Floats:
        """One row for each text, of length 1, or of zeros for a text without words."""

    async def write(self, steps: Sequence[Step]) -> list[bool]:
        """Take the steps in order, whatever becomes of those before; False for each whose condition did not hold.

        A step that took effect is in every index. Raises `Unavailable` where the store cannot say.
        """

    async def unwanted(self) -> list[Unwanted]:
        """What was learned before and deleted by somebody."""

    async def drop(self, notes: Sequence[Unwanted]) -> None:
        """Let go of such notes, unless they changed."""

    async def aside(self, work: Callable[[], T]) -> T:
        """What `work` returns, which takes a while and reads and writes nothing: where it holds nobody up."""

    async def pause(self) -> None:
        """Let others have a turn, where there are any: awaited after some milliseconds of work."""

    async def lease(self, seconds: float) -> str | None:
        """The right to be the only one who tends this namespace, for so long; None while somebody else has it."""

    async def renew(self, token: str, seconds: float) -> str | None:
        """The same right for `seconds` from now, under a new token; None where it was lost."""

    async def release(self, token: str) -> None:
        """Give the right back. Nothing happens where it was lost."""

    async def mark(self) -> Mark | None:
        """The mark that was noted last, None where there is none or it cannot be read."""

    async def note(self, mark: Mark) -> None:
        """Store a mark, whatever there is."""
