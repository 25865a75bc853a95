"""How like two memories are, and which of many belong together. Pure, in memory that is bounded.

Two measures must agree: the cosine of their vectors, which sees meaning and is blind to particulars, and the words they
share, which is the other way round. Where one shall stand for the other, it must also say all that the other says.
"""

import re
from array import array
from bisect import bisect_right
from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from remanence.faces.agents.types import AgentMemory, EpisodicMemory, SemanticMemory
from remanence.search.query import STOP_WORDS, segmented

Floats = NDArray[np.float32]

MOST_TOGETHER: Final = 1_000
"""Memories that are gathered around one: their ids have to fit in its record."""
MOST_READ: Final = 20_000
"""Characters of a text that are compared."""
_ROWS: Final = 256
_COLUMNS: Final = 4_096
"""So many rows are compared with so many others at once: 4 MB of cosines, some milliseconds."""
_DEARER: Final = 32
"""To look a memory up by a word takes so many times what it takes to multiply two vectors of a block."""
_NOBODY: Final = np.zeros(0, dtype=np.intp)
_PATIENCE: Final = 200
"""Near ones with other words that are looked at around one memory, the nearest first, before it is left."""

_TOKEN: Final = re.compile(r"\d+(?:[.,:]\d+)*|\w+")
_NEGATION: Final = re.compile(r"\b(?:not|no|never|without|cannot|neither|nor)\b|n(?:'|\u2019)t\b", re.IGNORECASE)
_ENDINGS: Final = ("ing", "ed", "es", "s")
_DIRECTIONS: Final = frozenset({"from", "before", "after", "than", "until", "instead"})
"""What they are followed by counts with them: from a to b is not from b to a, which vectors and words take for one."""
_TELLING: Final = frozenset(
    {"above", "against", "below", "down", "less", "more", "not", "off", "out", "over", "under", "up"}
)
"""Words that are often skipped and turn what is said. What one text says with one of them the other must say, too."""


class Likeness(msgspec.Struct, frozen=True):
    """From when on two memories are alike: cosine of their vectors and share of common words, both from 0 to 1.

    `whole`: the first of a group says all that the others say, word for word, and each number, name, negation or
    direction of one is also in the other, and in order: whoever looks for what is left out finds what stands for it.
    """

    cosine: float
    overlap: float
    whole: bool = False


class Sketch(NamedTuple):
    """What of a text is compared: hashes of its words in their order, and those that must be on both sides.

    Only sketches with the same `key` are compared. `joins` false: others may gather around it, it joins nobody.
    """

    words: bytes
    all_words: bytes
    particulars: bytes
    key: Hashable = None
    joins: bool = True


class Group(NamedTuple):
    """The place of the memory that others were gathered around, and theirs."""

    first: int
    others: list[int]


def told(memory: AgentMemory) -> str:
    """The text that tells what a memory is about."""
    if isinstance(memory, EpisodicMemory):
        return f"{memory.task_prompt}\n{memory.outcome}"
    if isinstance(memory, SemanticMemory):
        return f"{memory.pattern}\n{memory.context}"
    return f"{memory.skill_name}\n{memory.description}"


def sketch(text: str, key: Hashable = None, *, joins: bool = True) -> Sketch:
    """Read a text once, for all comparisons. Never fails: one without words is like no other."""
    spelled = segmented(_NEGATION.sub(" not ", text[:MOST_READ]))
    content: dict[int, None] = {}
    everything: dict[int, int] = {}
    particulars: set[int] = set()
    direction = ""
    for found in _TOKEN.finditer(spelled):
        word = _read(found[0].lower())
        times = everything[word.hash] = everything.get(word.hash, 0) + 1
        if word.content:
            content[word.hash] = None
        if word.particular or (word.content and found[0][0].isupper()):
            particulars.add(word.hash)
        marks = [f"{direction} {word.hash}"] if direction and word.content else []
        marks += [f"{times} {word.hash}"] if word.particular and times > 1 else []  # "not" twice is not "not" once
        for mark in map(_hash, marks):
            everything[mark] = 1
            particulars.add(mark)
        direction = word.direction or (direction if not word.content else "")
    ordered = [each for each in everything if each in particulars]
    return Sketch(_packed(content), _packed(everything), _packed(ordered), key, joins)


