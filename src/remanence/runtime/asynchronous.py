"""Waiting on the running asyncio loop. Only for use inside that loop."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from remanence.runtime.machine import Machine

T = TypeVar("T")


class LoopSignal:
    """A flag of one loop: futures and one timer, for `asyncio.timeout` around an `asyncio.Event` costs thrice that."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: set[asyncio.Future[bool]] = set()

    def set(self) -> None:
        """Wake everybody."""
        self._is_set = True
        for waiter in self._waiting:
            _answer(waiter, True)

    def clear(self) -> None:
        """Let the next wait wait."""
        self._is_set = False

    async def wait(self, timeout: float | None) -> bool:
        """Suspend until set or `timeout` seconds passed."""
        if self._is_set:
            return True
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        timer = None if timeout is None else loop.call_later(timeout, _answer, waiter, False)
        self._waiting.add(waiter)
        try:
            return await waiter
        finally:
            self._waiting.discard(waiter)
            if timer is not None:
                timer.cancel()


def _answer(waiter: "asyncio.Future[bool]", told: bool) -> None:
    if not waiter.done() and not waiter.get_loop().is_closed():  # else nobody is left to hear it
        waiter.set_result(told)


class LoopTask:
    """An asyncio task."""

    def __init__(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._task = asyncio.get_running_loop().create_task(work(), name=name)

    async def join(self, timeout: float | None) -> bool:
        """Suspend until the task ended."""
        if self._task is asyncio.current_task():
            return False
        done, _ = await asyncio.wait([self._task], timeout=timeout)
        return bool(done)


class AsyncRuntime(Machine):
    """The running loop's waits, real clocks."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._shielded: set[asyncio.Task[None]] = set()

    def monotonic(self) -> float:
        """The loop's clock."""
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        """Suspend."""
        await asyncio.sleep(seconds)

    async def turn(self) -> None:
        """Let every task that is ready make its call too."""
        await asyncio.sleep(0)

    def signal(self) -> LoopSignal:
        """A flag of this loop."""
        return LoopSignal()

    def mutex(self) -> AbstractContextManager[Any]:
        """Nothing: between two awaits nobody else runs."""
        return contextlib.nullcontext()

    def spawn(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> LoopTask:
        """A task of this loop."""
        return LoopTask(name, work)

    async def aside(self, work: Callable[[], T]) -> T:
        """On a thread, for the loop has others to serve."""
        return await asyncio.to_thread(work)

    async def shield(self, work: Coroutine[Any, Any, None]) -> None:
        """Run in a task of its own, which the caller's cancellation does not reach."""
        task = self._loop.create_task(work)
        self._shielded.add(task)
        task.add_done_callback(self._shielded.discard)
        await asyncio.shield(task)
