"""What an index keeps in memory: facts of each memory as columns, and the vectors of its pieces.

It follows the file: what a transaction of any process added, amended or removed is folded in before each search.
Removed rows stay as dead ones until they are half of all; then `crowded` says that it is time to begin anew.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from remanence.search.types import Filter
from remanence.search.vectors import Vectors, grown

Flags = NDArray[np.bool_]
Places = NDArray[np.intp]

ROLES: Final = {"user": 1, "assistant": 2}
_MANY: Final = 10_000

_FACTS = np.dtype(
    [
        ("alive", "?"),
        ("timed", "?"),
        ("role", "i1"),
        ("success", "i1"),
        ("kind", "i4"),
        ("agent", "i4"),
        ("session", "i4"),
        ("speaker", "i4"),
        ("first", "i4"),
        ("pieces", "i4"),
        ("position", "i8"),
        ("importance", "f8"),
        ("trust", "f8"),
        ("created", "f8"),
        ("expires", "f8"),
        ("uses", "f8"),
    ]
)


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
    """The documents by slot, their pieces by place. A document's pieces lie together."""

    def __init__(self, dimensions: int) -> None:
        """Hold nothing yet. Without an embedder there are no dimensions: 0."""
        self.facts = np.zeros(0, dtype=_FACTS)
        self.ids: list[str] = []
        self.numbers: list[int] = []
        """Of the pieces, as the file knows them."""
        self.owners = np.zeros(0, dtype=np.int32)
        """The slot of each piece's document."""
        self.vectors = Vectors(dimensions)
        self.kinds, self.agents, self.sessions, self.speakers = Codes(), Codes(), Codes(), Codes()
        self._dimensions = dimensions
        self._slots: dict[int, int] = {}
        self._places: dict[int, int] = {}
        self._tagged: dict[str, list[int]] = {}
        self._dead = 0

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def crowded(self) -> bool:
        """Whether most of it is dead, and reading the file anew is worth it."""
        return self._dead > max(len(self._slots), _MANY)

    def knows(self, number: int) -> bool:
        """Whether a document of this number is here."""
        return number in self._slots

    def add(self, documents: Sequence[tuple[Any, ...]], pieces: dict[int, list[tuple[int, bytes | None]]]) -> None:
        """Append documents, with the number and the vector of each of their pieces."""
        begin = len(self.ids)
        self.facts = grown(self.facts, begin + len(documents))
        rows: list[bytes | None] = []
        owners: list[int] = []
        for slot, told in enumerate(documents, begin):
            own = pieces.get(told[0], [])
            self._slots[told[0]] = slot
            self.ids.append(told[1])
            self.facts[slot] = self._told(told, len(self.numbers), len(own))
            for tag in json.loads(told[9]):
                self._tagged.setdefault(tag, []).append(slot)
            for number, vector in own:
                self._places[number] = len(self.numbers)
                self.numbers.append(number)
                owners.append(slot)
                rows.append(vector)
        before = len(self.numbers) - len(owners)
        self.owners = grown(self.owners, len(self.numbers))
        self.owners[before : len(self.numbers)] = owners
        self.vectors.add(self._matrix(rows))

    def amend(self, told: tuple[Any, ...]) -> None:
        """Take over what may change of a document that is here already."""
        slot = self._slots[told[0]]
        row = self.facts[slot]
        self.facts[slot] = self._told(told, row["first"], row["pieces"])

    def remove(self, number: int) -> None:
        """Forget a document, if it is here."""
        slot = self._slots.pop(number, None)
        if slot is not None:
            self.facts[slot]["alive"] = False
            self._dead += 1

    def admitted(self, only: Filter, now: float) -> Flags:
        """Which slots a filter admits, of those that live."""
        facts = self.facts[: len(self.ids)]
        found = facts["alive"] & (facts["expires"] > now)
        for column, codes, wanted in (
            ("kind", self.kinds, only.kinds),
            ("agent", self.agents, only.agents),
            ("session", self.sessions, only.sessions),
        ):
            if wanted:
                found &= np.isin(facts[column], codes.known(wanted))
        for tag in only.tags:
            tagged = np.zeros(len(found), dtype=np.bool_)
            tagged[self._tagged.get(tag, [])] = True
            found &= tagged
        if only.success is not None:
            found &= facts["success"] == int(only.success)
        for column, least in (("created", only.since), ("importance", only.importance), ("trust", only.trust)):
            if least is not None:
                found &= facts[column] >= least
        if only.until is not None:
            found &= facts["created"] <= only.until
        return np.asarray(found)

    def slots_of(self, numbers: Sequence[int]) -> list[int]:
        """The slots of the documents of these pieces, each once, in the order given."""
        return list(
            dict.fromkeys(int(self.owners[self._places[number]]) for number in numbers if number in self._places)
        )

    def places_of(self, slots: Sequence[int]) -> tuple[Places, Places]:
        """The pieces of these documents, one after the other, and how many each has."""
        facts = self.facts[np.asarray(slots, dtype=np.intp)]
        counts = facts["pieces"].astype(np.intp)
        ends = np.cumsum(counts)
        within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
        return np.repeat(facts["first"].astype(np.intp), counts) + within, counts

    def _told(self, told: tuple[Any, ...], first: int, pieces: int) -> tuple[Any, ...]:
        (_, _, kind, session, position, speaker, role, timed, agent, _, success, importance, trust, created) = told[:14]
        expires, uses = told[14:]
        return (
            True,
            timed,
            ROLES.get(role, 0),
            -1 if success is None else success,
            self.kinds.of(kind),
            self.agents.of(agent),
            self.sessions.of(session),
            self.speakers.of(speaker),
            first,
            pieces,
            position,
            importance,
            trust,
            created,
            np.inf if expires is None else expires,
            uses,
        )

    def _matrix(self, rows: Sequence[bytes | None]) -> NDArray[np.int8]:
        if not self._dimensions:
            return np.zeros((len(rows), 0), dtype=np.int8)
        empty = bytes(self._dimensions)
        joined = b"".join(row if row is not None and len(row) == self._dimensions else empty for row in rows)
        return np.frombuffer(joined, dtype=np.int8).reshape(len(rows), self._dimensions)
