"""Dicts and lists that are shared: what `mem.settings` returns from the blocking `Memory`.

A live container is bound to a place, a root and a path in its document, and not to a snapshot. Reads
show the root's current document; every mutator sends an edit to the root and then shows the outcome.
What is stored is a copy: the caller's own objects are neither touched nor referred to.

Four things differ from plain containers. A member of a dict is bound to its name: it shows what is there
later, too. An item of a list is bound to the index it had when it was taken out, and follows what this
process does to the list, not what others do; once it is no longer there it keeps its content and cannot
be written. Iterators and views show the moment they were made. `copy()`, `|`, `+`, `*`, slices and
pickling give plain containers, at every depth.
"""

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, SupportsIndex

from remanence.faces.bound import SLOTS, Bound, Root, bare, is_same, operand, own, plain
from remanence.faces.moves import Anything, Path, Shift, inserting, nowhere, removing, replacing

__all__ = ["LiveDict", "LiveList", "Root", "is_same", "plain", "wrap"]


class LiveDict(Bound, dict[str, Any]):
    """A dict in the store, see the module. Made by `wrap`, not by callers."""

    __slots__ = SLOTS
    _kind = dict

    def __init__(self, root: Root, path: Path, value: dict[str, Any], seen: int) -> None:
        self._bind(root, path, value, seen)

    def _mirror(self, value: dict[str, Any]) -> None:
        dict.clear(self)
        dict.update(self, value)

    @classmethod
    def fromkeys(cls, keys: Iterable[Any], value: Any = None, /) -> Any:
        """A plain dict, as there is no place for a live one."""
        return dict.fromkeys(keys, value)

    def __getitem__(self, key: str) -> Any:
        return _inside(self, key, self._fresh()[key])

    def get(self, key: str, default: Any = None) -> Any:
        """The member, live where it is a container, or `default`."""
        shown = self._fresh()
        return _inside(self, key, shown[key]) if key in shown else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._fresh())

    def __reversed__(self) -> Iterator[str]:
        return iter(reversed(self._fresh()))

    def keys(self) -> Any:
        """The keys of this moment."""
        return self._fresh().keys()

    def values(self) -> Any:
        """The members of this moment, live where they are containers."""
        return self._opened().values()

    def items(self) -> Any:
        """Keys and members of this moment, live where they are containers."""
        return self._opened().items()

    def _opened(self) -> dict[str, Any]:
        return {key: _inside(self, key, value) for key, value in self._fresh().items()}

    def copy(self) -> dict[str, Any]:
        """A plain dict, at every depth."""
        content: dict[str, Any] = plain(self)
        return content

    def __or__(self, other: Any) -> Any:
        return plain(self) | operand(other) if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        return operand(other) | plain(self) if isinstance(other, dict) else NotImplemented

    def __setitem__(self, key: str, value: Any) -> None:
        self._reach()
        if not is_same(value, self._root, (*self._path, key)):  # d["a"] += [1] sent its edit already
            self._send("setmember", key, own(value))
            self._root.moves.replaced(self._path, (key,))

    def __delitem__(self, key: str) -> None:
        if key not in self._reach():
            raise KeyError(key)
        self._send("delmember", key)
        self._root.moves.replaced(self._path, (key,))

    def clear(self) -> None:
        """Remove all members that are there by then."""
        self._send("clear")
        self._root.moves.replaced(self._path, Anything())

    def pop(self, key: str, *default: Any) -> Any:
        """Remove the member and return it, plain; `default` (or KeyError) where there is none."""
        if len(default) > 1:
            raise TypeError(f"pop expected at most 2 arguments, got {1 + len(default)}")
        try:
            if key not in self._reach():
                raise KeyError(key)
            value = self._send("pop_member", key)
        except KeyError:
            if default and self._lost is None:  # the default stays here: it need not be JSON
                return default[0]
            raise
        self._root.moves.replaced(self._path, (key,))
        return value

    def popitem(self) -> tuple[str, Any]:
        """Remove the member added last and return it, plain."""
        if not self._reach():
            raise KeyError("popitem(): dictionary is empty")
        key, value = self._send("popitem")
        self._root.moves.replaced(self._path, (key,))
        return key, value

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The member, which is `default` where there was none."""
        shown = self._reach()
        value = shown[key] if key in shown else self._send("setdefault", key, own(default))
        return _inside(self, key, value)

    def update(self, *args: Any, **members: Any) -> None:
        """Set members from a mapping, from pairs or by name, all in one edit."""
        given: dict[str, Any] = {}
        given.update(*args, **members)
        if given:
            self._send("update", {key: own(value) for key, value in given.items()})
            self._root.moves.replaced(self._path, frozenset(given))

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self


def _comparison(compare: Callable[[Any, Any], bool]) -> Any:
    def method(self: Bound, other: Any) -> Any:
        return compare(self._fresh(), bare(other)) if isinstance(other, list) else NotImplemented

    return method


class LiveList(Bound, list[Any]):
    """A list in the store, see the module. Made by `wrap`, not by callers."""

    __slots__ = SLOTS
    _kind = list

    def __init__(self, root: Root, path: Path, value: list[Any], seen: int) -> None:
        self._bind(root, path, value, seen)

    def _mirror(self, value: list[Any]) -> None:
        list.__setitem__(self, slice(None), value)

    def __getitem__(self, index: Any) -> Any:
        shown = self._fresh()
        if isinstance(index, slice):
            return plain(shown[index])
        value = shown[index]
        return _inside(self, _place(shown, index), value)

    def __iter__(self) -> Iterator[Any]:
        return self._each(range(len(self._fresh())))

    def __reversed__(self) -> Iterator[Any]:
        return self._each(reversed(range(len(self._fresh()))))

    def _each(self, places: Iterable[int]) -> Iterator[Any]:
        shown, root, path, seen = self._shown, self._root, self._path, self._seen  # as of now, not of next()
        return (wrap(root, (*path, place), shown[place], seen) for place in places)

    def index(self, value: Any, *bounds: SupportsIndex) -> int:
        """As `list.index`."""
        return int(self._fresh().index(value, *bounds))

    def count(self, value: Any) -> int:
        """As `list.count`."""
        return int(self._fresh().count(value))

    __lt__ = _comparison(operator.lt)
    __le__ = _comparison(operator.le)
    __gt__ = _comparison(operator.gt)
    __ge__ = _comparison(operator.ge)

    def copy(self) -> list[Any]:
        """A plain list, at every depth."""
        content: list[Any] = plain(self)
        return content

    def __add__(self, other: Any) -> Any:
        return plain(self) + operand(other) if isinstance(other, list) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return operand(other) + plain(self) if isinstance(other, list) else NotImplemented

    def __mul__(self, times: Any) -> Any:
        return plain(self) * times

    __rmul__ = __mul__

    def append(self, value: Any) -> None:
        """Add `value` behind what is there by then."""
        self._send("append", own(value))

    def extend(self, values: Iterable[Any]) -> None:
        """Add all of `values` in one edit."""
        if added := [own(value) for value in values]:
            self._send("extend", added)

    def __iadd__(self, values: Iterable[Any]) -> Any:  # type: ignore[misc]  # as list: more than __add__ takes
        self.extend(values)
        return self

    def __imul__(self, times: Any) -> Any:
        times = operator.index(times)
        self._send("repeat", times)
        if times < 1:
            self._shift(nowhere)
        return self

    def insert(self, index: SupportsIndex, value: Any) -> None:
        """Insert before `index` of the list as it is by then."""
        size = len(self._reach())
        place = operator.index(index)
        self._send("insert", place, own(value))
        self._shift(inserting(min(place, size) if place >= 0 else max(0, place + size)))

    def pop(self, index: SupportsIndex = -1) -> Any:
        """Remove an item and return what the shared list really gave, plain."""
        place = self._tried(lambda trial: trial.pop(index), index)
        item = self._send("pop", operator.index(index))
        self._shift(removing(place))
        return item

    def remove(self, value: Any) -> None:
        """Remove the first item equal to `value`."""
        shown = self._reach()
        value = bare(value)
        if value not in shown:
            raise ValueError("list.remove(x): x not in list")
        place = shown.index(value)
        self._send("remove", shown[place])  # the item itself: `value` need not be JSON
        self._shift(removing(place))

    def clear(self) -> None:
        """Remove all items that are there by then."""
        self._send("clear")
        self._shift(nowhere)

    def reverse(self) -> None:
        """Reverse the list as it is by then."""
        self._send("reverse")
        self._shift(nowhere)

    def sort(self, *, key: Callable[[Any], Any] | None = None, reverse: Any = False) -> None:
        """Sort the list. `key` runs here: what others add meanwhile keeps its place behind the rest."""
        order = plain(self._reach())
        order.sort(key=key, reverse=reverse)
        if key is None:
            self._send("sort", bool(reverse))
        else:
            self._send("reorder", order)
        self._shift(nowhere)

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            values = [own(item) for item in value]
            self._tried(lambda trial: operator.setitem(trial, index, values))
            self._send("setslice", *_bounds(index), values)
            self._shift(nowhere)
            return
        place = self._tried(lambda trial: operator.setitem(trial, index, None), index)
        if not is_same(value, self._root, (*self._path, place)):  # l[0] += [1] sent its edit already
            self._send("setitem", operator.index(index), own(value))
            self._shift(replacing(place))

    def __delitem__(self, index: Any) -> None:
        place = self._tried(lambda trial: operator.delitem(trial, index), index)
        if isinstance(index, slice):
            self._send("delslice", *_bounds(index))
            self._shift(nowhere)
        else:
            self._send("delitem", operator.index(index))
            self._shift(removing(place))

    def _tried(self, attempt: Callable[[list[Any]], Any], index: Any = 0) -> int:
        """Let Python raise its own error on a shallow copy for what cannot work. Returns `index` from 0."""
        trial = list(self._reach())
        size = len(trial)
        attempt(trial)
        place = 0 if isinstance(index, slice) else operator.index(index)
        return place + size if place < 0 else place

    def _shift(self, shift: Shift) -> None:
        self._root.moves.shifted(self._path, shift)


def _place(shown: list[Any], index: SupportsIndex) -> int:
    place = operator.index(index)
    return place + len(shown) if place < 0 else place


def _bounds(cut: slice) -> tuple[int | None, ...]:
    parts = (cut.start, cut.stop, cut.step)
    return tuple(None if part is None else operator.index(part) for part in parts)


def wrap(root: Root, path: Path, value: Any, seen: int | None = None) -> Any:
    """`value`, which stands at `path` of the root's document: live where it is a dict or a list.

    `seen` is the newest move that the path takes into account, all of them when None.
    """
    if isinstance(value, dict):
        return LiveDict(root, path, value, root.moves.last if seen is None else seen)
    if isinstance(value, list):
        return LiveList(root, path, value, root.moves.last if seen is None else seen)
    return value


def _inside(holder: Bound, step: str | int, value: Any) -> Any:
    return wrap(holder._root, (*holder._path, step), value, holder._seen)
