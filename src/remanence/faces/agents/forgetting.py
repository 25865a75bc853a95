"""Forgetting for good: an agent, a subject, or single memories, from the store, journals, mirrors and every index."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from remanence.errors import InvalidArgument, Unavailable
from remanence.faces.agents import records
from remanence.faces.agents.base import MOST_LISTED
from remanence.faces.agents.bulk import Bulk
from remanence.faces.agents.filters import filtered
from remanence.faces.agents.tending.unwanted import beginning
from remanence.faces.agents.types import TYPES
from remanence.model import Erased

KNOWING: Final = 60.0
"""Longest wait, in seconds, until the index knows all that there is: an erasure must not miss what came last."""


class Forgetting(Bulk):
    """The verb that leaves nothing."""

    async def forget(
        self, *, agent_id: str | None = None, subject: str | None = None, memory_ids: Sequence[str] = ()
    ) -> list[Erased]:
        """Erase all that an agent saved with its steps, all that is tagged with a subject, or these memories.

        A receipt for each key, or beginning of keys: see `Erased`. Deleting is enough where it need not be certain:
        this reaches every journal, mirror and index of the deployment, and takes a while for each key. Raises
        `InvalidArgument`, and `Unavailable` with nothing erased where it is not known which memories there are: the
        server is away, or the index does not know them all within a minute. Single `memory_ids` it erases at any time.
        """
        if sum((agent_id is not None, subject is not None, bool(memory_ids))) != 1:
            raise InvalidArgument("say one of agent_id, subject and memory_ids")
        keys = {self._key(kind, memory_id): False for memory_id in memory_ids for kind in TYPES}
        keys |= await self.keys_to_forget(agent_id, subject)
        told = [await self._forget(key, beginning=beginning) for key, beginning in keys.items()]
        await self._librarian().catalogue.take([], [key for key, beginning in keys.items() if not beginning])
        return told

    async def keys_to_forget(self, agent_id: str | None = None, subject: str | None = None) -> dict[str, bool]:
        """The keys of what an agent saved, or of what is tagged with a subject; True: all that begins like it."""
        if agent_id is not None:
            return await self._of_agent(agent_id)
        if subject is not None:
            return {key: False async for key, _ in self._keys_of({"tags": [subject]})}
        return {}

    async def _of_agent(self, agent_id: str) -> dict[str, bool]:
        """The keys of an agent, and whether all that begins like them is meant."""
        steps = records.steps_key(agent_id, "-", self._settings.key_bytes).removesuffix("-")
        keys, sessions = {steps: True, beginning(agent_id, self._settings.key_bytes): True}, set[str]()
        async for key, memory in self._keys_of({"agent_id": agent_id}):
            keys[key] = False
            sessions.add(memory.session_id)
        return keys | {records.session_key(each): False for each in sorted(sessions - {""})}

    async def _keys_of(self, wanted: dict[str, Any]) -> AsyncIterator[tuple[str, Any]]:
        """Every memory that a filter admits, by its key."""
        library = self._librarian()
        if not await library.level(KNOWING, self._settings.deadline):
            raise Unavailable(
                "nothing was erased: which memories there are is not known here now, for the server is away, or the "
                'index has yet to read them (get_stats()["indexed"]). Try again'
            )
        for kind in TYPES:
            after = ""
            while True:
                keys, after = await library.catalogue.list(filtered((kind,), wanted), MOST_LISTED, after)
                for key, memory in (await self._fetched(keys, listed=True)).items():
                    yield key, memory
                if not after:
                    break
