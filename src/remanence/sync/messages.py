"""`MemoryClient`: session messages, and the selector that makes one by its provider's name."""

from datetime import timedelta
from typing import Any, Unpack

from remanence.engine import shared_blocking
from remanence.faces.messages import PROVIDERS, BaseMemory, Messages, chosen, opened
from remanence.options import Options
from remanence.sync.opening import Opened, blocking
from remanence.sync.watching import watching


class _Calls(Opened[Messages]):
    """The calls of `Messages` on the caller's thread.

    Apart from the client, in whose body type checkers would give them the narrower signatures of its base.
    """

    add = blocking(Messages.add)
    add_many = blocking(Messages.add_many)
    get = blocking(Messages.get)
    read = blocking(Messages.read)
    clear = blocking(Messages.clear)
    forget = blocking(Messages.forget)
    exists = blocking(Messages.exists)
    count = blocking(Messages.count)
    ttl = blocking(Messages.ttl)
    sessions = blocking(Messages.sessions)
    watch = watching(Messages.watch)
    on_change = watching(Messages.on_change)


class MemoryClient(_Calls, BaseMemory):
    """The messages of sessions, oldest first, each session with a lifetime that slides with every message.

    >>> with MemoryClient(backend="memory") as memory:
    ...     memory.add("user-123", "user", "What is RAG?")
    ...     [message["content"] for message in memory.get("user-123", limit=10)]
    ['What is RAG?']
    """

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        password: str | None = None,
        db: int | None = None,
        session_ttl: float | timedelta | None = None,
        key_prefix: str | None = None,
        **options: Unpack[Options],
    ) -> None:
        """Name a server (argument, REDIS_URL, REDIS_HOST) and messages live there (localhost, 6379, 0 for the
        parts left out); name none and they live in one SQLite file.

        `session_ttl`: seconds after the last message (SESSION_TTL, 3600), `math.inf` for ever. `key_prefix`:
        what keys begin with (KEY_PREFIX, `session:`). Connects to nothing: while the server is away messages
        are journalled here and sent when it is back; with `ack="store"` that raises redis.ConnectionError.
        """
        settings, ttl = opened(host, port, password, db, session_ttl, key_prefix, dict(options))
        self._engine = shared_blocking(settings)
        self._face = Messages(lambda: self._engine.gateway, settings, ttl, self._engine.events.tell)

    def key_of(self, session_id: str) -> str:
        """The key of a session's list, as `redis-cli` sees it."""
        return self._face.key_of(session_id)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._engine.place})"


class MemoryClientSelector:
    """Makes a `MemoryClient` by the name of what keeps its messages."""

    @staticmethod
    def create(provider: str | None = None, **kwargs: Any) -> MemoryClient:
        """A client with the arguments of `MemoryClient` on "redis", "sqlite" (one file) or "memory".

        None leaves the choice to the arguments and the environment (MEMORY_BACKEND). Errors are those of
        `MemoryClient`, and `InvalidArgument` (a ValueError) for another provider.
        """
        return MemoryClient(**chosen(provider, kwargs))

    @staticmethod
    def list_providers() -> list[str]:
        """The names that `create` takes."""
        return list(PROVIDERS)
