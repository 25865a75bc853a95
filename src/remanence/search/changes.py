"""What shall become of a document in an index on a server, by what is held of it. Pure."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from remanence.search.documents import Cut, checked, cut
from remanence.search.entries import Change, Entry, Seen, entry_of
from remanence.search.meaning import Made
from remanence.search.types import Document

MOST_PIECES: Final = 200
"""Of a longer text, some 22,000 words, the beginning is found: a server is busy for 30 ms to take so many in."""
Next = Callable[[Entry | None], Change | Entry | None]
"""What shall become of a document, by what is held of it: a change, an amended entry, or None to leave it."""
Wanted = tuple[str, Next]
"""The version of a document's record (see `Seen`), and what shall become of the document."""


def parted(documents: Sequence[Document]) -> Cut:
    """Documents that can be stored in pieces, of very long texts their beginnings. Raises `InvalidArgument`."""
    found = cut([checked(each) for each in documents])
    return Cut(found.documents, [texts[:MOST_PIECES] for texts in found.parts])


def decoded(held: bytes) -> Entry | None:
    """An entry as the server has it; b"" is none."""
    return msgspec.msgpack.decode(held, type=Entry) if held else None


def becoming(change: Change) -> Next:
    """A change whatever is held."""
    return lambda held: change


def amending(**facts: Any) -> Next:
    """Other facts, if it is there."""
    return lambda held: None if held is None else msgspec.structs.replace(held, **facts)


def following(seen: Seen) -> Next:
    """What `amended` says."""
    return lambda held: amended(held, seen)


def amended(held: Entry | None, seen: Seen) -> Entry | None:
    """What is held, as it was seen since; None where that cannot be without its text."""
    if held is None or seen.document is None:
        return None
    cut_now = parted([seen.document])
    after = entry_of(cut_now.documents[0], held.timed, cut_now.parts[0], held.pieces, seen.version)
    return after if (after.text, after.kind, after.created) == (held.text, held.kind, held.created) else None


def leaving(id: str, over: float | None = None, *, owed: bool = False) -> Next:
    """That a document goes, if it is there; with `over`, if its time was over then; with `owed`, in any case."""

    def gone(held: Entry | None) -> Change | None:
        if held is None:
            return Change(id, None) if owed else None
        if over is not None and (held.expires is None or held.expires > over):
            return None
        return Change(id, None)

    return gone


def floats(made: Sequence[Made]) -> tuple[bytes | None, ...] | None:
    """The vectors of a document's pieces as the server takes them; None where they are owed."""
    if any(each.vector is None for each in made):
        return None
    rows = [np.frombuffer(each.vector or b"", dtype=np.int8).astype("<f4") for each in made]
    return tuple(row.tobytes() if np.any(row) else None for row in rows)
