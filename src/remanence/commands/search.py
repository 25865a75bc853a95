"""`remanence search`: find what agents remember, by words and by meaning."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Coroutine
from typing import Any, Final

from remanence.commands.agents import add_filters, filters, gist, kinds_of, listing, looking, name_of, spelled
from remanence.commands.journal import at_least_one
from remanence.commands.output import Output, options_of
from remanence.faces.agents.agents import Agents
from remanence.faces.agents.types import TYPES, Found
from remanence.runtime.blocking import run as ran
from remanence.search.types import MODES
from remanence.settings import Settings

_VERBS: Final[dict[str, Callable[..., Coroutine[Any, Any, list[Any]]]]] = {
    "episodic": Agents.search_episodes,
    "semantic": Agents.search_semantic,
    "skill": Agents.search_skills,
    "message": Agents.search_messages,
}

_WITHOUT: Final = "without an embedder (REMANENCE_EMBEDDER=none) nothing is found by meaning"
_BEFORE: Final = "what another embedder embedded is found by meaning after: remanence memories embed"


def configure(parser: ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.epilog = "Any text is a query. Exit code 1 where nothing was found."
    parser.add_argument("query", metavar="QUERY", help="what to look for")
    parser.add_argument(
        "--type", action="append", default=[], choices=(*TYPES, "message"), help="only this type; may be repeated"
    )
    parser.add_argument("--limit", type=at_least_one, default=5, metavar="N", help="most of each type (5)")
    parser.add_argument("--mode", choices=MODES, default="fused", help="by words and meaning (fused), or one alone")
    parser.add_argument("--explain", action="store_true", help="what made each score")
    add_filters(parser)


def run(call: Namespace, output: Output) -> int:
    """Search each type, and print the best."""
    settings = Settings.build(**options_of(call))
    with looking(settings, output) as (agents, _):
        found = {kind: _searched(agents, kind, call) for kind in kinds_of(call.type)}
    output.facts({kind: [_spelled(each) for each in some] for kind, some in found.items()})
    everything = [each for some in found.values() for each in some]
    if not everything:
        output.say("nothing was found")
        if call.mode == "semantic":
            output.note(_WITHOUT if settings.embedder == "none" else _BEFORE)
        return 1
    why = ("why",) if call.explain else ()
    rows = [
        (name_of(each.memory), f"{each.score:.2f}", *([_why(each)] if why else []), gist(each.memory))
        for each in everything
    ]
    listing(output, ("memory", "score", *why, "what"), rows)
    return 0


def _searched(agents: Agents, kind: str, call: Namespace) -> list[Found]:
    wanted = filters(call)
    if kind == "message":
        wanted = {name: value for name, value in wanted.items() if name in ("session_id", "since")}
    found: list[Found] = ran(_VERBS[kind](agents, call.query, call.limit, explain=True, mode=call.mode, **wanted))
    return found


def _why(found: Found) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in (found.parts or {}).items() if round(value, 2))


def _spelled(found: Found) -> dict[str, Any]:
    return {"score": found.score, "parts": found.parts, "memory": spelled(found.memory)}
