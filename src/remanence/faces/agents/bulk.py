"""Many memories at once: from another system, a file, or a generator that never ends."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final

from remanence.errors import InvalidArgument, UsageError
from remanence.faces.agents import records
from remanence.faces.agents.catalogue import Entry, entry_of
from remanence.faces.agents.changes import Told
from remanence.faces.agents.recall import Recall
from remanence.faces.agents.types import AgentMemory, SkillMemory
from remanence.model import Patch, Put, Receipt

TOGETHER: Final = 100
"""Memories that are written, and put into the index, together."""
_OURS: Final = frozenset({"updated_at", "last_accessed", "expires_at", "merged_into", "merged_from", "lent"})
"""What is not the caller's to say."""


class Bulk(Recall):
    """The verb of many."""

    async def load(self, memories: Iterable[Mapping[str, Any]], progress: Callable[[int], Any] | None = None) -> int:
        """Save memories of any type, 100 at a time; how many there were.

        Each is a mapping of `type` ("episodic", "semantic" or "skill") and the fields of such a memory, as its verb
        (`save_episode`, `add_semantic`, `save_skill`) takes them; `created_at` is now, or a time with its zone,
        `agent_id` and `session_id` are these unless it says others. One
        with a `memory_id` is stored under it: loaded again, it replaces itself. `progress` is called with how many
        are stored. Raises as those verbs, naming the memory at fault; the hundreds before it are stored then.
        """
        if not isinstance(memories, Iterable):
            raise InvalidArgument("memories must be a list of mappings, or something else to go through")
        await self.initialize()
        given, done = iter(memories), 0
        while some := list(islice(given, TOGETHER)):
            await self._stored([self.loadable(each, f"memories[{done + at}]") for at, each in enumerate(some)])
            done += len(some)
            if progress is not None:
                progress(done)
        return done

    def loadable(self, given: Mapping[str, Any], place: str) -> tuple[AgentMemory, Put | Patch]:
        """The memory that a mapping means, and the write that stores it. Raises as `load`, naming `place`."""
        name = given.get("type") if isinstance(given, Mapping) else None
        if not isinstance(name, str) or name not in records.CLASSES:
            raise InvalidArgument(f"{place} must have a type: one of {', '.join(records.CLASSES)}")
        try:
            memory, ttl = self._made(name, dict(given))
            return memory, self._write_of(memory, ttl)
        except UsageError as error:
            raise type(error)(f"{place}: {error}") from None

    def _made(self, name: Any, given: dict[str, Any]) -> tuple[AgentMemory, int]:
        kind: type[AgentMemory] = records.CLASSES[name]
        ttl = self._lifetime(name, {"ttl": given.pop("ttl")} if "ttl" in given else {})
        del given["type"]
        allowed = set(kind.__struct_fields__) - _OURS
        if unknown := sorted(map(str, set(given) - allowed)):
            raise InvalidArgument(f"there is no field {unknown[0]!r:.60}: one of {', '.join(sorted(allowed))}")
        memory_id = given.pop("memory_id", None) or self._id()
        if kind is SkillMemory:
            memory_id = records.skill_id(given.get("skill_name", ""))
        self._key(name, memory_id)
        for field in ("action_sequence", "steps"):
            if field in given:
                records.checked(given[field], field, self._settings)
        memory: AgentMemory = self._new(kind, memory_id, ttl, {}, **given)
        if not isinstance(memory.created_at, datetime) or memory.created_at.tzinfo is None:
            raise InvalidArgument("created_at must be a time with its zone")
        return memory, ttl

    async def _stored(self, made: list[tuple[AgentMemory, Put | Patch]]) -> None:
        writes = [write for _, write in made]
        catalogue = self._librarian().catalogue
        async with catalogue.writing([write.key for write in writes]) as before:
            left = await catalogue.take(self._entries(made, await self._write(*writes)), over=before)
            await self._librarian().follower.refresh(left)

    def _entries(self, made: list[tuple[AgentMemory, Put | Patch]], receipts: Sequence[Receipt]) -> list[Entry]:
        """What the index shall know of these; the log will tell of them."""
        entries: list[Entry] = []
        for (memory, write), receipt in zip(made, receipts, strict=True):
            if isinstance(write, Put):
                told = Told("add", write.key.split(":", 2)[1], memory.memory_id, self.agent_id)
                self._librarian().catalogue.own.expect(receipt.op_id, told)
                entry = entry_of(write.key, write.body, receipt.op_id)
            else:  # what it came to, the change log tells
                entry = entry_of(write.key, write.default or b"", "")
            entries += [] if entry is None else [entry]
        return entries

    def _write_of(self, memory: AgentMemory, ttl: int) -> Put | Patch:
        if isinstance(memory, SkillMemory):
            return self._saving(memory, ttl)
        key = self._key(memory.__struct_config__.tag, memory.memory_id)  # type: ignore[arg-type] # one of the types
        return Put(key, records.packed(memory, self._settings), ttl)
