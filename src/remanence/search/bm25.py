"""BM25 in memory, from what the file keeps of each piece: its terms as numbers, with their counts.

FTS5 cuts the words and stems them, but does not rank: its bm25() has another length constant, gives a term that more
than half of the rows hold no weight at all, and took 6 ms where this takes one, over 100,000 memories.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from math import log1p
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from remanence.search.vectors import grown

K1: Final = 1.2
B: Final = 0.6

_ENTRY = np.dtype([("term", "<u4"), ("count", "u1")])
_MOST = 255
_LATE: Final = 50_000
SIDES: Final[tuple[Literal["left"], Literal["right"]]] = ("left", "right")


class Postings(NamedTuple):
    """The places of the pieces that hold a term, and how often each does."""

    places: NDArray[np.int32]
    counts: NDArray[np.uint8]


def packed(terms: Sequence[str]) -> bytes:
    """The terms of a piece in five bytes each: a hash of 32 bits, and how often it occurs."""
    counts = Counter(hashed(term) for term in terms)
    rows = [(term, min(count, _MOST)) for term, count in counts.items()]
    return np.array(rows, dtype=_ENTRY).tobytes()


def hashed(term: str) -> int:
    """A term as a number, the same in every process."""
    return zlib.crc32(term.encode("utf-8", "replace"))


def rarity(pieces: int, holding: int) -> float:
    """How much a term tells that `holding` of all pieces hold. Above 0 for every term, however common."""
    return log1p((max(pieces - holding, 0) + 0.5) / (holding + 0.5))


class Words:
    """The terms of all pieces in memory: which pieces hold a term, and how often.

    Entries lie sorted by term, but for those of the latest pieces, which are looked through until they are many.
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._terms = np.zeros(0, dtype=np.uint32)
        self._counts = np.zeros(0, dtype=np.uint8)
        self._places = np.zeros(0, dtype=np.int32)
        self._lengths = np.zeros(0, dtype=np.int32)
        self._used = 0
        self._sorted = 0
        self._pieces = 0

    def add(self, blobs: Sequence[bytes], lengths: Sequence[int]) -> None:
        """Append pieces: their packed terms, and how many terms each has."""
        entries = np.frombuffer(b"".join(blobs), dtype=_ENTRY)
        sizes = [len(blob) // _ENTRY.itemsize for blob in blobs]
        begin, self._used = self._used, self._used + len(entries)
        first, self._pieces = self._pieces, self._pieces + len(blobs)
        self._terms, self._counts = grown(self._terms, self._used), grown(self._counts, self._used)
        self._places, self._lengths = grown(self._places, self._used), grown(self._lengths, self._pieces)
        self._terms[begin : self._used] = entries["term"]
        self._counts[begin : self._used] = entries["count"]
        self._places[begin : self._used] = np.repeat(np.arange(first, self._pieces), sizes)
        self._lengths[first : self._pieces] = lengths

    def postings(self, terms: Sequence[str], living: NDArray[np.bool_] | None) -> dict[str, Postings]:
        """Where pieces that are `living` (None: all are) hold each term; what none holds is left out."""
        self._sort()
        late = np.arange(self._sorted, self._used)
        late = late[np.isin(self._terms[late], np.array([hashed(term) for term in terms], dtype=np.uint32))]
        found = {}
        for term in terms:
            number = np.uint32(hashed(term))
            begin, end = (np.searchsorted(self._terms[: self._sorted], number, side) for side in SIDES)
            entries = np.concatenate([np.arange(begin, end), late[self._terms[late] == number]])
            places = self._places[entries]
            if living is not None:
                alive = living[places]
                places, entries = places[alive], entries[alive]
            if len(places):
                found[term] = Postings(places, self._counts[entries])
        return found

    def scores(
        self, held: Iterable[Postings], pieces: int, average: float, holding: Sequence[int] | None = None
    ) -> NDArray[np.float64]:
        """The score of each place, 0 where no term is held, among `pieces` of `average` terms each.

        `holding`: how many of all pieces hold each term, where those here are not all.
        """
        found = np.zeros(self._pieces)
        for at, term in enumerate(held):
            counts = term.counts.astype(np.float64)
            norms = K1 * (1 - B + B * self._lengths[term.places] / max(average, 1e-9))
            weight = rarity(pieces, len(term.places) if holding is None else holding[at]) * (K1 + 1)
            found[term.places] += weight * counts / (counts + norms)
        return found

    def _sort(self) -> None:
        """Sort what came since, once it is much: a search looks through it, so it may not grow with all there is."""
        if self._used - self._sorted <= max(_LATE, self._sorted // 16):
            return
        order = np.argsort(self._terms[: self._used], kind="stable")
        self._terms = self._terms[: self._used][order]
        self._counts = self._counts[: self._used][order]
        self._places = self._places[: self._used][order]
        self._sorted = self._used


def ranges(begins: NDArray[np.intp], sizes: NDArray[np.intp]) -> NDArray[np.intp]:
    """The numbers from each begin on, as many as its size, one range after the other."""
    ends = np.cumsum(sizes)
    return np.asarray(np.arange(ends[-1] if len(ends) else 0) + np.repeat(begins - (ends - sizes), sizes))