class _Word(NamedTuple):
    hash: int
    content: bool
    particular: bool
    direction: str


@lru_cache(maxsize=50_000)
def _read(word: str) -> _Word:
    root = f"!{word}" if word in _TELLING else stem(word)  # or "notes" would be "not"
    particular = word in _TELLING or any(letter.isdigit() for letter in word)
    return _Word(
        _hash(root), word in _TELLING or word not in STOP_WORDS, particular, word if word in _DIRECTIONS else ""
    )


def stem(word: str) -> str:
    """A word without a common English ending. Crude: both sides are cut alike, and meaning is the vectors' part."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3 and word.isalpha():
            bare = word.removesuffix(ending)
            return bare[:-1] if len(bare) > 3 and bare[-1] == bare[-2] else bare.removesuffix("e")
    return word.removesuffix("e") if len(word) > 4 else word


def _hash(word: str) -> int:
    return crc32(word.encode("utf-8", "replace"))


def _packed(hashes: Iterable[int]) -> bytes:
    """Four bytes for each: a set of Python's takes twenty times as much."""
    return array("I", hashes).tobytes()


def overlap(one: Sketch, other: Sketch) -> float:
    """The share of their words that both have, 0 where one has none."""
    mine, theirs = _set(one.words), _set(other.words)
    return len(mine & theirs) / len(mine | theirs) if mine and theirs else 0.0


def tells_all(one: Sketch, other: Sketch) -> bool:
    """Whether the first says all that the other says, and the particulars of each are also in the other, in order."""
    return (
        _set(other.words) <= _set(one.words)
        and _in_order(one.particulars, other.all_words)
        and _in_order(other.particulars, one.all_words)
    )


def _in_order(particulars: bytes, words: bytes) -> bool:
    """Whether all of them are there, as they follow each other: who told whom, 3 of 5."""
    places = {each: at for at, each in enumerate(memoryview(words).cast("I"))}
    found = [places.get(each, -1) for each in memoryview(particulars).cast("I")]
    return -1 not in found and found == sorted(found)


def richness(one: Sketch) -> int:
    """How many words it has, each counted once."""
    return len(one.words) // array("I").itemsize


def _set(hashes: bytes) -> set[int]:
    return set(memoryview(hashes).cast("I"))


def alike(one: Sketch, other: Sketch, rule: Likeness) -> bool:
    """Whether the words of two memories, whose vectors are near, say the same."""
    return overlap(one, other) >= rule.overlap and (not rule.whole or tells_all(one, other))


def gathered(sketches: Sequence[Sketch], vectors: Floats, rule: Likeness) -> Iterator[list[Group]]:
    """Groups of memories that are like their first one, each memory in one group at most.

    The order says who comes first. Nobody is gathered because of somebody in between: all of a group are like its
    first. Gives after each block of work what it found, also nothing, so that others can have their turn. `vectors`
    are of length 1 (or 0), in the same order.
    """
    alone: dict[Hashable, list[int]] = {}
    for place, each in enumerate(sketches):
        alone.setdefault(each.key, []).append(place)
    for places in alone.values():
        if len(places) > 1:
            yield from _within(np.array(places), sketches, vectors[places], rule)


def _within(
    places: NDArray[np.intp], sketches: Sequence[Sketch], rows: Floats, rule: Likeness
) -> Iterator[list[Group]]:
    mine = [sketches[place] for place in places]
    free = np.array([each.joins for each in mine])
    leads = np.ones(len(mine), dtype=np.bool_)
    glance = _Glance(mine) if rule.whole else None
    rarest = _Rarest(mine) if rule.whole and rule.overlap > 0 else None
    end = 0
    while len(block := np.nonzero(leads[end:])[0][:_ROWS] + end):
        end = int(block[-1]) + 1
        later = np.nonzero(free[block[0] + 1 :])[0] + block[0] + 1
        few = rarest is not None and _DEARER * sum(map(rarest.cost, block.tolist())) < len(block) * len(later)
        near = map(rarest.told, block.tolist()) if few and rarest else _near(rows, block, later, rule.cosine)
        found = []
        for at, columns in zip(block.tolist(), near, strict=True):
            if not leads[at]:  # it was gathered meanwhile
                continue
            columns = columns[free[columns]]
            if glance is not None and len(columns):
                columns = columns[glance.hopeful(at, columns)]
            others = _agreeing(mine[at], _nearest(rows, at, columns, rule.cosine), mine, rule)
            if others:
                free[others] = leads[others] = False
                found.append(Group(int(places[at]), sorted(places[others].tolist())))
        yield found


