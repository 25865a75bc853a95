"""What a reader of this process sees: what the store said, with own later writes folded over it. Pure."""

from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from remanence.model import ABSENT, Append, Delete, Forget, Kept, Patch, Put, Record, Touch, Write
from remanence.protocols import Ask, Fetch, Length, Lifetime, Tail, Told, Versions
from remanence.stores.edits import EditRejected
from remanence.stores.known import Entry, Knowledge, ListTail, of_record
from remanence.stores.resolve import patched, remaining
from remanence.stores.versions import once


class Late(msgspec.Struct, frozen=True):
    """An own write that the store's answer does not hold yet, and its age in seconds."""

    op_id: str
    hlc: int
    write: Write
    age: float


class View(msgspec.Struct):
    """What is known of one key while own writes are folded over it.

    `record` is meaningful when `known`; `items` are those of a list's end, of which `length` are counted
    (-1: nobody knows how many come before). `left` is the lifetime in ms, -1 for ever. `versions` are the
    earlier ones of a record, newest first; None where nobody asked for them.
    """

    key: str
    known: bool = False
    record: Record | None = None
    items: list[bytes] = []
    length: int = -1
    left: int = -1
    touched: bool = False
    versions: deque[Kept] | None = None


def view_of(key: str, knowledge: Knowledge | None, wall: float) -> View:
    """What is known of a key, at a moment of the wall clock."""
    if knowledge is None:
        return View(key, items=[])
    if knowledge.expires is not None and knowledge.expires <= wall:
        return View(key, known=True, items=[], length=0)
    left = -1 if knowledge.expires is None else max(1, int((knowledge.expires - wall) * 1000))
    entry = knowledge.entry
    if isinstance(entry, ListTail):
        return View(key, known=True, items=list(entry.items), length=entry.length, left=left)
    record = None if entry.body is None else Record(key, entry.body, entry.etag, entry.hlc)
    return View(key, known=True, record=record, items=[], length=0, left=left)


def entry_of(view: View, before: Entry) -> Entry:
    """A view as what is known; of a list, which records do not become, with what it was `before`."""
    if view.record is None and isinstance(before, ListTail) and view.items:
        return ListTail(tuple(view.items), view.length)
    return of_record(view.record)


def fold(view: View, late: Iterable[Late]) -> View:
    """`view` after own writes, each with the age it has."""
    for each in late:
        _fold(view, each)
    return view


def _fold(view: View, late: Late) -> None:
    write = late.write
    match write:
        case Put():
            if write.base is None or not view.known or write.base == _etag(view):
                _replace(view, late, write.body, write.ttl)
        case Patch():
            _patch(view, late, write)
        case Delete():
            if write.base is None or not view.known or write.base == _etag(view):
                _archive(view, late, deleted=True)
                view.known, view.record, view.items, view.length = True, None, [], 0
        case Forget():
            view.known, view.record, view.items, view.length = True, None, [], 0
        case Append():
            _append(view, late, write)
        case Touch() if view.record is not None or view.items:
            _live(view, late, write.ttl)
        case _:
            return
    view.touched = True


def _etag(view: View) -> str:
    return view.record.etag if view.record else ABSENT


def _archive(view: View, late: Late, *, deleted: bool = False) -> None:
    """As the store does: what a write replaces, if not itself, becomes an earlier version, and a delete is one."""
    record = view.record
    if view.versions is not None and record is not None and record.etag != late.op_id:
        view.versions.appendleft(Kept(record.etag, record.hlc, record.body))
        if deleted:
            view.versions.appendleft(Kept(late.op_id, late.hlc, None))


def _replace(view: View, late: Late, body: bytes, ttl: int) -> None:
    _archive(view, late)
    view.known, view.record, view.items, view.length = (
        True,
        Record(view.key, body, late.op_id, late.hlc),
        [],
        0,
    )
    _live(view, late, ttl)


def _patch(view: View, late: Late, write: Patch) -> None:
    if not view.known and write.default is None:
        return  # the record is not known here: the store will apply it
    try:
        body, _ = patched(write, view.record.body if view.record else None)
    except EditRejected:
        return  # it does not fit what is known here; the store decides
    _replace(view, late, body, write.ttl)


def _append(view: View, late: Late, write: Append) -> None:
    if remaining(write.ttl, late.age) == -2 and not view.items:
        return
    view.items = [*view.items, *write.items]
    if view.length >= 0:
        view.length += len(write.items)
    _live(view, late, write.ttl)


def _live(view: View, late: Late, ttl: int) -> None:
    """Give the view the lifetime that a write of that age left it."""
    if ttl == -1:
        return
    left = remaining(ttl, late.age)
    if left == -2:
        view.known, view.record, view.items, view.length = True, None, [], 0
        if view.versions is not None:
            view.versions.clear()
    view.left = left if left > 0 else -1


def window(start: int, stop: int, length: int, offset: int, items: Sequence[bytes]) -> list[bytes]:
    """Items `start` to `stop` (as LRANGE counts) of a list of `length`, of which `items` begin at `offset`."""
    first = start if start >= 0 else max(0, length + start)
    last = stop if stop >= 0 else length + stop
    return list(items[max(0, first - offset) : max(0, last - offset + 1)])


def answer(ask: Ask, view: View) -> Told:
    """A view as the answer to an ask."""
    count = len(view.items)
    match ask:
        case Fetch():
            return view.record
        case Length():
            return max(view.length, count)
        case Lifetime():
            return view.left if view.record is not None or view.items else -2
        case Versions():
            return once(view.versions or ())
        case Tail():
            length = view.length if view.length >= 0 else count
            return window(ask.start, ask.stop, length, length - count, view.items)
