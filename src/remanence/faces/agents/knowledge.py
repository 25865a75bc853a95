"""Knowledge: what was learned, and holds beyond the episodes it came from."""

from typing import Any, Unpack

from remanence.faces.agents import records
from remanence.faces.agents.base import Origin, Page
from remanence.faces.agents.episodes import Episodes
from remanence.faces.agents.filters import Listed, Sought, filtered
from remanence.faces.agents.types import EpisodicMemory, SemanticMemory
from remanence.stores.edits import edit

_PARTS = frozenset(
    {"pattern", "context", "examples", "confidence", "source_episodes", "tags", "importance", "trust", "source"}
)


class Knowledge(Episodes):
    """The verbs of semantic memories."""

    async def add_semantic(
        self,
        pattern: str,
        context: str = "",
        examples: list[str] | None = None,
        confidence: float = 0.5,
        source_episodes: list[str] | None = None,
        tags: list[str] | None = None,
        importance: float = 0.5,
        **origin: Unpack[Origin],
    ) -> SemanticMemory:
        """Keep something learned: `pattern` is the statement, `context` where it holds.

        `source_episodes` are the ids of the episodes it came from. It lives for `ttl` seconds (`semantic_ttl`: 90
        days). Raises as `save_episode`.
        """
        await self.initialize()
        ttl = self._lifetime("semantic", origin)
        memory: SemanticMemory = self._new(
            SemanticMemory,
            self._id(),
            ttl,
            origin,
            pattern=pattern,
            context=context,
            examples=records.texts(examples, "examples"),
            confidence=confidence,
            source_episodes=records.texts(source_episodes, "source_episodes"),
            tags=records.texts(tags, "tags"),
            importance=importance,
        )
        return await self._save("semantic", memory, ttl)

    async def get_semantic(self, memory_id: str) -> SemanticMemory | None:
        """A semantic memory, None where there is none. Raises as `get_episode`."""
        found: SemanticMemory | None = await self._get("semantic", memory_id)
        return found

    async def get_source_episodes(self, memory_id: str) -> list[EpisodicMemory]:
        """The episodes that a semantic memory came from, as far as they are still there."""
        memory = await self.get_semantic(memory_id)
        keys = [] if memory is None else [self._key("episodic", each) for each in memory.source_episodes]
        found = await self._fetched(keys)
        return [found[key] for key in keys if key in found]

    async def validate_semantic(self, memory_id: str, confidence: float | None = None) -> SemanticMemory | None:
        """It held once more: counted exactly, however many agents count; with a new `confidence` if one is given.

        Raises `Missing` where there is none.
        """
        edits = [edit(("times_validated",), "add", 1)]
        edits += (
            self._edits() if confidence is None else self._parts(SemanticMemory, _PARTS, {"confidence": confidence})
        )
        found: SemanticMemory | None = await self._change("semantic", memory_id, edits)
        return found

    async def update_semantic(self, memory_id: str, /, **parts: Any) -> SemanticMemory | None:
        """Change parts of a semantic memory, as `update_episode` does."""
        edits = self._parts(SemanticMemory, _PARTS, parts)
        found: SemanticMemory | None = await self._change("semantic", memory_id, edits)
        return found

    async def delete_semantic(self, memory_id: str) -> None:
        """Delete a semantic memory, from every index too. One that is not there is fine.

        What consolidation had learned is not learned again while an episode that it was learned from is there.
        """
        await self._delete("semantic", memory_id)

    async def list_semantic(self, **listed: Unpack[Listed]) -> Page[SemanticMemory]:
        """Semantic memories, newest first, a page at a time. Raises `InvalidArgument`."""
        return await self._list("semantic", listed)

    async def search_semantic(
        self, query: str, limit: int = 5, tags: list[str] | None = None, explain: bool = False, **sought: Unpack[Sought]
    ) -> list[Any]:
        """The knowledge that fits `query` best, best first: `SemanticMemory`, or with `explain` `Found`."""
        only = filtered(("semantic",), {**sought, "tags": tags})
        return self._handed(await self._search(query, only, limit, sought, explain), explain)
