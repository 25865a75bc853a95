"""What an index keeps in memory: facts of each memory as columns, the terms and the vectors of its pieces.

It follows the file: what a transaction of any process added, amended or removed is folded in before each search.
Removed rows stay as dead ones until they are half of all; then `crowded` says that it is time to begin anew.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from remanence.search.bm25 import Words, ranges
from remanence.search.shelf import Row, StoredPiece
from remanence.search.types import EVERYTHING, Filter
from remanence.search.vectors import Vectors, grown

Flags = NDArray[np.bool_]
Places = NDArray[np.intp]

ROLES: Final = {"user": 1, "assistant": 2}
_MANY: Final = 10_000
_TYPES: Final = {
    "alive": "?",
    "timed": "?",
    "role": "i1",
    "success": "i1",
    "kind": "i4",
    "agent": "i4",
    "session": "i4",
    "speaker": "i4",
    "first": "i4",
    "pieces": "i4",
    "position": "i8",
    "importance": "f8",
    "trust": "f8",
    "created": "f8",
    "expires": "f8",
    "uses": "f8",
}


class Codes:
    """Texts that repeat, as small numbers; the empty text is -1."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers = {"": -1}

    def of(self, text: str) -> int:
        """The number of a text, which is given one if it has none."""
        number = self._numbers.setdefault(text, len(self.texts))
        if number == len(self.texts):
            self.texts.append(text)
        return number

    def text(self, number: int) -> str:
        """The text of a number."""
        return self.texts[number] if number >= 0 else ""

    def known(self, texts: Iterable[str]) -> list[int]:
        """The numbers of those texts that have one."""
        return [self._numbers[text] for text in texts if text in self._numbers]


