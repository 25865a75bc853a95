"""`remanence journal`: what waits, what can never be applied, and what to do about it."""

import os
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Final

import msgspec
from rich.table import Table
from rich.text import Text

from remanence.commands import letters
from remanence.commands.journals import JournalFile, folder_of, outcomes, pending_writes, set_aside, survey
from remanence.commands.letters import LetterBox, alone, is_unsure, take_out_of
from remanence.commands.output import PROBLEM, Output, lasting, options_of, sized, visible
from remanence.commands.transfer import end
from remanence.engine import BlockingEngine
from remanence.errors import InvalidArgument
from remanence.model import Receipt
from remanence.runtime.blocking import run as driven
from remanence.settings import Settings
from remanence.stores.deadletters import certain, hand_in
from remanence.stores.outcomes import DEAD_LETTERS, UNSURE
from remanence.stores.rows import Outcome

LIMIT: Final = 100
ACTIONS: Final = {
    "list": "each journal of this deployment (default)",
    "pending": "writes the server does not have yet, oldest first",
    "dead": "dead letters: writes that can never be applied as they are",
    "retry": "hand dead letters in again as new writes: OP_ID…, or --all",
    "discard": "remove dead letters for good: OP_ID…, or --all",
    "export": "write the dead letters, with what is in them, to FILE (JSON lines)",
}


def configure(parser: ArgumentParser) -> None:
    """The verb's own arguments."""
    told = "; ".join(f"{name}: {meaning}" for name, meaning in ACTIONS.items())
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list", metavar="ACTION", help=told)
    parser.add_argument("what", nargs="*", metavar="OP_ID|FILE", help="of retry and discard; of export")
    parser.add_argument("--all", action="store_true", help="retry or discard every dead letter")
    parser.add_argument("--yes", action="store_true", help="discard without asking")
    parser.add_argument("--limit", type=at_least_one, default=LIMIT, metavar="N", help="most lines shown (100)")
    parser.epilog = (
        "Journals that living processes use are read and edited beside them. Exit code 1 when a journal cannot be "
        "read, or dead letters that were to be retried or discarded are still there."
    )


def at_least_one(text: str) -> int:
    """A whole number above zero, for argparse."""
    if not text.isdecimal() or not 0 < int(text) < 1 << 31:
        raise ArgumentTypeError("must be a whole number above zero")
    return int(text)


def run(call: Namespace, output: Output) -> int:
    """Do what the action says."""
    settings = Settings.build(**options_of(call))
    _check(call)
    folder = folder_of(settings)
    if folder is None:
        output.note("there are no journals: memories live here, or nothing is kept on disk")
    files = survey(folder)
    match call.action:
        case "pending":
            _tell_pending(files, call.limit, output)
        case "dead":
            _tell_dead(files, call.limit, output)
        case "retry" | "discard":
            with alone(settings), LetterBox(files) as box:
                return _retry(settings, box, call, output) if call.action == "retry" else _discard(box, call, output)
        case "export":
            _export(files, call.what[0], output)
        case _:
            _tell_journals(files, set_aside(folder), output)
    return tell_unreadable(files, output)


def _check(call: Namespace) -> None:
    """Raises `InvalidArgument` for words that the action has no use for, or lacks."""
    chosen = call.action in ("retry", "discard")
    if chosen and bool(call.what) == call.all:
        raise InvalidArgument(f"say which: `remanence journal {call.action} OP_ID`, or --all")
    if call.action == "export" and len(call.what) != 1:
        raise InvalidArgument("say where to: `remanence journal export FILE`")
    if not chosen and (call.all or (call.what and call.action != "export")):
        raise InvalidArgument(f"`remanence journal {call.action}` takes no operation id and no --all")


# --- looking ------------------------------------------------------------------------------------


