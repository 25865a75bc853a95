"""What happens in the demo, apart from how it is told: three acts that return what was measured."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from remanence.commands.demo_child import SESSION
from remanence.errors import RemanenceError
from remanence.settings import Settings
from remanence.sync.messages import MemoryClient
from remanence.testing.servers import Server

ACKNOWLEDGED: Final = 300
"""Writes that the process of the second act gets to make before it is killed."""
PAUSE: Final = 0.004
"""Seconds between two writes of each process in the third act."""
UP, DOWN, TICK = 1.6, 2.4, 0.4
"""Seconds that the server is up at first, that it is down, and between two looks."""
PATIENCE: Final = 15.0


class DemoFailed(RemanenceError):
    """A process of the demo did not do its part; the message holds what it said."""


@contextmanager
def private_place(folder: Path, url: str = "") -> Iterator[None]:
    """Let settings come from nowhere but here, for this process and its children."""
    names = {str(each.metadata["env"]) for each in fields(Settings)}
    names |= {"REDIS_HOST", "REDIS_PORT", "REDIS_DB", "REDIS_PASSWORD"}
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ["REMANENCE_PATH"] = str(folder)
    if url:
        os.environ["REDIS_URL"] = url
    try:
        yield
    finally:
        for name in ("REMANENCE_PATH", "REDIS_URL"):
            os.environ.pop(name, None)
        os.environ.update(kept)


class Child:
    """Another process of the demo. It ends with the `with` block at the latest."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._errors = folder / f"{'-'.join(arguments[:2])}.log"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - this very interpreter, with arguments made here
                [sys.executable, "-m", "remanence.commands.demo_child", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for the demo, which ends it
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def lines(self) -> Iterator[bytes]:
        """What it writes, line by line; a last one that was cut short is left out."""
        assert self._process.stdout is not None  # a pipe, as asked for
        for line in self._process.stdout:
            if line.endswith(b"\n"):
                yield line

    def kill(self) -> None:
        """End it by SIGKILL: it can do nothing about it."""
        self._process.kill()

    def stop(self) -> None:
        """Ask it to end."""
        assert self._process.stdin is not None  # a pipe, as asked for
        with contextlib.suppress(OSError):  # it has ended already
            self._process.stdin.close()

    def wait(self) -> None:
        """Wait for its end. Raises `DemoFailed` when it ended badly or not at all."""
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise DemoFailed("a process of the demo did not end") from None
        if code > 0:
            last = self._errors.read_text(errors="replace").strip().splitlines()[-1:]
            raise DemoFailed(f"a process of the demo failed: {' '.join(last)}")

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None  # a pipe, as asked for
        self._process.stdout.close()


# --- the first act: it remembers ----------------------------------------------------------------


class Recalled(msgspec.Struct, frozen=True):
    """What one process remembered, and another read."""

    writer: int
    reader: int
    found: dict[str, Any]


def recall(folder: Path, first: str = "remember", then: str = "recall") -> Recalled:
    """Let one process remember and, when it has ended, another recall; `first` and `then` name what they do."""
    with Child(folder, first) as writer:
        writer.wait()
    with Child(folder, then) as reader:
        told = b"".join(reader.lines())
        reader.wait()
    return Recalled(writer.pid, reader.pid, json.loads(told))


# --- the second act: it survives kill -9 --------------------------------------------------------


class Tally(msgspec.Struct, frozen=True):
    """Numbered writes compared with what is there."""

    written: int
    found: int
    lost: int
    duplicated: int
    ordered: bool

    @property
    def unspoken(self) -> int:
        """Writes stored by a process that ended before it could acknowledge them."""
        return max(0, self.found - self.duplicated - (self.written - self.lost))

    @property
    def fine(self) -> bool:
        """Whether every write is there once, in order."""
        return not self.lost and not self.duplicated and self.ordered


def tally(written: dict[str, int], contents: Sequence[str]) -> Tally:
    """Compare the texts "writer number" with how many each writer had acknowledged.

    One more than acknowledged may be there: stored, while its writer ended before it could say so.
    """
    numbers: dict[str, list[int]] = {writer: [] for writer in written}
    for content in contents:
        writer, _, number = content.partition(" ")
        numbers.setdefault(writer, []).append(int(number))
    lost = sum(len(set(range(1, count + 1)) - set(numbers[writer])) for writer, count in written.items())
    duplicated = sum(len(each) - len(set(each)) for each in numbers.values())
    ordered = all(each == sorted(each) for each in numbers.values())
    return Tally(sum(written.values()), len(contents), lost, duplicated, ordered)


def survive(folder: Path) -> tuple[int, Tally]:
    """Kill a writing process in the middle; (its id, what a new client finds)."""
    acknowledged = 0
    with Child(folder, "write", "a", "0") as child:
        for line in child.lines():
            acknowledged = int(line)
            if acknowledged == ACKNOWLEDGED:
                child.kill()
        child.wait()
        if acknowledged < ACKNOWLEDGED:
            raise DemoFailed("a process of the demo ended before it was killed")
        pid = child.pid
    with MemoryClient() as memory:
        contents = [message["content"] for message in memory.get(SESSION)]
    return pid, tally({"a": acknowledged}, contents)


# --- the third act: it outlives its server ------------------------------------------------------


class Moment(msgspec.Struct, frozen=True):
    """How things stand `seconds` after the beginning; `news` is what was just done to the server."""

    seconds: float
    up: bool
    written: int
    waiting: int
    news: str = ""


class Outage(msgspec.Struct, frozen=True):
    """The third act's outcome: the most writes that waited, and that were sent again; times in seconds."""

    tally: Tally
    deepest: int
    resent: int
    slowest: float
    down_seconds: float


class _Reports:
    """The last report of each writer, kept by a thread that listens to it."""

    def __init__(self, children: Sequence[Child]) -> None:
        self.last: list[dict[str, Any]] = [{"written": 0, "waiting": 0, "resent": 0} for _ in children]
        self._threads = [
            threading.Thread(target=self._listen, args=(at, child), daemon=True) for at, child in enumerate(children)
        ]
        for thread in self._threads:
            thread.start()

    def _listen(self, at: int, child: Child) -> None:
        for line in child.lines():
            self.last[at] = json.loads(line)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)

    def each(self, name: str) -> list[int]:
        return [int(report[name]) for report in self.last]

    def total(self, name: str) -> int:
        return sum(self.each(name))


