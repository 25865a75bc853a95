"""The cases about what others change: reads from near and from the mirror, and hearing of a change."""

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing

from remanence.options import Options
from remanence.protocols import Fetch
from remanence.runtime.blocking import run
from remanence.sync.state import Memory
from remanence.testing.bench.rounds import Figure, repeated
from remanence.testing.bench.samples import STATE, STATE_TEXT, Names
from remanence.testing.bench.workbench import Bench, Case, Untrue, drain

RECORDS = 100_000
BEHIND = 1000
CHANGES = 200
PACE = 0.005
"""Seconds between two changes that are heard of: an idle machine."""
PATIENCE = 60.0
READ = 64
"""Names that are read in turn."""


# --- reads ----------------------------------------------------------------------------------------


def near(bench: Bench) -> Figure:
    """A read of what nobody changed, answered from this process."""
    return _read(bench, "near")


def mirror(bench: Bench) -> Figure:
    """A read of what this process has on disk alone."""
    return _read(bench, "mirror")


def _read(bench: Bench, source: str) -> Figure:
    count = bench.amount.of(2000)
    names = Names("s", READ)
    with bench.memory() as other, bench.naive() as client:
        for n in range(READ):
            other.set(f"s{n}", STATE)
        client.set("naive:state", STATE_TEXT)
        with bench.memory(reads=source) as memory:
            if source == "near":
                _until(lambda: memory.read("s0").source == source)
                for n in range(READ):
                    memory.get(f"s{n}")
            else:
                _until_mirrored(memory)
            figure = bench.compared(
                repeated(lambda: memory.get(names()), count),
                repeated(lambda: client.get("naive:state"), count),
                count,
            )
            if memory.read(names()).source != source:
                raise Untrue(f"reads came from {memory.read(names()).source}")
            return figure


def _until(found: Callable[[], bool]) -> float:
    """Wait until it is so; the seconds that took."""
    started = time.perf_counter()
    while not found():
        if time.perf_counter() - started > PATIENCE:
            raise Untrue(f"not within {PATIENCE} s")
        time.sleep(0.001)
    return time.perf_counter() - started


def _until_mirrored(memory: Memory) -> float:
    """Wait until the mirror answers for everything: for names, too, that this process never asked for."""
    asked = itertools.count()

    def mirrored() -> bool:
        (reading,) = run(memory.engine.gateway.read([Fetch(f"none{next(asked)}")]))
        return bool(reading.source == "mirror")

    return _until(mirrored)


# --- hearing --------------------------------------------------------------------------------------

LISTENER = """
import sys, time
from remanence.sync.state import Memory
url, path, count = sys.argv[1:]
with Memory(url=url, path=path) as memory, memory.watch(timeout=20.0) as changes:
    print("ready", flush=True)
    heard = [time.monotonic() for _, changed in zip(range(int(count)), changes)]
print(*heard)
"""
"""The child: when it heard of each change, by the clock that all processes of a machine share."""


def heard_mostly(bench: Bench) -> Figure:
    """Milliseconds until another process hears of a change, the median of a round."""
    return _heard(bench, statistics.median)


def heard_at_worst(bench: Bench) -> Figure:
    """The same, what 99 of 100 stay below."""
    return _heard(bench, lambda found: statistics.quantiles(found, n=100, method="inclusive")[98])


def _heard(bench: Bench, of: Callable[[list[float]], float]) -> Figure:
    found = []
    for _ in range(bench.amount.slow_rounds):
        found.append(of(_delays(bench)))
        bench.tick()
    return Figure(tuple(found))


def _delays(bench: Bench) -> list[float]:
    count = max(10, bench.amount.of(CHANGES))  # fewer have no median
    command = [sys.executable, "-c", LISTENER, bench.server.url, str(bench.fresh_folder()), str(count)]
    with bench.memory() as memory, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        if child.stdout is None or child.stdout.readline().strip() != "ready":
            raise Untrue("the listening process did not begin")
        memory.set("warm", 0)  # heard of first, and not counted
        sent = []
        for n in range(count):
            time.sleep(PACE)
            sent.append(time.monotonic())
            memory.set("heard", n)
        heard = [float(each) for each in child.stdout.read().split()]
    if len(heard) != count:
        raise Untrue(f"{len(heard)} of {count} changes were heard")
    return [(late - early) * 1000 for early, late in zip(sent[:-1], heard[1:], strict=True)]


def listeners(bench: Bench) -> Figure:
    """Server CPU of a write with fifty listeners in one process, against one listener."""
    count = bench.amount.of(4000)
    found = []
    with bench.memory() as writer, bench.memory(deadline=1.5) as memory:
        for _ in range(bench.amount.rounds):
            costs = {agents: _cost(bench, writer, memory, agents, count) for agents in (1, 10, 50)}
            found.append(max(costs.values()) / min(costs.values()))
            bench.tick()
    return Figure(tuple(found))


def _cost(bench: Bench, writer: Memory, memory: Memory, agents: int, count: int) -> float:
    """Seconds of the server's processor for `count` writes that so many listeners hear of."""
    names = Names("s")
    with ExitStack() as stack, closing(bench.server.client()) as client:
        heard = [stack.enter_context(memory.watch()) for _ in range(agents)]
        before = client.info("cpu")
        for _ in range(count):
            writer.set(names(), STATE)
        after = client.info("cpu")
        if heard[-1].next(5.0) is None:
            raise Untrue("nobody heard of it")
    return sum(float(after[name]) - float(before[name]) for name in ("used_cpu_user", "used_cpu_sys"))


# --- the mirror -----------------------------------------------------------------------------------


def filled(bench: Bench) -> Figure:
    """Seconds until a mirror has all of a namespace of 100,000 records."""
    return Figure(tuple(seconds for seconds, _ in (_mirrored(bench) for _ in range(bench.amount.slow_rounds))))


def followed(bench: Bench) -> Figure:
    """Seconds until a mirror that is 1,000 changes behind has caught up."""
    return Figure(tuple(seconds for _, seconds in (_mirrored(bench) for _ in range(bench.amount.slow_rounds))))


def _mirrored(bench: Bench) -> tuple[float, float]:
    records, options = bench.amount.of(RECORDS), bench.options(reads="mirror", namespace="mirrored")
    with bench.memory(ack="journal", namespace="mirrored") as writer:
        for n in range(records):
            writer.set(f"s{n}", STATE)
        drain(writer)
        filled_in = _caught_up(options)
        for n in range(bench.amount.of(BEHIND)):
            writer.set(f"s{n}", n)
        drain(writer)
        again = _caught_up(options)
    bench.tick()
    return filled_in, again


def _caught_up(options: Options) -> float:
    """Seconds from the first read until the mirror answers for everything."""
    with Memory(**options) as memory:
        return _until_mirrored(memory)


FEEDS = (
    Case("near", "a near read, against GET", 0.08, "x", near),
    Case("mirror", "a mirror read, against GET", 0.4, "x", mirror),
    Case("heard", "a change heard by another process, median", 2.0, "ms", heard_mostly, slow=True),
    Case("heard-99", "the same, what 99 of 100 stay below", 10.0, "ms", heard_at_worst, slow=True),
    Case("listeners", "server CPU per write with 1, 10, 50 listeners, most to least", 1.1, "x", listeners),
    Case("filled", "a mirror of 100,000 records, from nothing", 10.0, "s", filled, slow=True),
    Case("followed", "the same from a cursor 1,000 behind", 0.2, "s", followed, slow=True),
)
