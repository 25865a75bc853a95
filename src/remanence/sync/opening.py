"""The same faces without `await`, on plain threads: no event loop, no hop.

`blocking` turns a coroutine method of a face into a method of the same signature that runs it to its
end on the caller's thread.
"""

from collections.abc import Callable, Coroutine
from functools import update_wrapper
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from remanence.engine import BlockingEngine, released
from remanence.runtime.blocking import run

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F")


def blocking(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Any, P], R]:
    """A method that runs a face's coroutine method to its end."""

    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return run(method(self._face, *args, **kwargs))

    return update_wrapper(call, method)


class Opened(Generic[F]):
    """What the blocking faces share: their engine, its status, closing, and `with`."""

    _engine: BlockingEngine
    _face: F

    @property
    def engine(self) -> BlockingEngine:
        """What is behind this memory: its settings, status, pending writes and observers."""
        return self._engine

    def close(self, timeout: float | None = None) -> None:
        """Let pending writes go out for at most `timeout` seconds (`close_timeout`); the rest stays journalled."""
        if not self.__dict__.get("_closed"):
            self.__dict__["_closed"] = True
            if released(self._engine):
                self._engine.close(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
