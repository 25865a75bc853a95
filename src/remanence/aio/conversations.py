"""`AsyncRedisWorkingMemoryManager` and `AsyncInMemoryManager`: conversation memory for asyncio."""

from datetime import timedelta
from typing import Any, Unpack

from msgspec import UNSET, UnsetType

from remanence.aio.opening import AsyncOpened
from remanence.engine import AsyncEngine, shared_async
from remanence.faces.conversations import Conversations, process_settings, server_settings
from remanence.options import Options


class AsyncRedisWorkingMemoryManager(AsyncOpened[Conversations], Conversations):
    """The working memory of conversations for asyncio. See `RedisWorkingMemoryManager`."""

    def __init__(
        self,
        storage_url: str | None = None,
        ttl: float | timedelta | UnsetType | None = UNSET,
        redis_client: Any = None,
        *,
        prefix: str = "memory",
        **options: Unpack[Options],
    ) -> None:
        """As `RedisWorkingMemoryManager`; `redis_client` may be one of `redis.asyncio`, too."""
        settings = server_settings(storage_url, redis_client, dict(options))
        Conversations.__init__(self, lambda: self._engine.gateway, settings, ttl, prefix)
        self.redis_client = redis_client
        self._engine = shared_async(settings)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._engine.place})"


class AsyncInMemoryManager(AsyncOpened[Conversations], Conversations):
    """The working memory of conversations in this process alone, for asyncio. See `InMemoryManager`."""

    def __init__(
        self, ttl: float | timedelta | None = 3600, *, prefix: str = "memory", **options: Unpack[Options]
    ) -> None:
        """As `InMemoryManager`."""
        settings = process_settings(dict(options))
        Conversations.__init__(self, lambda: self._engine.gateway, settings, ttl, prefix)
        self._engine = AsyncEngine(settings)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._engine.place})"
