"""`AsyncMemoryClient`: session messages for asyncio, and its selector."""

from datetime import timedelta
from typing import Any, Unpack

from remanence.aio.opening import AsyncOpened
from remanence.engine import shared_async
from remanence.faces.messages import PROVIDERS, AsyncBaseMemory, Messages, chosen, opened
from remanence.options import Options


class AsyncMemoryClient(AsyncOpened[Messages], Messages, AsyncBaseMemory):
    """The messages of sessions, for asyncio: `await m.add(…)`, `await m.get(…)`. See `MemoryClient`."""

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
        """As `MemoryClient`: an argument wins over the environment; connects to nothing."""
        settings, ttl = opened(host, port, password, db, session_ttl, key_prefix, dict(options))
        self._engine = shared_async(settings)
        Messages.__init__(self, lambda: self._engine.gateway, settings, ttl, self._engine.events.tell)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._engine.place})"


class AsyncMemoryClientSelector:
    """Makes an `AsyncMemoryClient` by the name of what keeps its messages."""

    @staticmethod
    def create(provider: str | None = None, **kwargs: Any) -> AsyncMemoryClient:
        """As `MemoryClientSelector.create`. Nothing is awaited: making a client connects to nothing."""
        return AsyncMemoryClient(**chosen(provider, kwargs))

    @staticmethod
    def list_providers() -> list[str]:
        """The names that `create` takes."""
        return list(PROVIDERS)
