"""What a patch does to a document: pure, the same in every store and on every retry.

An edit is applied to whatever the document is by then, so each verb says what it needs rather than what
it saw, and is rejected, for a reason that never contains a value, where that is gone.
"""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from remanence.errors import InvalidArgument, InvalidValue
from remanence.model import Edit
from remanence.wire.checks import DEPTH, MOST_BYTES, spell
from remanence.wire.codec import encode

OUT_OF_RANGE: Final = "index out of range"
NO_MEMBER: Final = "no such member"
NOT_A_LIST: Final = "not a list"
NOT_A_DICT: Final = "not a dict"
NOT_A_CONTAINER: Final = "not a list or dict"
NOT_A_NUMBER: Final = "not a number"
NOT_IN_LIST: Final = "value not in list"
NO_ORDER: Final = "items cannot be ordered"
SIZES_DIFFER: Final = "slice sizes differ"
STEP_ZERO: Final = "slice step is zero"
NUMBER_RANGE: Final = "number out of range"
TOO_LARGE: Final = "too large"
PATH_GONE: Final = "path is gone"
BAD_ARGUMENTS: Final = "bad arguments"
UNKNOWN_VERB: Final = "unknown verb"
NO_RECORD: Final = "there is no such record"
NOT_LATER: Final = "it lasts as long already"

_MOST_ITEMS: Final = 1 << 24  # no list this long fits a value's limit; stops `*=` before it takes the memory
_MOST_INT: Final = 10**4300  # what a reader's Python can turn back from text

Verb = Callable[..., Any]


