"""`remanence conflicts`: writes that had no effect, because somebody else had been there first."""

import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace

import msgspec

from remanence.commands.journal import LIMIT, at_least_one, grid, moment, tell_unreadable
from remanence.commands.journals import folder_of, outcomes, survey
from remanence.commands.output import Output, options_of
from remanence.settings import Settings
from remanence.stores.outcomes import CONFLICTS, MERGED


def configure(parser: ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("--key", default="", metavar="PREFIX", help="only keys that begin with this")
    parser.add_argument("--since", type=_seconds, default=None, metavar="SECONDS", help="only the last so many seconds")
    parser.add_argument("--limit", type=at_least_one, default=LIMIT, metavar="N", help="most lines shown (100)")
    parser.add_argument("--merged", action="store_true", help="also those that the program's own merge has dealt with")
    parser.epilog = (
        "conflict: the record had changed since it was read; stale: a newer write was stored while this one waited; "
        "rejected: its edit does not fit the record; merged: dealt with by the program itself (on_conflict). "
        "Of this machine's journals; exit code 1 when one cannot be read."
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e10:
        raise ArgumentTypeError("must be a number of seconds above zero")
    return seconds


def run(call: Namespace, output: Output) -> int:
    """List them, newest first."""
    settings = Settings.build(**options_of(call))
    files = survey(folder_of(settings))
    since = 0.0 if call.since is None else time.time() - call.since
    kinds = (*CONFLICTS, MERGED) if call.merged else CONFLICTS
    found = outcomes(files, kinds, call.limit, prefix=call.key, since=since)
    output.facts({"conflicts": [msgspec.to_builtins(each) for each in found]})
    if found:
        table = grid("operation id", "kind", "write", "key", "when", "reason")
        for each in found:
            table.add_row(each.op_id, each.kind, each.write, each.key, moment(each.wall), each.reason)
        output.say(table)
    else:
        output.say("no conflicts")
    merged = sum(file.merged for file in files)
    if merged and not call.merged:
        output.note(f"{merged:,} more were merged: --merged shows them")
    if len(found) == call.limit:
        output.note(f"the newest {call.limit:,} are shown: --limit shows more")
    return tell_unreadable(files, output)
