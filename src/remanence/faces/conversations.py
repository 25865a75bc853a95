"""Conversation working memory: what an assistant keeps in mind of each conversation.

A memory lives at `memory:{type}:{conversation_id}` as `{"data": {"working_memory": text}, "metadata": {},
"created_at": iso, "last_update": iso}`, several items as a list in `data`, and for `ttl` seconds from its
last change. Times are UTC with their zone.
"""

import fnmatch
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from msgspec import UNSET, UnsetType

from remanence.errors import (
    InvalidArgument,
    InvalidSetting,
    InvalidValue,
    Misconfigured,
    Missing,
    Rejected,
    Unavailable,
)
from remanence.faces.access import Face, refusal, ttl_ms
from remanence.faces.conversation_types import (
    Asked,
    ConversationMemoryType,
    IMemoryInput,
    IWorkingMemory,
    containing,
    corrupt,
    kind_of,
    limited,
    matches,
    parsed,
    shaped,
    texts,
    understood,
)
from remanence.faces.watching import Callback, Watcher, start
from remanence.model import CONFLICT, Delete, Edit, Erased, Patch, Put, Reading, Record, Wanted, Write
from remanence.protocols import Fetch, Gateway
from remanence.settings import Settings
from remanence.stores.edits import NOT_A_CONTAINER, PATH_GONE, edit
from remanence.wire import codec
from remanence.wire.checks import check
from remanence.wire.clients import options_of_client
from remanence.wire.keys import final

ATTEMPTS: Final = 1000
"""How often a change of one item is tried again: far more than any honest contention needs."""
DEFAULT_URL: Final = "redis://localhost:6379/1"
_AT_ONCE: Final = 500  # deletes in one write of `cleanup`: bounds what is held in memory
_NO_RECORD: Final = "there is no such record"  # these two as `stores.resolve` words them
_NO_MEMORY: Final = ("the stored value cannot be read", PATH_GONE, NOT_A_CONTAINER)
_NOWHERE: Final = -1
"""The place of an item whose id is of none."""


def server_settings(storage_url: str | None, redis_client: Any, options: dict[str, Any]) -> Settings:
    """The settings of a memory whose class names a server, whatever else is said.

    The url, else the client's address, else REDIS_URL, else REDIS_HOST and its companions, else
    `DEFAULT_URL`; only the argument `backend` takes it elsewhere. Raises `InvalidSetting`.
    """
    if sum((bool(storage_url), redis_client is not None, bool(options.get("url")))) > 1:
        raise InvalidSetting("give one of storage_url, redis_client and url")
    if storage_url:
        options = {**options, "url": storage_url}
    elif redis_client is not None:
        options = {**options_of_client(redis_client), **options}
    if options.get("backend") not in (None, "redis"):
        return Settings.build(**options)
    options = {**options, "backend": "redis"}
    named = options.get("url") or Settings.build(**{**options, "backend": "memory"}).url
    return Settings.build(**{**options, "url": named or DEFAULT_URL})


def process_settings(options: dict[str, Any]) -> Settings:
    """The settings of a memory that lives in this process alone. Raises `InvalidSetting`."""
    if options.get("backend") not in (None, "memory") or options.get("url"):
        raise InvalidSetting("this memory lives in the process alone: it takes no url and no other backend")
    return Settings.build(**{**options, "backend": "memory"})


_KINDS: Final = frozenset(str(kind) for kind in ConversationMemoryType)


