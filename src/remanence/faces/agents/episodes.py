"""Episodes: what was tried, and how it went."""

from typing import Any, Unpack

from remanence.faces.agents import records
from remanence.faces.agents.base import Origin, Page
from remanence.faces.agents.context import step_tokens
from remanence.faces.agents.filters import Listed, Sought, filtered
from remanence.faces.agents.tokens import estimate
from remanence.faces.agents.types import EpisodicMemory
from remanence.faces.agents.working import Working, tools_used

_PARTS = frozenset(
    {"task_prompt", "outcome", "success", "duration_seconds", "task_id", "tags", "importance", "trust", "source"}
)


class Episodes(Working):
    """The verbs of episodes."""

    async def save_episode(
        self,
        task_prompt: str,
        outcome: str,
        success: bool,
        duration_seconds: float,
        task_id: str | None = None,
        tags: list[str] | None = None,
        importance: float = 0.5,
        **origin: Unpack[Origin],
    ) -> EpisodicMemory:
        """Keep what was tried and how it went, with the steps since the episode before.

        Where these take more than half of `value_bytes`, the earliest are left out.
        It lives for `ttl` seconds (`episodic_ttl`: 30 days). Searched as soon as the call returns. Raises
        `InvalidArgument` for a part that cannot be, `InvalidValue` for what JSON cannot hold, `ValueTooLarge`.
        """
        steps = await self._steps_of_episode()
        original, compressed = step_tokens(steps, estimate)
        ttl = self._lifetime("episodic", origin)
        memory: EpisodicMemory = self._new(
            EpisodicMemory,
            self._id(),
            ttl,
            origin,
            task_prompt=task_prompt,
            outcome=outcome,
            success=success,
            duration_seconds=duration_seconds,
            task_id=task_id,
            tags=records.texts(tags, "tags"),
            importance=importance,
            steps=steps,
            tools_used=tools_used(steps),
            error_messages=[step.error for step in steps if step.error],
            original_tokens=original,
            compressed_tokens=compressed,
        )
        return await self._save("episodic", memory, ttl, *([self._marked(memory.memory_id)] if steps else []))

    async def get_episode(self, memory_id: str) -> EpisodicMemory | None:
        """An episode, None where there is none. Raises `CorruptRecord`, and `Unavailable` where nobody can tell."""
        found: EpisodicMemory | None = await self._get("episodic", memory_id)
        return found

    async def update_episode(self, memory_id: str, /, **parts: Any) -> EpisodicMemory | None:
        """Change parts of an episode: what was given to `save_episode`, except its lifetime.

        The episode as it is then, None where that cannot be told now. Raises `Missing` (a KeyError) where there is
        none, `InvalidArgument` for a part that cannot be.
        """
        edits = self._parts(EpisodicMemory, _PARTS, parts)
        found: EpisodicMemory | None = await self._change("episodic", memory_id, edits)
        return found

    async def list_episodes(self, **listed: Unpack[Listed]) -> Page[EpisodicMemory]:
        """Episodes, newest first, a page at a time. Raises `InvalidArgument`."""
        return await self._list("episodic", listed)

    async def search_episodes(
        self,
        query: str,
        limit: int = 5,
        success_only: bool = False,
        tags: list[str] | None = None,
        include_linked_sessions: bool = True,
        explain: bool = False,
        **sought: Unpack[Sought],
    ) -> list[Any]:
        """The episodes that fit `query` best, best first: `EpisodicMemory`, or with `explain` `Found`.

        Of all agents and sessions; without `include_linked_sessions`, of the present session alone. Any text is a
        query. While the server is away: those known on this machine. Raises `InvalidArgument`.
        """
        wanted: dict[str, Any] = {**sought, "tags": tags}
        if success_only:
            wanted["success"] = True
        if not include_linked_sessions:
            await self.initialize()
            wanted["session_id"] = self._session
        found = await self._search(query, filtered(("episodic",), wanted), limit, sought, explain)
        return self._handed(found, explain)
