"""Recalling: one search over everything, and what is told to a model."""

from collections.abc import Sequence
from typing import Any, Final, Unpack

from remanence.errors import CorruptRecord, Missing, WorldError
from remanence.faces.agents import records
from remanence.faces.agents.context import Context, build
from remanence.faces.agents.filters import Sought, filtered
from remanence.faces.agents.skills import Skills
from remanence.faces.agents.tokens import Counter, estimate
from remanence.faces.agents.types import TYPES, Found, MemoryType
from remanence.protocols import Length
from remanence.search.types import Favour, Filter, Hit

NAMES: Final[dict[MemoryType, str]] = {"episodic": "episodic", "semantic": "semantic", "skill": "skills"}
"""What `search_all` calls the types."""


class Recall(Skills):
    """The verbs over all types."""

    async def search_all(
        self,
        query: str,
        limit_per_type: int = 3,
        messages: bool = False,
        explain: bool = False,
        **sought: Unpack[Sought],
    ) -> dict[str, list[Any]]:
        """The best of each type: `{"episodic": […], "semantic": […], "skills": […]}`.

        With `messages` those of sessions, too, as "messages"; with `explain` each is a `Found`. Raises as
        `search_episodes`.
        """
        found = await self._recalled(query, limit_per_type, sought, explain)
        told = {NAMES[kind]: self._handed(found[kind], explain) for kind in TYPES}
        if messages:
            told["messages"] = await self.search_messages(query, limit_per_type, explain=explain, **sought)
        return told

    async def _recalled(
        self, query: str, limit: int, sought: Sought, explain: bool = False
    ) -> dict[MemoryType, list[Found]]:
        return {
            kind: await self._search(query, filtered((kind,), dict(sought)), limit, sought, explain) for kind in TYPES
        }

    async def search_messages(
        self, query: str, limit: int = 5, session_id: str | None = None, explain: bool = False, **sought: Unpack[Sought]
    ) -> list[Any]:
        """The messages of sessions that fit `query` best, best first: `SessionMessage`, or with `explain` `Found`.

        Of `session_id`, or of all sessions whose keys begin with the setting `key_prefix`, whoever added them: what
        the store had before the call is found. Who spoke is told by `speaker` in a message's metadata, what came with
        it by `caption`. Raises `InvalidArgument`.
        """
        library, settings = self._librarian(), self._settings
        only = filtered((records.MESSAGE,), {**sought, "session_id": session_id})
        await library.ready(settings.deadline)
        await library.follower.level(settings.deadline)
        hits: list[Hit] = []
        for _ in range(3):  # what the store does not have any more makes room for what it has
            hits = await self._hits(query, only, limit, sought, explain)
            ended = await self._ended({hit.id.rpartition("#")[0] for hit in hits})
            if not ended:
                break
            for key in ended:
                await library.follower.transcripts.follow(key)
        found = await self._messages(hits)
        return list(found) if explain else [each.memory for each in found]

    async def _hits(self, query: str, only: Filter, limit: int, sought: Sought, explain: bool) -> list[Hit]:
        mode, favour = sought.get("mode", "fused"), sought.get("favour", Favour())
        return await self._librarian().catalogue.search(
            query, limit=limit, mode=mode, only=only, favour=favour, explain=explain
        )

    async def _ended(self, keys: set[str]) -> list[str]:
        """Those of these sessions that the store does not have any more; none where it cannot be asked."""
        named = sorted(keys)
        if not named:
            return []
        try:
            lengths = await self._tell(*map(Length, named))
        except WorldError:
            return []
        return [key for key, each in zip(named, lengths, strict=True) if not each.value]

    async def _messages(self, hits: Sequence[Hit]) -> list[Found]:
        bodies = await self._librarian().catalogue.bodies([hit.id for hit in hits])
        found = []
        for hit in hits:
            try:
                message = records.message_of(bodies[hit.id].body, hit.id, self._settings.key_prefix)
            except (CorruptRecord, KeyError):  # it ended this moment
                continue
            found.append(Found(memory=message, score=hit.score, parts=None if hit.parts is None else dict(hit.parts)))
        return found

    # --- what is told to a model ------------------------------------------------------------------

    async def get_context(
        self, detailed_steps: int = 10, *, budget: int | None = None, counter: Counter = estimate
    ) -> str:
        """What the agent did lately, for a model: the last steps in full, those before in short.

        At most `budget` tokens (`context_tokens`), as `counter` counts them: see `estimate`. Raises `InvalidArgument`.
        """
        return (await self.tell_context("", detailed_steps, 0, budget=budget, counter=counter)).text

    async def get_enriched_context(
        self,
        query: str,
        detailed_steps: int = 10,
        limit_per_type: int = 2,
        *,
        messages: bool = False,
        budget: int | None = None,
        counter: Counter = estimate,
    ) -> str:
        """As `get_context`, with what the agent recalls of `query`: the best `limit_per_type` of each type.

        Recalled memories stand in a block that is marked as data; each line names its memory.
        """
        told = self.tell_context(
            query, detailed_steps, limit_per_type, messages=messages, budget=budget, counter=counter
        )
        return (await told).text

    async def tell_context(
        self,
        query: str = "",
        detailed_steps: int = 10,
        limit_per_type: int = 2,
        *,
        messages: bool = False,
        budget: int | None = None,
        counter: Counter = estimate,
    ) -> Context:
        """As `get_enriched_context`, line by line, with what each tells of and what did not fit."""
        steps = await self.get_recent_steps(self._who.working_capacity)
        recalled = await self._recalled(query, limit_per_type, {}) if limit_per_type else {}
        said = await self.search_messages(query, limit_per_type, explain=True) if messages and limit_per_type else []
        context = build(
            steps,
            recalled,
            budget=self._settings.context_tokens if budget is None else budget,
            count=counter,
            detailed=detailed_steps,
            messages=said,
        )
        told = {line.source for line in context.lines}
        for found in recalled.values():
            self._handed([each for each in found if each.memory.memory_id in told], False)
        return context

    # --- of any type ------------------------------------------------------------------------------

    async def find(self, kind: MemoryType, memory_id: str) -> Any:
        """The memory of this type and id, None where there is none. Raises as `get_episode`."""
        return await self._get(kind, memory_id)

    async def get_many(self, kind: MemoryType, memory_ids: Sequence[str]) -> dict[str, Any]:
        """The memories of these ids, by them, in one trip: those that are there, and can be read."""
        keys = {self._key(kind, each): each for each in memory_ids}
        found = await self._fetched(list(keys))
        self._used(found, kind)
        return {keys[key]: memory for key, memory in found.items()}

    async def delete(self, kind: MemoryType, memory_id: str) -> None:
        """Delete the memory of this type and id, from every index too. One that is not there is fine."""
        await self._delete(kind, memory_id)

    async def pin(self, memory_id: str) -> Any:
        """Keep a memory for ever: it does not expire, and no upkeep touches it. The memory as it is then.

        `memory_id` is one of any type. Raises `Missing` (a KeyError) where there is none.
        """
        return await self._pin(await self._kind_of(memory_id), memory_id, True)

    async def unpin(self, memory_id: str) -> Any:
        """Let a pinned memory expire again, after the time of its type. Raises `Missing`."""
        return await self._pin(await self._kind_of(memory_id), memory_id, False)

    async def _kind_of(self, memory_id: str) -> MemoryType:
        found = await self._fetched([self._key(kind, memory_id) for kind in TYPES])
        for kind in TYPES:
            if self._key(kind, memory_id) in found:
                return kind
        raise Missing(f"there is no memory {memory_id!r:.60}: it was deleted, or its time was over")
