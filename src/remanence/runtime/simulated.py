"""Waiting in simulated time: one seed decides the order of everything, and every run can be repeated.

A `Simulation` runs coroutines as tasks on one thread. Nothing happens at the same time: the seed picks
which of the runnable tasks goes on, and when none is runnable the clock moves to the next timer. A
process is the tasks of one owner; `kill` makes them vanish between two awaits, as `kill -9` would.
"""

import contextlib
import heapq
import random
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

T = TypeVar("T")

EPOCH = 1_750_000_000.0
"""Wall seconds at which every simulation begins."""

RESTLESS = 20_000
"""Steps at one moment of time after which nobody will ever let it pass."""


class Deadlock(Exception):
    """Everybody waits for somebody else, and no timer is set; or nobody waits, and time stands still."""


class Cancelled(BaseException):
    """Thrown into a task that is cancelled, at the place where it waits."""


class SimulatedTask(Generic[T]):
    """A coroutine under way. `result` and `error` are set when it has ended."""

    __slots__ = (
        "_simulation",
        "_steps",
        "awaited",
        "done",
        "error",
        "name",
        "owner",
        "result",
        "ticket",
        "waiters",
    )

    def __init__(self, simulation: "Simulation", name: str, steps: Coroutine[Any, Any, T], owner: object) -> None:
        self.name = name
        self.owner = owner
        self.done = False
        self.result: T | None = None
        self.error: BaseException | None = None
        self.waiters: list[_Wait] = []
        self.ticket: _Wait | None = None
        """What it waits for, None while it is runnable."""
        self.awaited = False
        self._simulation = simulation
        self._steps = steps

    async def join(self, timeout: float | None) -> bool:
        """Wait for the end; False when `timeout` simulated seconds passed first, or in the task itself."""
        if self._simulation.current is self:
            return False
        if not self.done:
            wait = _Wait(self._simulation, timeout)
            self.waiters.append(wait)
            await wait
        return self.done

    def cancel(self) -> None:
        """Throw `Cancelled` where it waits. It may clean up before it ends."""
        if not self.done:
            self._simulation.interrupt(self, Cancelled())

    def step(self, error: BaseException | None = None) -> None:
        """Run to the next wait. For the simulation alone."""
        try:
            if error is None:
                self._steps.send(None)
            else:
                self._steps.throw(error)
        except StopIteration as end:
            if not self.done:
                self._end(end.value, None)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as fault:
            if not self.done:  # else its process was killed meanwhile
                self._end(None, fault)
        else:
            if self.done:  # it killed its own process
                self.vanish()

    def vanish(self) -> None:
        """End without a trace. Clean-up code runs, but its process is dead: nothing it does counts."""
        self.done = True
        with contextlib.suppress(BaseException):  # whatever the dead say
            self._steps.close()

    def _end(self, result: T | None, error: BaseException | None) -> None:
        self.done, self.result, self.error = True, result, error
        for wait in self.waiters:
            wait.wake(True)
        if error is not None and not self.awaited and not isinstance(error, Cancelled):
            self._simulation.faults.append((self.name, error))


class _Wait:
    """Somebody's pause: until `wake`, or `timeout` seconds (None: without end). Awaits to what woke it."""

    __slots__ = ("_outcome", "_simulation", "_task", "_timeout", "_woken")

    def __init__(self, simulation: "Simulation", timeout: float | None) -> None:
        self._simulation = simulation
        self._timeout = timeout
        self._task: SimulatedTask[Any] | None = None
        self._woken = False
        self._outcome = False

    def __await__(self) -> Generator[None, None, bool]:
        if not self._woken:
            task = self._simulation.current
            assert task is not None, "only tasks can wait"
            self._task = task
            task.ticket = self
            if self._timeout is not None:
                self._simulation.after(self._timeout, self.wake)
            yield
        return self._outcome

    def wake(self, outcome: bool = False) -> None:
        """Let the waiting task go on; only the first call counts."""
        if self._woken:
            return
        self._woken, self._outcome = True, outcome
        if self._task is not None and self._task.ticket is self:
            self._simulation.ready(self._task)


