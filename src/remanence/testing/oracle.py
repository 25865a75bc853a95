"""Writers that can be killed, and the proof that nothing they were promised got lost, doubled or reordered.

An *oracle* is a file with one line for each write that was acknowledged, written after the call
returned, so that it survives whatever the writer does not. A `Writer` is a process of its own that
numbers what it writes. `audit` compares what the oracles say with what a plain Redis client finds.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec
import redis

from remanence.engine import BlockingEngine, shared_blocking
from remanence.events import Event
from remanence.model import Append, Receipt, Write
from remanence.options import Options
from remanence.runtime.blocking import run
from remanence.settings import Settings
from remanence.sync.state import Memory
from remanence.wire.keys import Keyspace
from remanence.wire.sqlite import Database

T = TypeVar("T")
E = TypeVar("E", bound=Event)

QUICK: Options = {
    "deadline": 0.5,
    "connect_timeout": 0.5,
    "close_timeout": 1.0,
    "heartbeat": 0.2,
    "backoff_least": 0.01,
    "backoff_most": 0.1,
}
"""Times that suit a test: a server on this machine answers in milliseconds, or not at all."""


def eventually(found: Callable[[], T], timeout: float = 10.0, every: float = 0.01) -> T:
    """What `found` returns as soon as that is true; what it returned last after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        answer = found()
        if answer or time.monotonic() > deadline:
            return answer
        time.sleep(every)


class Heard:
    """The events of an engine, as they came."""

    def __init__(self, engine: BlockingEngine) -> None:
        self.events: list[Event] = []
        engine.observe(self.events.append)

    def of(self, kind: type[E]) -> list[E]:
        """Those of one kind."""
        return [each for each in list(self.events) if isinstance(each, kind)]

    def soon(self, kind: type[E], count: int = 1) -> list[E]:
        """The same as soon as there are so many: an event is told behind what it tells of."""
        eventually(lambda: len(self.of(kind)) >= count)
        return self.of(kind)


# --- oracle files ---------------------------------------------------------------------------------


class Oracle:
    """One line for each acknowledged write. A line is there whole or not at all, whoever dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def note(self, line: str) -> None:
        """The write named `line` was acknowledged."""
        os.write(self._fd, f"{line}\n".encode())

    def lines(self) -> list[str]:
        """What was noted, in order."""
        return self.path.read_text().splitlines()

    def close(self) -> None:
        """Note no more."""
        os.close(self._fd)


# --- a process that writes ------------------------------------------------------------------------


class Task(msgspec.Struct, kw_only=True):
    """What a writer does: `name:1`, `name:2`, … appended to the list `key`, counted, and set as `last-name`.

    `count` 0 goes on until it is told to stop or killed; `pause` seconds lie between two writes.
    """

    name: str
    oracle: str
    settings: dict[str, Any]
    key: str = "oracle:list"
    count: int = 0
    pause: float = 0.0
    counted: bool = True


class Writer:
    """A process that carries out a task; in a `with` it is certainly ended."""

    def __init__(self, task: Task) -> None:
        self.name = task.name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "remanence.testing.oracle", msgspec.json.encode(task).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        """End it by SIGKILL, wherever it is."""
        self.process.kill()
        self._reap(10.0)

    def stop(self, timeout: float = 20.0) -> int:
        """Let it finish its write and close; its exit code."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        return self._reap(timeout)

    def wait(self, timeout: float = 60.0) -> int:
        """Wait until it has done what it was to do; its exit code."""
        code = self.process.wait(timeout)
        self._reap(timeout)
        return code

    def _reap(self, timeout: float) -> int:
        code = self.process.wait(timeout)
        if self.process.stdin is not None:
            self.process.stdin.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def write_all(task: Task) -> None:
    """Carry out `task` in this process."""
    asked = _Asked()
    oracle = Oracle(Path(task.oracle))
    memory = Memory(**task.settings)
    number = 0
    try:
        while not asked.to_stop() and (number < task.count or not task.count):
            number += 1
            line = f"{task.name}:{number}"
            run(memory.engine.gateway.write([Append(task.key, (line.encode(),))]))
            oracle.note(f"append {line}")
            if task.counted:
                memory.increment("oracle-count")
                oracle.note(f"count {line}")
                memory.set(f"last-{task.name}", number)
                oracle.note(f"set {line}")
            if task.pause:
                time.sleep(task.pause)
    finally:
        memory.close()


class _Asked:
    """Whether the starter closed our standard input."""

    def __init__(self) -> None:
        os.set_blocking(0, False)

    def to_stop(self) -> bool:
        try:
            return os.read(0, 1) == b""
        except BlockingIOError:
            return False


# --- the proof ------------------------------------------------------------------------------------


@dataclass
class Findings:
    """What was wrong, as the names of writes; empty lists where all is exact."""

    lost: list[str] = field(default_factory=list)
    """Acknowledged, and not there."""
    doubled: list[str] = field(default_factory=list)
    """There more than once."""
    disordered: list[str] = field(default_factory=list)
    """There before one that its writer wrote earlier."""
    skipped: list[str] = field(default_factory=list)
    """Not there, although a later one of the same writer is."""
    count: str = ""
    """How a counter differs from the writes that were counted, "" where it does not."""

    def __bool__(self) -> bool:
        return bool(self.lost or self.doubled or self.disordered or self.skipped or self.count)


