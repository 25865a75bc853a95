"""What the verbs of an agent share: how a memory is stored, changed, read, searched and listed."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, TypedDict, TypeVar, cast

import msgspec

from remanence.errors import CorruptRecord, InvalidArgument, Missing, Rejected, Unavailable, WrongKind
from remanence.events import RecordSkipped
from remanence.faces.access import Face, ttl_ms
from remanence.faces.agents import records
from remanence.faces.agents.catalogue import Entry, entry_of
from remanence.faces.agents.changes import Told
from remanence.faces.agents.filters import Listed, Sought, filtered
from remanence.faces.agents.library import Library
from remanence.faces.agents.types import AgentMemory, Found, MemoryType
from remanence.model import KEEP_TTL, NEVER, Delete, Edit, Patch, Put, Receipt
from remanence.protocols import Fetch, Gateway
from remanence.search.types import Favour, Filter, Hit
from remanence.settings import Settings
from remanence.stores.edits import NO_RECORD, EditRejected, edit
from remanence.stores.resolve import patched

M = TypeVar("M", bound=AgentMemory)

MOST_LISTED: Final = 1000


class Ttl(TypedDict, total=False):
    """How long a memory lives, where the setting of its type shall not say: seconds, or None for ever."""

    ttl: float | timedelta | None


class Origin(Ttl, total=False):
    """Where a memory comes from: `source` in the caller's own words, `trust` from 0 to 1."""

    source: str
    trust: float


class Page(msgspec.Struct, Generic[M], frozen=True):
    """Some memories, newest first. `after` is where to go on, "" where these were the last."""

    memories: list[M]
    after: str = ""

    def __iter__(self) -> Iterator[M]:
        return iter(self.memories)

    def __len__(self) -> int:
        return len(self.memories)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """Who remembers: the agent, and what it is told of others."""

    agent_id: str
    working_capacity: int = 50
    pubsub: bool = True
    consolidates: bool = False
    """Whether it tends what all remember, in the background."""
    counts_uses: bool = True
    """Whether what it finds counts as used: not for who only looks."""


