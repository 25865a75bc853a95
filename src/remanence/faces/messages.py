"""Session messages: the history of one conversation as a list, oldest first (`MemoryClient`).

A session lives at `{key_prefix}{session_id}` as a list of `{"role", "content", "timestamp"[, "metadata"]}`
in JSON. Messages stand in the order in which they were stored. Their timestamps say when they were made,
which may differ a little where several clocks wrote, and more where an outage held some back.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any, Final

from remanence.errors import InvalidArgument, InvalidSetting, InvalidValue
from remanence.events import Event, RecordSkipped
from remanence.faces.access import Face, ttl_ms
from remanence.faces.history import PAGE, Message, Search
from remanence.faces.watching import Callback, Watcher, start
from remanence.model import NEVER, Append, Delete, Erased, Reading, Wanted
from remanence.protocols import Ask, Gateway, Length, Lifetime, Tail
from remanence.settings import Settings
from remanence.wire import codec
from remanence.wire.keys import final

Moment = datetime | str
"""A point in time with its zone: a datetime, or ISO 8601 text."""

PART: Final = 1000
"""Most messages in one write: bounds the time the server is held."""
_MOST: Final = 1 << 40
_FIELDS: Final = ("role", "content", "metadata", "timestamp")
_NAMES: Final = frozenset(_FIELDS)


class BaseMemory(ABC):
    """What a memory of session messages can do, for those who bring their own beside `MemoryClient`."""

    @abstractmethod
    def add(
        self, session_id: str, role: str, content: str, metadata: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Add a message at the end of the session."""

    @abstractmethod
    def get(self, session_id: str, limit: int | None = None) -> list[Message]:
        """The session's messages, oldest first; with `limit` the last that many."""

    @abstractmethod
    def clear(self, session_id: str) -> None:
        """Delete the session's messages."""

    @abstractmethod
    def exists(self, session_id: str) -> bool:
        """Whether the session has messages."""

    @abstractmethod
    def count(self, session_id: str) -> int:
        """How many messages the session has."""


