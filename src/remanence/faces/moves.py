"""Where parts of a shared document went when this process moved them.

A live container is bound to a place. Items of a list have no names, only positions, so after a `pop(0)`
whoever holds item 1 must look at place 0; after a swap whoever holds an item must keep what it held.
"""

import itertools
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

Step = str | int
Path = tuple[Step, ...]
Shift = Callable[[Step], Step | None]
"""Where an item of a list went: its new index, or None where it was taken out or replaced."""

_KEPT: Final = 256  # moves remembered: who has not looked for longer stays bound to the old place


class _Named(Protocol):
    def __contains__(self, key: object, /) -> bool:
        """Whether the member was given another content."""


class Moves:
    """What this process moved inside one document, oldest first. Safe to use from several threads."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._log: deque[tuple[int, Path, Shift | _Named]] = deque(maxlen=_KEPT)
        self.last = 0
        """The number of the newest move, 0 before any."""

    def _add(self, path: Path, move: Shift | _Named) -> None:
        number = next(self._numbers)
        self._log.append((number, path, move))
        self.last = number

    def shifted(self, path: Path, shift: Shift) -> None:
        """Note that items of the list at `path` went where `shift` says."""
        self._add(path, shift)

    def replaced(self, path: Path, names: _Named) -> None:
        """Note that members `names` of the dict at `path` are others than before."""
        self._add(path, names)

    def follow(self, path: Path, since: int) -> tuple[Path | None, bool]:
        """(the path now of what was at `path` after move `since`, whether a name on it was given anew).

        The path is None for what is no longer in the document.
        """
        anew = False
        for number, holder, move in list(self._log) if self.last > since else ():
            depth = len(holder)
            if number <= since or len(path) <= depth or path[:depth] != holder:
                continue
            if not callable(move):
                anew = anew or path[depth] in move
            elif (step := move(path[depth])) is None:
                return None, anew
            else:
                path = (*holder, step, *path[depth + 1 :])
        return path, anew


def nowhere(step: Step) -> None:
    """The `Shift` of a list whose items cannot be followed: sorted, cleared, cut."""


def replacing(place: int) -> Shift:
    """The `Shift` of a list whose item at `place` was replaced."""
    return lambda step: None if step == place else step


def inserting(place: int) -> Shift:
    """The `Shift` of a list that got an item before `place`."""
    return lambda step: step + 1 if isinstance(step, int) and step >= place else step


def removing(place: int) -> Shift:
    """The `Shift` of a list that lost the item at `place`."""

    def shift(step: Step) -> Step | None:
        if step == place:
            return None
        return step - 1 if isinstance(step, int) and step > place else step

    return shift


class Anything:
    """The names of a dict that was cleared."""

    def __contains__(self, key: object) -> bool:
        return True