class Memories(Face):
    """Storing and finding the memories of an agent."""

    def __init__(
        self, opener: Callable[[], Gateway], librarian: Callable[[], Library], settings: Settings, who: Identity
    ) -> None:
        """Reads nothing. `librarian` gives the library of the gateway that `opener` gives."""
        super().__init__(opener, settings)
        self._librarian = librarian
        self._who = who
        self._session = ""

    @property
    def agent_id(self) -> str:
        """Whose memory this is."""
        return self._who.agent_id

    @property
    def session_id(self) -> str:
        """The session that steps and episodes belong to now."""
        return self._session

    # --- making -----------------------------------------------------------------------------------

    def _key(self, kind: MemoryType, memory_id: str) -> str:
        return records.key_of(kind, memory_id, self._settings.key_bytes)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._opener().runtime.wall(), UTC)

    def _id(self) -> str:
        runtime = self._opener().runtime
        return records.memory_id(runtime.wall(), runtime.random_bytes(10))

    def _lifetime(self, kind: MemoryType, origin: Ttl) -> int:
        """Milliseconds that a memory of this type lives."""
        return ttl_ms(origin["ttl"] if "ttl" in origin else getattr(self._settings, f"{kind}_ttl"))

    def _new(self, kind: type[M], memory_id: str, ttl: int, origin: Origin, **parts: Any) -> M:
        """A memory of these parts, made now by this agent. Raises `InvalidArgument`."""
        if unknown := sorted(set(origin) - {"source", "trust", "ttl"}):
            raise InvalidArgument(f"there is no argument {unknown[0]!r:.60}")
        now = self._now()
        told = {
            "type": cast(Any, kind).__struct_config__.tag,
            "memory_id": memory_id,
            "created_at": now,
            "updated_at": now,
            "last_accessed": now,
            "agent_id": self.agent_id,
            "session_id": self._session,
            "source": origin.get("source", ""),
            "trust": origin.get("trust", 1.0),
            "expires_at": _after(now, ttl),
        }
        return cast(M, records.made(kind, **{**told, **parts}))

    async def _save(self, kind: MemoryType, memory: M, ttl: int, *beside: Any) -> M:
        """Store a new memory, and `beside` with it."""
        key = self._key(kind, memory.memory_id)
        body = records.packed(memory, self._settings)
        with self._librarian().catalogue.own.writing([key]):
            receipts = await self._write(Put(key, body, ttl), *beside)
            await self._wrote("add", key, receipts[0].op_id, entry_of(key, body, receipts[0].op_id), {})
        return memory

    async def _wrote(self, action: str, key: str, op_id: str, entry: Entry | None, over: Mapping[str, str]) -> None:
        """Have what was written found, put over what was known before it."""
        library = self._librarian()
        _, kind, memory_id = key.split(":", 2)
        left = await library.catalogue.wrote(op_id, Told(action, kind, memory_id, self.agent_id), entry, over)
        await library.follower.refresh(left)

    # --- changing ---------------------------------------------------------------------------------

    def _parts(self, kind: type[M], allowed: frozenset[str], parts: dict[str, Any]) -> tuple[Edit, ...]:
        """The edits for parts that a caller named. Raises `InvalidArgument` for what cannot be."""
        if not parts or not allowed.issuperset(parts):
            raise InvalidArgument(f"what can be changed is {', '.join(sorted(allowed))}")
        names = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        told = {}
        for name, value in parts.items():
            if names[name].type == list[str]:
                value = records.texts(value, name)
            told[name] = records.part(names[name].type, value, name)
        return self._edits(**told)

    def _edits(self, **parts: Any) -> tuple[Edit, ...]:
        """The edits that set these parts of a document."""
        settings = self._settings
        told = {"updated_at": self._now().isoformat(), **parts}
        return tuple(
            edit((name,), "set", value, name=name, hidden=1, limit=settings.value_bytes, depth=settings.depth)
            for name, value in told.items()
        )

    async def _change(
        self, kind: MemoryType, memory_id: str, edits: Sequence[Edit], ttl: int = KEEP_TTL, default: bytes | None = None
    ) -> Any:
        """Apply edits to a memory, whatever it is by then; the memory as it is now, None where nobody can tell.

        Raises `Missing` where there is none, as far as anybody knows now.
        """
        key = self._key(kind, memory_id)
        patch = Patch(key, tuple(edits), ttl, default)
        async with self._librarian().catalogue.writing([key]) as before:
            try:
                (receipt,) = await self._write(patch)
            except Rejected as error:
                if error.reason != NO_RECORD:
                    raise
                raise Missing(f"there is no {kind} memory at {key}: it was deleted, or it expired") from error
            body, etag = await self._after(patch, receipt)
            if body is None:
                return None
            await self._wrote("update", key, receipt.op_id, entry_of(key, body, etag or receipt.op_id), before)
        return records.stored(body, key)

    async def _after(self, patch: Patch, receipt: Receipt) -> tuple[bytes | None, str]:
        """What a patch made of its document, and which version that is."""
        try:
            record = (await self._tell(Fetch(patch.key), fresh=True))[0].value
            return (None, "") if record is None else (record.body, record.etag)
        except Unavailable:  # journalled: as far as this machine knows the memory
            known = (await self._librarian().catalogue.bodies([patch.key])).get(patch.key)
            try:
                return patched(patch, None if known is None else known.body)[0], receipt.op_id
            except EditRejected:
                return None, ""

    async def _delete(self, kind: MemoryType, memory_id: str, *before: Put) -> None:
        """Delete a memory, and write something before that."""
        key = self._key(kind, memory_id)
        async with self._librarian().catalogue.writing([key]) as known:
            receipts = await self._write(*before, Delete(key))
            await self._wrote("delete", key, receipts[-1].op_id, None, known)

    async def _pin(self, kind: MemoryType, memory_id: str, pinned: bool) -> Any:
        """A pinned memory lives for ever, and no upkeep touches it."""
        ttl = NEVER if pinned else ttl_ms(getattr(self._settings, f"{kind}_ttl"))
        until = _after(self._now(), ttl)
        edits = self._edits(pinned=pinned, expires_at=None if until is None else until.isoformat())
        return await self._change(kind, memory_id, edits, ttl)

    # --- reading ----------------------------------------------------------------------------------

    async def _get(self, kind: MemoryType, memory_id: str) -> Any:
        key = self._key(kind, memory_id)
        found = await self._fetched([key], strict=True)
        self._used(found, kind)
        return found.get(key)

    def _used(self, found: Mapping[str, Any], kind: str) -> None:
        """These memories of a type were handed out, by their keys."""
        if not self._who.counts_uses:
            return
        uses = self._librarian().uses
        uses.used(found)
        if self._settings.extend_on_use:
            ttl = ttl_ms(getattr(self._settings, f"{kind}_ttl"))
            until = self._now() + timedelta(milliseconds=ttl)
            sooner = [key for key, each in found.items() if each.expires_at is not None and each.expires_at < until]
            uses.extend(sooner, ttl)

    async def _fetched(self, keys: Sequence[str], *, strict: bool = False, listed: bool = False) -> dict[str, Any]:
        """The memories at these keys: of the store, or where it is away as they were last seen here.

        One that cannot be read is left out and told of. With `strict` it raises `CorruptRecord` or `WrongKind`, and
        `Unavailable` where the store is away and nothing is known here; with `listed`, by an index, the latter alone.
        """
        if not keys:
            return {}
        try:
            told = {key: each.value for key, each in zip(keys, await self._tell(*map(Fetch, keys)), strict=True)}
            bodies = {key: record.body for key, record in told.items() if record is not None}
        except Unavailable:
            known = await self._librarian().catalogue.bodies(keys)
            if not known and (strict or listed):
                raise
            bodies = {key: each.body for key, each in known.items()}
        except (CorruptRecord, WrongKind):
            if strict:
                raise
            return await self._one_by_one(keys)
        return self._read(bodies, strict)

    async def _one_by_one(self, keys: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key in keys:
            try:
                found |= await self._fetched([key], strict=True)
            except (CorruptRecord, WrongKind) as error:
                self._report(RecordSkipped(key, 0, str(error)))
            except Unavailable:
                continue
        return found

    def _read(self, bodies: dict[str, bytes], strict: bool) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, body in bodies.items():
            try:
                found[key] = records.stored(body, key)
            except CorruptRecord as error:
                if strict:
                    raise
                self._report(RecordSkipped(key, 0, str(error)))
        return found

    def _report(self, event: RecordSkipped) -> None:
        self._librarian().tell(event)

    # --- finding ----------------------------------------------------------------------------------

    async def _search(self, query: str, only: Filter, limit: int, sought: Sought, explain: bool = False) -> list[Found]:
        """The best `limit` memories that `only` admits; those that are gone meanwhile are left out."""
        library = self._librarian()
        await library.ready(self._settings.deadline)
        hits: list[Hit] = []
        found: dict[str, Any] = {}
        for _ in range(3):  # what the store does not have any more makes room for what it has
            hits = await library.catalogue.search(
                query,
                limit=limit,
                mode=sought.get("mode", "fused"),
                only=only,
                favour=sought.get("favour", Favour()),
                explain=explain,
            )
            found = await self._fetched([hit.id for hit in hits], listed=True)
            gone = [hit.id for hit in hits if hit.id not in found]
            if not gone:
                break
            await library.follower.refresh(gone)
        return [_found(hit, found[hit.id]) for hit in hits if hit.id in found]

    def _handed(self, found: list[Found], explain: bool) -> list[Any]:
        """What a search hands out: memories that are used from now on, with their scores where that was asked."""
        for each in found:
            kind = each.memory.__struct_config__.tag
            self._used({records.PREFIXES[kind] + each.memory.memory_id: each.memory}, kind)
        return list(found) if explain else [each.memory for each in found]

    async def _list(self, kind: MemoryType, listed: Listed) -> Page[Any]:
        """A page of memories of a type."""
        limit = listed.get("limit", 50)
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST_LISTED:
            raise InvalidArgument(f"limit must be a whole number from 1 to {MOST_LISTED}")
        if not isinstance(listed.get("after", ""), str):
            raise InvalidArgument("after must be what an earlier page of the same list gave")
        library = self._librarian()
        await library.ready(self._settings.deadline)
        keys, after = await library.catalogue.list(filtered((kind,), listed), limit, listed.get("after", ""))
        found = await self._fetched(keys, listed=True)
        return Page([found[key] for key in keys if key in found], after)


def _found(hit: Hit, memory: Any) -> Found:
    return Found(memory=memory, score=hit.score, parts=None if hit.parts is None else dict(hit.parts))


def _after(now: datetime, ttl: int) -> datetime | None:
    return None if ttl == NEVER else now + timedelta(milliseconds=ttl)


__all__ = ["Identity", "Memories", "Origin", "Page"]