def outlive(server: Server, folder: Path, show: Callable[[Moment], None]) -> Outage:
    """Let two processes write to a server that is killed twice, the second time with its data.

    `show` is called with each moment. The server runs already, and its files survive its process.
    """
    with Child(folder, "write", "a", str(PAUSE)) as one, Child(folder, "write", "b", str(PAUSE)) as two:
        reports = _Reports([one, two])
        watch = _Watch(reports, show)
        watch.until_written()
        watch.look_on(UP, up=True)
        pid = server.pid
        server.kill()
        watch.tell(f"kill -9 {pid}: the server is gone", up=False)
        killed = time.monotonic()
        watch.look_on(DOWN, up=False)
        server.start()
        down = time.monotonic() - killed
        watch.tell("started again with its files; writers look for it every 2 s at least", up=True)
        watch.until_drained()
        before = reports.each("resent")
        server.restart_empty()
        watch.tell("kill -9 again, its disk wiped: started with nothing", up=True)
        watch.until_resent(before)
        watch.look_on(UP, up=True)
        watch.until_drained()
        for child in (one, two):
            child.stop()
        for child in (one, two):
            child.wait()
        reports.join()
    written = {writer: int(last["written"]) for writer, last in zip("ab", reports.last, strict=True)}
    slowest = max(float(last["slowest"]) for last in reports.last)
    found = tally(written, _plainly_read(server))
    return Outage(found, watch.deepest, reports.total("resent"), slowest, down)


class _Watch:
    """Looks at the writers now and then."""

    def __init__(self, reports: _Reports, show: Callable[[Moment], None]) -> None:
        self.deepest = 0
        self._reports = reports
        self._show = show
        self._started = time.monotonic()

    def until_written(self) -> None:
        """Wait until all write; the clock starts then."""
        self._await("written", [0, 0], "the processes of the demo did not begin to write")
        self._started = time.monotonic()

    def until_resent(self, before: Sequence[int]) -> None:
        """Wait until all have noticed that the server forgot, and say so; `before` was sent again earlier."""
        self._await("resent", before, "the processes of the demo did not notice that the server had forgotten")
        forgotten = self._reports.total("resent") - sum(before)
        self.tell(f"the journals send again the {forgotten:,} writes it forgot", up=True)

    def _await(self, name: str, before: Sequence[int], failure: str) -> None:
        end = time.monotonic() + PATIENCE
        while not all(now > then for now, then in zip(self._reports.each(name), before, strict=True)):
            if time.monotonic() > end:
                raise DemoFailed(failure)
            time.sleep(0.02)

    def look_on(self, seconds: float, *, up: bool) -> None:
        """Show every TICK for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(TICK, left))
            self.tell("", up=up)

    def until_drained(self) -> None:
        """Show every TICK until nothing much waits any more."""
        end = time.monotonic() + PATIENCE
        while True:
            self.look_on(TICK, up=True)
            if self._reports.total("waiting") <= 2:
                return
            if time.monotonic() > end:
                raise DemoFailed("the journals were not sent in time")

    def tell(self, news: str, *, up: bool) -> None:
        """Show how things stand."""
        waiting = self._reports.total("waiting")
        self.deepest = max(self.deepest, waiting)
        seconds = time.monotonic() - self._started
        self._show(Moment(seconds, up, self._reports.total("written"), waiting, news))


def _plainly_read(server: Server) -> list[str]:
    """The messages as a plain client sees them, without any code of ours."""
    client = server.client()
    try:
        items = cast(list[bytes], client.lrange(f"session:{SESSION}", 0, -1))
        return [json.loads(item)["content"] for item in items]
    finally:
        client.close()