class Columns:
    """The documents by slot, their pieces by place, both in the order of the file's numbers.

    A document's pieces lie together. Later documents have higher numbers, so that rows are only ever appended.
    """

    def __init__(self, dimensions: int) -> None:
        """Hold nothing yet. Without an embedder there are no dimensions: 0."""
        self.ids: list[str] = []
        self._owners = np.zeros(0, dtype=np.int32)
        self._held = np.zeros(0, dtype=np.bool_)
        self._numbers = np.zeros(0, dtype=np.int64)
        self.words = Words()
        self.vectors = Vectors(dimensions)
        self.kinds, self.agents, self.sessions, self.speakers = Codes(), Codes(), Codes(), Codes()
        self._facts = {name: np.zeros(0, dtype=kind) for name, kind in _TYPES.items()}
        self._dimensions = dimensions
        self._slots: dict[int, int] = {}
        self._tagged: dict[str, list[int]] = {}
        self._pieces = 0
        self._living: Flags | None = None
        self._next_expiry = np.inf

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def crowded(self) -> bool:
        """Whether most of it is dead, and reading the file anew is worth it."""
        return len(self.ids) > 2 * len(self._slots) + _MANY

    def fact(self, name: str) -> NDArray[Any]:
        """A column of what is known of the documents, by slot."""
        return self._facts[name][: len(self.ids)]

    @property
    def owners(self) -> NDArray[np.int32]:
        """The slot of each piece's document."""
        return self._owners[: self._pieces]

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The number of each piece in the file."""
        return self._numbers[: self._pieces]

    @property
    def held(self) -> Flags | None:
        """Which pieces are those of documents that were not removed; None when all are."""
        return None if len(self.ids) == len(self._slots) else self._held[: self._pieces]

    def knows(self, number: int) -> bool:
        """Whether a document of this number is here."""
        return number in self._slots

    def add(self, documents: Sequence[Row], pieces: Sequence[StoredPiece]) -> None:
        """Append documents and their pieces, both in the order of their numbers."""
        begin = len(self.ids)
        slots = {row.number: slot for slot, row in enumerate(documents, begin)}
        self.ids += [row.id for row in documents]
        self._slots |= slots
        owners = np.array([slots[piece.document] for piece in pieces], dtype=np.int32)
        counts = np.bincount(owners - begin, minlength=len(documents))
        firsts = self._pieces + np.cumsum(counts) - counts
        self._facts = {name: grown(column, len(self.ids)) for name, column in self._facts.items()}
        self._tell(slice(begin, len(self.ids)), documents)
        for slot, row in enumerate(documents, begin):
            for tag in msgspec.json.decode(row.tags) if row.tags != "[]" else ():
                self._tagged.setdefault(tag, []).append(slot)
        self.fact("first")[begin:] = firsts
        self.fact("pieces")[begin:] = counts
        self._add_pieces(pieces, owners)
        self._living = None

    def _add_pieces(self, pieces: Sequence[StoredPiece], owners: NDArray[np.int32]) -> None:
        begin, self._pieces = self._pieces, self._pieces + len(pieces)
        self._owners = grown(self._owners, self._pieces)
        self._owners[begin : self._pieces] = owners
        self._numbers = grown(self._numbers, self._pieces)
        self._numbers[begin : self._pieces] = [piece.number for piece in pieces]
        self._held = grown(self._held, self._pieces)
        self._held[begin : self._pieces] = True
        self.words.add([piece.terms for piece in pieces], [piece.length for piece in pieces])
        self.vectors.add(self._matrix([piece.vector for piece in pieces]))

    def amend(self, row: Row) -> None:
        """Take over what may change of a document that is here already."""
        slot = self._slots[row.number]
        self._tell(slice(slot, slot + 1), [row])
        self._living = None

    def remove(self, number: int) -> None:
        """Forget a document, if it is here."""
        slot = self._slots.pop(number, None)
        if slot is not None:
            self._facts["alive"][slot] = False
            first = int(self._facts["first"][slot])
            self._held[first : first + int(self._facts["pieces"][slot])] = False
            self._living = None

    def admitted(self, only: Filter, now: float) -> Flags:
        """Which slots a filter admits, of those that live."""
        living = self._alive(now)
        if only == EVERYTHING:
            return living
        found = living.copy()
        for column, codes, wanted in (
            ("kind", self.kinds, only.kinds),
            ("agent", self.agents, only.agents),
            ("session", self.sessions, only.sessions),
        ):
            if wanted:
                found &= np.isin(self.fact(column), codes.known(wanted))
        for tag in only.tags:
            tagged = np.zeros(len(found), dtype=np.bool_)
            tagged[self._tagged.get(tag, [])] = True
            found &= tagged
        if only.success is not None:
            found &= self.fact("success") == int(only.success)
        for column, least in (("created", only.since), ("importance", only.importance), ("trust", only.trust)):
            if least is not None:
                found &= self.fact(column) >= least
        if only.until is not None:
            found &= self.fact("created") <= only.until
        return found

    def places_of(self, slots: Places) -> tuple[Places, Places]:
        """The pieces of these documents, one after the other, and how many each has."""
        counts = self.fact("pieces")[slots].astype(np.intp)
        return ranges(self.fact("first")[slots].astype(np.intp), counts), counts

    def _alive(self, now: float) -> Flags:
        if self._living is None or now >= self._next_expiry:
            expires = self.fact("expires")
            self._living = self.fact("alive") & (expires > now)
            self._next_expiry = float(expires[self._living].min(initial=np.inf))
        return self._living

    def _tell(self, slots: slice, rows: Sequence[Row]) -> None:
        """Take over the facts of these, which lie next to each other: a column at a time is several times faster."""
        facts = self._facts
        facts["alive"][slots] = True
        facts["timed"][slots] = [row.timed for row in rows]
        facts["role"][slots] = [ROLES.get(row.role, 0) for row in rows]
        facts["success"][slots] = [-1 if row.success is None else row.success for row in rows]
        facts["kind"][slots] = [self.kinds.of(row.kind) for row in rows]
        facts["agent"][slots] = [self.agents.of(row.agent) for row in rows]
        facts["session"][slots] = [self.sessions.of(row.session) for row in rows]
        facts["speaker"][slots] = [self.speakers.of(row.speaker) for row in rows]
        facts["position"][slots] = [row.position for row in rows]
        facts["importance"][slots] = [row.importance for row in rows]
        facts["trust"][slots] = [row.trust for row in rows]
        facts["created"][slots] = [row.created for row in rows]
        facts["expires"][slots] = [np.inf if row.expires is None else row.expires for row in rows]
        facts["uses"][slots] = [row.uses for row in rows]

    def _matrix(self, rows: Sequence[bytes | None]) -> NDArray[np.int8]:
        if not self._dimensions:
            return np.zeros((len(rows), 0), dtype=np.int8)
        empty = bytes(self._dimensions)
        joined = b"".join(row if row is not None and len(row) == self._dimensions else empty for row in rows)
        return np.frombuffer(joined, dtype=np.int8).reshape(len(rows), self._dimensions)
