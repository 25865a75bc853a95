"""`AsyncMemory` and `AsyncConversationMemory`: shared state for asyncio."""

from collections.abc import Callable
from typing import Unpack

from remanence.aio.opening import AsyncOpened
from remanence.engine import shared_async
from remanence.faces.merging import Merge
from remanence.faces.state import State, named
from remanence.options import Options
from remanence.settings import Settings


class _AsyncState(AsyncOpened[State], State):
    def on_conflict(self, function: Merge) -> Callable[[], None]:
        """As `Memory.on_conflict`; the function may also be a coroutine function, awaited in the memory's loop."""
        return self._engine.merges.add(self._merger(function))


class AsyncMemory(_AsyncState):
    """Shared state for asyncio: `await m.get("x")`, `await m.set("x", 1)`. See `Memory`."""

    def __init__(
        self,
        redis_hostname: str | None = None,
        redis_port: int | None = None,
        redis_prefix: str | None = None,
        **options: Unpack[Options],
    ) -> None:
        """As `Memory`: an argument wins over the environment; nothing is read here."""
        settings = Settings.at(redis_hostname, redis_port, redis_prefix=redis_prefix, **options)
        self._engine = shared_async(settings)
        State.__init__(self, lambda: self._engine.gateway, settings)


class AsyncConversationMemory(_AsyncState):
    """Shared state of one conversation, for asyncio. See `ConversationMemory`."""

    def __init__(
        self,
        conversation_id: str,
        redis_hostname: str | None = None,
        redis_port: int | None = None,
        redis_prefix: str | None = None,
        **options: Unpack[Options],
    ) -> None:
        """As `ConversationMemory`."""
        settings = Settings.at(redis_hostname, redis_port, redis_prefix=redis_prefix, **options)
        self._engine = shared_async(settings)
        State.__init__(self, lambda: self._engine.gateway, settings, named(conversation_id))
