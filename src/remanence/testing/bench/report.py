"""All cases in the order of the table, run one after another, and what came out for people and programs."""

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from remanence.testing.bench.agents import AGENTS
from remanence.testing.bench.feeds import FEEDS
from remanence.testing.bench.limits import LIMITS
from remanence.testing.bench.rounds import Figure
from remanence.testing.bench.sessions import SESSIONS
from remanence.testing.bench.states import STATES
from remanence.testing.bench.workbench import Bench, Case, Untrue

_ORDER: Final = ("applied", "journalled", "message", "hundred", "tasks", "tail", "away")
_BY_NAME: Final = {case.name: case for case in (*STATES, *SESSIONS)}
CASES: Final = (*(_BY_NAME[name] for name in _ORDER), *LIMITS, *FEEDS, *AGENTS)
HEADINGS: Final = ("what", "bar", "measured", "quartiles", "")


@dataclass(frozen=True)
class Line:
    """A case with its figure, or why there is none."""

    case: Case
    figure: Figure | None
    fault: str = ""

    @property
    def verdict(self) -> str:
        """One of "pass", "missed" and "no figure"."""
        if self.figure is None:
            return "no figure"
        return "pass" if self.case.passed(self.figure) else "missed"

    def cells(self) -> tuple[str, ...]:
        """The line as texts, under HEADINGS."""
        case, figure = self.case, self.figure
        bar = f"{'≥' if case.at_least else '≤'} {shown(case.bar, case.unit)}"
        if figure is None:
            return case.what, bar, "—", self.fault, self.verdict
        low, high = figure.quartiles
        spread = f"{shown(low, case.unit)} to {shown(high, case.unit)}"
        return case.what, bar, shown(figure.median, case.unit), spread, self.verdict

    def facts(self) -> dict[str, Any]:
        """The line for programs; times in seconds."""
        case, figure = self.case, self.figure
        told: dict[str, Any] = {
            "name": case.name,
            "what": case.what,
            "bar": case.bar,
            "at_least": case.at_least,
            "unit": case.unit,
            "verdict": self.verdict,
        }
        if figure is None:
            return told | {"fault": self.fault}
        return told | {
            "median": figure.median,
            "quartiles": figure.quartiles,
            "values": figure.values,
            "ours": figure.ours,
            "naive": figure.naive,
        }


def shown(value: float, unit: str) -> str:
    """A figure with its unit, no more exact than it is."""
    if unit == "x":
        return f"{value:.2f} x"
    if unit == "/s":
        return f"{value:,.0f} /s"
    return f"{value:.1f} {unit}" if abs(value) < 10 else f"{value:.0f} {unit}"


def measured(bench: Bench, cases: Sequence[Case], begun: Callable[[Case], object]) -> list[Line]:
    """A line for each case; `begun` hears of each before it starts."""
    lines = []
    for case in cases:
        begun(case)
        try:
            lines.append(Line(case, case.measure(bench)))
        except Untrue as error:
            lines.append(Line(case, None, str(error)))
        bench.restore()
    return lines


def versions(bench: Bench) -> dict[str, str]:
    """What the figures were measured with."""
    with bench.naive() as client:
        told: Any = client.info("server")
    kind = "Valkey" if "valkey_version" in told else "Redis"
    return {
        kind: told.get("valkey_version") or told["redis_version"],
        "redis-py": version("redis"),
        "hiredis": version("hiredis"),
        "Python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def spelled(facts: dict[str, str]) -> str:
    """Versions on one line."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def markdown(lines: Sequence[Line], footing: Sequence[str]) -> str:
    """The table for a README."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *(line.cells() for line in lines)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([table, "", *footing])
