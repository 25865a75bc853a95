"""`remanence copy`: a namespace to another place while its agents go on writing, verified at the end."""

import time
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from remanence.commands.output import PROBLEM, Output
from remanence.commands.relay_ends import Place, both_ends, configure_ends
from remanence.commands.relay_rules import Held, caught_up, difference
from remanence.commands.relaying import KEYS, MORE_ITEMS, Relay
from remanence.commands.tail import shown
from remanence.errors import WorldError
from remanence.protocols import Tail as Items

T = TypeVar("T")

PATIENCE: Final = 30.0
"""Seconds that an end may be away until the copy gives up; run again, it goes on."""
BACKOFF: Final = 1.0
"""Seconds between two attempts, at most."""
ROUNDS: Final = 8
"""How often what differs is copied and looked at again: agents may be writing it at that very moment."""
QUIET_ROUNDS: Final = 3
"""So many of them without a change at the source, and nothing more is to be expected."""
NAMED: Final = 20
"""Differences told one by one to people."""
WHY: Final = {
    "missing": "not there at the target",
    "only": "only at the target",
    "newer": "written later at the target",
    "kind": "another kind of value at the target",
    "content": "other content at the target",
    "length": "a list with fewer items at the target",
    "longer": "a list with more items at the target",
    "items": "a list with other items at the target",
    "lifetime": "another lifetime at the target",
}
OF_ITS_OWN: Final = ("only", "newer")
"""What `--merge` expects of a target that has memories of its own."""


class Different(NamedTuple):
    """What differed, and what the source held then."""

    why: str
    source: Held


def configure(parser: ArgumentParser) -> None:
    """The verb's own arguments."""
    configure_ends(parser)
    parser.add_argument("--verify", action=BooleanOptionalAction, default=True, help="compare both ends at the end")
    parser.epilog = (
        "Ended by Ctrl-C, or by whatever else, it goes on when it is run again. Exit code 1 when both ends differ at "
        "the end. `remanence replicate` with the same ends goes on from there, without copying anew."
    )


def run(call: Namespace, output: Output) -> int:
    """Copy, follow what changes meanwhile until nothing is left, and compare."""
    with both_ends(call) as (source, target), _progress(output) as progress:
        copy = Copy(source, target, call, output, progress)
        try:
            copy.all()
            different = copy.verified() if call.verify else {}
        except BaseException:  # Ctrl-C too: whoever started it must hear that it can be gone on with; raised again
            output.note("not finished: run it again to go on")
            raise
        return copy.told(different)


def _progress(output: Output) -> Progress:
    """A bar on stderr, where there is a terminal to draw it on."""
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    quiet = output.json or not output.aside.is_terminal
    return Progress(*columns, console=output.aside, disable=quiet, transient=True)