class Simulation:
    """The clock, the order of events, and chance: all from one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.now = 0.0
        self.current: SimulatedTask[Any] | None = None
        self.steps = 0
        self.faults: list[tuple[str, BaseException]] = []
        """Errors of tasks that nobody waits for."""
        self._order = random.Random(seed ^ 0x5EED)
        self._bytes = random.Random(seed ^ 0xB17E5)
        self._runnable: list[tuple[SimulatedTask[Any], BaseException | None]] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._set = self._still = 0
        self._tasks: dict[SimulatedTask[Any], None] = {}

    def spawn(self, name: str, work: Coroutine[Any, Any, T], owner: object = None) -> SimulatedTask[T]:
        """Begin a task of `owner`."""
        task = SimulatedTask(self, name, work, owner)
        self._tasks[task] = None
        self.ready(task)
        return task

    def ready(self, task: SimulatedTask[Any], error: BaseException | None = None) -> None:
        """Make a task runnable."""
        task.ticket = None
        self._runnable.append((task, error))

    def interrupt(self, task: SimulatedTask[Any], error: BaseException) -> None:
        """Throw into a waiting task; one that is runnable, or runs, goes on unharmed."""
        if task.ticket is not None:
            self.ready(task, error)

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Call `act` when `seconds` have passed."""
        self._set += 1
        heapq.heappush(self._timers, (self.now + max(0.0, seconds), self._set, act))

    def kill(self, owner: object) -> None:
        """Every task of `owner` vanishes where it waits. A task may kill its own process: it then ends
        at its next wait.
        """
        for task in [task for task in self._tasks if task.owner is owner]:
            del self._tasks[task]
            if task is not self.current:
                task.vanish()
            else:
                task.done = True

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run until `work` has ended, and return what it returns. Raises `Deadlock`, and what it raises."""
        main = self.spawn("main", work)
        main.awaited = True
        while not main.done:
            self._advance()
        if main.error is not None:
            raise main.error
        return main.result  # type: ignore[return-value]

    def close(self) -> None:
        """End whatever is left."""
        for task in list(self._tasks):
            task.vanish()
        self._tasks.clear()
        self._runnable.clear()
        self._timers.clear()

    def _advance(self) -> None:
        """One step of one runnable task, or the next timer."""
        runnable = self._runnable
        if not runnable:
            if not self._timers:
                waiting = sorted(task.name for task in self._tasks)
                raise Deadlock(f"nothing can go on at {self.now:.3f} s: {', '.join(waiting)} wait")
            then, _, act = heapq.heappop(self._timers)
            if then > self.now:
                self.now, self._still = then, 0
            act()
            return
        at = self._order.randrange(len(runnable)) if len(runnable) > 1 else 0
        runnable[at], runnable[-1] = runnable[-1], runnable[at]
        task, error = runnable.pop()
        if task.done:
            return
        self.steps += 1
        self._still += 1
        if self._still > RESTLESS:
            raise Deadlock(f"{task.name} and others run at {self.now:.3f} s for ever")
        self.current = task
        task.step(error)
        self.current = None
        if task.done:
            self._tasks.pop(task, None)

    def random_bytes(self, count: int) -> bytes:
        """From the seed, and never the same twice, whoever asks."""
        return self._bytes.randbytes(count)

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""
        await _Wait(self, seconds)

    def signal(self) -> "SimulatedSignal":
        """A flag, not set."""
        return SimulatedSignal(self)


class SimulatedSignal:
    """A flag of a simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._set = False
        self._waiting: list[_Wait] = []

    def set(self) -> None:
        """Wake everybody, in the order that the seed chooses."""
        self._set = True
        waiting, self._waiting = self._waiting, []
        for wait in waiting:
            wait.wake(True)

    def clear(self) -> None:
        """Let the next wait wait."""
        self._set = False

    async def wait(self, timeout: float | None) -> bool:
        """Wait until set or `timeout` simulated seconds passed."""
        if self._set:
            return True
        wait = _Wait(self._simulation, timeout)
        self._waiting.append(wait)
        return await wait


class SimulatedMachine:
    """A machine's clocks: `skew` seconds wrong, and started anew with `reboot`."""

    def __init__(self, simulation: Simulation, name: str, skew: float = 0.0) -> None:
        self.simulation = simulation
        self.name = name
        self.skew = skew
        self.boots = 1
        self.slept = 0.0
        """Seconds that only the boot clock counted."""
        self._booted = simulation.now - 100.0

    @property
    def boot_id(self) -> str:
        """The name of this start."""
        return f"{self.name}-{self.boots}"

    def wall(self) -> float:
        """Seconds since the epoch, as this machine believes."""
        return EPOCH + self.simulation.now + self.skew

    def boottime(self) -> float:
        """Seconds since this start."""
        return self.simulation.now - self._booted + self.slept

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back."""
        self.skew += seconds

    def reboot(self) -> None:
        """Start anew: another boot id, a boot clock from zero."""
        self.boots += 1
        self.slept = 0.0
        self._booted = self.simulation.now


class SimulatedRuntime:
    """The `Runtime` of one simulated process, which is also the owner of its tasks."""

    def __init__(self, machine: SimulatedMachine, name: str = "") -> None:
        self.machine = machine
        self.name = name or machine.name
        self._simulation = machine.simulation

    def monotonic(self) -> float:
        """Simulated seconds since the beginning."""
        return self._simulation.now

    def wall(self) -> float:
        """As the machine believes."""
        return self.machine.wall()

    def boottime(self) -> float:
        """The machine's."""
        return self.machine.boottime()

    def boot_id(self) -> str:
        """The machine's."""
        return self.machine.boot_id

    def random_bytes(self, count: int) -> bytes:
        """From the seed; no two calls anywhere get the same."""
        return self._simulation.random_bytes(count)

    def jitter(self) -> float:
        """From the seed."""
        return self._simulation.random.random()

    async def sleep(self, seconds: float) -> None:
        """Let simulated time pass."""
        await self._simulation.sleep(seconds)

    async def turn(self) -> None:
        """Let everybody who is runnable come before, or not: the seed decides."""
        await self._simulation.sleep(0.0)

    def signal(self) -> SimulatedSignal:
        """A flag of this simulation."""
        return self._simulation.signal()

    def mutex(self) -> AbstractContextManager[Any]:
        """Nothing: between two awaits nobody else runs."""
        return contextlib.nullcontext()

    def spawn(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> SimulatedTask[None]:
        """A task of this process."""
        return self._simulation.spawn(f"{self.name} {name}", work(), self)

    async def aside(self, work: Callable[[], T]) -> T:
        """At once: only waiting takes time here."""
        return work()

    async def shield(self, work: Coroutine[Any, Any, None]) -> None:
        """Run in a task of its own, which the caller's cancellation does not reach."""
        task = self._simulation.spawn(f"{self.name} shielded", work, self)
        task.awaited = True
        await task.join(None)
        if task.error is not None:
            raise task.error

    def kill(self) -> None:
        """Kill -9: every task of this process vanishes."""
        self._simulation.kill(self)
