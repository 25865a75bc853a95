"""Waiting on plain threads: a coroutine runs to its end on the caller's own thread.

Nothing in this runtime ever suspends, so `run` drives a coroutine with one `send`; there is no event
loop and no hop between threads.
"""

import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractContextManager, suppress
from typing import Any, Final, TypeVar

from remanence.runtime.machine import Machine

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends and return what it returns."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise RuntimeError("a blocking call tried to suspend: it was given parts of an asyncio engine")


class ThreadSignal:
    """A flag for one waiter at a time: a lock that is free once the flag is set.

    Not a `threading.Event`, whose wait raises RuntimeError where Ctrl-C meets its own Python code.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Wake whoever waits."""
        if self._lock.locked():  # each write wakes the keeper, and to raise what is suppressed takes 2 µs
            with suppress(RuntimeError):  # another thread set it meanwhile
                self._lock.release()

    def clear(self) -> None:
        """Let the next wait wait."""
        self._lock.acquire(blocking=False)

    async def wait(self, timeout: float | None) -> bool:
        """Block this thread until set or `timeout` seconds passed."""
        if not self._lock.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            return False
        self.set()
        return True


class ThreadTask:
    """A daemon thread that runs one coroutine."""

    def __init__(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._thread = threading.Thread(target=lambda: run(work()), name=name, daemon=True)
        self._thread.start()

    async def join(self, timeout: float | None) -> bool:
        """Block until the thread ended."""
        if self._thread is threading.current_thread():
            return False
        self._thread.join(timeout)
        return not self._thread.is_alive()


class _Nothing:
    """What is awaited without a step, nor the cost of a coroutine."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


_NOTHING: Final[Awaitable[None]] = _Nothing()


class BlockingRuntime(Machine):
    """Plain threads, blocking waits, real clocks."""

    def monotonic(self) -> float:
        """`time.monotonic`."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Block this thread."""
        time.sleep(seconds)

    def turn(self) -> Awaitable[None]:
        """Nothing: other threads run anyway."""
        return _NOTHING

    def signal(self) -> ThreadSignal:
        """A thread-safe flag."""
        return ThreadSignal()

    def mutex(self) -> AbstractContextManager[Any]:
        """A reentrant lock: a passage may call another of the same owner."""
        return threading.RLock()

    def spawn(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> ThreadTask:
        """A daemon thread."""
        return ThreadTask(name, work)

    async def aside(self, work: Callable[[], T]) -> T:
        """Here: the thread is the caller's own."""
        return work()

    def shield(self, work: Coroutine[Any, Any, None]) -> Awaitable[None]:
        """A thread cannot be cancelled: just run it."""
        return work
