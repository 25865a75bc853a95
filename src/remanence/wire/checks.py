"""What JSON holds exactly: a value is looked at before it is encoded.

Encoders are silent where it is not (NaN becomes null, a key 1 becomes "1").
"""

import json
import math
from collections.abc import Iterable
from typing import Any, Final

from remanence.errors import InvalidValue, UsageError, ValueTooLarge

DEPTH: Final = 64
"""The nesting allowed where no setting says otherwise."""
MOST_BYTES: Final = 256 << 20
"""No value is larger than this, whatever the settings."""

_MOST_DIGITS: Final = 4300  # Python's own limit on int from text: a longer one could never be read back
_HUGE: Final = 10**_MOST_DIGITS


class _Fault(Exception):
    """What is wrong, and the way to it, collected from the inside out."""

    def __init__(self, error: type[UsageError], why: str) -> None:
        super().__init__(why)
        self.error, self.why = error, why
        self.steps: list[str | int] = []
        self.holders: list[int] = []

    def passed(self, step: str | int, holder: Any) -> None:
        self.steps.append(str.__str__(step) if isinstance(step, str) else step)
        self.holders.append(id(holder))

    def told(self, path: str) -> UsageError:
        if self.error is ValueTooLarge and len(set(self.holders)) < len(self.holders):
            return InvalidValue(f"{path} contains itself, which JSON cannot hold: store a copy without it")
        return self.error(f"{spell(path, tuple(reversed(self.steps)))} {self.why}")


class _Walk:
    """One look at a whole value.

    `left` counts down a lower bound of its bytes, so that a small graph which writes out enormous ends
    early; `exotic` says that encoders need a plain copy.
    """

    __slots__ = ("exotic", "left")

    def __init__(self, limit: int) -> None:
        self.exotic = False
        self.left = limit

    def visit(self, value: Any, room: int) -> None:
        pairs: Iterable[tuple[Any, Any]]
        if isinstance(value, dict):
            self.keys(value)
            pairs = dict.items(value)
        elif isinstance(value, list):
            pairs = enumerate(list.__iter__(value))
        elif isinstance(value, tuple):
            self.exotic = self.exotic or type(value) is not tuple
            pairs = enumerate(tuple.__iter__(value))
        else:
            self.scalar(value)
            return
        if room < 1:
            raise _Fault(ValueTooLarge, "is nested too deeply: flatten it, or raise the depth setting")
        self.spend(len(value))
        step: Any = None
        try:
            for step, item in pairs:  # noqa: B007 - named by the handler below
                if type(item) is str and item.isascii():
                    self.left -= len(item)
                elif item is not None and not (type(item) in _QUICK and -_WORD < item < _WORD):
                    self.visit(item, room - 1)
        except _Fault as fault:
            fault.passed(step, value)
            raise

    def keys(self, value: dict[Any, Any]) -> None:
        for key in dict.__iter__(value):
            if not isinstance(key, str):
                kind = type(key).__name__
                raise _Fault(InvalidValue, f"has a key of type {kind}; keys of a JSON object are text")
            if type(key) is not str or not key.isascii():
                self.exotic = self.exotic or type(key) is not str
                _encodable(key, "has a key with a lone surrogate, which is not text")
            self.left -= len(key)

    def scalar(self, value: Any) -> None:
        kind = type(value)
        if kind not in _EXACT:
            self.exotic = True
        if isinstance(value, str):
            if not str.isascii(value):
                _encodable(value, "contains a lone surrogate, which is not text")
            self.spend(str.__len__(value))
        elif isinstance(value, int):
            if not -_HUGE < value < _HUGE:
                raise _Fault(ValueTooLarge, f"is a number of more than {_MOST_DIGITS} digits")
            self.spend(value.bit_length() >> 2)
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise _Fault(InvalidValue, "is NaN or infinite, which JSON cannot hold: store None or text")
        elif value is not None:
            raise _Fault(InvalidValue, f"is of type {kind.__name__}, which JSON cannot hold")

    def spend(self, least: int) -> None:
        self.left -= least
        if self.left < 0:
            raise _Fault(ValueTooLarge, "makes the value larger than the limit: split it")


_EXACT: Final = frozenset({str, int, float, bool, type(None)})
_QUICK: Final = frozenset({int, float, bool})
_WORD: Final = 1 << 60  # NaN is not below it either


def _encodable(text: str, why: str) -> None:
    try:
        str.encode(text)
    except UnicodeEncodeError:
        raise _Fault(InvalidValue, why) from None


def ordinary(value: Any, depth: int, limit: int) -> bool:
    """Whether a quick look shows that a dict or list is fit to be encoded as it is. False says nothing."""
    if type(value) is not dict and type(value) is not list:
        return False
    todo, left = [value], limit
    for each in todo:  # which grows meanwhile: at most `depth` containers are not nested deeper than that
        if len(todo) > depth:
            return False
        left -= len(each)
        items: Any = each
        if type(each) is dict:
            items = each.values()
            for key in each:
                if type(key) is not str:
                    return False
                left -= len(key)
        for item in items:
            kind = type(item)
            if kind is str:
                left -= len(item)
            elif kind is dict or kind is list:
                todo.append(item)
            elif item is not None and not (kind in _QUICK and -_WORD < item < _WORD):
                return False
    return left >= 0


def inspect(value: Any, depth: int, path: str, limit: int) -> bool:
    """Whether encoders need a plain copy of `value`; raises what `check` raises."""
    kind = type(value)
    if kind is bool or value is None or (kind is str and value.isascii()):
        return False
    walk = _Walk(limit)
    try:
        walk.visit(value, depth)
    except _Fault as fault:
        raise fault.told(path) from None
    except RecursionError:
        raise ValueTooLarge(f"{path} is nested deeper than the stack has room for: flatten it") from None
    except RuntimeError:
        raise InvalidValue(f"{path} changed while it was read: store a copy that no thread changes") from None
    return walk.exotic


def spell(path: str, steps: tuple[str | int, ...]) -> str:
    """`path` and the way inside it as Python would spell it: `settings["a"][3]`. Long ways are cut."""
    shown = [f"[{json.dumps(step[:60]) if isinstance(step, str) else step}]" for step in steps[:12]]
    return path + "".join(shown) + ("[…]" if len(steps) > 12 else "")


def check(value: Any, *, depth: int = DEPTH, path: str = "value") -> None:
    """Promise that JSON holds `value` exactly (tuples become lists, str and int subclasses their content).

    Raises `InvalidValue` naming `path` and the place inside it that JSON cannot hold, `ValueTooLarge`
    for more than `depth` containers inside each other or for an int of more than 4300 digits.
    """
    inspect(value, depth, path, MOST_BYTES)


def plain(value: Any) -> Any:
    """A copy of a checked value made of JSON's own types: encoders disagree about subclasses.

    Of an int whose enum gives it another `.value`, for one, msgspec writes the latter.
    """
    if isinstance(value, dict):
        members = {}
        for key, item in dict.items(value):  # no comprehension: it would take a second frame per level
            members[str.__str__(key)] = plain(item)
        return members
    if isinstance(value, (list, tuple)):
        items = []
        for item in list.__iter__(value) if isinstance(value, list) else tuple.__iter__(value):
            items.append(plain(item))
        return items
    if type(value) in _EXACT:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    return int.__int__(value) if isinstance(value, int) else float.__float__(value)