class AsyncBaseMemory(ABC):
    """`BaseMemory` for asyncio."""

    @abstractmethod
    async def add(
        self, session_id: str, role: str, content: str, metadata: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Add a message at the end of the session."""

    @abstractmethod
    async def get(self, session_id: str, limit: int | None = None) -> list[Message]:
        """The session's messages, oldest first; with `limit` the last that many."""

    @abstractmethod
    async def clear(self, session_id: str) -> None:
        """Delete the session's messages."""

    @abstractmethod
    async def exists(self, session_id: str) -> bool:
        """Whether the session has messages."""

    @abstractmethod
    async def count(self, session_id: str) -> int:
        """How many messages the session has."""


class Messages(Face):
    """Session messages as coroutines. `AsyncMemoryClient` and `MemoryClient` are made of it."""

    def __init__(
        self, opener: Callable[[], Gateway], settings: Settings, ttl: int, tell: Callable[[Event], None]
    ) -> None:
        """Reads nothing. `ttl`: a session's lifetime in ms; `tell` hears of entries that cannot be read."""
        super().__init__(opener, settings)
        self._prefix = final(settings.key_prefix, "key_prefix", limit=settings.key_bytes - 1)
        self._id_bytes = settings.key_bytes - len(self._prefix.encode())
        self._roles = _roles(settings.roles)
        self._ttl = ttl
        self._report = tell

    def key_of(self, session_id: str) -> str:
        """The key of a session's list, as `redis-cli` sees it. Raises `InvalidKey`."""
        return self._prefix + final(session_id, "session_id", limit=self._id_bytes)

    # --- writing --------------------------------------------------------------------------------

    async def add(
        self,
        /,
        session_id: str,
        role: str,
        content: str,
        metadata: dict[str, Any] | None = None,
        *,
        timestamp: Moment | None = None,
        **kwargs: Any,
    ) -> None:
        """Add a message at the end of the session, whose lifetime starts anew.

        `metadata` is what JSON can hold; none is stored where it is empty. `timestamp` is when the message
        was made, for imports; now by default. Other keyword arguments are ignored, for compatibility.
        Raises ValueError for a role that is not allowed (`InvalidArgument`), a session id that cannot be
        (`InvalidKey`) or a message past `value_bytes` (`ValueTooLarge`), and TypeError for what JSON cannot
        hold (`InvalidValue`). Nothing is stored then.
        """
        message = {"role": role, "content": content, "metadata": metadata, "timestamp": timestamp}
        item = self._encoded(message, self._now())
        await self._write(Append(self.key_of(session_id), (item,), self._ttl))

    async def add_many(self, session_id: str, messages: Iterable[dict[str, Any] | Sequence[Any]]) -> None:
        """Add messages in one trip, all or none: dicts with the names of `add`, or (role, content, …).

        They stand side by side up to `batch_bytes` and 1000 messages. Longer ones are journalled together
        and travel in parts of that size, between which other processes' messages may come to stand.
        Raises as `add`, naming the message at fault.
        """
        key, now = self.key_of(session_id), self._now()
        items = [self._encoded(_message(each, at), now, at) for at, each in enumerate(_listed(messages))]
        if items:
            await self._write(*(Append(key, part, self._ttl) for part in self._parts(items)))

    def _parts(self, items: Sequence[bytes]) -> list[tuple[bytes, ...]]:
        """The items in runs that the server takes at once."""
        if len(items) <= PART and sum(map(len, items)) <= self._settings.batch_bytes:
            return [tuple(items)]
        parts: list[tuple[bytes, ...]] = []
        part: list[bytes] = []
        size = 0
        for item in items:
            if part and (len(part) == PART or size + len(item) > self._settings.batch_bytes):
                parts.append(tuple(part))
                part, size = [], 0
            part.append(item)
            size += len(item)
        return [*parts, tuple(part)]

    def _encoded(self, given: Message, now: str, place: int | None = None) -> bytes:
        """The entry to store for a message of these parts, or what is wrong with it; `place` among several."""
        part = given.get
        role, content, metadata, timestamp = part("role"), part("content"), part("metadata"), part("timestamp")
        if not isinstance(role, str) or role not in self._roles:
            allowed = ", ".join(self._roles)
            raise InvalidArgument(f"{_of(place)}role must be one of {allowed} (REMANENCE_ROLES allows others)")
        if not isinstance(content, str):
            raise InvalidValue(f"{_of(place)}content must be text, not {type(content).__name__}")
        if metadata is not None and not isinstance(metadata, dict):
            raise InvalidValue(f"{_of(place)}metadata must be a dict, not {type(metadata).__name__}")
        when = now
        if timestamp is not None:
            when = _moment(timestamp, f"{_of(place)}timestamp").isoformat(timespec="microseconds")
        message: Message = {"role": role, "content": content, "timestamp": when}
        if metadata:
            message["metadata"] = metadata
        path = "message" if place is None else f"messages[{place}]"
        return codec.encode(message, limit=self._settings.value_bytes, depth=self._settings.depth + 1, path=path)

    def _now(self) -> str:
        wall = self._opener().runtime.wall()
        return datetime.fromtimestamp(wall, UTC).isoformat(timespec="microseconds")

    async def clear(self, session_id: str) -> None:
        """Delete the session's messages. One that has none is left as it is."""
        await self._write(Delete(self.key_of(session_id)))

    async def forget(self, session_id: str) -> Erased:
        """Erase a session for good and everywhere: see `Erased`, and `Memory.forget`."""
        return await self._forget(self.key_of(session_id))

    # --- reading --------------------------------------------------------------------------------

    async def get(
        self,
        session_id: str,
        limit: int | None = None,
        *,
        since: Moment | None = None,
        before: Moment | None = None,
    ) -> list[Message]:
        """The messages, oldest first; [] where the session has none or has expired.

        `limit` gives the last that many, and reads no more than those. `since` and `before` (excluded) are
        points in time with their zone. They read from the end until 100 messages in a row are older than
        `since`; a timestamp without zone counts as UTC, and a message without one is in no period.
        An entry that is no message is left out and reported as a `RecordSkipped` event.
        Raises `InvalidArgument`, and `Unavailable` (a redis.ConnectionError) where the server is away and
        nothing is known here.
        """
        return (await self.read(session_id, limit, since=since, before=before)).value

    async def read(
        self,
        session_id: str,
        limit: int | None = None,
        *,
        since: Moment | None = None,
        before: Moment | None = None,
    ) -> Reading[list[Message]]:
        """As `get`, with where the answer came from and how old it may be.

        While the server is away a long session's answer is its end: the last 500 messages and own ones.
        """
        key, most = self.key_of(session_id), _limit(limit)
        search = Search(key, most, _bound(since, "since"), _bound(before, "before"))
        if search.since is None and search.before is None:
            told = await self._told(Tail(key, -most, -1))
            search.take(told.value, 0)
            if not search.skipped:
                return Reading(search.found, told.source, told.as_of)
            search = Search(key, most)  # once more, where each entry's position is known
        return await self._searched(search)

    async def _searched(self, search: Search) -> Reading[list[Message]]:
        """Look page by page from the end, by positions that others' appending does not move."""
        told = await self._told(Length(search.key))
        stop = told.value
        pages = [told]
        while stop > 0 and not search.complete:
            start = max(0, stop - PAGE)
            pages.append(await self._told(Tail(search.key, start, stop - 1)))
            search.take(pages[-1].value, start)
            stop = start
        for position, reason in reversed(search.skipped):
            self._report(RecordSkipped(search.key, position, reason))
        local = next((page for page in pages if page.stale), told)
        return Reading(search.found, local.source, local.as_of)

    async def _told(self, ask: Ask) -> Reading[Any]:
        return (await self._tell(ask))[0]

    async def exists(self, session_id: str) -> bool:
        """Whether the session has messages."""
        return await self.count(session_id) > 0

    async def count(self, session_id: str) -> int:
        """How many messages the session has, 0 where there is none; entries that cannot be read included."""
        count: int = (await self._told(Length(self.key_of(session_id)))).value
        return count

    async def ttl(self, session_id: str) -> float | None:
        """Seconds the session has left: None for ever, 0 where there is none."""
        left: int = (await self._told(Lifetime(self.key_of(session_id)))).value
        return None if left == -1 else max(0, left) / 1000

    def watch(self, *session_ids: str, since: str | None = None, timeout: float | None = None) -> Watcher:
        """The sessions that change from now on: these, or all. `name` is the session's id; see `Memory.watch`."""
        keys = tuple(self.key_of(each) for each in session_ids)
        wanted = Wanted(keys) if keys else Wanted((), (self._prefix,))
        return self._watch(wanted, lambda key: key.removeprefix(self._prefix), since, timeout)

    def on_change(self, callback: Callback, *session_ids: str, since: str | None = None) -> Watcher:
        """Have `callback` called with each change, in the background; see `Memory.on_change`."""
        return start(self._opener(), self.watch(*session_ids, since=since), callback)

    async def sessions(self, prefix: str = "", limit: int | None = None) -> list[str]:
        """The ids of sessions that begin with `prefix` (taken literally), at most `limit`, in no order.

        Read in pages, so that the server serves others meanwhile. While it is away: those known here.
        """
        start = self._prefix if prefix == "" else self.key_of(prefix)
        most, cursor, found = _limit(limit), "", dict[str, None]()
        while True:
            keys, cursor = await self._scan(start, cursor)
            found |= dict.fromkeys(key[len(self._prefix) :] for key in keys if len(key) > len(self._prefix))
            if not cursor or len(found) >= most:
                return list(found)[:most]


# --- arguments ----------------------------------------------------------------------------------


def opened(
    host: str | None,
    port: int | None,
    password: str | None,
    db: int | None,
    session_ttl: float | timedelta | None,
    key_prefix: str | None,
    options: dict[str, Any],
) -> tuple[Settings, int]:
    """The settings that a client's arguments mean, and its sessions' lifetime in ms.

    What is None comes from the environment. Raises `InvalidSetting`, `InvalidTTL` and `InvalidKey`.
    """
    named = host is not None or port is not None or db is not None or password is not None
    if named and options.get("backend") not in (None, "redis"):
        raise InvalidSetting(
            f"backend {options['backend']!r} has no host, port, db or password: leave them out, or use redis"
        )
    settings = Settings.at(host, port, db, password, key_prefix=key_prefix, **options)
    wanted = settings.session_ttl if session_ttl is None else session_ttl
    return settings, NEVER if wanted == inf else ttl_ms(wanted, "session_ttl")


PROVIDERS: Final = ("redis", "sqlite", "memory")


def chosen(provider: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """The options with the provider as their backend; None leaves it to the settings."""
    if provider is None:
        return options
    if provider not in PROVIDERS:
        raise InvalidArgument(f"there is no provider {provider!r:.60}: one of {', '.join(PROVIDERS)}")
    if options.get("backend", provider) != provider:
        raise InvalidArgument("provider and backend name different places: give one of them")
    return {**options, "backend": provider}


def _roles(text: str) -> tuple[str, ...]:
    roles = tuple(role.strip() for role in text.split(",") if role.strip())
    if not roles:
        raise InvalidSetting("roles must name at least one role (REMANENCE_ROLES)")
    return roles


def _limit(limit: int | None) -> int:
    if limit is None:
        return _MOST
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidArgument("limit must be a whole number of at least 1, or None for all")
    return min(limit, _MOST)


def _bound(moment: Moment | None, meaning: str) -> datetime | None:
    return None if moment is None else _moment(moment, meaning)


def _moment(moment: Moment, meaning: str) -> datetime:
    """A point in time in UTC. Raises `InvalidArgument` without a zone."""
    try:
        found = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
        if isinstance(found, datetime) and found.tzinfo is not None:
            return found.astimezone(UTC)
    except (ValueError, OverflowError):
        pass  # said below
    raise InvalidArgument(
        f"{meaning} must be a datetime with its zone, or ISO 8601 text with one: 2024-01-15T10:30:00+00:00"
    )


def _listed(messages: Iterable[Any]) -> list[Any]:
    if isinstance(messages, str | bytes | dict) or not isinstance(messages, Iterable):
        raise InvalidArgument(f"messages must be a list of messages, not {type(messages).__name__}")
    return list(messages)


def _of(place: int | None) -> str:
    """Where in a call of several messages something is wrong."""
    return "" if place is None else f"messages[{place}]."


def _message(given: Any, place: int) -> Message:
    """A message by the names of `add`."""
    path = f"messages[{place}]"
    if isinstance(given, dict):
        if not given.keys() <= _NAMES:
            name = next(each for each in given if each not in _NAMES)
            raise InvalidArgument(f"{path} has a field {name!r:.60} that no message has: put it into its metadata")
        return given
    if isinstance(given, tuple | list) and 2 <= len(given) <= len(_FIELDS):
        return dict(zip(_FIELDS, given, strict=False))
    raise InvalidArgument(f"{path} must be a dict, or (role, content[, metadata[, timestamp]])")


__all__ = ["AsyncBaseMemory", "BaseMemory", "Message", "Messages", "Moment", "chosen", "opened"]
