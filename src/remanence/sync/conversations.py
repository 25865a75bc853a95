"""`RedisWorkingMemoryManager`, `InMemoryManager` and `create_memory_manager`: conversation memory."""

from collections.abc import Generator, Iterable, Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any, Unpack

from msgspec import UNSET, UnsetType

from remanence.engine import BlockingEngine, shared_blocking
from remanence.errors import InvalidSetting
from remanence.faces.conversation_types import Asked, ConversationMemoryType, IWorkingMemory
from remanence.faces.conversations import Conversations, process_settings, server_settings
from remanence.options import Options
from remanence.runtime.blocking import run
from remanence.settings import surroundings
from remanence.sync.opening import Opened, blocking
from remanence.sync.watching import watching

PRODUCTION = ("production", "prod")
ELSEWHERE = ("development", "dev", "local", "test", "testing", "ci", "staging")
"""What ENVIRONMENT may say; memories of these end with their process."""


class StoredKey(str):
    """The key of a stored memory: text, which may be awaited.

    Agents of the `arshai` package await what the blocking managers return. Awaiting changes nothing: the
    work is done by then.
    """

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, str]:
        return str(self)
        yield  # makes this a generator, as the protocol wants it


class Retrieved(list[IWorkingMemory]):
    """The memories that were found: a list, which may be awaited. See `StoredKey`."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, list[IWorkingMemory]]:
        return list(self)
        yield  # as in StoredKey


class ConversationManager(Opened[Conversations]):
    """What the blocking managers share. Every verb is the one of `Conversations`.

    `ttl` (seconds a memory lives after its last change, None for ever) and `prefix` (the first part of each
    key) may be set at any time; they count from the next call on.
    """

    ttl: float | timedelta | None
    prefix: str = "memory"

    @property
    def _face(self) -> Conversations:  # type: ignore[override]  # made anew, so that `ttl` and `prefix` count
        engine = self._engine
        return Conversations(lambda: engine.gateway, engine.settings, self.ttl, self.prefix)

    def key_of(self, input: Asked) -> str:
        """The key of a conversation's memory, as `redis-cli` sees it."""
        return self._face.key_of(input)

    def store(self, input: Asked) -> StoredKey:
        """Keep all items of `data`, replacing what was there, and return the key; see `Conversations`."""
        return StoredKey(run(self._face.store(input)))

    def store_many(self, inputs: Iterable[Asked]) -> list[str]:
        """As `store` for each, in one trip; none is stored where one cannot be. Returns the keys."""
        return run(self._face.store_many(inputs))

    def retrieve(self, input: Asked) -> Retrieved:
        """The items in the order they were stored, none where there are none; see `Conversations`."""
        return Retrieved(run(self._face.retrieve(input)))

    def retrieve_safe(self, input: Asked, default: Sequence[IWorkingMemory] = ()) -> Retrieved:
        """As `retrieve`; a copy of `default` where the server is away and the memory is not known here."""
        return Retrieved(run(self._face.retrieve_safe(input, default)))

    read = blocking(Conversations.read)
    update = blocking(Conversations.update)
    delete = blocking(Conversations.delete)
    forget = blocking(Conversations.forget)
    statistics = blocking(Conversations.statistics)
    watch = watching(Conversations.watch)
    on_change = watching(Conversations.on_change)

    def cleanup(self, pattern: str, memory_type: ConversationMemoryType | str | None = None) -> int:
        """Delete the memories of conversations whose id is, or matches, `pattern`; see `Conversations`."""
        return run(self._face.cleanup(pattern, memory_type))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._engine.place})"


class RedisWorkingMemoryManager(ConversationManager):
    """The working memory of conversations on a Redis or Valkey server, through any outage.

    >>> manager = RedisWorkingMemoryManager(backend="memory")
    >>> manager.store({"conversation_id": "conv_1", "working_memory": "Likes tea"})
    'memory:WORKING_MEMORY:conv_1'
    >>> manager.retrieve({"conversation_id": "conv_1"})
    [IWorkingMemory(working_memory='Likes tea')]
    >>> manager.close()

    A subclass may set `redis_client`, `prefix` and `ttl` in an `__init__` of its own without calling ours.
    """

    redis_client: Any = None
    ttl: float | timedelta | None = 43200

    def __init__(
        self,
        storage_url: str | None = None,
        ttl: float | timedelta | UnsetType | None = UNSET,
        redis_client: Any = None,
        *,
        prefix: str = "memory",
        **options: Unpack[Options],
    ) -> None:
        """`storage_url` defaults to REDIS_URL, then REDIS_HOST and its companions, then port 6379 here, db 1.

        `ttl` defaults to REMANENCE_CONVERSATION_TTL, then 12 hours. `redis_client` is a `redis.Redis` of
        yours: connections of our own are opened to its server, with its user, password, database and
        certificates (which are always verified); it is neither used nor closed. Only `backend="sqlite"` or
        `"memory"` takes the memories elsewhere. Nothing is read here. Raises `InvalidSetting`, `InvalidTTL`.
        """
        settings = server_settings(storage_url, redis_client, dict(options))
        self.redis_client = redis_client
        self.ttl = Conversations(_unopened, settings, ttl, prefix).ttl
        self.prefix = prefix
        self.__dict__["_engine"] = shared_blocking(settings)

    @cached_property
    def _engine(self) -> BlockingEngine:  # type: ignore[override]  # only where a subclass has its own __init__
        return shared_blocking(server_settings(None, self.redis_client, {}))


class InMemoryManager(ConversationManager):
    """The working memory of conversations in this process alone; each manager has its own."""

    def __init__(
        self, ttl: float | timedelta | None = 3600, *, prefix: str = "memory", **options: Unpack[Options]
    ) -> None:
        """As `RedisWorkingMemoryManager`, without a server. Raises `InvalidSetting`, `InvalidTTL`."""
        settings = process_settings(dict(options))
        self.ttl = Conversations(_unopened, settings, ttl, prefix).ttl
        self.prefix = prefix
        self._engine = BlockingEngine(settings)


def _unopened() -> Any:
    raise RuntimeError("arguments are checked before anything is opened")


def create_memory_manager(environment: str | None = None) -> RedisWorkingMemoryManager | InMemoryManager:
    """The manager for an environment: `environment`, else the variable ENVIRONMENT, else "development".

    "production": the server of REDIS_URL, memories live a day. Otherwise in this process, for an hour. Raises
    `InvalidSetting` for a word it does not know, rather than forget what was meant to last.
    """
    given = surroundings() if environment is None else environment
    word = given.strip().lower() if isinstance(given, str) else ""
    if word in PRODUCTION:
        return RedisWorkingMemoryManager(ttl=86400)
    if word in ELSEWHERE:
        return InMemoryManager(ttl=3600)
    raise InvalidSetting(f"environment must be one of {', '.join(PRODUCTION + ELSEWHERE)} (ENVIRONMENT)")
