"""The cases that are limits: a hung server, a backlog, memory, and the time to import."""

import subprocess
import sys
import time
from collections.abc import Callable

from remanence.sync.state import Memory
from remanence.testing.bench.rounds import Figure
from remanence.testing.bench.samples import STATE, Names
from remanence.testing.bench.workbench import Bench, Case, Untrue, confirm
from remanence.testing.servers import PortClaim

DEADLINE = 0.25
"""Seconds: shorter than the default, for what counts is what comes on top of it."""
BACKLOG = 100_000
CALLS = 20
REPLAY_SECONDS = 120.0


# --- a server that is there and says nothing ------------------------------------------------------


def hung_first(bench: Bench) -> Figure:
    """Milliseconds past its deadline that the first write returns after the server hung."""
    return _hung(bench, lambda memory: (_seconds(memory) - DEADLINE) * 1000)


def hung_after(bench: Bench) -> Figure:
    """The slowest of the writes after that one, in milliseconds."""

    def slowest(memory: Memory) -> float:
        _seconds(memory)
        return max(_seconds(memory) for _ in range(CALLS)) * 1000

    return _hung(bench, slowest)


def _hung(bench: Bench, measure: Callable[[Memory], float]) -> Figure:
    found = []
    for _ in range(bench.amount.rounds):
        with bench.memory(deadline=DEADLINE) as memory:
            confirm(memory.set("s", STATE), "applied")
            bench.server.pause()
            try:
                found.append(measure(memory))
                memory.close(0.0)
            finally:
                bench.server.resume()
        bench.tick()
    return Figure(tuple(found))


def _seconds(memory: Memory) -> float:
    """How long one write takes; it must not wait for the server that is frozen."""
    started = time.perf_counter()
    receipt = memory.set("s", STATE)
    seconds = time.perf_counter() - started
    confirm(receipt, "journalled")
    return seconds


# --- a backlog ------------------------------------------------------------------------------------


def replay(bench: Bench) -> Figure:
    """Writes a second from the server's return until the journal is empty, the wait to reconnect included."""
    return Figure(tuple(_replayed(bench) for _ in range(bench.amount.slow_rounds)))


def _replayed(bench: Bench) -> float:
    count = bench.amount.of(BACKLOG)
    with bench.memory() as memory:
        names = Names("s", 1000)
        confirm(memory.set(names(), STATE), "applied")
        bench.server.kill()
        for _ in range(count):
            memory.set(names(), STATE)
        waiting = memory.engine.status().pending
        bench.server.restart()
        started = time.perf_counter()
        if waiting < count or not memory.engine.flush(REPLAY_SECONDS):
            raise Untrue(f"of {count} writes {waiting} waited, {memory.engine.status().pending} still do")
        seconds = time.perf_counter() - started
    bench.tick()
    return waiting / seconds


# --- memory ---------------------------------------------------------------------------------------

HELD = """
import re, sys
from pathlib import Path
from remanence.sync.state import Memory
from remanence.testing.bench.samples import STATE, Names

def peak():
    found = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024

port, path, count = sys.argv[1:]
memory = Memory("127.0.0.1", int(port), path=path, ack="journal")
names = Names("s", 1000)
for _ in range(100):
    memory.set(names(), STATE)
rest = peak()
for _ in range(int(count)):
    memory.set(names(), STATE)
assert memory.engine.status().pending == int(count) + 100
print(peak() - rest)
memory.close(0.0)
"""
"""The child: the most it ever held, less what it held at rest, in MB."""


def held(bench: Bench) -> Figure:
    """Memory that a process needs more than at rest while no server takes its writes."""
    found = []
    for _ in range(bench.amount.slow_rounds):
        nobody = PortClaim()  # a port that stays refused while it is ours
        try:
            count = bench.amount.of(BACKLOG)
            found.append(float(_child(HELD, str(nobody.number), str(bench.fresh_folder()), str(count))))
        finally:
            nobody.release()
        bench.tick()
    return Figure(tuple(found))


def _child(program: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Untrue(f"the child process failed:\n{done.stderr[-2000:]}")
    return done.stdout.strip()


# --- importing ------------------------------------------------------------------------------------

IMPORTED = """
import sys, time
started = time.perf_counter()
__import__(sys.argv[1])
print(time.perf_counter() - started)
"""


def imported(bench: Bench) -> Figure:
    """Milliseconds that `import remanence` takes longer than `import redis`, each in a fresh interpreter."""
    rounds = bench.amount.rounds
    _child(IMPORTED, "remanence")  # its bytecode is written once
    found = []
    for _ in range(rounds):
        theirs = float(_child(IMPORTED, "redis"))
        found.append((float(_child(IMPORTED, "remanence")) - theirs) * 1000)
        bench.tick()
    return Figure(tuple(found))


LIMITS = (
    Case("hung", "first write to a hung server, past its deadline", 50.0, "ms", hung_first),
    Case("hung-after", "the slowest of the 20 writes after it", 1.0, "ms", hung_after),
    Case("replay", "a backlog of 100,000 writes replayed", 20_000, "/s", replay, at_least=True, slow=True),
    Case("held", "memory for 100,000 journalled writes, above rest", 50.0, "MB", held, slow=True),
    Case("import", "import remanence, above import redis", 80.0, "ms", imported),
)
