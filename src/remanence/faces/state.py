"""Shared state: named values that every process of a deployment sees (`Memory`, `ConversationMemory`).

A value lives at `{prefix}{name}` as `{"value": …, "last_modified": ns}`. A change inside it travels as an
edit with a path, applied to whatever the value is by then, so that no concurrent or offline change is lost.
"""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final

from remanence.errors import (
    InvalidArgument,
    InvalidKey,
    Missing,
    Rejected,
    Unavailable,
    UnavailableAttribute,
)
from remanence.faces.access import Face, ttl_ms
from remanence.faces.editor import Editor
from remanence.faces.merging import ByName, Merge
from remanence.faces.values import MISSING, same, value_of
from remanence.faces.versions import Version, chosen, versions_of
from remanence.faces.watching import Callback, Watcher, start
from remanence.model import (
    ABSENT,
    JSON,
    KEEP_TTL,
    Delete,
    Edit,
    Erased,
    Patch,
    Put,
    Reading,
    Receipt,
    Record,
    Touch,
    Wanted,
)
from remanence.protocols import Fetch, Gateway, Lifetime, Merger, Versions
from remanence.settings import Settings
from remanence.stores.edits import edit
from remanence.wire import codec
from remanence.wire.keys import component, final, original

_RAISE: Final = object()
ATTEMPTS: Final = 1000
"""How often `update` tries again before it gives up: far more than any honest contention needs."""


class MissingAttribute(Missing, AttributeError):
    """There is no value of that name."""


