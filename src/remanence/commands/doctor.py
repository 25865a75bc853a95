"""`remanence doctor`: every setting with its source; folder, journals and server checked, with advice."""

from argparse import ArgumentParser, Namespace
from dataclasses import fields
from typing import Final

from rich.table import Table
from rich.text import Text

from remanence.commands import server_checks
from remanence.commands.checks import FAIL, OK, WARN, Check, folder_checks, journal_checks, log_checks, place_checks
from remanence.commands.journals import folder_of, local_files, set_aside, survey
from remanence.commands.output import AWAY, PROBLEM, Output, opened, options_of
from remanence.settings import Settings

MARKS: Final = {OK: ("ok", "green"), WARN: ("warn", "yellow"), FAIL: ("FAIL", "bold red")}


def configure(parser: ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.epilog = (
        "On a server it tries, for real, what memories need: it writes one record in your key space, which "
        "ends by itself within seconds. Exit code 1 when a check fails, 3 when the server is away."
    )


def run(call: Namespace, output: Output) -> int:
    """Check everything; print what was found."""
    options = options_of(call)
    settings = Settings.build(**options)
    explained = Settings.explain(**options)
    with opened(settings) as engine:
        place = engine.place
        _show_settings(explained, place, output)
        checks = folder_checks(settings) + place_checks(settings, engine)
        checks += journal_checks(survey(folder_of(settings)), set_aside(folder_of(settings)))
        checks += log_checks(local_files(settings, place))
        away = False
        if settings.backend == "redis":
            found, away = server_checks.examine(settings, engine)
            checks += found
    _show_checks(checks, output)
    output.facts(
        {
            "place": place,
            "settings": [{"name": n, "value": value, "source": source} for n, value, source in explained],
            "checks": [{"name": c.name, "state": c.state, "found": c.found, "advice": c.advice} for c in checks],
            "away": away,
        }
    )
    return AWAY if away else PROBLEM if any(check.state == FAIL for check in checks) else 0


def _show_settings(explained: list[tuple[str, str, str]], place: str, output: Output) -> None:
    output.say(Text("Settings", "bold"), Text("from arguments, then the environment, then defaults", "dim"))
    variables = {each.name: each.metadata["env"] for each in fields(Settings)}
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=17)
    table.add_column(overflow="fold", ratio=1)
    table.add_column(overflow="fold")
    for name, value, source in explained:
        plain = source == "default"
        origin = variables[name] if plain else f"from {source}"
        table.add_row(
            Text(f"  {name}"),
            Text(value or "-", "" if plain else "bold"),
            Text(origin, "dim" if plain else "cyan"),
        )
    output.say(table)
    output.say("")
    output.say(Text("Memories live in", "bold"), place)
    output.say("")


def _show_checks(checks: list[Check], output: Output) -> None:
    output.say(Text("Checks", "bold"))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=6)
    table.add_column(min_width=12)
    table.add_column(overflow="fold")
    for check in checks:
        word, style = MARKS[check.state]
        told = Text(check.found)
        if check.advice:
            told.append(f"\n{check.advice}", "dim" if check.state == OK else style.removeprefix("bold "))
        table.add_row(Text(f"  {word}", style), Text(check.name), told)
    output.say(table)
    output.say("")
    failed = sum(check.state == FAIL for check in checks)
    warned = sum(check.state == WARN for check in checks)
    if failed:
        output.say(Text(f"{failed} check(s) failed, {warned} warning(s)", "bold red"))
    elif warned:
        output.say(Text(f"Nothing failed, {warned} warning(s)", "yellow"))
    else:
        output.say(Text("All is well", "green"))
