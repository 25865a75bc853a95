"""The verbs that tend what is remembered, and doing so in the background."""

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Final, TypeVar

from msgspec.structs import replace

from remanence import events
from remanence.errors import Closed, InvalidArgument, RemanenceError, WorldError
from remanence.faces.agents.forgetting import Forgetting
from remanence.faces.agents.library import Library
from remanence.faces.agents.tending.audit import Audit, Checks, audit
from remanence.faces.agents.tending.consolidation import consolidate, extract_patterns
from remanence.faces.agents.tending.face import Tended
from remanence.faces.agents.tending.joining import unmerge
from remanence.faces.agents.tending.policy import Consolidated, Policy
from remanence.faces.agents.tending.unwanted import note_of
from remanence.faces.agents.tending.worker import Progress, Reword
from remanence.faces.agents.types import EpisodicMemory, MemoryType, SemanticMemory
from remanence.model import Put
from remanence.protocols import Signal

T = TypeVar("T")

LOOK: Final = 60.0
"""Longest pause, in seconds, between two looks at whether it is time."""


class Upkeep(Forgetting):
    """Consolidation and the audit, at once or in the background."""

    _closing: Signal | None = None

    def _tended(self, *, hurry: bool = True) -> Tended:
        return Tended(self._opener(), self._librarian(), self._settings, self.agent_id, hurry=hurry)

    def _policy(self, policy: Policy | None) -> Policy:
        return _given(policy, Policy, "policy") or Policy(pattern_ttl=self._settings.semantic_ttl)

    async def consolidate_now(
        self, policy: Policy | None = None, progress: Progress | None = None, reword: Reword | None = None
    ) -> Consolidated:
        """Merge near-duplicate episodes, reversibly, and learn patterns; forget what `policy` says (else: nothing).

        One worker tends a namespace at a time; one that was stopped is gone on with. `progress(stage, done, of)` tells
        how far it is. `reword` may word new patterns better, and is not needed. Raises `Unavailable` while the server
        is away.
        """
        _called(progress, "progress")
        _called(reword, "reword")
        return await consolidate(self._tended(), self._policy(policy), progress, reword)

    async def extract_patterns(
        self, min_episodes: int = 3, policy: Policy | None = None, reword: Reword | None = None
    ) -> list[SemanticMemory]:
        """Learn from episodes that are alike, at least `min_episodes` of them; what is known from them now.

        Only new patterns, and those that grew. Raises `InvalidSetting` for fewer than 2, and as `consolidate_now`.
        """
        _called(reword, "reword")
        wanted = replace(self._policy(policy), min_episodes=min_episodes)
        told = await extract_patterns(self._tended(), wanted, None, reword)
        found = await self.get_many("semantic", [*told.patterns_made, *told.patterns_grown])
        return list(found.values())

    async def unmerge(self, memory_id: str) -> list[str]:
        """Take a merge back: all episodes that were merged with this one are found again as they were; their ids.

        Raises `Missing` where there is no such episode.
        """
        self._key("episodic", memory_id)
        return await unmerge(self._tended(), memory_id)

    async def audit(self, checks: Checks | None = None, progress: Progress | None = None) -> Audit:
        """What is wrong with what is remembered: duplicates, stale and unused memories, secrets, loops, broken links.

        Counts and ids, no text. Changes nothing.
        """
        _called(progress, "progress")
        return await audit(self._tended(), _given(checks, Checks, "checks"), progress)

    async def delete_episode(self, memory_id: str) -> None:
        """Delete an episode, from every index too, with those it stands for. One that is not there is fine."""
        await self._delete("episodic", memory_id)

    async def _delete(self, kind: MemoryType, memory_id: str, *before: Put) -> None:
        """With an episode go those it stands for; what was learned is noted, so that it is not learned again."""
        key = self._key(kind, memory_id)
        found = None if kind == "skill" else (await self._fetched([key])).get(key)
        if isinstance(found, EpisodicMemory):
            others = await self._fetched([self._key("episodic", each) for each in found.merged_from])
            for each in others.values():
                if each.merged_into == memory_id:
                    await super()._delete("episodic", each.memory_id)
        note = note_of(found, self._settings.key_bytes)
        await super()._delete(kind, memory_id, *before, *([] if note is None else [note]))

    # --- in the background ------------------------------------------------------------------------

    def _tend(self) -> None:
        """Consolidate every so often, as long as this memory is open. The second time nothing."""
        if self._closing is None:
            runtime = self._opener().runtime
            self._closing = runtime.signal()
            runtime.spawn(
                "remanence-consolidate", self._tending(self._closing, self._tended(hurry=False), self._librarian())
            )

    def _tending(self, closing: Signal, tended: Tended, library: Library) -> Callable[[], Coroutine[Any, Any, None]]:
        async def work() -> None:
            interval = self._settings.consolidate_interval
            while not await closing.wait(min(LOOK, interval)):
                try:
                    await self._tend_if_due(tended, library, timedelta(seconds=interval))
                except Closed:  # behind the engine: with the memory itself
                    return
                except WorldError:  # the server is away: there is time
                    continue
                except RemanenceError as error:
                    library.tell(events.ConsolidationFailed(str(error)))

        return work

    async def _tend_if_due(self, tended: Tended, library: Library, interval: timedelta) -> None:
        mark = await tended.mark()
        if mark is not None and mark.finished is not None and tended.now() - mark.finished < interval:
            return
        told = await consolidate(tended, self._policy(None))
        if told.state == "done":
            learned = len(told.patterns_made) + len(told.patterns_grown)
            library.tell(events.MemoriesConsolidated(len(told.merged), learned, len(told.forgotten)))

    def _stop_tending(self) -> None:
        if self._closing is not None:
            self._closing.set()
            self._closing = None


def _given(value: Any, kind: type[T], name: str) -> T | None:
    """An argument that may be left out. Raises `InvalidArgument` for another type."""
    if value is not None and not isinstance(value, kind):
        raise InvalidArgument(f"{name} must be a {kind.__name__}, or left out")
    return value


def _called(value: Any, name: str) -> None:
    """Raises `InvalidArgument` for what cannot be called."""
    if value is not None and not callable(value):
        raise InvalidArgument(f"{name} must be a function, or left out")