def _tell_journals(files: Sequence[JournalFile], damaged: Sequence[str], output: Output) -> None:
    output.facts({"journals": [msgspec.to_builtins(each) for each in files], "set_aside": list(damaged)})
    if not files and not damaged:
        output.say("no journals")
        return
    table = grid("journal", "", "pending", "oldest", "retained", "dead", "refused", numbers=range(2, 7))
    for each in files:
        state = "in use" if each.in_use else "left behind"
        counts = (each.pending, lasting(each.lag) if each.lag else "-", each.retained, each.dead, each.refused)
        shown = ["?"] if each.problem else [f"{n:,}" if isinstance(n, int) else n for n in counts]
        table.add_row(Path(each.path).name, state, *shown)
    output.say(table)
    for path in damaged:
        output.say(Text(f"set aside: {path}", "yellow"))


def _tell_pending(files: Sequence[JournalFile], limit: int, output: Output) -> None:
    found, total = pending_writes(files, limit), sum(file.pending for file in files)
    output.facts({"total": total, "pending": [msgspec.to_builtins(each) for each in found]})
    if not found:
        output.say("nothing is pending")
        return
    table = grid("operation id", "write", "key", "age", "size", numbers=(3, 4))
    for each in found:
        table.add_row(each.op_id, each.kind, each.key, lasting(each.age), sized(each.bytes))
    output.say(table)
    _tell_rest(len(found), total, output)


def _tell_dead(files: Sequence[JournalFile], limit: int, output: Output) -> None:
    found, total = outcomes(files, DEAD_LETTERS, limit), sum(file.dead for file in files)
    output.facts({"total": total, "dead": [msgspec.to_builtins(each) for each in found]})
    if not found:
        output.say("no dead letters")
        return
    output.say(drawn(found))
    _tell_rest(len(found), total, output)


def drawn(found: Sequence[Outcome]) -> Table:
    """Writes without effect as a table."""
    table = grid("operation id", "write", "key", "when", "reason")
    for each in found:
        table.add_row(each.op_id, each.write, each.key, moment(each.wall), each.reason)
    return table


def moment(wall: float) -> str:
    """A wall time for people, short enough for a column."""
    return time.strftime("%m-%d %H:%M:%S", time.localtime(wall))


def tell_unreadable(files: Sequence[JournalFile], output: Output) -> int:
    """Name the journals that could not be looked into; the exit code for that."""
    problems = [file for file in files if file.problem]
    for file in problems:
        output.note(f"{Path(file.path).name}: {file.problem}")
    return PROBLEM if problems else 0


def _tell_rest(shown: int, total: int, output: Output) -> None:
    if shown < total:
        output.note(f"{shown:,} of {total:,} shown: --limit shows more")


