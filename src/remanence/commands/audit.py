"""`remanence audit`: what is wrong with what agents remember."""

from argparse import ArgumentParser, Namespace

import msgspec

from remanence.commands.agents import looking
from remanence.commands.consolidate import following, shown
from remanence.commands.journal import at_least_one, grid
from remanence.commands.output import Output, options_of, visible
from remanence.faces.agents.tending.audit import Audit, Checks
from remanence.faces.agents.tending.policy import DAY
from remanence.runtime.blocking import run as ran
from remanence.settings import Settings

_MEANINGS = {
    "duplicates": "say nearly what another says: remanence consolidate merges episodes",
    "secrets": "look like keys or passwords: remanence memories show, then forget",
    "loops": "repeat what had just been recalled",
    "broken_links": "name episodes that do not exist any more",
    "unreadable": "cannot be read: written by another system, or damaged",
    "low_trust": "come from a source that is not trusted",
    "never_used": "were never found by anybody",
    "stale": "were not used for long",
}
_HARMFUL = ("secrets", "unreadable", "loops", "broken_links")


def configure(parser: ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.epilog = (
        "Nothing is changed, and no text is shown. Exit code 1 for secrets, loops, broken links or unreadable records."
    )
    parser.add_argument("--stale", type=float, default=90.0, metavar="DAYS", help="since the last use (90)")
    parser.add_argument("--unused", type=float, default=30.0, metavar="DAYS", help="never used since it was made (30)")
    parser.add_argument("--trust", type=float, default=0.5, metavar="X", help="whose origin is doubtful (below 0.5)")
    parser.add_argument("--limit", type=at_least_one, default=5, metavar="N", help="most ids shown of each (5)")


def run(call: Namespace, output: Output) -> int:
    """Look through everything, and report."""
    settings = Settings.build(**options_of(call))
    checks = Checks(stale_after=call.stale * DAY, unused_after=call.unused * DAY, trust_below=call.trust)
    with looking(settings, output) as (agents, _), shown(output) as progress:
        told = ran(agents.audit(checks, following(progress)))
    output.facts({"counts": told.counts, **msgspec.to_builtins(told)})
    _say(told, call.limit, output)
    return 1 if any(told.counts[name] for name in _HARMFUL) else 0


def _say(told: Audit, limit: int, output: Output) -> None:
    table = grid("finding", "how many", "what it means", numbers=(1,))
    for name, meaning in _MEANINGS.items():
        table.add_row(name.replace("_", " "), f"{told.counts[name]:,}", meaning)
    output.say(f"{sum(told.looked_at.values()):,} memories were looked at", table)
    for name in _MEANINGS:
        found = getattr(told, name)
        if found:
            output.say(f"\n{name.replace('_', ' ')}:")
        for each in found[:limit]:  # each on a line of its own: it is to be copied
            output.whole(f"  {visible(each if isinstance(each, str) else each.memory_id)}")
        if len(found) > limit:
            output.say(f"  and {len(found) - limit:,} more")
    for each in told.left_out:
        output.note(each)
