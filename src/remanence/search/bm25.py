"""BM25 over few candidates, from what is kept of each piece: its terms as numbers, with their counts.

FTS5 finds the candidates; its own bm25() has another length constant, and gives a term that more than half of the
rows hold no weight at all.
"""

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from math import log1p
from typing import Final

import numpy as np
from numpy.typing import NDArray

K1: Final = 1.2
B: Final = 0.6

_ENTRY = np.dtype([("term", "<u4"), ("count", "u1")])
_MOST = 255


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


def scores(
    blobs: Sequence[bytes], lengths: Sequence[int], rarities: Mapping[str, float], average: float
) -> NDArray[np.float64]:
    """The score of each piece, given its packed terms and its length in terms."""
    found = np.zeros(len(blobs))
    if not blobs or not rarities:
        return found
    entries = np.frombuffer(b"".join(blobs), dtype=_ENTRY)
    owners = np.repeat(np.arange(len(blobs)), [len(blob) // _ENTRY.itemsize for blob in blobs])
    weights = {hashed(term): weight for term, weight in rarities.items()}
    numbers = np.fromiter(weights, dtype=np.uint32, count=len(weights))
    sorting = np.argsort(numbers)
    numbers = numbers[sorting]
    values = np.fromiter(weights.values(), dtype=np.float64, count=len(weights))[sorting]
    at = np.minimum(np.searchsorted(numbers, entries["term"]), len(numbers) - 1)
    hit = np.nonzero(numbers[at] == entries["term"])[0]
    counts = entries["count"][hit].astype(np.float64)
    long = np.asarray(lengths, dtype=np.float64)[owners[hit]] / max(average, 1e-9)
    np.add.at(found, owners[hit], values[at[hit]] * counts * (K1 + 1) / (counts + K1 * (1 - B + B * long)))
    return found