class State(Face):
    """Named values under one prefix, as coroutines. `AsyncMemory` and `Memory` are made of it."""

    def __init__(self, opener: Callable[[], Gateway], settings: Settings, conversation: str | None = None) -> None:
        """Reads nothing. `conversation` puts every name under that id. Raises `InvalidKey`."""
        super().__init__(opener, settings)
        self._shared = conversation is None
        limit = settings.key_bytes
        self._prefix = final(settings.redis_prefix, "redis_prefix", limit=limit)
        if conversation is not None:
            self._prefix += component(conversation, "conversation_id", limit=limit) + ":"
        self._name_bytes = limit - len(self._prefix.encode())
        if self._name_bytes < 1:
            raise InvalidKey(
                f"redis_prefix and conversation_id leave no room for a name within {limit} bytes (REMANENCE_KEY_BYTES)"
            )

    def key_of(self, name: str) -> str:
        """The key of a name's value, as `redis-cli` sees it in the default namespace."""
        spelled = _spelled if type(name) is str else _spelled.__wrapped__  # others have hashes of their own
        return spelled(self._prefix, name, self._shared, self._name_bytes)

    def _name(self, key: str) -> str | None:
        """The name behind a key; None for the keys of other faces under the same prefix."""
        rest = key.removeprefix(self._prefix)
        if not self._shared:
            return rest
        return None if ":" in rest else original(rest)

    # --- whole values ---------------------------------------------------------------------------

    async def get(self, name: str, default: Any = _RAISE) -> JSON:
        """The value of `name`, `default` where there is none.

        Without a default a missing name raises AttributeError. Raises `CorruptRecord` for a stored value
        that cannot be read, and `Unavailable` where the server is away and the value is not known here.
        """
        record = await self._found(name, wanted=default is _RAISE)
        return default if record is None else value_of(record)

    async def _found(self, name: str, *, wanted: bool) -> Record | None:
        """The record behind `name`; None where there is none, which raises as `get` where it is `wanted`."""
        try:  # as `_record`, without its coroutine: a near read takes no more than 5 µs
            (reading,) = await self._opener().read((Fetch(self.key_of(name)),))
        except Unavailable as error:
            raise UnavailableAttribute(str(error)) from error
        record: Record | None = reading.value
        if record is None and wanted:
            raise MissingAttribute(f"no value is stored under {name!r} ({self.key_of(name)})")
        return record

    async def read(self, name: str, *, fresh: bool = False) -> "Reading[JSON]":
        """The value with where it came from and how old it may be; `fresh` asks the server in any case.

        Raises as `get`.
        """
        record, reading = await self._record(name, fresh=fresh)
        if record is None:
            raise MissingAttribute(f"no value is stored under {name!r} ({self.key_of(name)})")
        return Reading(value_of(record), reading.source, reading.as_of)

    async def _record(self, name: str, *, fresh: bool = False) -> "tuple[Record | None, Reading[Any]]":
        try:
            (reading,) = await self._opener().read((Fetch(self.key_of(name)),), fresh=fresh)
        except Unavailable as error:
            raise UnavailableAttribute(str(error)) from error
        return reading.value, reading

    async def set(self, name: str, value: JSON, *, ttl: float | timedelta | None = None) -> Receipt:
        """Store `value`, replacing what was there; with `ttl` it lives that many seconds.

        Raises `InvalidValue` (a TypeError) naming the path JSON cannot hold; nothing is stored then.
        """
        key = self.key_of(name)
        return (await self._write(Put(key, self._body(name, value), ttl_ms(ttl))))[0]

    def _body(self, name: str, value: JSON) -> bytes:
        text = codec.encode(value, limit=self._settings.value_bytes, depth=self._settings.depth, path=name)
        return codec.state_body(text, self._now())

    def _now(self) -> int:
        return int(self._opener().runtime.wall() * 1e9)

    async def delete(self, name: str) -> None:
        """Remove the value; a missing one raises AttributeError, as `del` of an attribute does."""
        record, _ = await self._record(name)
        if record is None:
            raise MissingAttribute(f"no value is stored under {name!r} ({self.key_of(name)})")
        await self._write(Delete(self.key_of(name)))

    async def forget(self, name: str | None = None) -> Erased:
        """Erase a value, or without a name the whole conversation's, for good and everywhere: see `Erased`.

        Unlike `delete` it cannot be undone by a server's backup or by a process that was away, and nothing of it
        stays on any disk. Raises `InvalidArgument` without a name where everybody's values would go.
        """
        if name is not None:
            return await self._forget(self.key_of(name))
        if self._shared:
            raise InvalidArgument("say which value to forget; a whole namespace is forgotten by its engine (docs)")
        return await self._forget(self._prefix, beginning=True)

    async def contains(self, name: str) -> bool:
        """Whether a value is stored under `name`."""
        record, _ = await self._record(name)
        return record is not None

    async def sync(self, name: str) -> None:
        """Wait until this process's pending writes are in the store, at most the deadline."""
        self.key_of(name)
        await self._opener().flush(self._settings.deadline)

    # --- changes that never lose another's ------------------------------------------------------

    async def change(self, name: str, path: tuple[str | int, ...], verb: str, *args: Any) -> Any:
        """Apply one edit inside the value (see `remanence.stores.edits.VERBS`) and return its result.

        Raises `Rejected` with the reason where the edit does not fit the value as it is by then.
        """
        return await self._edit(name, self._edit_of(name, path, verb, *args))

    def _edit_of(self, name: str, path: tuple[str | int, ...], verb: str, *args: Any) -> Edit:
        limit, depth = self._settings.value_bytes, self._settings.depth
        self.key_of(name)  # first: it says what is wrong with a name
        return edit(("value", *path), verb, *args, name=name, hidden=1, limit=limit, depth=depth)

    async def _edit(self, name: str, change: Edit, default: bytes | None = None) -> Any:
        stamp = Edit(("last_modified",), "set", str(self._now()).join("[]").encode())
        receipts = await self._write(Patch(self.key_of(name), (change, stamp), KEEP_TTL, default))
        return receipts[0].result

    def edit(self, name: str, *path: str | int) -> "Editor":
        """The list or dict at `path` inside the value, with the methods that change it."""
        return Editor(self.change, name, path)

    async def increment(self, name: str, by: float = 1, *, path: tuple[str | int, ...] = ()) -> Any:
        """Add `by` to the number under `name` (0 where there is none) and return the sum, exact under concurrency."""
        default = codec.state_body(b"0", 0) if not path else None
        result = await self._edit(name, self._edit_of(name, path, "add", by), default)
        return result if result is not None else await self.get(name, None)

    async def compare_and_set(
        self, name: str, expected: JSON, value: JSON, *, ttl: float | timedelta | None = None
    ) -> bool:
        """Store `value` if the stored one equals `expected` (`remanence.MISSING`: if there is none); whether it did.

        Of several who expect the same, one is told True. Values are compared as JSON: true is not 1. Raises
        `Unavailable` where the server cannot be asked; where it went away meanwhile, the error says that
        nobody knows yet.
        """
        key, body = self.key_of(name), self._body(name, value)
        if expected is not MISSING:
            expected = codec.decode(codec.encode(expected, limit=self._settings.value_bytes, path="expected"), name)
        for _ in range(ATTEMPTS):
            record, reading = await self._record(name, fresh=True)
            if reading.stale:
                raise UnavailableAttribute("compare_and_set needs the server, which is away: nothing was written")
            if not same(record, expected):
                return False
            base = record.etag if record else ABSENT
            receipt = (await self._opener().write([Put(key, body, ttl_ms(ttl), base)]))[0]
            if receipt.state in ("applied", "replicated"):
                return True
            if receipt.state == "journalled":
                raise UnavailableAttribute(
                    f"the server went away while {key} was written: whether it is will be known when it is back"
                )
        return False

    async def update(self, name: str, function: Callable[[Any], JSON], default: Any = _RAISE) -> JSON:
        """Replace the value by `function(value)` and return it, calling again when another was faster.

        `function` gets a copy of its own and may be called several times. While the server is away the
        result is journalled on the version it was computed from; should that have changed by the time
        it is sent, the write is reported as a conflict instead of overwriting.
        """
        key = self.key_of(name)
        for _ in range(ATTEMPTS):
            record, _reading = await self._record(name, fresh=True)
            if record is None and default is _RAISE:
                raise MissingAttribute(f"no value is stored under {name!r} ({key})")
            value = function(default if record is None else value_of(record))
            base = record.etag if record else ABSENT
            put = Put(key, self._body(name, value), KEEP_TTL, base)
            receipt = (await self._opener().write([put]))[0]
            if receipt.state != "rejected":
                return value
        raise Rejected(f"{key} was changed by others {ATTEMPTS} times in a row", "contention")

    # --- versions -------------------------------------------------------------------------------

    async def history(self, name: str) -> list[Version]:
        """The versions of `name`, newest first, the present one included; empty where nothing is known to have been.

        Besides the present one there are as many as the setting `history` keeps: each put, change inside the value
        and delete makes one. What a journal empties because it fills up, and all but the last of many changes of a
        big value that are sent together, make none. While the server is away these are the versions that this
        process knows of (`Version.source` is "local"); raises `Unavailable` where it knows of nothing.
        """
        key, most = self.key_of(name), self._settings.history
        asks = (Fetch(key), Versions(key)) if most else (Fetch(key),)
        return versions_of(key, await self._tell(*asks, fresh=True))[: most + 1]

    async def rollback(self, name: str, version: str | Version) -> Receipt:
        """Write the value of an earlier version (or its id) anew, with the lifetime the name has; a delete deletes.

        An ordinary write, which is a version itself. Raises `Missing` where there is no such version any more,
        `Unavailable` where the server is away and it is not known here, `CorruptRecord` for one that cannot be read.
        """
        key, found = self.key_of(name), await self.history(name)
        wanted = chosen(key, found, version, self._settings.history)
        write = Delete(key) if wanted.deleted else Put(key, self._body(name, wanted.value), KEEP_TTL)
        return (await self._write(write))[0]

    # --- what others change ---------------------------------------------------------------------

    def watch(
        self, *names: str, prefix: str | None = None, since: str | None = None, timeout: float | None = None
    ) -> Watcher:
        """What changes from now on: of these names, of those that begin with `prefix`, or of all.

        Each change is heard once, in order, also those of this process; a change inside a value is "set".
        `since` goes on behind the `cursor` of an earlier change or watch. After `timeout` seconds without
        a change the iteration ends. Values are not in it: `get` the name.
        """
        keys = tuple(self.key_of(name) for name in names)
        wanted = Wanted(keys) if keys and prefix is None else Wanted(keys, (self._prefix,))

        def named(key: str) -> str | None:
            name = self._name(key)
            return name if name is not None and (key in keys or name.startswith(prefix or "")) else None

        return self._watch(wanted, named, since, timeout)

    def on_change(
        self, callback: Callback, *names: str, prefix: str | None = None, since: str | None = None
    ) -> Watcher:
        """Have `callback` called with each change, in the background, until the watcher given here is closed.

        Arguments as `watch`. It may be slow, wait, or raise (`ListenerFailed`) without anybody else noticing.
        """
        return start(self._opener(), self.watch(*names, prefix=prefix, since=since), callback)

    def _merger(self, function: Merge) -> Merger:
        """What stores are given for `on_conflict`. Raises `InvalidArgument` for what cannot be called."""
        if not callable(function):
            raise InvalidArgument("on_conflict wants a function of a name, the value that lost and the one that won")

        def named(key: str) -> str | None:
            return self._name(key) if key.startswith(self._prefix) else None

        return ByName(function, named, self._body)

    # --- lifetimes and names --------------------------------------------------------------------

    async def ttl(self, name: str) -> float | None:
        """Seconds the value has left, None for ever. A missing one raises AttributeError."""
        left = (await self._tell(Lifetime(self.key_of(name))))[0].value
        if left == -2:
            raise MissingAttribute(f"no value is stored under {name!r} ({self.key_of(name)})")
        return None if left < 0 else left / 1000

    async def expire(self, name: str, ttl: float | timedelta | None) -> None:
        """Give the value a new lifetime in seconds, None for ever."""
        await self._write(Touch(self.key_of(name), ttl_ms(ttl)))

    async def keys(self, prefix: str = "") -> list[str]:
        """The names that begin with `prefix` (taken literally), in no order."""
        return [name async for name in self.names(prefix)]

    async def names(self, prefix: str = "") -> AsyncIterator[str]:
        """The names one by one, read in pages."""
        if not isinstance(prefix, str):
            raise InvalidArgument(f"prefix must be text, not {type(prefix).__name__}")
        cursor, seen = "", set[str]()
        while True:
            found, cursor = await self._scan(self._prefix, cursor)
            for key in found:
                name = self._name(key)
                if name is not None and name not in seen and name.startswith(prefix):
                    seen.add(name)
                    yield name
            if not cursor:
                return


def named(conversation_id: str) -> str:
    """The id of a conversation: not None, which would be what everybody shares. Raises `InvalidKey`."""
    if not isinstance(conversation_id, str):
        raise InvalidKey(f"conversation_id must be text, not {type(conversation_id).__name__}")
    return conversation_id


@lru_cache(maxsize=1024)
def _spelled(prefix: str, name: str, shared: bool, limit: int) -> str:
    """The key of a name, remembered: a memory's names are few and used again and again."""
    part = component if shared else final
    return prefix + part(name, "the name of a value", limit=limit)
