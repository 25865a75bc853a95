"""What live dicts and lists have in common: the place they are bound to, and how they follow it."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, SupportsIndex

from remanence.errors import Rejected, ValueTooLarge
from remanence.faces.moves import Moves, Path
from remanence.stores import edits
from remanence.stores.edits import EditRejected


class Root(Protocol):
    """A document in the store and what is known of it here."""

    version: int
    """Another number whenever `value` is another."""
    value: Any
    """The current document in plain values: never changed in place, replaced when refreshed."""
    moves: Moves
    """An empty `Moves()` to begin with; kept by the live containers."""

    def change(self, path: Path, verb: str, *args: Any) -> Any:
        """Send the edit, wait for it, refresh `value` and then `version`, and return its result, plain.

        Raises `EditRejected` (or `Rejected` with its reason) where the edit does not fit.
        """


class Bound:
    """A container with a place. Its heirs are also `dict` or `list`, and have SLOTS."""

    if not TYPE_CHECKING:  # mypy takes empty slots for a ban on attributes; the two heirs have them
        __slots__ = ()
    _kind: type
    _root: Root
    _path: Path
    _version: int | None  # of the root when last looked at
    _seen: int  # the root's newest move when last looked at
    _shown: Any  # the plain container of the root's document that was shown last
    _lost: Exception | None  # why a write cannot reach the place, None while it can
    _adrift: bool  # no place is this one's any more
    _lock: Any

    def _bind(self, root: Root, path: Path, value: Any, seen: int) -> None:
        self._root, self._path, self._seen = root, path, seen
        self._shown, self._lost, self._adrift = value, None, False
        self._version, self._lock = None, threading.Lock()  # None: `value` may be outdated already
        self._mirror(value)

    def _mirror(self, value: Any) -> None:
        """Make the inherited content that of `value`, for C code that reads it directly."""
        raise NotImplementedError

    def _fresh(self) -> Any:
        """The plain content of the place now, or the last one shown where the place is gone. Read only."""
        root = self._root
        if self._version != root.version or self._seen != root.moves.last:
            with self._lock:  # two threads refreshing would leave the content of both
                self._follow()
        return self._shown

    def _follow(self) -> None:
        version, value = self._root.version, self._root.value  # in this order: too old means again
        seen, path = self._root.moves.last, self._moved()[0]
        if path is None or self._adrift:
            self._adrift, self._lost = True, IndexError(f"{self._name()} is no longer there: get it again")
        else:
            self._path = path
            self._look(value)
        self._version, self._seen = version, seen

    def _moved(self) -> tuple[Path | None, bool]:
        return self._root.moves.follow(self._path, self._seen)

    def _look(self, value: Any) -> None:
        try:
            for step in self._path:
                kind: Any = dict if isinstance(step, str) else list
                if not isinstance(value, kind):
                    raise TypeError(f"{self._name()} is gone: what contained it is of another type now")
                value = value[step]
            if not isinstance(value, self._kind):
                raise TypeError(f"{self._name()} is no {self._kind.__name__} any more: get it again")
        except (KeyError, IndexError) as error:
            self._lost = type(error)(f"{self._name()} is gone: it was removed meanwhile")
        except TypeError as error:
            self._lost = error
        else:
            self._lost = None
            if value is not self._shown:
                self._mirror(value)
                self._shown = value

    def _kept(self) -> Any:
        """The content to store elsewhere: what was taken out, even if its name was given anew since.

        So that `d["a"], d["b"] = d["b"], d["a"]` swaps.
        """
        return self._shown if self._moved()[1] else self._fresh()

    def _name(self) -> str:
        return f"the {self._kind.__name__} at {'.'.join(str(step) for step in self._path) or 'the top'}"

    def _reach(self) -> Any:
        """`_fresh`, for writing: raises KeyError, IndexError or TypeError where the place is gone."""
        shown = self._fresh()
        if self._lost is not None:
            raise type(self._lost)(*self._lost.args)
        return shown

    def _send(self, verb: str, *args: Any) -> Any:
        """Apply `verb` to the shared container, show the outcome, and return the edit's result."""
        self._reach()
        try:
            return self._root.change(self._path, verb, *args)
        except (EditRejected, Rejected) as refusal:
            _explain(refusal, self._path)
        finally:
            self._fresh()

    def __repr__(self) -> str:
        return repr(self._fresh())

    def __len__(self) -> int:
        return len(self._fresh())

    def __contains__(self, item: object) -> bool:
        return item in self._fresh()

    def __eq__(self, other: object) -> bool:
        return bool(self._fresh() == bare(other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]  # as every mutable container

    def __copy__(self) -> Any:
        return plain(self)

    def __deepcopy__(self, memo: Any) -> Any:
        return plain(self)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return self._kind, (plain(self),)


SLOTS: Final = ("_adrift", "_lock", "_lost", "_path", "_root", "_seen", "_shown", "_version")

_ERRORS: Final[dict[str, tuple[type[Exception], str]]] = {
    edits.OUT_OF_RANGE: (IndexError, "list index out of range in the shared list"),
    edits.NO_MEMBER: (KeyError, "no such member in the shared dict"),
    edits.NOT_IN_LIST: (ValueError, "list.remove(x): x not in the shared list"),
    edits.NO_ORDER: (TypeError, "items of the shared list cannot be ordered"),
    edits.NOT_A_LIST: (TypeError, "what is stored is no list any more: get it again"),
    edits.NOT_A_DICT: (TypeError, "what is stored is no dict any more: get it again"),
    edits.NOT_A_CONTAINER: (TypeError, "what is stored is no list or dict any more: get it again"),
    edits.SIZES_DIFFER: (ValueError, "the extended slice has another size in the shared list"),
    edits.STEP_ZERO: (ValueError, "slice step cannot be zero"),
    edits.TOO_LARGE: (ValueTooLarge, "the shared list would become too large"),
}


def _explain(refusal: EditRejected | Rejected, path: Path) -> NoReturn:
    """Raise what Python's own containers raise for `refusal`; itself where they know no such thing."""
    kind, why = _ERRORS.get(refusal.reason, (None, ""))
    if refusal.reason == edits.PATH_GONE:
        kind = IndexError if path and isinstance(path[-1], int) else KeyError
        why = "the container was removed from the shared value meanwhile"
    if kind is None:
        raise refusal
    raise kind(why) from refusal


def plain(value: Any) -> Any:
    """A copy without live parts, at every depth. Tuples become lists, subclasses dict and list."""
    return _copied(value, bare)


def _copied(value: Any, look: Callable[[Any], Any]) -> Any:
    value = look(value)
    if isinstance(value, dict):
        members = {}
        for key, item in value.items():  # no comprehension: it would take a second frame per level
            members[key] = _copied(item, look)
        return members
    if isinstance(value, (list, tuple)):
        items = []
        for item in value:
            items.append(_copied(item, look))
        return items
    return value


def is_same(value: Any, root: Root, path: Path) -> bool:
    """Whether `value` is the live container of this very place, so that storing it there changes nothing.

    False for one whose place is gone or was given another content here: that one must be stored again.
    """
    if not isinstance(value, Bound) or value._root is not root or value._moved()[1]:
        return False
    value._fresh()
    return value._lost is None and value._path == path


def bare(value: Any) -> Any:
    """What a live container shows now, for reading only; anything else itself."""
    return value._fresh() if isinstance(value, Bound) else value


def operand(value: Any) -> Any:
    """A plain copy of a live container; anything else itself."""
    return plain(value) if isinstance(value, Bound) else value


def own(value: Any) -> Any:
    """The copy of `value` to store."""
    try:
        return _copied(value, _taken)
    except RecursionError:
        return value  # a cycle, or close to one: the root's own check refuses it and names the place


def _taken(value: Any) -> Any:
    return value._kept() if isinstance(value, Bound) else value
