"""A face as it is tended: what consolidation and the audit need, over the gateway and the library."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec

from remanence.errors import CorruptRecord, WrongKind
from remanence.faces.agents import records
from remanence.faces.agents.catalogue import entry_of
from remanence.faces.agents.changes import Told
from remanence.faces.agents.library import Library
from remanence.faces.agents.tending.hands import Add, Mark, Page, Remove, Replace, Step
from remanence.faces.agents.tending.lease import Lease
from remanence.faces.agents.tending.likeness import Floats
from remanence.faces.agents.tending.unwanted import Unwanted, drop, noted
from remanence.faces.agents.types import AgentMemory, MemoryType
from remanence.model import ABSENT, NEVER, Delete, Put, Record, Write
from remanence.protocols import Fetch, Gateway
from remanence.search.embedders.static import StaticEmbedder
from remanence.settings import Settings

T = TypeVar("T")

LEASE: Final = "agent:tending:lease"
MARK: Final = "agent:tending:mark"
AT_ONCE: Final = 100
RESTING: Final = 3.0
"""In the background, how long is rested for each second of work: agents search and write meanwhile."""
LONGEST_REST: Final = 2.0
"""Seconds of one rest: the right to tend must be renewed in time, and who closes waits for nobody."""
_MARK_TTL: Final = 30 * 86400 * 1000


class Tended:
    """`Hands` of a face. Only what the store itself says counts here: nothing is journalled."""

    def __init__(
        self, gateway: Gateway, library: Library, settings: Settings, agent_id: str, *, hurry: bool = True
    ) -> None:
        """`agent_id`: in whose name listeners are told. Without `hurry`, most of the time is left to others."""
        self._gateway = gateway
        self._library = library
        self._settings = settings
        self._agent = agent_id
        self._lease = Lease(gateway, LEASE)
        self._hurry = hurry
        self._paused = gateway.runtime.monotonic()

    def now(self) -> datetime:
        """See `Hands.now`."""
        return datetime.fromtimestamp(self._gateway.runtime.wall(), UTC)

    async def pause(self) -> None:
        """See `Hands.pause`."""
        runtime = self._gateway.runtime
        worked = runtime.monotonic() - self._paused
        await runtime.sleep(0.0 if self._hurry else min(RESTING * worked, LONGEST_REST))
        self._paused = runtime.monotonic()

    async def aside(self, work: Callable[[], T]) -> T:
        """See `Hands.aside`."""
        found = await self._gateway.runtime.aside(work)
        if not self._hurry:
            await self.pause()
        return found

    # --- reading ----------------------------------------------------------------------------------

    async def pages(self, kind: MemoryType) -> AsyncIterator[Page]:
        """See `Hands.pages`."""
        prefix, cursor = records.PREFIXES[kind], ""
        while True:
            keys, cursor = await self._gateway.scan(prefix, cursor)
            for start in range(0, len(keys), AT_ONCE):
                yield await self._page(keys[start : start + AT_ONCE])
            if not cursor:
                return

    async def _page(self, keys: Sequence[str]) -> Page:
        found = await self._found(keys)
        unreadable = [key for key, each in found.items() if isinstance(each, Exception)]
        return Page([each for each in found.values() if isinstance(each, msgspec.Struct)], unreadable)  # type: ignore[misc] # memories alone

    async def get(self, kind: MemoryType, memory_ids: Sequence[str]) -> list[AgentMemory | None]:
        """See `Hands.get`."""
        keys = [records.PREFIXES[kind] + each for each in memory_ids]
        found = await self._found(keys)
        return [None if isinstance(each := found.get(key), Exception) else each for key in keys]

    async def _found(self, keys: Sequence[str]) -> dict[str, Any]:
        """The memories at these keys; an exception for one that cannot be read."""
        return {key: _memory(record) for key, record in (await self._records(keys)).items() if record is not None}

    async def _records(self, keys: Sequence[str]) -> dict[str, Any]:
        """What is stored now, None for what is not, an exception for what is of another kind."""
        try:
            told = await self._gateway.read([Fetch(key) for key in keys], fresh=True)
            return {key: each.value for key, each in zip(keys, told, strict=True)}
        except (CorruptRecord, WrongKind) as error:
            if len(keys) == 1:
                return {keys[0]: error}
            return {key: each for one in keys for key, each in (await self._records([one])).items()}

    async def vectors(self, texts: Sequence[str]) -> Floats:
        """See `Hands.vectors`: of the embedder that memories are searched by."""
        embedder = self._library.embedder or StaticEmbedder()
        return await self.aside(lambda: embedder.embed(texts))

    # --- writing ----------------------------------------------------------------------------------

    async def write(self, steps: Sequence[Step]) -> list[bool]:
        """See `Hands.write`."""
        held = [step.was for step in steps if not isinstance(step, Add)]
        known = await self._records([_key(each) for each in held]) if held else {}
        writes: dict[int, Write] = {}
        for place, step in enumerate(steps):
            write = self._write_of(step, known)
            if write is not None:
                writes[place] = write
        if not writes:
            return [False] * len(steps)
        done = [False] * len(steps)
        async with self._library.catalogue.writing([write.key for write in writes.values()]) as before:
            receipts = await self._gateway.write(list(writes.values()), ack="store")
            for place, receipt in zip(writes, receipts, strict=True):
                done[place] = receipt.state != "rejected"
                if done[place]:
                    await self._indexed(steps[place], writes[place], receipt.op_id, before)
        return done

    def _write_of(self, step: Step, known: dict[str, Any]) -> Write | None:
        """The conditional write of a step; None where its condition does not hold already."""
        if isinstance(step, Add):
            return Put(_key(step.memory), records.packed(step.memory, self._settings), self._ttl(step.memory), ABSENT)
        record = known.get(_key(step.was))
        if not isinstance(record, Record) or _memory(record) != step.was:
            return None
        if isinstance(step, Remove):
            return Delete(record.key, record.etag)
        return Put(record.key, records.packed(step.now, self._settings), self._ttl(step.now), record.etag)

    async def _indexed(self, step: Step, write: Write, op_id: str, before: Mapping[str, str]) -> None:
        action = "add" if isinstance(step, Add) else "delete" if isinstance(step, Remove) else "update"
        _, kind, memory_id = write.key.split(":", 2)
        entry = entry_of(write.key, write.body, op_id) if isinstance(write, Put) else None
        left = await self._library.catalogue.wrote(op_id, Told(action, kind, memory_id, self._agent), entry, before)
        await self._library.follower.refresh(left)

    def _ttl(self, memory: AgentMemory) -> int:
        if memory.expires_at is None:
            return NEVER
        return max(1, round((memory.expires_at - self.now()).total_seconds() * 1000))

    async def unwanted(self) -> list[Unwanted]:
        """See `Hands.unwanted`."""
        return await noted(self._gateway)

    async def drop(self, notes: Sequence[Unwanted]) -> None:
        """See `Hands.drop`."""
        await drop(self._gateway, notes)

    # --- the right, and how far a pass came -------------------------------------------------------

    async def lease(self, seconds: float) -> str | None:
        """See `Hands.lease`."""
        return await self._lease.take(seconds)

    async def renew(self, token: str, seconds: float) -> str | None:
        """See `Hands.renew`."""
        return await self._lease.renew(token, seconds)

    async def release(self, token: str) -> None:
        """See `Hands.release`."""
        await self._lease.release(token)

    async def mark(self) -> Mark | None:
        """See `Hands.mark`."""
        record = (await self._gateway.read([Fetch(MARK)], fresh=True))[0].value
        try:
            return None if record is None else msgspec.json.decode(record.body, type=Mark)
        except msgspec.DecodeError:
            return None

    async def note(self, mark: Mark) -> None:
        """See `Hands.note`."""
        await self._gateway.write([Put(MARK, msgspec.json.encode(mark), _MARK_TTL)], ack="store")


def _key(memory: AgentMemory) -> str:
    return f"{records.PREFIXES[str(memory.__struct_config__.tag)]}{memory.memory_id}"


def _memory(record: Any) -> Any:
    """The memory of a record, or why it is none."""
    if isinstance(record, Exception):
        return record
    try:
        return records.stored(record.body, record.key)
    except CorruptRecord as error:
        return error


__all__ = ["Replace", "Tended"]
