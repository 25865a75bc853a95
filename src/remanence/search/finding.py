"""One search: candidates by word and by meaning, everything that is known of them, one order."""

from collections.abc import Sequence
from functools import cached_property
from math import ceil
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from remanence.search import bm25, fusion
from remanence.search.columns import ROLES, Columns
from remanence.search.query import MOST_TERMS, Asked, names
from remanence.search.shelf import Shelf
from remanence.search.types import Favour, Filter, Hit, Mode

MOST_POSTINGS: Final = 8_000
"""Rows that FTS5 is asked to weigh. The rarest terms go first; those left out still count for the candidates."""
FEW: Final = 1_000
"""Pieces that a filter leaves, up to which all are weighed and FTS5 is not asked."""
_LOOKED_UP: Final = 512
_MOST_PIECES: Final = 8


class Question(msgspec.Struct, frozen=True):
    """What is searched for."""

    asked: Asked
    vector: NDArray[np.float32] | None
    mode: Mode
    limit: int
    only: Filter
    favour: Favour
    now: float


class Search:
    """The steps of one search, in one transaction."""

    def __init__(self, shelf: Shelf, columns: Columns, question: Question) -> None:
        """Search what `shelf` and `columns`, which are of one moment, hold."""
        self._shelf = shelf
        self._columns = columns
        self._question = question
        _, self._pieces, self._terms = shelf.totals()
        self._count = max(fusion.CANDIDATES, question.limit)
        self._admitted = columns.admitted(question.only, question.now)

    def hits(self, explain: bool) -> list[Hit]:
        """The best documents, best first."""
        slots = self._candidates()
        if not slots:
            return []
        found = self._known(slots)
        parts = self._parts(found)
        parts |= fusion.favoured(found, self._question.favour, self._question.now)
        scores = sum(parts.values(), np.zeros(len(slots)))
        columns = self._columns
        ids = [columns.ids[slot] for slot in slots]
        places = fusion.order(scores, found, ids)
        if self._question.mode == "keyword":
            places = [place for place in places if found.keyword[place] > 0]
        return [
            Hit(
                id=ids[place],
                kind=columns.kinds.text(int(columns.facts[slots[place]]["kind"])),
                score=float(scores[place]),
                parts={name: float(part[place]) for name, part in parts.items()} if explain else None,
            )
            for place in places[: self._question.limit]
        ]

    def _parts(self, found: fusion.Candidates) -> fusion.Parts:
        question = self._question
        if question.mode == "keyword":
            return {"keyword": fusion.scaled(found.keyword)}
        if question.mode == "semantic":
            return {"meaning": found.meaning}
        return fusion.fused(found, question.asked.when, question.asked.mine, question.vector is not None)

    # --- candidates

    def _candidates(self) -> list[int]:
        """Slots of the best by each list, each once."""
        if not np.any(self._admitted):
            return []
        chosen: list[int] = []
        if self._question.mode != "semantic" and self._rarities:
            chosen += self._by_word()
        if self._question.vector is not None:
            chosen += self._by_meaning(self._question.vector)
        return list(dict.fromkeys(chosen))

    def _by_meaning(self, vector: NDArray[np.float32]) -> list[int]:
        columns = self._columns
        owners = columns.owners[: len(columns.vectors)]
        places = columns.vectors.nearest(vector, self._rows_wanted, self._admitted[owners])
        return self._first(owners[places].tolist())

    def _by_word(self) -> list[int]:
        """Those that hold the rarest terms best. More terms are asked for while there are not enough."""
        admitted, columns = self._admitted, self._columns
        if int(columns.facts["pieces"][: len(admitted)][admitted].sum()) <= min(FEW, self._pieces - 1):
            return [int(slot) for slot in np.nonzero(admitted)[0]]
        everything = bool(admitted.all())
        terms = list(self._rarities)
        chosen: list[int] = []
        while terms and len(chosen) < self._count:
            some, terms = self._affordable(terms)
            numbers = self._shelf.best(some, self._rows_wanted if everything else -1)
            slots = [slot for slot in columns.slots_of(numbers) if admitted[slot]]
            chosen = list(dict.fromkeys(chosen + slots))
        return self._first(chosen) if everything else self._best_of(chosen)

    def _best_of(self, slots: Sequence[int]) -> list[int]:
        """The best by keyword of more than are wanted."""
        if len(slots) <= self._count:
            return list(slots)
        scores = self._keyword(slots)
        return [slots[place] for place in np.argsort(-scores, kind="stable")[: self._count]]

    def _affordable(self, terms: Sequence[str]) -> tuple[list[str], list[str]]:
        """The first terms, as many as `MOST_POSTINGS` allow but at least one, and the others."""
        cost = 0
        for place, term in enumerate(terms):
            cost += self._holding[term]
            if cost > MOST_POSTINGS and place > 0:
                return list(terms[:place]), list(terms[place:])
        return list(terms), []

    def _first(self, slots: Sequence[int]) -> list[int]:
        return list(dict.fromkeys(slots))[: self._count]

    @property
    def _rows_wanted(self) -> int:
        """How many pieces to ask for, to have enough documents."""
        return self._count * min(_MOST_PIECES, ceil(self._pieces / max(1, len(self._columns))))

    @cached_property
    def _holding(self) -> dict[str, int]:
        return self._shelf.holding(self._question.asked.terms[:_LOOKED_UP])

    @cached_property
    def _rarities(self) -> dict[str, float]:
        """The terms that there are, the rarest first, with what each tells."""
        rarest = sorted(self._holding.items(), key=lambda item: (item[1], item[0]))[:MOST_TERMS]
        return {term: bm25.rarity(self._pieces, holding) for term, holding in rarest}

    # --- what is known of them

    def _keyword(self, slots: Sequence[int]) -> fusion.Floats:
        """The score of each document's best piece."""
        places, counts = self._columns.places_of(slots)
        numbers = [self._columns.numbers[place] for place in places]
        packed = self._shelf.packed(numbers)
        rows = [packed.get(number, (0, b"")) for number in numbers]
        average = self._terms / max(1, self._pieces)
        scores = bm25.scores([blob for _, blob in rows], [length for length, _ in rows], self._rarities, average)
        return _best_piece(scores, counts)

    def _meaning(self, slots: Sequence[int]) -> fusion.Floats:
        vector = self._question.vector
        if vector is None:
            return np.zeros(len(slots))
        places, counts = self._columns.places_of(slots)
        return _best_piece(self._columns.vectors.cosines(vector, places).astype(np.float64), counts)

    def _known(self, slots: Sequence[int]) -> fusion.Candidates:
        facts = self._columns.facts[np.asarray(slots, dtype=np.intp)]
        speakers = self._columns.speakers.texts
        named = [
            code for code in np.unique(facts["speaker"]) if code >= 0 and names(self._question.asked, speakers[code])
        ]
        wordless = self._question.mode == "semantic" or not self._rarities
        return fusion.Candidates(
            keyword=np.zeros(len(slots)) if wordless else self._keyword(slots),
            meaning=self._meaning(slots),
            session=facts["session"].astype(np.int64),
            position=facts["position"].astype(np.int64),
            named=np.isin(facts["speaker"], named),
            user=facts["role"] == ROLES["user"],
            role=facts["role"] > 0,
            timed=facts["timed"],
            created=facts["created"],
            importance=facts["importance"],
            uses=facts["uses"],
        )


def _best_piece(scores: NDArray[np.float64], counts: NDArray[np.intp]) -> fusion.Floats:
    """The highest score of each document's pieces, of which each has at least one."""
    begins = np.cumsum(counts) - counts
    return np.asarray(np.maximum.reduceat(scores, begins)) if len(counts) else np.zeros(0)
