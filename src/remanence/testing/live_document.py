"""A document in memory under live containers: for tests of what lists and dicts do that are shared."""

import copy
import threading
from typing import Any

from remanence.faces.live import wrap
from remanence.faces.moves import Moves
from remanence.stores.edits import EditRejected, apply_edits, edit


class Doc:
    """A root in memory: the document is what an edit makes of a copy, as in a store."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.version = 1
        self.moves = Moves()
        self.sent: list[tuple[Any, ...]] = []
        self.refuse = ""
        self.lock = threading.Lock()

    def change(self, path: tuple[str | int, ...], verb: str, *args: Any) -> Any:
        """Apply one edit, as a live value asks for it, unless all are refused."""
        self.sent.append((path, verb, *args))
        if self.refuse:
            raise EditRejected(self.refuse)
        made = edit(path, verb, *args, name="mem")
        with self.lock:
            value, result = apply_edits(copy.deepcopy(self.value), [made])
            self.put(value)
        return result

    def put(self, value: Any) -> None:
        """As another process would."""
        self.value = value
        self.version += 1

    @property
    def live(self) -> Any:
        """The document as its users hold it."""
        return wrap(self, (), self.value)


def doc(value: Any) -> Any:
    """A live copy of `value`, the root of a document of its own."""
    return Doc(copy.deepcopy(value)).live


def content(live: Any) -> Any:
    """What C code sees in it, without asking."""
    if isinstance(live, dict):
        return {key: dict.__getitem__(live, key) for key in dict.__iter__(live)}
    return list.__getitem__(live, slice(None))
