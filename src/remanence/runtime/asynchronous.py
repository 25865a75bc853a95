"""Waiting on the running asyncio loop. Only for use inside that loop."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any

from remanence.runtime.machine import Machine


class LoopSignal:
    """An `asyncio.Event` behind the signal contract."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake everybody."""
        self._event.set()

    def clear(self) -> None:
        """Let the next wait wait."""
        self._event.clear()

    async def wait(self, timeout: float | None) -> bool:
        """Suspend until set or `timeout` seconds passed."""
        if self._event.is_set():
            return True
        try:
            async with asyncio.timeout(timeout):
                return await self._event.wait()
        except TimeoutError:
            return False


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

    async def shield(self, work: Coroutine[Any, Any, None]) -> None:
        """Run in a task of its own, which the caller's cancellation does not reach."""
        task = self._loop.create_task(work)
        self._shielded.add(task)
        task.add_done_callback(self._shielded.discard)
        await asyncio.shield(task)
