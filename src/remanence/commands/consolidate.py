"""`remanence consolidate`: merge near-duplicate episodes, reversibly, and learn patterns."""

from argparse import ArgumentParser, Namespace

import msgspec
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from remanence.commands.agents import looking
from remanence.commands.journal import at_least_one, grid
from remanence.commands.output import Output, options_of
from remanence.faces.agents.tending.policy import DAY, Consolidated, Policy
from remanence.faces.agents.tending.worker import Progress as Told
from remanence.runtime.blocking import run as ran
from remanence.settings import Settings

_BUSY = "another worker is at it, or died within the last minute: nothing was done"
_LOST = "another worker took over in the middle: what was done so far holds, and it goes on with the rest"


def configure(parser: ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.epilog = (
        "Nothing is forgotten unless --forget-below or --most says so. Ctrl-C stops it anywhere, and the next pass "
        "goes on. Exit code 1 where another worker is at it."
    )
    parser.add_argument("--min-episodes", type=at_least_one, default=3, metavar="N", help="that make a pattern (3)")
    parser.add_argument("--no-merge", action="store_true", help="learn patterns alone")
    parser.add_argument("--forget-below", type=float, metavar="X", help="forget old episodes of less utility (0 to 1)")
    parser.add_argument("--forget-after", type=float, default=90.0, metavar="DAYS", help="older than this (90)")
    parser.add_argument("--most", type=at_least_one, metavar="N", help="forget the least useful past so many episodes")
    parser.add_argument("--unmerge", metavar="ID", help="instead: take back the merge that this episode is in")


def run(call: Namespace, output: Output) -> int:
    """Make a pass, and say what it did."""
    settings = Settings.build(**options_of(call))
    with looking(settings, output) as (agents, _):
        if call.unmerge:
            found = ran(agents.unmerge(call.unmerge))
            output.facts({"restored": found})
            output.say(f"{len(found)} episodes are found again" if found else "it is in no merge")
            return 0
        policy = Policy(
            merge=not call.no_merge,
            min_episodes=call.min_episodes,
            forget_below=call.forget_below,
            forget_after=call.forget_after * DAY,
            most_episodes=call.most,
            pattern_ttl=settings.semantic_ttl,
        )
        with shown(output) as progress:
            told = ran(agents.consolidate_now(policy, following(progress)))
    output.facts(msgspec.to_builtins(told))
    output.say(_table(told) if told.state == "done" else _BUSY if told.state == "busy" else _LOST)
    return 0 if told.state == "done" else 1


def shown(output: Output) -> Progress:
    """A bar on stderr, where somebody looks."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=output.aside, transient=True, disable=output.json or not output.aside.is_terminal)


def following(progress: Progress) -> Told:
    """What moves the bar."""
    task = progress.add_task("looking", total=None)

    def tell(stage: str, done: int, of: int) -> None:
        progress.update(task, description=stage, completed=done, total=of or None)

    return tell


def _table(told: Consolidated) -> Table:
    table = grid("what", "how many", numbers=(1,))
    for name in ("looked_at", "merged", "restored", "patterns_made", "patterns_grown", "forgotten", "too_many"):
        value = getattr(told, name)
        table.add_row(name.replace("_", " "), f"{value if isinstance(value, int) else len(value):,}")
    return table
