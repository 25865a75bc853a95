"""Skills: how to do something, and how well that went."""

from typing import Any, Unpack

from remanence.errors import InvalidArgument, InvalidValue
from remanence.faces.agents import records
from remanence.faces.agents.base import Origin, Page
from remanence.faces.agents.filters import Listed, Sought, filtered
from remanence.faces.agents.knowledge import Knowledge
from remanence.faces.agents.types import Seconds, SkillMemory
from remanence.model import NEVER, Patch
from remanence.stores.edits import edit

_PARTS = frozenset(
    {"description", "action_sequence", "preconditions", "postconditions", "tags", "importance", "trust", "source"}
)


class Skills(Knowledge):
    """The verbs of skills. A skill is known by its name: there is one of each in a namespace."""

    async def save_skill(
        self,
        skill_name: str,
        description: str,
        action_sequence: list[Any],
        preconditions: list[str] | None = None,
        postconditions: list[str] | None = None,
        tags: list[str] | None = None,
        importance: float = 0.5,
        **origin: Unpack[Origin],
    ) -> SkillMemory:
        """Keep how to do something. Saved again under its name it is replaced, and its statistics go on.

        `action_sequence` is what JSON can hold. It lives for `ttl` seconds (`skill_ttl`: 180 days). Raises as
        `save_episode`.
        """
        await self.initialize()
        ttl = self._lifetime("skill", origin)
        if not isinstance(action_sequence, (list, tuple)):
            raise InvalidValue("action_sequence must be a list")
        memory: SkillMemory = self._new(
            SkillMemory,
            records.skill_id(skill_name),
            ttl,
            origin,
            skill_name=skill_name,
            description=description,
            action_sequence=list(records.checked(list(action_sequence), "action_sequence", self._settings)),
            preconditions=records.texts(preconditions, "preconditions"),
            postconditions=records.texts(postconditions, "postconditions"),
            tags=records.texts(tags, "tags"),
            importance=importance,
        )
        write = self._saving(memory, ttl)
        found: SkillMemory | None = await self._change("skill", memory.memory_id, write.edits, ttl, write.default)
        if found is not None and found.pinned and ttl != NEVER:
            found = await self._pin("skill", memory.memory_id, True)
        return memory if found is None else found

    def _saving(self, memory: SkillMemory, ttl: int) -> Patch:
        """The write that makes a skill, or replaces all of it but its statistics."""
        told = records.plain(memory)
        names = (*_PARTS, "expires_at", "agent_id", "session_id", "updated_at")
        parts = {name: told.get(name, getattr(memory, name)) for name in names}
        default = records.packed(memory, self._settings)
        return Patch(self._key("skill", memory.memory_id), self._edits(**parts), ttl, default)

    async def get_skill(self, name: str) -> SkillMemory | None:
        """The skill of this name, None where there is none. Raises as `get_episode`."""
        found: SkillMemory | None = await self._get("skill", records.skill_id(name))
        return found

    async def record_skill_execution(self, skill_name: str, success: bool, duration: float) -> SkillMemory | None:
        """Count an execution that took `duration` seconds: exactly, however many agents count at once.

        The skill as it is then, None where that cannot be told now. Raises `Missing` (a KeyError) where there is no
        such skill, `InvalidArgument` for a duration below zero or past ten years.
        """
        duration = records.part(Seconds, duration, "duration")
        if not isinstance(success, bool):
            raise InvalidArgument("success must be True or False")
        edits = (
            edit(("times_executed",), "add", 1),
            edit(("times_succeeded",), "add", int(success)),
            edit(("total_microseconds",), "add", round(duration * 1e6)),
            *self._edits(),
        )
        found: SkillMemory | None = await self._change("skill", records.skill_id(skill_name), edits)
        return found

    async def update_skill(self, skill_name: str, /, **parts: Any) -> SkillMemory | None:
        """Change parts of a skill, as `update_episode` does; its name stays."""
        edits = self._parts(SkillMemory, _PARTS, parts)
        found: SkillMemory | None = await self._change("skill", records.skill_id(skill_name), edits)
        return found

    async def delete_skill(self, skill_name: str) -> None:
        """Delete a skill with its statistics, from every index too. One that is not there is fine."""
        await self._delete("skill", records.skill_id(skill_name))

    async def list_skills(self, **listed: Unpack[Listed]) -> Page[SkillMemory]:
        """Skills, newest first, a page at a time. Raises `InvalidArgument`."""
        return await self._list("skill", listed)

    async def search_skills(
        self, query: str, limit: int = 5, tags: list[str] | None = None, explain: bool = False, **sought: Unpack[Sought]
    ) -> list[Any]:
        """The skills that fit `query` best, best first: `SkillMemory`, or with `explain` `Found`."""
        only = filtered(("skill",), {**sought, "tags": tags})
        return self._handed(await self._search(query, only, limit, sought, explain), explain)
