"""What changes, without `await`: `for changed in memory.watch(…)`."""

from collections.abc import Callable, Iterator
from functools import update_wrapper
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self

from remanence.faces.watching import Changed, Watcher
from remanence.runtime.blocking import run

P = ParamSpec("P")


class BlockingWatcher:
    """See `remanence.faces.watching.Watcher`. One thread may wait on it while another closes it."""

    def __init__(self, watcher: Watcher, timeout: float | None) -> None:
        self._watcher = watcher
        self._timeout = timeout

    @property
    def cursor(self) -> str:
        """Where to go on with `since`; "" before the server was heard."""
        return self._watcher.cursor

    def ready(self, timeout: float) -> bool:
        """Wait until nothing that changes from now on is missed; False after `timeout` seconds."""
        return run(self._watcher.ready(timeout))

    def next(self, timeout: float | None = None) -> Changed | None:
        """The next change; None after `timeout` seconds without one, or when closed."""
        return run(self._watcher.next(timeout))

    def close(self) -> None:
        """Hear no more; who waits for the next change is told that there is none."""
        self._watcher.close()

    @property
    def closed(self) -> bool:
        """Whether there is nothing more to come."""
        return self._watcher.closed

    def __iter__(self) -> Iterator[Changed]:
        return self

    def __next__(self) -> Changed:
        changed = self.next(self._timeout)
        if changed is None:
            raise StopIteration
        return changed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def watching(method: Callable[Concatenate[Any, P], Watcher]) -> Callable[Concatenate[Any, P], BlockingWatcher]:
    """A face's `watch` or `on_change` for callers on threads: when it returns, what changes next is heard.

    Where the server is away it waits for it no longer than the deadline; then the first thing heard is a resync.
    """

    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> BlockingWatcher:
        made = BlockingWatcher(method(self._face, *args, **kwargs), kwargs.get("timeout"))  # type: ignore[arg-type]
        try:
            made.ready(self._engine.settings.deadline)
        except BaseException:  # interrupted: nobody has it to close it
            made.close()
            raise
        return made

    return update_wrapper(call, method)
