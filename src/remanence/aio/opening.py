"""The faces for asyncio: the coroutines themselves, with constructors that name a deployment.

Each class takes the settings of `remanence.settings.Options` by name. An instance may be used from
several loops, one after the other or at once; each loop has its own connections.
"""

from types import TracebackType
from typing import Generic, Self, TypeVar

from remanence.engine import AsyncEngine, released

F = TypeVar("F")


class AsyncOpened(Generic[F]):
    """What the asyncio faces share: their engine, its status, opening and closing."""

    _engine: AsyncEngine

    @property
    def engine(self) -> AsyncEngine:
        """What is behind this memory: its settings, status, pending writes and observers."""
        return self._engine

    async def close(self, timeout: float | None = None) -> None:
        """Let pending writes go out for at most `timeout` seconds (`close_timeout`); the rest stays journalled."""
        if not self.__dict__.get("_closed"):
            self.__dict__["_closed"] = True
            if released(self._engine):
                await self._engine.close(timeout)

    aclose = close

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
