"""Rounds: two ways to do the same work timed in turn, and what their times amount to.

A machine's speed changes from second to second. So both ways are timed close together, round after
round, each going first every other time, and only the ratio within a round is looked at.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Timed = Callable[[], float]
"""Does one round's work and returns the seconds that it took."""


@dataclass(frozen=True)
class Figure:
    """What a case came to: a value for each round, and for ratios the times behind them."""

    values: tuple[float, ...]
    ours: float | None = None
    """Median seconds of one operation of ours, where operations were timed."""
    naive: float | None = None

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """What a quarter and three quarters of the rounds stayed below."""
        if len(self.values) < 2:
            return self.values[0], self.values[0]
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high


def nothing() -> None:
    """What happens where nothing is to happen."""


def repeated(
    action: Callable[[], object],
    count: int,
    *,
    before: Callable[[], object] = nothing,
    after: Callable[[], object] = nothing,
) -> Timed:
    """`count` calls of `action`, with what comes before and after them left out of the time."""

    def timed() -> float:
        before()
        started = time.perf_counter()
        for _ in range(count):
            action()
        seconds = time.perf_counter() - started
        after()
        return seconds

    return timed


def interleaved(
    ours: Timed, naive: Timed, rounds: int, tick: Callable[[], object] = nothing
) -> list[tuple[float, float]]:
    """(ours, naive) seconds of each round, after one of each that does not count."""
    naive()
    ours()
    found = []
    for number in range(rounds):
        if number % 2:
            theirs = naive()
            mine = ours()
        else:
            mine = ours()
            theirs = naive()
        found.append((mine, theirs))
        tick()
    return found


def ratio(times: Sequence[tuple[float, float]], count: int) -> Figure:
    """How many times as long ours took, round by round; `count` operations were in each."""
    return Figure(
        tuple(ours / naive for ours, naive in times),
        ours=statistics.median(ours for ours, _ in times) / count,
        naive=statistics.median(naive for _, naive in times) / count,
    )