class Copy:
    """A relay that ends, and the comparison behind it."""

    def __init__(self, source: Place, target: Place, call: Namespace, output: Output, progress: Progress) -> None:
        self._source = source
        self._target = target
        self._call = call
        self._output = output
        self._progress = progress
        self._task = progress.add_task("copy", total=None)
        self._relay = Relay(source, target, call, self._advance, anew=True)
        self._verified = 0
        self._of_its_own = 0

    def _advance(self, keys: int) -> None:
        self._progress.advance(self._task, keys)

    # --- copying

    def all(self) -> None:
        """Everything, and what changed meanwhile."""
        self._begin_bar("copy")
        while not self._steadily(self._turn):
            pass

    def _turn(self) -> bool:
        nothing_left = self._relay.turn(0.0)
        return nothing_left and self._relay.passes > 0

    def _begin_bar(self, name: str) -> None:
        total = self._steadily(self._source.expected)
        self._progress.update(self._task, description=name, total=total, completed=0)

    def _steadily(self, work: Callable[[], T]) -> T:
        """Do it again while an end is away, for some time."""
        since: float | None = None
        while True:
            try:
                return work()
            except WorldError as error:
                self._relay.stumbled()
                now = time.monotonic()
                if since is None:
                    since = now
                    self._output.note(f"away, waiting: {error}")
                if not error.retryable or now - since > PATIENCE:
                    raise
                time.sleep(min(BACKOFF, 0.05 + (now - since) / 4))

    # --- comparing

    def verified(self) -> dict[str, Different]:
        """What differs, after copying again what agents were writing meanwhile."""
        self._begin_bar("verify")
        found, quiet = self._steadily(self._compare_all), 0
        for number in range(ROUNDS):
            if not found or quiet >= QUIET_ROUNDS:
                break
            time.sleep(0.1 * number)
            before = self._relay.cursors
            while not self._steadily(self._turn):
                pass
            quiet = quiet + 1 if self._relay.cursors == before else 0
            keys = list(found)
            self._steadily(lambda keys=keys: self._again(keys))  # type: ignore[misc] # mypy infers no default
            earlier = found
            found = self._steadily(lambda keys=keys, earlier=earlier: self._still(keys, earlier))  # type: ignore[misc]
        return found

    def _again(self, keys: Sequence[str]) -> None:
        while not self._turn():  # also where the relay has to begin again
            pass
        self._relay.sync(keys, replace=self._call.replace)

    def _still(self, keys: Sequence[str], earlier: Mapping[str, Different]) -> dict[str, Different]:
        """What differs still, but for what the target has as it was at the source when it was compared before."""
        found: dict[str, Different] = {}
        for key, each, target in self._compare(keys):
            if each.why in ("content", "length") and caught_up(earlier[key].source, target):
                continue
            found[key] = each
        return found

    def _compare_all(self) -> dict[str, Different]:
        """Every key of both ends."""
        found: dict[str, Different] = {}
        self._verified = self._of_its_own = 0
        for keys in self._source.pages():
            self._verified += len(keys)
            found.update((key, each) for key, each, _ in self._compare(keys))
        for keys in self._target.pages():
            gone = [key for key, held in zip(keys, self._source.held(keys), strict=True) if held.kind == "none"]
            found.update((key, each) for key, each, _ in self._compare(gone))
        return found

    def _compare(self, keys: Sequence[str]) -> Iterator[tuple[str, Different, Held]]:
        """What differs of some keys, and what the target holds of them."""
        for at in range(0, len(keys), KEYS):
            some = keys[at : at + KEYS]
            here, there = self._source.held(some), self._target.held(some)
            for key, one, other in zip(some, here, there, strict=True):
                why = difference(one, other)
                lists = one.kind == other.kind == "list"
                if lists and not self._same_items(key, min(one.length, other.length)):
                    why = "items"
                if why in OF_ITS_OWN and self._call.merge:
                    self._of_its_own += 1
                elif why:
                    yield key, Different(why, one), other
            self._advance(len(some))

    def _same_items(self, key: str, length: int) -> bool:
        for start in range(0, length, MORE_ITEMS):
            ask = [Items(key, start, min(start + MORE_ITEMS, length) - 1)]
            if self._source.read(ask) != self._target.read(ask):
                return False
        return True

    # --- telling

    def told(self, different: Mapping[str, Different]) -> int:
        """The result; the exit code."""
        relay, output = self._relay, self._output
        output.facts(
            {
                "source": self._source.name,
                "target": self._target.name,
                "written": relay.written,
                "items": relay.items,
                "passes": relay.passes,
                "left_out": relay.left_out,
                "verified": self._verified if self._call.verify else None,
                "of_its_own": self._of_its_own,
                "differences": [{"key": key, "why": WHY[each.why]} for key, each in different.items()],
            }
        )
        for key, each in list(different.items())[:NAMED]:
            output.say(Text(f"{shown(key)}: {WHY[each.why]}", "yellow"))
        if len(different) > NAMED:
            output.say(f"… and {len(different) - NAMED:,} more")
        output.note(f"{self._source.name} copied to {self._target.name}: {relay.written:,} writes")
        if relay.left_out:
            output.note(f"{relay.left_out:,} keys of types that memories do not use were left out")
        if self._call.verify:
            same = f"{self._verified:,} keys compared: " + (f"{len(different):,} differ" if different else "all equal")
            output.note(same + (f"; {self._of_its_own:,} of the target's own" if self._of_its_own else ""))
        return PROBLEM if different else 0
