"""`remanence replicate`: keep a namespace in another place like this one, along its change log, for ever."""

import sys
import time
from argparse import ArgumentParser, Namespace
from typing import Any, Final

from rich.text import Text

from remanence.commands.output import Output, lasting
from remanence.commands.relay_ends import Place, both_ends, configure_ends
from remanence.commands.relaying import Relay
from remanence.commands.tail import add_seconds
from remanence.errors import WorldError

WAIT: Final = 0.5
"""Seconds that one look at the log waits for something new."""
BACKOFF: Final = 0.5
"""Seconds between two attempts, at most."""
TOLD_EVERY: Final = 1.0
TOLD_TO_A_FILE_EVERY: Final = 10.0
"""Seconds between two lines on how it goes: for programs and terminals; for people who read a file."""


class _TimeIsUp(Exception):
    """The time that `--for` gave is over."""


def configure(parser: ArgumentParser) -> None:
    """The verb's own arguments."""
    configure_ends(parser)
    add_seconds(parser)
    parser.epilog = (
        "The first run copies everything, later ones go on where the last one ended. Ctrl-C ends it with exit code 0. "
        "An end that is away is waited for."
    )


def run(call: Namespace, output: Output) -> int:
    """Replicate until Ctrl-C or the time is up."""
    with both_ends(call) as (source, target):
        work = Replication(source, target, call, output)
        try:
            work.go_on()
        except (KeyboardInterrupt, _TimeIsUp):
            pass
        finally:
            work.tell("end")
    return 0


class Replication:
    """A relay that never ends, and what is told of it."""

    def __init__(self, source: Place, target: Place, call: Namespace, output: Output) -> None:
        self._relay = Relay(source, target, call, self._looked_at, anew=False)
        self._names = f"{source.name} to {target.name}"
        self._output = output
        self._limit = time.monotonic() + call.seconds if call.seconds is not None else None
        self._live = output.aside.is_terminal and not output.json
        self._every = TOLD_EVERY if output.json or self._live else TOLD_TO_A_FILE_EVERY
        self._state = "starting"
        self._failures = 0
        self._keys = 0
        self._caught_up_at: float | None = None
        self._current = False
        self._told_at = time.monotonic()
        self._unfit: set[str] = set()

    def go_on(self) -> None:
        """Turn after turn; a `WorldError` that time can mend is waited out."""
        while True:
            try:
                self._turn()
                self._failures = 0
            except WorldError as error:
                if not error.retryable:
                    raise
                self._away(str(error))

    def _turn(self) -> None:
        self._check_time()
        started = time.monotonic()
        wait = WAIT if len(self._relay.source.stores) == 1 else 0.0
        if self._limit is not None:
            wait = max(0.001, min(wait, self._limit - started)) if wait else 0.0
        self._current = self._relay.turn(wait)
        self._enter("following" if self._relay.cursors is not None else "copying")
        if self._current:
            self._caught_up_at = started
            self._tell_unfit()
        if not wait and self._current:
            time.sleep(0.02)
        self._tell_now_and_then()

    def _looked_at(self, keys: int) -> None:
        """Between two trips, however long a turn takes."""
        if self._relay.cursors is None:
            self._enter("copying")
        self._keys += keys
        self._check_time()
        self._tell_now_and_then()

    def _check_time(self) -> None:
        if self._limit is not None and time.monotonic() >= self._limit:
            raise _TimeIsUp

    def _away(self, reason: str) -> None:
        self._relay.stumbled()
        self._current = False
        self._failures += 1
        if self._failures > 1:  # the first may be a link that was cut
            self._enter("waiting", reason)
        self._check_time()
        self._tell_now_and_then()
        time.sleep(min(BACKOFF, 0.05 * 2 ** min(self._failures, 10)))

    # --- telling

    def _enter(self, state: str, reason: str = "") -> None:
        if state == self._state:
            return
        self._state = state
        told = {"copying": "copying everything first", "following": "following the change log"}
        self._output.facts({"event": state, "reason": reason}, one_line=True)
        self._output.note(f"{self._names}: {told.get(state, f'away, waiting: {reason}')}")

    def _tell_now_and_then(self) -> None:
        if time.monotonic() - self._told_at >= self._every:
            self._told_at = time.monotonic()
            self.tell("status")

    def tell(self, event: str) -> None:
        """How it goes: `lag`, seconds since the target had everything; `behind`, entries of the log."""
        lag = self._lag()
        told: dict[str, Any] = {
            "event": event,
            "state": self._state,
            "lag": None if lag is None else round(lag, 3),
            "behind": self._behind(),
            "keys": self._keys,
            "written": self._relay.written,
            "items": self._relay.items,
            "passes": self._relay.passes,
            "unfit": len(self._relay.unfit),
        }
        self._output.facts(told, one_line=True)
        behind = "?" if told["behind"] is None else f"{told['behind']:,}"
        line = f"{self._state}: {behind} entries and {'?' if lag is None else lasting(lag)} behind, "
        line += f"{told['keys']:,} keys looked at, {told['written']:,} writes"
        if self._live:
            end = "\n" if event == "end" else ""
            sys.stderr.write(f"\r\x1b[K{line}{end}")
            sys.stderr.flush()
        else:
            self._output.note(line)

    def _lag(self) -> float | None:
        if self._current:
            return 0.0
        return None if self._caught_up_at is None else time.monotonic() - self._caught_up_at

    def _behind(self) -> int | None:
        if self._current or self._state != "following":
            return 0 if self._current else None
        try:
            return self._relay.behind()
        except WorldError:  # the next turn tells of it
            return None

    def _tell_unfit(self) -> None:
        """What could not be made equal, once each."""
        for key in self._relay.unfit.keys() - self._unfit:
            why = WHY[self._relay.unfit[key]]
            self._output.facts({"event": "unfit", "key": key, "reason": why}, one_line=True)
            self._output.say(Text(f"{key}: {why}", "yellow"))
        self._unfit = set(self._relay.unfit)


WHY: Final = {
    "kind": "the target has another kind of value there",
    "longer": "the target's list has items that the source's has not",
    "differs": "the target's list is not the beginning of the source's",
}
