"""`remanence memories`: what agents remember, listed, shown and deleted."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Coroutine
from typing import Any, Final

from remanence.commands.agents import add_filters, filters, gist, kinds_of, looking, name_of, named, spelled
from remanence.commands.journal import at_least_one, grid, moment
from remanence.commands.memory_files import embed, load
from remanence.commands.output import Output, options_of
from remanence.errors import InvalidArgument
from remanence.faces.agents.agents import Agents
from remanence.faces.agents.base import Page
from remanence.faces.agents.types import TYPES
from remanence.runtime.blocking import run as ran
from remanence.settings import Settings

_Lists = dict[str, Callable[..., Coroutine[Any, Any, Page[Any]]]]
_LISTS: Final[_Lists] = {
    "episodic": Agents.list_episodes,
    "semantic": Agents.list_semantic,
    "skill": Agents.list_skills,
}


def configure(parser: ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.epilog = (
        "A memory is named by its type and id, such as episodic:0192…: list shows them. A file to load has a memory a "
        "line: a JSON object with its type and fields. Ctrl-C stops it behind a hundred; with a memory_id each, it can "
        "be loaded again. Exit code 1 where a memory is missing."
    )
    parser.add_argument(
        "what",
        choices=("list", "show", "delete", "load", "embed"),
        help="list them; show or delete some; load files; or embed anew what another embedder did",
    )
    parser.add_argument(
        "names", nargs="*", metavar="MEMORY", help="for show and delete: type:id; for load: a JSONL file"
    )
    parser.add_argument("--type", action="append", default=[], choices=TYPES, help="only this type; may be repeated")
    parser.add_argument("--limit", type=at_least_one, default=50, metavar="N", help="most of each type (50)")
    add_filters(parser)


def run(call: Namespace, output: Output) -> int:
    """Do one of these."""
    if bool(call.names) == (call.what in ("list", "embed")):
        raise InvalidArgument("name the memories to show or delete, or the files to load; list takes options alone")
    settings = Settings.build(**options_of(call))
    if call.what == "load":
        return load(call.names, settings, output)
    if call.what == "embed":
        return embed(settings, output)
    wanted = [named(each) for each in call.names]
    with looking(settings, output) as (agents, _):
        if call.what == "list":
            return _list(agents, call, output)
        found = [ran(agents.find(kind, memory_id)) for kind, memory_id in wanted]
        if call.what == "delete":
            for memory, (kind, memory_id) in zip(found, wanted, strict=True):
                if memory is not None:
                    ran(agents.delete(kind, memory_id))
        return _told(call, found, output)


def _list(agents: Agents, call: Namespace, output: Output) -> int:
    pages = {
        kind: ran(_LISTS[kind](agents, limit=min(call.limit, 1000), **filters(call))) for kind in kinds_of(call.type)
    }
    output.facts({kind: [spelled(each) for each in page] for kind, page in pages.items()})
    table = grid("memory", "made", "agent", "used", "what")
    for page in pages.values():
        for each in page:
            made = moment(each.created_at.timestamp())
            table.add_row(name_of(each), made, each.agent_id, str(each.access_count), gist(each))
    output.say(table if any(pages.values()) else "no memories")
    for kind, page in pages.items():
        if page.after:
            output.note(f"the newest {len(page):,} of type {kind} are shown: --limit shows more")
    return 0


def _told(call: Namespace, found: list[Any], output: Output) -> int:
    missing = [name for name, memory in zip(call.names, found, strict=True) if memory is None]
    there = [memory for memory in found if memory is not None]
    verb = "deleted" if call.what == "delete" else "memories"
    output.facts(
        {verb: [spelled(each) if call.what == "show" else name_of(each) for each in there], "missing": missing}
    )
    for each in there:
        if call.what == "delete":
            output.say(f"{name_of(each)} deleted")
        else:
            output.say(json.dumps(spelled(each), indent=2, ensure_ascii=False))
    for name in missing:
        output.note(f"{name}: there is no such memory")
    return 1 if missing else 0
