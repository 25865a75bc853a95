"""One worker's pass over a namespace: its right to be the only one, its writes, and what it says it did."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

from msgspec.structs import replace

from remanence.faces.agents.tending.absorbing import same_state
from remanence.faces.agents.tending.hands import Hands, Step
from remanence.faces.agents.tending.patterns import Wording
from remanence.faces.agents.tending.policy import Consolidated, Policy
from remanence.faces.agents.types import EpisodicMemory

T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, what is done of it, and how much that is; 0: not known yet."""
Reword = Callable[[Wording], str | Awaitable[str]]
"""Words a pattern better; awaited where it gives something to await."""

TOGETHER = 100
"""Episodes, patterns or removals that are read and written together."""


class Lost(Exception):
    """The right to tend was lost, so that another worker may be at it."""


class Worker:
    """What the stages share. Every method that waits keeps the right, and raises `Lost` where that is gone."""

    def __init__(self, hands: Hands, policy: Policy, token: str, progress: Progress | None) -> None:
        """`token`: the right, as `Hands.lease` gave it just now."""
        self.hands = hands
        self.policy = policy
        self.token = token
        self.report = Consolidated(state="")
        self._progress = progress
        self._renewed = hands.now()

    async def breathe(self) -> None:
        """Let others have a turn."""
        await self.hands.pause()
        now = self.hands.now()
        if (now - self._renewed).total_seconds() > self.policy.lease / 3:
            token = await self.hands.renew(self.token, self.policy.lease)
            if token is None:
                raise Lost
            self.token, self._renewed = token, now

    async def fresh(self, names: Iterable[str]) -> dict[str, EpisodicMemory]:
        """Episodes as they are stored now, those that are."""
        found: dict[str, EpisodicMemory] = {}
        for some in batched(dict.fromkeys(names)):
            await self.breathe()
            told = await self.hands.get("episodic", some)
            found |= {each.memory_id: each for each in told if isinstance(each, EpisodicMemory)}
        return found

    async def write(self, steps: Sequence[Step]) -> list[bool]:
        """`Hands.write`, not more at once than the store takes within its deadline."""
        done: list[bool] = []
        for some in batched(steps):
            await self.breathe()
            done += await self.hands.write(some)
        return done

    def count(self, field: str, names: Iterable[str]) -> None:
        """Add ids to a field of the report."""
        self.report = replace(self.report, **{field: (*getattr(self.report, field), *names)})

    def add(self, field: str, number: int = 1) -> None:
        """Add to a number of the report."""
        self.report = replace(self.report, **{field: getattr(self.report, field) + number})

    def looked_at(self, number: int) -> None:
        """Note how many episodes there were."""
        self.report = replace(self.report, looked_at=number)

    def tell(self, stage: str, done: int, of: int) -> None:
        """Tell who wants to see how far it is."""
        if self._progress is not None:
            self._progress(stage, done, of)


def batched(things: Iterable[T]) -> Iterator[list[T]]:
    """All in turn, `TOGETHER` at a time."""
    given = iter(things)
    while some := list(islice(given, TOGETHER)):
        yield some


def holding(judged: Sequence[EpisodicMemory], fresh: Mapping[str, EpisodicMemory]) -> list[EpisodicMemory]:
    """Those for which what was decided still holds, as they are now."""
    return [fresh[each.memory_id] for each in judged if same_state(each, fresh.get(each.memory_id))]