class _Grid(Table):
    """A table whose texts may have been stored by anybody."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*(Text(visible(each)) if isinstance(each, str) else each for each in cells), **options)


def grid(*titles: str, numbers: Sequence[int] = ()) -> Table:
    """A table without lines; the columns of `numbers` stand to the right."""
    table = _Grid.grid(padding=(0, 2, 0, 0))
    for i in range(len(titles)):
        table.add_column(justify="right" if i in numbers else "left", overflow="fold", no_wrap=i == 0)
    table.add_row(*(Text(title, "dim") for title in titles))
    return table


# --- dead letters -------------------------------------------------------------------------------


def _retry(settings: Settings, box: LetterBox, call: Namespace, output: Output) -> int:
    """Each in turn, so that whatever ends the command leaves no letter half taken out without a word."""
    wanted = [each for each in box.letters if not is_unsure(each)] if call.all else box.chosen(call.what)
    unsure = [each for each in box.letters if is_unsure(each)] if call.all else []
    told: list[dict[str, Any]] = []
    try:
        if wanted:
            with _agent(settings) as engine:
                for letter in wanted:
                    told.append(_retried(settings, engine, box, letter, output))
                    output.say(_line(told[-1]))
    finally:
        output.facts({"retried": told, "unsure": [each.op_id for each in unsure]})
        if unsure:
            output.note(
                f"{len(unsure):,} left: an earlier retry of them was cut short, and they may have been applied. "
                "Look first, then retry each by its operation id, or discard it."
            )
    if not wanted and not unsure:
        output.say("no dead letters")
    return PROBLEM if unsure or any(each["state"] == "dead" for each in told) else 0


@contextmanager
def _agent(settings: Settings) -> Iterator[BlockingEngine]:
    """An ordinary way to the store, with a journal on disk whatever the settings would put up with."""
    engine = BlockingEngine(replace(settings, allow_volatile=False, adopt=False))
    try:
        _ = engine.gateway  # a folder that cannot be used is noticed before a letter is touched
        yield engine
    finally:
        engine.close()


def _retried(
    settings: Settings, engine: BlockingEngine, box: LetterBox, letter: Outcome, output: Output
) -> dict[str, Any]:
    """What became of it. While it is on its way its reason says so: killed here, nobody knows whether it arrived."""
    told = {"op_id": letter.op_id, "key": letter.key}
    write = box.write_of(letter.op_id)
    if write is None:
        return {**told, "state": "dead", "new_op_id": "", "reason": "its write cannot be read"}
    reason = letter.reason.removeprefix(UNSURE)
    box.set_reason(letter.op_id, UNSURE + reason)
    try:
        receipt = driven(hand_in(engine.gateway, write))
    except BaseException as error:
        if certain(error):
            box.set_reason(letter.op_id, letter.reason)
        else:
            output.note(f"{letter.op_id}: ended before its answer came; it may be applied, and is kept")
        raise
    if receipt.state == "rejected":
        _forget_echo(settings, receipt)
        box.set_reason(letter.op_id, reason)
        return {**told, "state": "dead", "new_op_id": receipt.op_id, "reason": receipt.reason}
    box.take_out(letter.op_id)
    return {**told, "state": receipt.state, "new_op_id": receipt.op_id, "reason": ""}


def _forget_echo(settings: Settings, receipt: Receipt) -> None:
    """Refused for good once more, it is a dead letter of the new id as well: one of the two is enough."""
    take_out_of(survey(folder_of(settings)), receipt.op_id)


def _line(told: dict[str, Any]) -> Text:
    words = {
        "applied": ("applied", "green"),
        "journalled": ("journalled: it goes out when the server answers", "yellow"),
        "dead": (f"still a dead letter: {told['reason']}", "red"),
    }
    return Text(f"{told['op_id']}  {told['key']}  ").append(*words[told["state"]])


def _discard(box: LetterBox, call: Namespace, output: Output) -> int:
    wanted = box.letters if call.all else box.chosen(call.what)
    if wanted and not call.yes and not _agreed(len(wanted), output):
        output.note("nothing was discarded")
        return PROBLEM
    for letter in wanted:
        box.take_out(letter.op_id)
    output.facts({"discarded": [letter.op_id for letter in wanted]})
    output.say(f"{len(wanted):,} dead letter(s) discarded")
    return 0


def _agreed(count: int, output: Output) -> bool:
    if not sys.stdin.isatty():
        raise InvalidArgument("nobody is there to be asked: say --yes to discard them for good")
    output.aside.print(Text(f"Discard {count:,} dead letter(s) for good? What is in them is lost. [y/N] "), end="")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _export(files: Sequence[JournalFile], name: str, output: Output) -> None:
    with _target(name) as file, LetterBox(files) as box:
        file.write(letters.head())
        for letter in box.letters:
            op_id = letter.op_id
            file.write(letters.line_of(letter, box.journal_of(op_id), box.write_of(op_id), box.raw(op_id)))
        file.write(end(len(box.letters)))
    output.facts({"file": name, "records": len(box.letters)})
    output.say(f"{len(box.letters):,} dead letter(s) exported to {name}")


@contextmanager
def _target(name: str) -> Iterator[IO[bytes]]:
    """A new file for this user alone: it holds what memories hold."""
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InvalidArgument(f"{name} exists: choose another name") from None
    except OSError as error:
        raise InvalidArgument(f"{name} cannot be written: {(error.strerror or 'no reason given').lower()}") from None
    with os.fdopen(descriptor, "wb") as file:
        yield file
