"""`python -m remanence.testing.simulator --seeds N [--from S] [--jobs J] [--divided] [--json]`: play and judge."""

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from remanence.testing.simulator.histories import Report, plan, play, play_divided

CHUNK = 50
"""Seeds that a worker plays between two reports."""


class Tally:
    """What many histories add up to."""

    def __init__(self) -> None:
        self.histories = 0
        self.writes = 0
        self.faults: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.broken: list[Report] = []
        self._began = time.monotonic()

    def add(self, report: Report) -> None:
        """Count one history."""
        self.histories += 1
        self.writes += report.writes
        self.faults.update(report.faults)
        self.events.update(report.events)
        if report.violations:
            self.broken.append(report)

    def summary(self) -> dict[str, Any]:
        """For people and programs."""
        said = [text for report in self.broken for text in report.violations]
        seconds = time.monotonic() - self._began
        return {
            "histories": self.histories,
            "seconds": round(seconds, 1),
            "histories_a_minute": round(self.histories / seconds * 60) if seconds else 0,
            "writes": self.writes,
            "lost": sum("is lost" in text or "lost write" in text for text in said),
            "duplicated": sum("twice" in text or " times" in text for text in said),
            "out_of_order": sum("out of order" in text for text in said),
            "violations": len(said),
            "faults": dict(sorted(self.faults.items())),
            "events": dict(sorted(self.events.items())),
        }


def histories(first: int, count: int, jobs: int, *, divided: bool = False) -> Iterator[Report]:
    """Play `count` seeds from `first` on, in `jobs` processes; with several partitions where `divided`."""
    work = play_divided if divided else play
    if jobs <= 1:
        yield from map(work, range(first, first + count))
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(work, range(first, first + count), chunksize=CHUNK)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, print, and return 1 where an invariant was violated."""
    parser = argparse.ArgumentParser(prog="python -m remanence.testing.simulator", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many histories")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes to play in")
    parser.add_argument("--divided", action="store_true", help="several partitions, and listeners")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    options = parser.parse_args(arguments)
    tally = Tally()
    for report in histories(options.first, options.seeds, options.jobs, divided=options.divided):
        tally.add(report)
        if report.violations and not options.json:
            _show(report, divided=options.divided)
    told = tally.summary()
    if options.json:
        broken = [{"seed": report.seed, "violations": report.violations} for report in tally.broken]
        _say(json.dumps({**told, "broken": broken}))
    else:
        _summarise(told)
    return 1 if tally.broken else 0


def _show(report: Report, *, divided: bool) -> None:
    """What went wrong, and how to see it again."""
    _say(f"seed {report.seed}: {len(report.violations)} violation(s)")
    for text in report.violations[:5]:
        _say(f"  {text}")
    _say(f"  faults: {', '.join(plan(report.seed).kinds)}")
    mode = " --divided" if divided else ""
    _say(f"  replay: python -m remanence.testing.simulator --seeds 1 --from {report.seed} --jobs 1{mode}")


def _summarise(told: dict[str, Any]) -> None:
    _say(f"{told['histories']} histories in {told['seconds']} s: {told['histories_a_minute']} a minute")
    _say("faults: " + ", ".join(f"{name} {count}" for name, count in told["faults"].items()))
    _say("events: " + ", ".join(f"{name} {count}" for name, count in told["events"].items()))
    _say(
        f"{told['writes']} writes: {told['lost']} lost, {told['duplicated']} duplicated,"
        f" {told['out_of_order']} out of order, {told['violations']} violations"
    )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
