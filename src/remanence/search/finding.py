"""One search: candidates by word and by meaning, everything that is known of them, one order."""

from functools import cached_property
from math import ceil
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from remanence.search import fusion, late
from remanence.search.columns import ROLES, Columns
from remanence.search.meaning import Sought
from remanence.search.query import MOST_TERMS, Asked, names
from remanence.search.shelf import Shelf
from remanence.search.types import Favour, Filter, Hit, Mode
from remanence.search.vectors import best

Slots = NDArray[np.intp]
_I = TypeVar("_I", bound=np.integer[Any])

_LOOKED_UP: Final = 512
"""Words of a question that are looked up; the rarest `MOST_TERMS` of them count."""
_MOST_PIECES: Final = 8
_MOST_LOOKED: Final = 2
"""Pieces of a text that are compared word by word, the nearest first."""


class Question(msgspec.Struct, frozen=True):
    """What is searched for."""

    asked: Asked
    sought: Sought | None
    embedder: int | None
    mode: Mode
    limit: int
    only: Filter
    favour: Favour
    now: float

    @property
    def vector(self) -> NDArray[np.float32] | None:
        """What it means as a whole, if that is known."""
        return None if self.sought is None else self.sought.vector


class Search:
    """The steps of one search, in one transaction."""

    def __init__(self, shelf: Shelf, columns: Columns, question: Question) -> None:
        """Search what `shelf` and `columns`, which are of one moment, hold."""
        self._columns = columns
        self._question = question
        self._shelf = shelf
        _, self._pieces, self._terms = shelf.totals()
        self._count = max(fusion.CANDIDATES, question.limit)
        self._admitted = columns.admitted(question.only, question.now)
        self._total = int(np.count_nonzero(self._admitted))

    def hits(self, explain: bool) -> list[Hit]:
        """The best documents, best first."""
        slots = self._candidates()
        if not len(slots):
            return []
        found = self._known(slots)
        parts = self._parts(slots, found)
        parts |= fusion.favoured(found, self._question.favour, self._question.now)
        scores = sum(parts.values(), np.zeros(len(slots)))
        places = fusion.order(scores, found)
        return [self._hit(slots, scores, parts, place, explain) for place in places[: self._question.limit].tolist()]

    def _hit(self, slots: Slots, scores: fusion.Floats, parts: fusion.Parts, place: int, explain: bool) -> Hit:
        slot = int(slots[place])
        return Hit(
            id=self._columns.ids[slot],
            kind=self._columns.kinds.text(int(self._columns.fact("kind")[slot])),
            score=float(scores[place]),
            parts={name: float(part[place]) for name, part in parts.items()} if explain else None,
        )

    def _parts(self, slots: Slots, found: fusion.Candidates) -> fusion.Parts:
        question = self._question
        if question.mode == "keyword":
            return {"keyword": fusion.scaled(found.keyword)}
        if question.mode == "semantic":
            return {"meaning": found.meaning}
        told = (found, question.asked.when, question.asked.mine, question.vector is not None)
        parts = fusion.fused(*told)
        agreeing = self._agreeing(slots, sum(parts.values(), np.zeros(len(slots))))
        return parts if agreeing is None else fusion.fused(*told, agreeing)

    def _agreeing(self, slots: Slots, scores: fusion.Floats) -> fusion.Floats | None:
        """How well the best by these scores agree with the question word by word; None if that is not known."""
        sought = self._question.sought
        if sought is None or sought.states is None:
            return None
        looked = best(scores, fusion.LOOKED)
        places, owners = self._nearest_pieces(slots[looked], sought.vector)
        numbers = self._columns.numbers[places].tolist()
        states = self._shelf.states_of(numbers, self._question.embedder)
        held = [row for row, number in enumerate(numbers) if number in states]
        if not held:
            return None
        near = late.nearest(sought.states, [states[numbers[row]] for row in held])
        found = np.full(len(slots), np.nan)
        np.fmax.at(found, looked[owners[held]], late.agreement(near))
        return found

    def _nearest_pieces(self, slots: Slots, vector: NDArray[np.float32]) -> tuple[Slots, Slots]:
        """The places of the pieces of each document that are nearest the question, and whose each is."""
        places, counts = self._columns.places_of(slots)
        owners = np.repeat(np.arange(len(slots)), counts)
        if len(places) > len(slots):
            order = np.lexsort((-self._columns.vectors.cosines(vector, places), owners))
            ranks = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
            chosen = np.sort(order[ranks < _MOST_LOOKED])
            places, owners = places[chosen], owners[chosen]
        return places, owners

    # --- candidates

    def _candidates(self) -> Slots:
        """Slots of the best by each list, each once."""
        chosen: list[Slots] = [np.zeros(0, dtype=np.intp)]
        if self._total and self._question.mode != "semantic":
            chosen.append(self._by_word())
        if self._total and self._question.vector is not None:
            chosen.append(self._by_meaning(self._question.vector))
        return _once(np.concatenate(chosen))

    def _by_meaning(self, vector: NDArray[np.float32]) -> Slots:
        columns = self._columns
        owners = columns.owners[: len(columns.vectors)]
        admitted = columns.held if self._total == len(columns) else self._admitted[owners]
        places = columns.vectors.nearest(vector, self._rows_wanted, admitted)
        return self._first(owners[places].astype(np.intp))

    def _by_word(self) -> Slots:
        """The best of those that hold a term."""
        held = np.flatnonzero(self._keyword > 0)
        if self._total < len(self._admitted):
            held = held[self._admitted[held]]
        return held[best(self._keyword[held], self._count)]

    def _first(self, slots: Slots) -> Slots:
        return distinct(slots)[: self._count]

    @property
    def _rows_wanted(self) -> int:
        """How many pieces to ask for, to have enough documents."""
        return self._count * min(_MOST_PIECES, ceil(self._pieces / max(1, len(self._columns))))

    @cached_property
    def _keyword(self) -> fusion.Floats:
        """The score of every slot's best piece, by the rarest of the question's terms; 0 for those without any."""
        columns, terms = self._columns, self._question.asked.terms[:_LOOKED_UP]
        found = columns.words.postings(terms, columns.held)
        rarest = sorted(found.values(), key=lambda postings: len(postings.places))[:MOST_TERMS]
        scores = columns.words.scores(rarest, self._pieces, self._terms / max(1, self._pieces))
        held = np.flatnonzero(scores > 0)
        owners = columns.owners[held]
        begins = np.nonzero(np.diff(owners, prepend=-1))[0]  # a document's pieces lie together
        keyword = np.zeros(len(self._admitted))
        if len(held):
            keyword[owners[begins]] = np.maximum.reduceat(scores[held], begins)
        return keyword

    # --- what is known of them

    def _meaning(self, slots: Slots) -> fusion.Floats:
        vector = self._question.vector
        if vector is None:
            return np.zeros(len(slots))
        places, counts = self._columns.places_of(slots)
        return _best_piece(self._columns.vectors.cosines(vector, places).astype(np.float64), counts)

    def _known(self, slots: Slots) -> fusion.Candidates:
        def fact(name: str) -> NDArray[Any]:
            return self._columns.fact(name)[slots]

        return fusion.Candidates(
            keyword=np.zeros(len(slots)) if self._question.mode == "semantic" else self._keyword[slots],
            meaning=self._meaning(slots),
            session=np.where(fact("position") >= 0, fact("session"), -1).astype(np.int64),
            position=fact("position"),
            named=self._named(fact("speaker")),
            user=fact("role") == ROLES["user"],
            role=fact("role") > 0,
            said=(fact("speaker") >= 0) & (fact("role") == 0),
            timed=fact("timed"),
            created=fact("created"),
            importance=fact("importance"),
            uses=fact("uses"),
        )

    def _named(self, speakers: NDArray[np.int32]) -> fusion.Flags:
        """Which of these speakers the question names."""
        texts, told = self._columns.speakers.texts, self._question.asked
        named = [code for code in _once(speakers).tolist() if code >= 0 and names(told, texts[code])]
        return np.isin(speakers, named) if named else np.zeros(len(speakers), dtype=np.bool_)


def distinct(slots: Slots) -> Slots:
    """Each slot once, in the order in which it comes first."""
    _, begins = np.unique(slots, return_index=True)
    return slots[np.sort(begins)]


def _once(values: NDArray[_I]) -> NDArray[_I]:
    """Each value once, in order. NumPy's `unique` loads its masked arrays for it, in the midst of a first search."""
    found = np.sort(values)
    first = np.ones(len(found), dtype=np.bool_)
    first[1:] = found[1:] != found[:-1]
    return found[first]


def _best_piece(scores: NDArray[np.float64], counts: NDArray[np.intp]) -> fusion.Floats:
    """The highest score of each document's pieces, of which each has at least one."""
    begins = np.cumsum(counts) - counts
    return np.asarray(np.maximum.reduceat(scores, begins)) if len(counts) else np.zeros(0)
