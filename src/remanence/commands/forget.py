"""`remanence forget`: erase keys, a conversation or a namespace for good, and say who has let go of it."""

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any, Final

from remanence.commands.output import Output, opened, options_of
from remanence.engine import BlockingEngine
from remanence.errors import InvalidArgument, Unavailable
from remanence.faces.conversation_types import ConversationMemoryType
from remanence.faces.conversations import Conversations
from remanence.faces.messages import Messages
from remanence.faces.state import State
from remanence.model import Erased
from remanence.search.types import EVERYTHING
from remanence.settings import Settings

EVERY: Final = 0.2
"""Seconds between two looks at who has let go."""
SHOWN: Final = 10
"""Keys that are named where somebody is asked."""
MEMORIES: Final = "memory:"
"""What the keys of agents' memories begin with."""
Scope = tuple[str, bool]
"""A key, and whether all that begins like it is meant."""


def configure(parser: ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.epilog = (
        "Exit code 0: erased, and every journal of the deployment has let go of it; 1: erased, but some have not been "
        "opened since (they will let go of it before they send anything); 3: the server is away, and it is done when "
        "it is back."
    )
    parser.add_argument("keys", nargs="*", metavar="KEY", help="a record's or list's key, such as session:user-123")
    parser.add_argument("--prefix", metavar="TEXT", help="all keys that begin with this")
    parser.add_argument(
        "--conversation", metavar="ID", help="its shared values, its memory, and the session's messages"
    )
    parser.add_argument("--agent", metavar="ID", help="all memories that an agent saved, its steps and sessions")
    parser.add_argument("--subject", metavar="TAG", help="all agents' memories with this tag")
    parser.add_argument("--all", action="store_true", help="the whole namespace")
    parser.add_argument("--receipt", metavar="ID", help="erase nothing: say how far an earlier erasure has come")
    parser.add_argument("--wait", type=float, default=10.0, metavar="SECONDS", help="for the others, at most (10)")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(call: Namespace, output: Output) -> int:
    """Erase, wait for those who are there, and print the receipt."""
    settings = Settings.build(**options_of(call))
    scopes = scopes_of(call, settings)
    with opened(settings) as engine:
        if call.agent or call.subject:
            scopes += remembered(call, settings, engine, output)
        if scopes:
            _assure(call, scopes, engine.place, output)
        told = [engine.erased(call.receipt)] if call.receipt else [engine.forget(k, beginning=b) for k, b in scopes]
        if settings.index == "redis" and not call.receipt and all(each.state != "journalled" for each in told):
            unlist(engine, settings, scopes)  # else whoever hears of it does
        told = _waited(engine, told, call.wait)
    output.facts({"receipts": [_spelled(each) for each in told]})
    for each in told:
        output.note(said(each))
    if any(each.state == "journalled" for each in told):
        return 3
    return 1 if any(each.waiting for each in told) else 0


def scopes_of(call: Namespace, settings: Settings) -> list[Scope]:
    """What is to be erased. Raises `InvalidArgument` where nothing, or something contradictory, was said."""
    scopes: list[Scope] = [(key, False) for key in call.keys]
    if call.prefix is not None:
        scopes.append((call.prefix, True))
    if call.conversation is not None:
        scopes += conversation(settings, call.conversation)
    if call.all:
        scopes.append(("", True))
    said = bool(scopes or call.agent or call.subject)
    if said == bool(call.receipt) or any(not key for key, beginning in scopes if not (call.all and beginning)):
        raise InvalidArgument(
            "say what to forget: keys, --prefix, --conversation, --agent, --subject or --all; or --receipt to ask"
        )
    return scopes


def remembered(call: Namespace, settings: Settings, engine: BlockingEngine, output: Output) -> list[Scope]:
    """What an agent saved, and what is tagged with a subject."""
    from remanence.commands.agents import agents_of  # who forgets keys alone needs no index
    from remanence.runtime.blocking import run as ran

    agents = agents_of(engine, settings, output)
    found: dict[str, bool] = {}
    if call.agent:
        found |= ran(agents.keys_to_forget(agent_id=call.agent))
        if all(found.values()):  # beginnings alone
            output.note(f"there is no memory of agent {call.agent}: its steps alone are erased, if it has any")
    if call.subject:
        tagged = ran(agents.keys_to_forget(subject=call.subject))
        if not tagged:
            output.note(f"there is no memory with the tag {call.subject}")
        found |= tagged
    return list(found.items())


def unlist(engine: BlockingEngine, settings: Settings, scopes: Sequence[Scope]) -> None:
    """Have the index on the server hold nothing of what was erased, though no agent may be there to hear of it."""
    from remanence.runtime.blocking import run as ran

    keys = [key for key, beginning in scopes if not beginning and key.startswith(MEMORIES)]
    beginnings = tuple(key for key, beginning in scopes if beginning and MEMORIES.startswith(key[: len(MEMORIES)]))
    if not keys and not beginnings:
        return
    catalogue, after = engine.library(settings).catalogue, ""
    ran(catalogue.sweep())  # what is over is not listed
    while beginnings:
        page, after = ran(catalogue.list(EVERYTHING, 1000, after))
        keys += [key for key in page if key.startswith(beginnings)]
        if not after:
            break
    ran(catalogue.take([], keys))


def conversation(settings: Settings, conversation_id: str) -> list[Scope]:
    """Where the faces keep what belongs to a conversation."""

    def nowhere(*_: object) -> Any:
        raise Unavailable("only names are asked for")

    memory = Conversations(nowhere, settings)
    asked = ({"conversation_id": conversation_id, "memory_type": kind} for kind in ConversationMemoryType)
    return [
        (State(nowhere, settings, conversation_id).key_of("?").removesuffix("?"), True),
        *((memory.key_of(each), False) for each in asked),
        (Messages(nowhere, settings, 0, nowhere).key_of(conversation_id), False),
    ]


def _assure(call: Namespace, scopes: Sequence[Scope], place: str, output: Output) -> None:
    """Have somebody say yes: it cannot be undone."""
    if call.yes:
        return
    named = ", ".join(f"{key}*" if beginning else key for key, beginning in scopes[:SHOWN])
    if len(scopes) > SHOWN:
        named += f" and {len(scopes) - SHOWN:,} more"
    if not sys.stdin.isatty():
        raise InvalidArgument("forgetting cannot be undone: say --yes")
    output.note(f"Erase {named} from {place} and from every process, for good? [y/N] ")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InvalidArgument("nothing was erased")


def _waited(engine: BlockingEngine, told: list[Erased], wait: float) -> list[Erased]:
    """The receipts when all have let go, or after `wait` seconds."""
    limit = time.monotonic() + wait
    while any(each.waiting for each in told) and time.monotonic() < limit:
        time.sleep(EVERY)
        told = [engine.erased(each.id) for each in told]
    return told


def _spelled(told: Erased) -> dict[str, Any]:
    return {"id": told.id, "state": told.state, "confirmed": list(told.confirmed), "waiting": list(told.waiting)}


def said(told: Erased) -> str:
    """A receipt for people."""
    if told.state == "journalled":
        return f"{told.id}: forgotten here; the server is away, and it is erased there when it is back"
    text = f"{told.id}: erased"
    if told.confirmed:
        text += f"; {len(told.confirmed)} journal(s) have let go of it"
    if told.waiting:
        text += f", {len(told.waiting)} have not been opened since: {', '.join(told.waiting)}"
    return text