class Conversations(Face):
    """The memories of conversations, as coroutines. `RedisWorkingMemoryManager` and others are made of it.

    Every verb takes an `IMemoryInput`, any object with its attributes, or a dict of its fields, in which
    a missing `memory_type` means WORKING_MEMORY. What cannot be carried out as asked raises before anything
    is stored: `InvalidArgument`, `InvalidKey`, `InvalidValue`, `ValueTooLarge`.
    """

    ttl: float | timedelta | None
    """Seconds a memory lives after its last change; None for ever."""
    prefix: str
    """The first part of every key."""

    def __init__(
        self,
        opener: Callable[[], Gateway],
        settings: Settings,
        ttl: float | timedelta | UnsetType | None = UNSET,
        prefix: str = "memory",
    ) -> None:
        """Reads nothing. Without `ttl` the setting `conversation_ttl` counts. Raises `InvalidTTL`."""
        super().__init__(opener, settings)
        self.ttl = settings.conversation_ttl if ttl is UNSET else ttl
        self.prefix = prefix
        ttl_ms(self.ttl)
        final(prefix, "prefix", limit=settings.key_bytes)

    def key_of(self, input: Asked) -> str:
        """The key of a conversation's memory, as `redis-cli` sees it in the default namespace."""
        return self._key(understood(input))

    def _key(self, request: IMemoryInput) -> str:
        begin = self._begin(kind_of(request.memory_type))
        limit = max(1, self._settings.key_bytes - len(begin.encode()))
        return begin + final(request.conversation_id, "conversation_id", limit=limit)

    def _begin(self, kind: ConversationMemoryType) -> str:
        return f"{self.prefix}:{kind}:"

    def watch(self, *inputs: Asked, since: str | None = None, timeout: float | None = None) -> Watcher:
        """The conversations whose memory changes from now on: these, or all of every memory type.

        `name` is the conversation's id, behind its type and a colon where it is no working memory; see
        `Memory.watch`.
        """
        keys = tuple(self.key_of(each) for each in inputs)
        prefix = f"{self.prefix}:"
        working = self._begin(ConversationMemoryType.WORKING_MEMORY)

        def named(key: str) -> str | None:
            kind = key.removeprefix(prefix).partition(":")[0]
            return key.removeprefix(working).removeprefix(prefix) if kind in _KINDS else None

        return self._watch(Wanted(keys) if keys else Wanted((), (prefix,)), named, since, timeout)

    def on_change(self, callback: Callback, *inputs: Asked, since: str | None = None) -> Watcher:
        """Have `callback` called with each change, in the background; see `Memory.on_change`."""
        return start(self._opener(), self.watch(*inputs, since=since), callback)

    async def forget(self, input: Asked) -> Erased:
        """Erase a conversation's memory for good and everywhere: see `Erased`, and `Memory.forget`."""
        return await self._forget(self.key_of(input))

    # --- the four verbs ---------------------------------------------------------------------------

    async def store(self, input: Asked) -> str:
        """Keep all items of `data`, replacing what was there, and return the key.

        While the server is away the memory is journalled and arrives later. Raises `InvalidArgument` (a
        ValueError) without data, `InvalidValue` (a TypeError) for what JSON cannot hold.
        """
        put = self._put(understood(input))
        await self._write(put)
        return put.key

    async def store_many(self, inputs: Iterable[Asked]) -> list[str]:
        """As `store` for each, in one trip; none is stored where one cannot be. Returns the keys."""
        puts = [self._put(understood(each)) for each in inputs]
        if puts:
            await self._write(*puts)
        return [put.key for put in puts]

    def _put(self, request: IMemoryInput) -> Put:
        key, now = self._key(request), self._now()
        document = {
            "data": shaped(texts(request.data, "store")),
            "metadata": self._metadata(request.metadata) or {},
            "created_at": now,
            "last_update": now,
        }
        return Put(key, self._body(document), ttl_ms(self.ttl))

    def _body(self, document: dict[str, Any]) -> bytes:
        limit, depth = self._settings.value_bytes, self._settings.depth
        return codec.encode(document, limit=limit, depth=depth, path="memory")

    def _metadata(self, metadata: object) -> dict[str, Any] | None:
        """Checked by itself, so that an error names the place as the caller knows it."""
        if metadata is not None and not isinstance(metadata, dict):
            raise InvalidValue(f"metadata must be a dict, not {type(metadata).__name__}")
        check(metadata, depth=self._settings.depth, path="metadata")
        return metadata

    def _now(self) -> str:
        return datetime.fromtimestamp(self._opener().runtime.wall(), UTC).isoformat()

    async def retrieve(self, input: Asked) -> list[IWorkingMemory]:
        """The items in the order they were stored, none where there are none.

        `query` keeps those that contain it in any case, `filters` those whose metadata have these members,
        `memory_id` the one of that id, `limit` the first so many. Raises `CorruptRecord` for a stored value
        that is no memory, and `Unavailable` where the server is away and the memory is not known here.
        """
        return (await self.read(input)).value

    async def read(self, input: Asked) -> "Reading[list[IWorkingMemory]]":
        """As `retrieve`, with where the answer came from and how old it may be."""
        request = understood(input)
        key = self._key(request)
        place = _place(key, request.memory_id)
        reading = (await self._tell(Fetch(key)))[0]
        document, found = parsed(reading.value) if reading.value is not None else ({"metadata": {}}, [])
        if place is not None:
            found = [] if place == _NOWHERE else found[place : place + 1]
        chosen = limited(containing(found, request.query), request.limit)
        fits = matches(document["metadata"], request.filters)
        memories = [IWorkingMemory(text) for text in chosen] if fits else []
        return Reading(memories, reading.source, reading.as_of)

    async def retrieve_safe(self, input: Asked, default: Sequence[IWorkingMemory] = ()) -> list[IWorkingMemory]:
        """As `retrieve`; a copy of `default` where the server is away and the memory is not known here."""
        try:
            return await self.retrieve(input)
        except (Unavailable, Misconfigured):
            return list(default)

    async def update(self, input: Asked) -> None:
        """Replace the data, and the metadata if given, of a memory that is there, in one atomic step.

        With a `memory_id` of one item, that item alone. Its lifetime starts anew, its `created_at` stays.
        Raises `Missing` (a KeyError) where there is none; while the server is away the change is journalled,
        and reported by the event `WriteRejected` should there be none when it arrives.
        """
        request = understood(input)
        key = self._key(request)
        words = texts(request.data, "update")
        metadata = self._metadata(request.metadata)
        place = _place(key, request.memory_id)
        if place is None:
            await self._patch(key, words, metadata)
        elif len(words) != 1:
            raise InvalidArgument("one item is replaced by one: give one IWorkingMemory in data")
        else:
            await self._amend(key, place, words, metadata)

    async def _patch(self, key: str, words: list[str], metadata: dict[str, Any] | None) -> None:
        patch = Patch(key, self._edits(words, metadata), ttl_ms(self.ttl))
        try:
            await self._write(patch)
        except Rejected as error:
            if error.reason == _NO_RECORD:
                raise _missing(key) from error
            if error.reason in _NO_MEMORY:
                raise corrupt(key) from error
            raise

    def _edits(self, words: list[str], metadata: dict[str, Any] | None) -> tuple[Edit, ...]:
        """The first refuses a value that is no memory, which `set` alone would make one of."""
        made = [
            self._edit(("data",), "clear"),
            self._edit(("data",), "set", shaped(words)),
            self._edit(("last_update",), "set", self._now()),
        ]
        if metadata is not None:
            made.append(self._edit(("metadata",), "set", metadata))
        return tuple(made)

    def _edit(self, path: tuple[str, ...], verb: str, *values: Any) -> Edit:
        limit, depth = self._settings.value_bytes, self._settings.depth
        return edit(path, verb, *values, name="memory", limit=limit, depth=depth)

    async def delete(self, input: Asked) -> None:
        """Remove the memory, or one item of it where `memory_id` names one; a missing one is fine."""
        request = understood(input)
        key = self._key(request)
        place = _place(key, request.memory_id)
        if place is None:
            await self._write(Delete(key))
            return
        try:
            await self._amend(key, place, [], None)
        except Missing:
            return

    # --- one item of several ----------------------------------------------------------------------

    async def _amend(self, key: str, place: int, words: list[str], metadata: dict[str, Any] | None) -> None:
        """Put `words` in the place of one item of just the version that was read; else read again."""
        for _ in range(ATTEMPTS):
            record = (await self._tell(Fetch(key), fresh=True))[0].value
            if record is None:
                raise _missing(key)
            write = self._amended(record, place, words, metadata)
            receipt = (await self._opener().write([write]))[0]
            if receipt.state != "rejected":
                return
            if receipt.reason != CONFLICT:
                raise refusal(write, receipt)
        raise Rejected(f"{key} was changed by others {ATTEMPTS} times in a row", "contention")

    def _amended(self, record: Record, place: int, words: list[str], metadata: dict[str, Any] | None) -> Write:
        document, items = parsed(record)
        if not 0 <= place < len(items):
            raise _missing(record.key if place == _NOWHERE else f"{record.key}#{place}")
        items[place : place + 1] = words
        if not items:
            return Delete(record.key, record.etag)
        document |= {"data": shaped(items), "last_update": self._now()}
        if metadata is not None:
            document["metadata"] = metadata
        return Put(record.key, self._body(document), ttl_ms(self.ttl), record.etag)

    # --- upkeep -----------------------------------------------------------------------------------

    async def statistics(self) -> dict[str, Any]:
        """`used_memory` and `used_memory_peak` for people ("1.05M", None where unknown), and `total_keys`.

        Of the whole database, not of conversations alone. Raises `Unavailable` within the deadline.
        """
        gateway = self._opener()
        facts = await gateway.store.facts(gateway.runtime.monotonic() + self._settings.deadline)
        return {
            "used_memory": facts.get("used_memory_human") or _human(int(facts["used_memory"])),
            "used_memory_peak": facts.get("used_memory_peak_human"),
            "total_keys": int(facts["keys"]),
        }

    async def cleanup(self, pattern: str, memory_type: ConversationMemoryType | str | None = None) -> int:
        """Delete the memories of conversations whose id is, or matches, `pattern`; returns how many.

        `*`, `?` and `[…]` are those of file names: "*" is all, of one type where `memory_type` is given. A
        pattern over whole keys, "memory:*:conv_1", is taken as such. Keys are found by SCAN, never KEYS, and
        nothing but conversation memory is looked at.
        """
        if not isinstance(pattern, str) or not pattern:
            raise InvalidArgument('pattern must be a conversation id or a pattern over ids, such as "*"')
        kinds = list(ConversationMemoryType) if memory_type is None else [kind_of(memory_type)]
        count, found = 0, dict[str, None]()
        async for key in self._matching(kinds, pattern):
            found[key] = None
            if len(found) >= _AT_ONCE:
                count, found = count + await self._remove(found), {}
        return count + await self._remove(found)

    async def _matching(self, kinds: Sequence[ConversationMemoryType], pattern: str) -> AsyncIterator[str]:
        fits = re.compile(fnmatch.translate(pattern)).match
        whole = pattern.startswith(f"{self.prefix}:")
        for kind in kinds:
            begin, cursor = self._begin(kind), ""
            while True:
                page, cursor = await self._scan(begin, cursor)
                for key in page:
                    name = key.removeprefix(begin)
                    if _encodable(key) and (name == pattern or fits(key if whole else name)):
                        yield key
                if not cursor:
                    break

    async def _remove(self, keys: Iterable[str]) -> int:
        deletes = [Delete(key) for key in keys]
        if deletes:
            await self._write(*deletes)
        return len(deletes)


# --- ids and errors -------------------------------------------------------------------------------


def _place(key: str, memory_id: object) -> int | None:
    """Which item an id names, None for all of the memory. Raises `InvalidArgument`."""
    if memory_id is None or memory_id == key:
        return None
    if not isinstance(memory_id, str) or not memory_id:
        raise InvalidArgument("memory_id must be the key that store returned, or key#n for one item")
    if not memory_id.startswith(key):
        return _NOWHERE
    place = re.fullmatch(r"#([0-9]{1,9})", memory_id.removeprefix(key), re.ASCII)
    return int(place[1]) if place else _NOWHERE


def _missing(key: str) -> Missing:
    return Missing(f"there is no memory at {key!r}: store one first")


def _encodable(key: str) -> bool:
    """Whether it can be a key of ours: others may have written one that is no text."""
    return not any("\ud800" <= each <= "\udfff" for each in key)


def _human(size: int) -> str:
    """Bytes as the server writes them for people."""
    amount, unit = float(size), "B"
    for unit in "BKMGT":
        if amount < 1024 or unit == "T":
            break
        amount /= 1024
    return f"{size}B" if unit == "B" else f"{amount:.2f}{unit}"