class EditRejected(Exception):
    """An edit no longer fits its document. `reason` is a short text, one of this module's constants."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# --- applying -----------------------------------------------------------------------------------


def apply_edits(document: Any, edits: Sequence[Edit]) -> tuple[Any, Any]:
    """(the document after all `edits` in order, the result of the first).

    `document` must be the caller's alone, such as a freshly decoded one: it is changed in place, and
    left half-way when `EditRejected` says that an edit does not fit. The result shares nothing with it.
    """
    box = [document]  # so that the whole document is a place like any other
    results = [_apply(box, edit) for edit in edits]
    return box[0], results[0] if results else None


def _apply(box: list[Any], change: Edit) -> Any:
    verb = VERBS.get(change.verb)
    if verb is None:
        raise EditRejected(UNKNOWN_VERB)
    path: tuple[str | int, ...] = (0, *change.path)
    holder = _follow(box, path[:-1])
    try:
        args: list[Any] = msgspec.json.decode(change.args, type=list[Any])
        return verb(holder, path[-1], *args)
    except (TypeError, msgspec.DecodeError):
        raise EditRejected(BAD_ARGUMENTS) from None
    except (IndexError, OverflowError):
        raise EditRejected(OUT_OF_RANGE) from None


def _follow(value: Any, way: Sequence[str | int]) -> Any:
    for step in way:
        value = _member(value, step)
    return value


def _member(holder: Any, step: str | int) -> Any:
    if isinstance(holder, dict) and isinstance(step, str) and step in holder:
        return holder[step]
    if _has_place(holder, step):
        return holder[step]
    raise EditRejected(PATH_GONE)


def _has_place(holder: Any, step: str | int) -> bool:
    return isinstance(holder, list) and isinstance(step, int) and 0 <= step < len(holder)


def edit(
    path: Sequence[str | int],
    verb: str,
    *args: Any,
    name: str = "value",
    hidden: int = 0,
    limit: int = MOST_BYTES,
    depth: int = DEPTH,
) -> Edit:
    """The edit that applies `verb` with `args`, which are encoded here, at `path` of a document.

    Errors name the place as `name["a"][3]`, without the first `hidden` steps: `InvalidValue` for an argument
    that JSON cannot hold or a key that is not text, `ValueTooLarge` past `limit` bytes or `depth`.
    `InvalidArgument`: unknown verb.
    """
    if verb not in VERBS:
        raise InvalidArgument(f"unknown verb {verb!r}: one of {', '.join(VERBS)}")
    place = tuple(path)
    seen = place[hidden:]
    if verb in _KEYED and args and not isinstance(args[0], str):
        kind = type(args[0]).__name__
        raise InvalidValue(f"{spell(name, seen)} has a key of type {kind}; keys of a JSON object are text")
    inner = (*seen, args[0]) if args and (verb in _KEYED or verb == "setitem") else seen
    shown = [spell(name, inner)] * len(args)
    texts = [encode(arg, limit=limit, depth=depth, path=at) for arg, at in zip(args, shown, strict=True)]
    return Edit(place, verb, b"[" + b",".join(texts) + b"]")


# --- places: a member of a dict, an item of a list, the document --------------------------------


def _set(holder: Any, step: str | int, value: Any) -> None:
    if not (isinstance(holder, dict) and isinstance(step, str)) and not _has_place(holder, step):
        raise EditRejected(PATH_GONE)
    holder[step] = value


def _add(holder: Any, step: str | int, amount: Any) -> Any:
    missing = isinstance(holder, dict) and isinstance(step, str) and step not in holder
    number = 0 if missing else _member(holder, step)
    if not (_is_number(number) and _is_number(amount)):
        raise EditRejected(NOT_A_NUMBER)
    try:
        total = number + amount
    except OverflowError:  # an int too large to become a float
        raise EditRejected(NUMBER_RANGE) from None
    if not math.isfinite(total) if isinstance(total, float) else not -_MOST_INT < total < _MOST_INT:
        raise EditRejected(NUMBER_RANGE)
    holder[step] = total
    return total


def _prolong(holder: Any, step: str | int, moment: Any) -> None:
    """Set a time (ISO 8601) where an earlier one is. Nothing there, or None, is for ever."""
    now = holder.get(step) if isinstance(holder, dict) else None
    try:
        sooner = now is not None and datetime.fromisoformat(now) < datetime.fromisoformat(moment)
    except ValueError:
        raise EditRejected(BAD_ARGUMENTS) from None
    if not sooner:
        raise EditRejected(NOT_LATER)
    holder[step] = moment


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# --- lists --------------------------------------------------------------------------------------


def _on_list(body: Callable[..., Any]) -> Verb:
    def verb(holder: Any, step: str | int, *args: Any) -> Any:
        target = _member(holder, step)
        if not isinstance(target, list):
            raise EditRejected(NOT_A_LIST)
        return body(target, *args)

    return verb


def _listed(values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise EditRejected(BAD_ARGUMENTS)  # text would be taken apart into characters
    return values


def _extend(target: list[Any], values: Any) -> None:
    target.extend(_listed(values))


def _remove(target: list[Any], value: Any) -> None:
    try:
        target.remove(value)
    except ValueError:
        raise EditRejected(NOT_IN_LIST) from None


def _sort(target: list[Any], reverse: Any = False) -> None:
    try:
        target[:] = sorted(target, reverse=bool(reverse))
    except (TypeError, RecursionError):
        raise EditRejected(NO_ORDER) from None


def _canonical(value: Any) -> bytes:
    return msgspec.json.encode(value, order="deterministic")  # tells 1 from 1.0 from True, as == does not


def _reorder(target: list[Any], order: Any) -> None:
    """Items named in `order` stand as there, each as often as it still exists; the others follow."""
    left: defaultdict[bytes, deque[int]] = defaultdict(deque)
    for place, item in enumerate(target):
        left[_canonical(item)].append(place)
    wanted = (_canonical(item) for item in _listed(order))
    known = [left[name].popleft() for name in wanted if left[name]]
    taken = set(known)
    rest = [place for place in range(len(target)) if place not in taken]
    target[:] = [target[place] for place in (*known, *rest)]


def _delete_item(target: list[Any], index: Any) -> None:
    _integer(index)
    del target[index]


def _set_item(target: list[Any], index: Any, value: Any) -> None:
    _integer(index)
    target[index] = value


def _integer(index: Any) -> None:
    if not isinstance(index, int):
        raise EditRejected(BAD_ARGUMENTS)


def _set_slice(target: list[Any], start: Any, stop: Any, step: Any, values: Any) -> None:
    items = _listed(values)
    if step == 0:
        raise EditRejected(STEP_ZERO)
    try:
        target[start:stop:step] = items
    except ValueError:
        raise EditRejected(SIZES_DIFFER) from None


def _delete_slice(target: list[Any], start: Any, stop: Any, step: Any) -> None:
    if step == 0:
        raise EditRejected(STEP_ZERO)
    del target[start:stop:step]


def _repeat(target: list[Any], times: Any) -> None:
    _integer(times)
    if len(target) * times > _MOST_ITEMS:
        raise EditRejected(TOO_LARGE)
    original = list(target)
    target[:] = original if times > 0 else []
    for _ in range(times - 1):
        target.extend(_twin(item) for item in original)


def _twin(value: Any) -> Any:
    """A copy that shares nothing: the same object in two places would take two edits at once."""
    return msgspec.json.decode(msgspec.json.encode(value)) if isinstance(value, (dict, list)) else value


# --- dicts --------------------------------------------------------------------------------------


def _on_dict(body: Callable[..., Any]) -> Verb:
    def verb(holder: Any, step: str | int, *args: Any) -> Any:
        target = _member(holder, step)
        if not isinstance(target, dict):
            raise EditRejected(NOT_A_DICT)
        return body(target, *args)

    return verb


def _set_member(target: dict[str, Any], key: Any, value: Any) -> None:
    target[_text(key)] = value


def _text(key: Any) -> str:
    if not isinstance(key, str):
        raise EditRejected(BAD_ARGUMENTS)
    return key


def _delete_member(target: dict[str, Any], key: Any) -> None:
    _pop_member(target, key)


def _pop_member(target: dict[str, Any], key: Any, *default: Any) -> Any:
    if _text(key) not in target and not default:
        raise EditRejected(NO_MEMBER)
    return target.pop(key, *default)


def _pop_last(target: dict[str, Any]) -> list[Any]:
    if not target:
        raise EditRejected(NO_MEMBER)
    return list(target.popitem())


def _set_default(target: dict[str, Any], key: Any, value: Any = None) -> Any:
    return _twin(target.setdefault(_text(key), value))


def _update(target: dict[str, Any], members: Any) -> None:
    if not isinstance(members, dict):
        raise EditRejected(BAD_ARGUMENTS)
    target.update(members)


def _clear(holder: Any, step: str | int) -> None:
    target = _member(holder, step)
    if not isinstance(target, (dict, list)):
        raise EditRejected(NOT_A_CONTAINER)
    target.clear()


_KEYED: Final = frozenset({"setmember", "delmember", "pop_member", "setdefault"})

VERBS: Final[Mapping[str, Verb]] = {
    "set": _set,
    "add": _add,
    "prolong": _prolong,
    "clear": _clear,
    "append": _on_list(list.append),
    "extend": _on_list(_extend),
    "insert": _on_list(list.insert),
    "pop": _on_list(list.pop),
    "remove": _on_list(_remove),
    "reverse": _on_list(list.reverse),
    "sort": _on_list(_sort),
    "reorder": _on_list(_reorder),
    "setitem": _on_list(_set_item),
    "setslice": _on_list(_set_slice),
    "delitem": _on_list(_delete_item),
    "delslice": _on_list(_delete_slice),
    "repeat": _on_list(_repeat),
    "setmember": _on_dict(_set_member),
    "delmember": _on_dict(_delete_member),
    "pop_member": _on_dict(_pop_member),
    "popitem": _on_dict(_pop_last),
    "setdefault": _on_dict(_set_default),
    "update": _on_dict(_update),
}
"""What an `Edit.verb` may be. Each is called with the holder of its place, the place, and its arguments."""
