"""`remanence memories`: what agents remember, listed, shown and deleted."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple

from remanence.commands.agents import add_filters, filters, gist, kinds_of, listing, looking, name_of, named, spelled
from remanence.commands.journal import at_least_one, moment
from remanence.commands.memory_files import embed, load
from remanence.commands.output import Output, json_text, options_of
from remanence.errors import CorruptRecord, DataError, InvalidArgument, WrongKind
from remanence.faces.agents.agents import Agents
from remanence.faces.agents.base import Page
from remanence.faces.agents.types import TYPES, MemoryType
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
        "A memory is named by its type and id, such as episodic:0192…, or by its id alone: list shows them. A file to "
        "load has a memory a line: a JSON object with its type and fields. All lines are looked at before the first is "
        "stored. Ctrl-C stops it behind a hundred; with a memory_id each, it can be loaded again. Exit code 1 where a "
        "memory is missing, or cannot be read."
    )
    parser.add_argument(
        "what",
        choices=("list", "show", "delete", "load", "embed"),
        help="list them; show or delete some; load files; or embed anew what another embedder did",
    )
    parser.add_argument(
        "names", nargs="*", default=[], metavar="MEMORY", help="for show and delete: type:id; for load: a JSONL file"
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
        found = [_found(agents, each) for each in wanted]
        if call.what == "delete":
            for each in found:
                if each is not None:
                    ran(agents.delete(each.kind, each.memory_id))
        return _told(call, found, output)


class _Named(NamedTuple):
    """A memory that was named, and is there."""

    kind: MemoryType
    memory_id: str
    memory: Any
    unreadable: DataError | None = None

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.memory_id}"


def _found(agents: Agents, meant: Sequence[tuple[MemoryType, str]]) -> _Named | None:
    """The one memory that is meant; None where there is none. Raises `InvalidArgument` where there are several."""
    found = [each for each in (_sought(agents, kind, memory_id) for kind, memory_id in meant) if each is not None]
    if len(found) > 1:
        raise InvalidArgument(f"there are several memories of this id: {', '.join(each.name for each in found)}")
    return found[0] if found else None


def _sought(agents: Agents, kind: MemoryType, memory_id: str) -> _Named | None:
    try:
        memory = ran(agents.find(kind, memory_id))
    except (CorruptRecord, WrongKind) as error:  # there is something, which can be deleted
        return _Named(kind, memory_id, None, error)
    return None if memory is None else _Named(kind, memory_id, memory)


def _list(agents: Agents, call: Namespace, output: Output) -> int:
    pages = {
        kind: ran(_LISTS[kind](agents, limit=min(call.limit, 1000), **filters(call))) for kind in kinds_of(call.type)
    }
    output.facts({kind: [spelled(each) for each in page] for kind, page in pages.items()})
    rows = [
        (name_of(each), moment(each.created_at.timestamp()), each.agent_id, str(each.access_count), gist(each))
        for page in pages.values()
        for each in page
    ]
    listing(output, ("memory", "made", "agent", "used", "what"), rows)
    if not rows:
        output.say("no memories")
    for kind, page in pages.items():
        if page.after:
            output.note(f"the newest {len(page):,} of type {kind} are shown: --limit shows more")
    return 0


def _told(call: Namespace, found: list[_Named | None], output: Output) -> int:
    missing = [name for name, each in zip(call.names, found, strict=True) if each is None]
    there = [each for each in found if each is not None]
    for name in missing:
        output.note(f"{name}: there is no such memory")
    if call.what == "delete":
        output.facts({"deleted": [each.name for each in there], "missing": missing})
        for each in there:
            output.say(f"{each.name} deleted")
        return 1 if missing else 0
    shown = [spelled(each.memory) for each in there if each.unreadable is None]
    unreadable = [each for each in there if each.unreadable is not None]
    output.facts({"memories": shown, "missing": missing, "unreadable": [each.name for each in unreadable]})
    for memory in shown:
        output.whole(json_text(memory))
    for each in unreadable:
        output.note(f"{each.name}: {each.unreadable}")
    return 1 if missing or unreadable else 0