def _nearest(rows: Floats, at: int, columns: NDArray[np.intp], least: float) -> NDArray[np.intp]:
    """Those of the columns that are near enough, the nearest first."""
    cosines = rows[columns] @ rows[at]
    return columns[np.argsort(-cosines, kind="stable")][: np.count_nonzero(cosines >= least)]


class _Rarest:
    """Every memory that may join others, under the rarest of its words: who says all that it says has that word."""

    def __init__(self, sketches: Sequence[Sketch]) -> None:
        said = [np.frombuffer(each.words, dtype=np.uint32) for each in sketches]
        words, counts = np.unique(np.concatenate(said), return_counts=True)
        self._said = said
        self._under: dict[int, array[int]] = {}
        for at, mine in enumerate(said):
            if sketches[at].joins and len(mine):
                rarest = mine[np.argmin(counts[np.searchsorted(words, mine)])]
                self._under.setdefault(int(rarest), array("q")).append(at)

    def cost(self, at: int) -> int:
        """How many `told` goes through."""
        return sum(len(each) for each in self._places(at))

    def told(self, at: int) -> NDArray[np.intp]:
        """Of those that come later, in order, all that this one may tell all of."""
        found = sorted(other for each in self._places(at) for other in each[bisect_right(each, at) :])
        return np.array(found, dtype=np.intp)

    def _places(self, at: int) -> Iterator["array[int]"]:
        return (self._under[word] for word in self._said[at].tolist() if word in self._under)


def _near(rows: Floats, block: NDArray[np.intp], columns: NDArray[np.intp], least: float) -> list[NDArray[np.intp]]:
    """For each row of the block: those of the columns that come later and are near enough.

    Tile by tile, so that what is multiplied stays in the processor's cache.
    """
    found: list[list[NDArray[np.intp]]] = [[_NOBODY] for _ in block]
    firsts = rows[block]
    for left in range(0, len(columns), _COLUMNS):
        part = columns[left : left + _COLUMNS]
        lines, places = np.nonzero(firsts @ rows[part].T >= least)
        later = part[places] > block[lines]
        lines, others = lines[later], part[places[later]]
        ends = np.searchsorted(lines, np.arange(len(block)), side="right").tolist()
        for row, (begin, end) in enumerate(pairwise([0, *ends])):
            if begin < end:
                found[row].append(others[begin:end])
    return [np.concatenate(parts) for parts in found]


class _Glance:
    """Words as bits, to see of many at once that they cannot tell the same: most of what is near differs in a word."""

    def __init__(self, sketches: Sequence[Sketch]) -> None:
        self._words = _bits([each.words for each in sketches])
        self._all = _bits([each.all_words for each in sketches])
        self._particulars = _bits([each.particulars for each in sketches])

    def hopeful(self, first: int, others: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Which of the others `first` may tell all of (`tells_all`): never False where it does."""
        missing = self._words[others] & ~self._words[first]
        missing |= self._particulars[first] & ~self._all[others]
        missing |= self._particulars[others] & ~self._all[first]
        return np.asarray(~missing.any(axis=1))


def _bits(hashes: Sequence[bytes]) -> NDArray[np.uint8]:
    """256 bits for each, of which every word sets one."""
    found = np.zeros((len(hashes), 256), dtype=np.bool_)
    for row, each in enumerate(hashes):
        found[row, np.frombuffer(each, dtype=np.uint32) & 255] = True
    return np.packbits(found, axis=1)


def _agreeing(first: Sketch, nearest: NDArray[np.intp], sketches: Sequence[Sketch], rule: Likeness) -> list[int]:
    """Those of the nearest whose words say the same, too."""
    found: list[int] = []
    refused = 0
    for each in nearest.tolist():
        if alike(first, sketches[each], rule):
            found.append(each)
        else:
            refused += 1
        if len(found) == MOST_TOGETHER or refused == _PATIENCE:
            break
    return found
