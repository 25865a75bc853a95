"""`remanence stats`: what is stored where, what waits to be sent, once or as a live view."""

import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from remanence.commands.journals import JournalFile, folder_of, survey
from remanence.commands.output import AWAY, Output, opened, options_of, sized
from remanence.engine import BlockingEngine
from remanence.errors import Unavailable, WorldError
from remanence.runtime.blocking import run as driven
from remanence.settings import Settings

MOST_KEYS: Final = 100_000
"""Keys looked at for the count by face: enough for a picture, and no burden on a large server."""
PATIENCE: Final = 5.0
"""Seconds after which counting ends with what it has."""
OTHERS: Final = "other programs' keys"
INTERNAL: Final = "Remanence's own"


class Count(msgspec.Struct, frozen=True):
    """Keys by face; `cut` where there were more than were looked at."""

    faces: dict[str, int]
    cut: bool


class Snapshot(msgspec.Struct, frozen=True):
    """Everything that is shown, as of one moment."""

    place: str
    backend: str
    available: bool
    reason: str
    retryable: bool
    facts: dict[str, str]
    count: Count
    journals: list[JournalFile]


def configure(parser: ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("--live", action="store_true", help="show it anew again and again, until Ctrl-C")
    parser.add_argument("--interval", type=_seconds, default=1.0, metavar="S", help="seconds between looks (1)")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise ArgumentTypeError("must be between 0.1 and 3600 seconds")
    return seconds


def run(call: Namespace, output: Output) -> int:
    """Look once, or again and again until Ctrl-C."""
    settings = Settings.build(**options_of(call))
    with opened(settings) as engine:
        if call.live:
            _follow(settings, engine, call.interval, output)
        found = look(settings, engine)
        output.facts(_told(found))
        output.say(_drawn(found))
        return 0 if found.available else AWAY if found.retryable else 1


def _follow(settings: Settings, engine: BlockingEngine, interval: float, output: Output) -> NoReturn:
    """Until Ctrl-C: a table that changes in place; into a file or a pipe, one look after the other."""
    if output.json or not output.screen.is_terminal:
        while True:
            found = look(settings, engine)
            output.facts(_told(found), one_line=True)
            output.say(_drawn(found), "")
            sys.stdout.flush()
            time.sleep(interval)
    with Live(_drawn(look(settings, engine)), console=output.screen, auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            live.update(_drawn(look(settings, engine)), refresh=True)


# --- looking ------------------------------------------------------------------------------------


def look(settings: Settings, engine: BlockingEngine) -> Snapshot:
    """What is there now. A server that is away is part of the answer, not an error."""
    facts: dict[str, str] = {}
    count, reason, retryable = Count({}, False), "", True
    try:
        if settings.backend != "sqlite" or Path(engine.place).exists():
            facts = dict(driven(engine.gateway.store.facts(time.monotonic() + settings.deadline)))
            count = _count(settings, engine)
    except WorldError as error:
        reason, retryable = str(error), isinstance(error, Unavailable)
    return Snapshot(
        place=engine.place,
        backend=settings.backend,
        available=not reason,
        reason=reason,
        retryable=retryable,
        facts=facts,
        count=count,
        journals=survey(folder_of(settings)),
    )


def _count(settings: Settings, engine: BlockingEngine) -> Count:
    """Keys by face, by pages, up to MOST_KEYS of them and PATIENCE seconds."""
    faces: Counter[str] = Counter()
    cursor, end = "", time.monotonic() + PATIENCE
    while True:
        keys, cursor = driven(engine.gateway.store.scan("", cursor, 1000, time.monotonic() + settings.deadline))
        faces.update(face_of(key, settings) for key in keys)
        cut = bool(cursor) and (faces.total() >= MOST_KEYS or time.monotonic() >= end)
        if cut or not cursor:
            return Count(dict(faces), cut)


def face_of(key: str, settings: Settings) -> str:
    """Which way of remembering a key belongs to, by its name."""
    if key.startswith("remanence:{"):
        return INTERNAL
    if key.startswith(settings.key_prefix):
        return "session messages"
    first, _, rest = key.partition(":")
    second, colon, _ = rest.partition(":")
    if first == "memory" and colon and second in ("WORKING_MEMORY", "SHORT_TERM_MEMORY", "LONG_TERM_MEMORY"):
        return "conversation memory"
    if first in ("agent", "skill") or (first == "memory" and colon and second in ("episodic", "semantic", "skill")):
        return "agent memory"
    return "shared state" if key.startswith(settings.redis_prefix) else OTHERS


# --- showing ------------------------------------------------------------------------------------


def _told(found: Snapshot) -> dict[str, Any]:
    return {
        "place": found.place,
        "backend": found.backend,
        "available": found.available,
        "reason": found.reason,
        "server": " ".join(filter(None, (found.facts.get("kind"), found.facts.get("version")))),
        "used_memory": _number(found.facts, "used_memory"),
        "change_log": _number(found.facts, "log"),
        "keys": found.count.faces,
        "keys_cut": found.count.cut,
        "journals": [msgspec.to_builtins(each) for each in found.journals],
    }


def _number(facts: dict[str, str], name: str) -> int | None:
    return int(facts[name]) if name in facts else None


def _drawn(found: Snapshot) -> RenderableType:
    parts: list[RenderableType] = [_heading(found), _places(found)]
    if found.journals:
        parts += [Text(""), _journals(found.journals)]
        parts += [Text(f"  {each.problem}", "red") for each in found.journals if each.problem]
    return Group(*parts)


def _heading(found: Snapshot) -> Text:
    told = Text(found.place, "bold")
    if found.available:
        return told.append("  available", "green")
    return told.append(f"  away: {found.reason}", "red")


def _places(found: Snapshot) -> Table:
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(min_width=20)
    table.add_column(justify="right")
    facts = found.facts
    if facts:
        table.add_row("  store", f"{facts['kind']} {facts['version']}".strip())
        table.add_row("  used memory" if found.backend != "sqlite" else "  file", sized(int(facts["used_memory"])))
        if "log" in facts:
            table.add_row("  change log", f"{int(facts['log']):,}")
    elif found.available:
        table.add_row("  nothing stored yet", "")
    for face, count in sorted(found.count.faces.items(), key=lambda each: -each[1]):
        table.add_row(f"  {face}", f"{count:,}{'+' if found.count.cut else ''} {'key' if count == 1 else 'keys'}")
    if found.count.cut:
        looked = sum(found.count.faces.values())
        table.add_row(Text(f"  counted among the first {looked:,} keys", "dim"), "")
    return table


def _journals(journals: Sequence[JournalFile]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=20, overflow="fold")
    table.add_column(min_width=11)
    for _ in range(4):
        table.add_column(justify="right")
    words = ("  journals here", "", "pending", "retained", "dead", "refused")
    table.add_row(*(Text(word, "dim") for word in words))
    for each in journals:
        name = f"  {Path(each.path).name}"
        state = "in use" if each.in_use else "left behind"
        if each.problem:
            table.add_row(name, Text(state, "dim"), Text("?", "red"))
            continue
        pending = Text(f"{each.pending:,}", "yellow" if each.pending else "")
        table.add_row(name, Text(state, "dim"), pending, f"{each.retained:,}", f"{each.dead:,}", f"{each.refused:,}")
    return table
