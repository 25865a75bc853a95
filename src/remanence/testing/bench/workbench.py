"""What every case is given: a server of its own, fresh folders, the clients, and how much to do."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import redis

from remanence.model import Receipt
from remanence.options import Options
from remanence.sync.opening import Opened
from remanence.sync.state import Memory
from remanence.testing.bench.rounds import Figure, Timed, interleaved, nothing, ratio
from remanence.testing.servers import HOST, Server

DRAIN_SECONDS = 60.0
Unit = Literal["x", "ms", "s", "/s", "MB", "kB"]


@dataclass(frozen=True)
class Amount:
    """How much is done: rounds of a comparison, of what is slow, and the share of the full counts."""

    rounds: int
    slow_rounds: int
    share: float

    def of(self, count: int) -> int:
        """`count` as this amount does it, one at least."""
        return max(1, round(count * self.share))


FULL = Amount(rounds=15, slow_rounds=3, share=1.0)
QUICK = Amount(rounds=5, slow_rounds=1, share=0.1)


@dataclass
class Bench:
    """One run: the server all cases share, where local files go, and who hears of each round."""

    server: Server
    folder: Path
    amount: Amount = FULL
    tick: Callable[[], object] = nothing
    _opened: int = field(default=0, init=False)

    def fresh_folder(self) -> Path:
        """A folder that no journal was in yet."""
        self._opened += 1
        return self.folder / str(self._opened)

    def options(self, **more: Any) -> Options:
        """The settings of our side: a server, a folder, and the defaults whatever the environment says."""
        chosen: Options = {
            "backend": "redis",
            "url": self.server.url,
            "path": str(self.fresh_folder()),
            "namespace": "",
            "durability": "process",
            "ack": "auto",
            "deadline": 1.0,
        }
        chosen.update(more)  # type: ignore[typeddict-item]
        return chosen

    @contextmanager
    def memory(self, **more: Any) -> Iterator[Memory]:
        """Our state, closed without waiting for a server that may be gone."""
        memory = Memory(**self.options(**more))
        try:
            yield memory
        finally:
            memory.close(0.0)

    @contextmanager
    def naive(self) -> Iterator["redis.Redis"]:
        """What people use without us: redis-py with its defaults."""
        client = redis.Redis(host=HOST, port=self.server.port)
        try:
            yield client
        finally:
            client.close()

    def restore(self) -> None:
        """Whatever the last case did to the server, let it run and answer."""
        if self.server.running:
            self.server.resume()
        else:
            self.server.restart()

    def compared(self, ours: Timed, naive: Timed, count: int) -> Figure:
        """The ratio of two ways to do `count` operations."""
        return ratio(interleaved(ours, naive, self.amount.rounds, self.tick), count)


class Untrue(RuntimeError):
    """What was measured is not what the case says: its figure would mean nothing."""


def confirm(receipt: Receipt, state: str) -> None:
    """Raise `Untrue` where a write ended otherwise than the case is about."""
    if receipt.state != state:
        raise Untrue(f"a write was {receipt.state}, not {state}")


def drain(memory: Opened[Any]) -> None:
    """Let the background finish, so that it is in nobody's time."""
    if not memory.engine.flush(DRAIN_SECONDS):
        raise Untrue(f"{memory.engine.status().pending} writes were still waiting after {DRAIN_SECONDS} s")


@dataclass(frozen=True)
class Case:
    """One line of the table: what is measured, against what, and the bar it is held to."""

    name: str
    what: str
    bar: float
    unit: Unit
    measure: Callable[[Bench], Figure]
    at_least: bool = False
    slow: bool = False

    def passed(self, figure: Figure) -> bool:
        """Whether the median keeps to the bar."""
        return figure.median >= self.bar if self.at_least else figure.median <= self.bar

    def ticks(self, amount: Amount) -> int:
        """How many rounds the case reports."""
        return amount.slow_rounds if self.slow else amount.rounds


@contextmanager
def bench_on(kind: str | None, amount: Amount, tick: Callable[[], object] = nothing) -> Iterator[Bench]:
    """A bench with a private server of `kind`, both gone afterwards. Raises LookupError
    where none is found.
    """
    with tempfile.TemporaryDirectory(prefix="remanence-bench-") as folder, Server(kind) as server:
        yield Bench(server, Path(folder), amount, tick)
