"""`remanence tail`: the changes of a namespace as they happen, one line each; never what is stored."""

import json
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from typing import Any, Final

from rich.text import Text

from remanence.commands.journal import at_least_one
from remanence.commands.output import Output, opened, options_of
from remanence.errors import InvalidArgument, WorldError
from remanence.feed.trail import Trail, is_change, place
from remanence.feed.watch import parsed
from remanence.model import BEGINNING, Change, Changes, Cursor
from remanence.protocols import Gateway, Store
from remanence.runtime.blocking import run as driven
from remanence.settings import Settings
from remanence.stores.partitioned import parts_of

OWN: Final = "remanence:{"
"""What the keys of Remanence's own records begin with."""
COUNT: Final = 500
"""Entries in one reading."""
WAIT: Final = 0.5
"""Seconds that one reading waits for the first entry: how long Ctrl-C may take."""
SLACK: Final = 1.0
"""Seconds behind that until the link counts as dead."""
POLL: Final = 0.02
"""Seconds between two looks where nobody can wait."""
BACKOFF: Final = 0.25
"""Seconds between two attempts at a server that is away."""


def configure(parser: ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("--prefix", default="", metavar="TEXT", help="only keys that begin with this")
    parser.add_argument("--since", metavar="CURSOR", help="begin behind this, not now; / is all that the log has")
    parser.add_argument("--limit", type=at_least_one, metavar="N", help="end after so many changes")
    add_seconds(parser)
    parser.add_argument("--all", action="store_true", help="also refused writes, and what commands keep for themselves")
    parser.epilog = "Ctrl-C ends it with exit code 0, and the cursor to go on with is told on stderr."


def add_seconds(parser: ArgumentParser) -> None:
    """The option that ends what else goes on for ever."""
    parser.add_argument("--for", dest="seconds", type=_seconds, metavar="SECONDS", help="end after so long")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 10 * 365 * 86400:
        raise ArgumentTypeError("must be a number of seconds above zero")
    return seconds


def run(call: Namespace, output: Output) -> int:
    """Follow the change log until Ctrl-C, the limit or the time."""
    settings = Settings.build(**options_of(call))
    if settings.backend == "memory":
        raise InvalidArgument("the memory backend is each process's own: name a server, or the folder of a file")
    limit = time.monotonic() + call.seconds if call.seconds is not None else None
    with opened(settings) as engine:
        tail = Tail(stores_of(engine.gateway), call, output, numbers=1 if settings.backend == "sqlite" else 2)
        try:
            tail.follow(limit)
        except KeyboardInterrupt:
            pass
        finally:
            tail.end()
    return 0


def stores_of(gateway: Gateway) -> list[Store]:
    """The store of each partition, in order: each has a change log of its own."""
    return [part.store for part in parts_of(gateway)] or [gateway.store]


class Tail:
    """Follows the change logs of all partitions and tells of each entry."""

    def __init__(self, stores: Sequence[Store], call: Namespace, output: Output, numbers: int) -> None:
        """`numbers`: how many a position in such a log is made of.

        Raises `InvalidArgument` for a `--since` that is no cursor of such logs, or of so many partitions.
        """
        self._stores = stores
        self._cursors: list[Cursor | None] = [None] * len(stores)
        if call.since is not None:
            since = parsed(call.since, len(stores))
            if any(each != BEGINNING and len(place(each)) != numbers for each in since):
                raise InvalidArgument("since is the cursor of another kind of place: of a server, or of a file")
            self._cursors = list(since)
        self._trails = [Trail() for _ in stores]
        self._prefix = call.prefix
        self._all = call.all
        self._left = call.limit
        self._output = output
        self._known = False  # whether the end of every log was met: what comes now happens now
        self._away = ""

    @property
    def cursor(self) -> str:
        """Where to go on, for `--since` or a watch; "" where the server was never heard."""
        known = [cursor for cursor in self._cursors if cursor is not None]
        if len(known) < len(self._cursors):
            return ""
        return ";".join(f"{cursor.position}/{cursor.op_id}" for cursor in known)

    def follow(self, limit: float | None) -> None:
        """Tell of changes until `limit` on the monotonic clock, or as many as were wanted."""
        while self._left != 0 and (limit is None or time.monotonic() < limit):
            try:
                heard = [self._step(number, limit) for number in range(len(self._stores))]
            except WorldError as error:
                if not error.retryable:
                    raise
                self._gone(str(error))
                _pause(BACKOFF, limit)
                continue
            self._known = self._known or not any(heard)
            if not any(heard):
                _pause(POLL, limit)

    def end(self) -> None:
        """Say where to go on."""
        self._output.facts({"event": "end", "cursor": self.cursor}, one_line=True)
        if self.cursor and not self._output.json:  # in one line, to be taken over as it is
            self._output.aside.print(Text(f"go on with --since '{self.cursor}'"), soft_wrap=True)

    # --- reading

    def _step(self, number: int, limit: float | None) -> bool:
        """Read one page of a log; whether there was something in it."""
        after, store = self._cursors[number], self._stores[number]
        if after is None:
            self._cursors[number] = driven(store.latest(time.monotonic() + SLACK))
            self._back()
            return False
        wait = WAIT if len(self._stores) == 1 else 0.0
        if limit is not None:
            wait = max(0.001, min(wait, limit - time.monotonic())) if wait else 0.0
        page = self._page(number, after, wait)
        self._back()
        if not page.whole:
            self._rewritten(number)
            return True
        self._trails[number].news(page.entries)
        for entry in page.entries:
            self._cursors[number] = entry.cursor
            self._tell(entry, number)
            if self._left == 0:
                break
        else:
            self._cursors[number] = page.cursor
        sys.stdout.flush()
        return bool(page.entries)

    def _page(self, number: int, after: Cursor, wait: float = 0.0) -> Changes:
        return driven(self._stores[number].changes(after, COUNT, wait, time.monotonic() + wait + SLACK))

    def _rewritten(self, number: int) -> None:
        """The log does not have our entry: go on from the last that it has, else from the first that is left."""
        trail = self._trails[number]
        kept = len(trail)
        while kept and not self._page(number, trail[kept - 1].cursor).whole:
            kept -= 1
        self._cursors[number] = trail[kept - 1].cursor if kept else BEGINNING
        trail.cut(kept)
        told = "the change log was cut off or rewritten: what changed meanwhile may be missing here"
        self._output.facts({"event": "resync", "partition": number, "cursor": self.cursor}, one_line=True)
        self._output.say(Text(f"-- {told}", "yellow"))

    # --- telling

    def _tell(self, entry: Change, number: int) -> None:
        if not entry.key.startswith(self._prefix) or not (self._all or _matters(entry)):
            return
        if self._left is not None:
            self._left -= 1
        told = self._told(entry, number)
        if self._output.json:
            sys.stdout.write(json.dumps(told) + "\n")
            return
        when = "-" if told["time"] is None else _clock(told["time"])
        words = (when, entry.kind, shown(entry.key), entry.result, entry.op_id, entry.lineage or "-", told["cursor"])
        sys.stdout.write("  ".join(words) + "\n")  # not through rich, which takes longer than the reading

    def _told(self, entry: Change, number: int) -> dict[str, Any]:
        return {
            "event": "change",
            "time": self._time(entry),
            "kind": entry.kind,
            "key": entry.key,
            "result": entry.result,
            "op_id": entry.op_id,
            "lineage": entry.lineage,
            "seq": entry.seq,
            "partition": number,
            "cursor": self.cursor,
        }

    def _time(self, entry: Change) -> float | None:
        """Seconds since the epoch: when a server applied it; of a file, whose log has no times, when it was heard."""
        milliseconds, dash, _ = entry.position.partition("-")
        if dash:
            return int(milliseconds) / 1000
        return round(time.time(), 3) if self._known else None

    def _gone(self, reason: str) -> None:
        if not self._away:
            self._output.facts({"event": "away", "reason": reason}, one_line=True)
            self._output.note(f"away: {reason}; waiting for it")
        self._away = reason

    def _back(self) -> None:
        if self._away:
            self._output.facts({"event": "back"}, one_line=True)
            self._output.note("back")
        self._away = ""


def _matters(entry: Change) -> bool:
    """Whether an entry tells of a memory that changed: not of what was refused, nor of what is kept for ourselves."""
    return is_change(entry) and not entry.key.startswith(OWN)


def shown(key: str) -> str:
    """A key for a terminal and a line of words: quoted and escaped where it is not plain text."""
    return key if key.isprintable() and " " not in key else json.dumps(key)


def _clock(moment: float) -> str:
    return f"{time.strftime('%H:%M:%S', time.localtime(moment))}.{int(moment * 1000) % 1000:03d}"


def _pause(seconds: float, limit: float | None) -> None:
    time.sleep(max(0.0, seconds if limit is None else min(seconds, limit - time.monotonic())))