def judge(found: Sequence[str], acknowledged: Iterable[str]) -> Findings:
    """Compare a list of `name:number` with those acknowledged."""
    findings = Findings()
    there: set[str] = set()
    last: dict[str, int] = {}
    for line in found:
        name, _, number = line.rpartition(":")
        if line in there:
            findings.doubled.append(line)
            continue
        there.add(line)
        before = last.get(name, 0)
        if int(number) < before:
            findings.disordered.append(line)
        elif int(number) > before + 1:
            findings.skipped += [f"{name}:{missing}" for missing in range(before + 1, int(number))]
        last[name] = max(before, int(number))
    findings.lost = [line for line in acknowledged if line not in there]
    return findings


def audit(client: "redis.Redis", namespace: str, oracles: Iterable[Path], *, killed: int = 0) -> Findings:
    """Compare what a plain client finds with what was acknowledged, and empty the journals' promises.

    `killed`: how many writers ended by force; each may have left one more write than it could note.
    """
    keys = Keyspace(namespace)
    lines = [line for path in oracles for line in path.read_text().splitlines()]
    items: Any = client.lrange(keys.data("oracle:list"), 0, -1)
    findings = judge([item.decode() for item in items], _named(lines, "append"))
    counted = len(_named(lines, "count"))
    stored = stored_value(client, keys.data("memory:oracle-count")) or 0
    if not counted <= stored <= counted + killed:
        findings.count = f"{stored} instead of {counted} to {counted + killed}"
    for name, number in _last(_named(lines, "set")).items():
        value = stored_value(client, keys.data(f"memory:last-{name}")) or 0
        if not number <= value <= number + (1 if killed else 0):
            findings.lost.append(f"last-{name} is {value} instead of {number}")
    return findings


def _named(lines: Iterable[str], kind: str) -> list[str]:
    return [line.split(" ", 1)[1] for line in lines if line.startswith(f"{kind} ")]


def _last(lines: Iterable[str]) -> dict[str, int]:
    return {line.rpartition(":")[0]: int(line.rpartition(":")[2]) for line in lines}


def stored_value(client: "redis.Redis", name: str) -> Any:
    """The value in a record of shared state, as a plain client reads it; None where there is none."""
    raw: Any = client.get(name)
    return None if raw is None else json.loads(raw)["value"]


def journalled(folder: Path) -> dict[str, list[str]]:
    """The operation ids in each journal file under `folder`, in order."""
    found = {}
    for path in sorted(folder.rglob("*.journal")):
        database = Database(str(path))
        try:
            found[str(path)] = [row[0] for row in database.run("SELECT op_id FROM rows ORDER BY n")]
        finally:
            database.close()
    return found


# --- other children -------------------------------------------------------------------------------


class Child:
    """A Python program of its own, given as text; what it prints is read line by line."""

    def __init__(self, program: str, *arguments: object, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "error", **(environment or {})},
        )

    def line(self) -> str:
        """The next line it prints, "" at its end."""
        assert self.process.stdout is not None  # piped above
        return self.process.stdout.readline().rstrip("\n")

    def say(self, text: str = "") -> None:
        """Give it a line to read."""
        assert self.process.stdin is not None  # piped above
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def end(self, timeout: float = 30.0) -> tuple[int, str, str]:
        """Wait for its end: exit code, what else it printed, what it complained of."""
        out, complaints = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, complaints

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def child(program: str, *arguments: object, timeout: float = 60.0, **environment: str) -> str:
    """Run a Python program to its end and return what it printed. Raises RuntimeError where it failed."""
    with Child(program, *arguments, environment=environment) as started:
        code, out, complaints = started.end(timeout)
    if code:
        raise RuntimeError(f"the child ended with {code}:\n{complaints}\n{out}")
    return out


def open_files() -> int:
    """How many files and sockets this process has open."""
    return len(os.listdir("/proc/self/fd"))


def write(settings: Settings, *writes: Write) -> list[Receipt]:
    """Hand writes to the process's engine for `settings`."""
    return run(shared_blocking(settings).gateway.write(writes))


def append_in_another_process(url: str, namespace: str, name: str) -> None:
    """What a test gives to `multiprocessing`: append `name:1` to `name:20` to the list `list`."""
    options: Any = {**QUICK, "url": url, "namespace": namespace}
    with Memory(**options) as memory:
        for i in range(20):
            run(memory.engine.gateway.write([Append("list", (f"{name}:{i + 1}".encode(),))]))
        memory.engine.flush(10)


def secrets_in(text: str, secrets: Iterable[str]) -> list[str]:
    """Which of `secrets` occur in `text`, literally or quoted for a URL."""
    return [each for each in secrets if re.search(re.escape(each), text, re.IGNORECASE)]


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which end their writers in order
    write_all(msgspec.json.decode(sys.argv[1].encode(), type=Task))
