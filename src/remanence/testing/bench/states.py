"""The cases about shared state, as ratios: a write of ours against what plain redis-py does in its place.

The naive side is given its values as ready bytes, and a pipeline without MULTI: it is as fast as naive
code gets. Ours checks, encodes, journals, and has it applied exactly once.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import redis.asyncio

from remanence.aio.state import AsyncMemory
from remanence.testing.bench.rounds import Figure, Timed, repeated
from remanence.testing.bench.samples import STATE, STATE_TEXT, Names
from remanence.testing.bench.workbench import Bench, Case, confirm, drain
from remanence.testing.servers import HOST

TASKS = 50


def set_on(client: "redis.Redis") -> Callable[[], object]:
    """The naive write of a state."""
    names = Names("naive:state:")
    return lambda: client.set(names(), STATE_TEXT)


def applied(bench: Bench) -> Figure:
    """One blocking state write that Redis has applied when it returns."""
    count = bench.amount.of(1000)
    with bench.memory() as memory, bench.naive() as client:
        names = Names("s")
        figure = bench.compared(
            repeated(lambda: memory.set(names(), STATE), count), repeated(set_on(client), count), count
        )
        confirm(memory.set("s0", STATE), "applied")
        return figure


def journalled(bench: Bench) -> Figure:
    """The same returning when it is on this machine's disk; the keeper sends it meanwhile."""
    count = bench.amount.of(1000)
    with bench.memory(ack="journal") as memory, bench.naive() as client:
        names = Names("s")
        ours = repeated(lambda: memory.set(names(), STATE), count, after=lambda: drain(memory))
        return bench.compared(ours, repeated(set_on(client), count), count)


def tasks(bench: Bench) -> Figure:
    """Fifty asyncio tasks that write at the same time."""
    count = bench.amount.of(20)
    with asyncio.Runner() as runner:
        memory = AsyncMemory(**bench.options())
        client = redis.asyncio.Redis(host=HOST, port=bench.server.port)
        mine, theirs = Names("s", TASKS), Names("naive:state:", TASKS)

        async def plain() -> None:
            await client.set(theirs(), STATE_TEXT)

        try:
            return bench.compared(
                together(runner, lambda: memory.set(mine(), STATE), count),
                together(runner, plain, count),
                count * TASKS,
            )
        finally:
            runner.run(memory.close(0.0))
            runner.run(client.aclose())


def together(runner: asyncio.Runner, action: Callable[[], Coroutine[Any, Any, Any]], count: int) -> Timed:
    """`count` times: fifty tasks of `action` started at once and awaited."""

    async def work() -> float:
        started = time.perf_counter()
        for _ in range(count):
            async with asyncio.TaskGroup() as group:
                for _ in range(TASKS):
                    group.create_task(action())
        return time.perf_counter() - started

    return lambda: runner.run(work())


def away(bench: Bench) -> Figure:
    """A write while the server is killed, against a plain one while it runs."""
    count = bench.amount.of(1000)
    with bench.naive() as client:
        naive = repeated(set_on(client), count, before=client.ping)
        return bench.compared(lambda: _away(bench, count), naive, count)


def _away(bench: Bench, count: int) -> float:
    """Each round begins anew, so that no round replays what an earlier one left."""
    with bench.memory() as memory:
        names = Names("s")
        confirm(memory.set(names(), STATE), "applied")
        bench.server.kill()
        try:
            confirm(memory.set(names(), STATE), "journalled")
            return repeated(lambda: memory.set(names(), STATE), count)()
        finally:
            memory.close(0.0)
            bench.server.restart()


STATES = (
    Case("applied", "a state write, applied exactly once, against SET", 1.6, "x", applied),
    Case("journalled", "the same, returning at the journal, against SET", 0.6, "x", journalled),
    Case("tasks", "50 asyncio tasks writing, against 50 on redis.asyncio", 0.4, "x", tasks),
    Case("away", "a write while Redis is away, against SET while it is there", 0.6, "x", away),
)
