"""What every verb shares: where it prints, how it opens memories, and how sizes and ages read."""

import json
import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from rich.console import Console, RenderableType
from rich.text import Text

from remanence.engine import BlockingEngine
from remanence.settings import Settings

PLAIN_WIDTH: Final = 110
"""Columns where there is no terminal to ask."""
PROBLEM: Final = 1
AWAY: Final = 3
_UNSEEN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""What a terminal obeys in place of showing it, what turns the direction of reading, and what is no text."""


def visible(text: str) -> str:
    """Stored text for a terminal: what would not be seen is spelled, as a shell takes it between $' and '."""
    return _UNSEEN.sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def json_text(value: Any, indent: int | None = 2) -> str:
    """JSON that may be printed on a terminal: the same value, with what would not be seen in it escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return "\n".join(_UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], line) for line in text.split("\n"))


class _Screen(Console):
    """A console that lets the caller notice that nobody reads any more."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Output:
    """Answers on stdout, for people or with `--json` for programs; remarks and progress on stderr."""

    def __init__(self, *, as_json: bool, version: str) -> None:
        self.json = as_json
        self.version = version
        self.screen: Console = _console(sys.stdout)
        self.aside: Console = _console(sys.stderr)

    def say(self, *parts: RenderableType) -> None:
        """Print for people; nothing with --json. Text is taken as it is, without markup, and made visible."""
        if not self.json:
            self.screen.print(*(_text(part) if isinstance(part, str) else part for part in parts))

    def whole(self, text: str) -> None:
        """Print text for people line by line, however wide they are: what is broken could not be copied."""
        if not self.json:
            self.screen.print(_text(text), soft_wrap=True)

    def note(self, text: str) -> None:
        """A remark on stderr, for people."""
        if not self.json:
            self.aside.print(_text(text))

    def facts(self, facts: Mapping[str, Any], *, one_line: bool = False) -> None:
        """Print for programs; nothing without --json."""
        if self.json:
            sys.stdout.write(json_text(facts, None if one_line else 2) + "\n")
            sys.stdout.flush()


def _text(text: str) -> Text:
    return Text("\n".join(map(visible, text.split("\n"))))


def _console(stream: Any) -> Console:
    """As wide as the terminal; where there is none, wide enough for a path on a line."""
    plain = None if stream.isatty() else PLAIN_WIDTH
    return _Screen(file=stream, width=plain, highlight=False, markup=False, emoji=False)


def options_of(call: Namespace) -> dict[str, Any]:
    """What the call says about where memories live, for `Settings.build`."""
    names = ("url", "path", "namespace", "backend")
    options = {name: getattr(call, name) for name in names if getattr(call, name) is not None}
    if "url" in options:
        options.setdefault("backend", "redis")  # what is said here wins over MEMORY_BACKEND
    return options


@contextmanager
def opened(settings: Settings) -> Iterator[BlockingEngine]:
    """An engine that takes over no journal: a command looks, and leaves sending to the agents.

    What it writes itself it must write with ack "store", for it has no journal of its own.
    """
    if settings.backend == "redis":
        settings = replace(settings, durability="volatile", adopt=False)
    engine = BlockingEngine(settings)
    try:
        yield engine
    finally:
        engine.close(0)


def sized(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def lasting(seconds: float) -> str:
    """A duration for people."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
