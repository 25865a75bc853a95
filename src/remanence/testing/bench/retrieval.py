"""How much of what answers a question comes back: recall, nDCG and MRR over sets of questions with their evidence.

A set is a folder of JSON files, each with `memories` ({id, text, speaker?, date?, session?, caption?}) and
`questions` ({id, text, evidence [ids], category}). Nothing is judged by a model: a memory is evidence or it is not.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import log2
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from remanence.search.columns import ROLES
from remanence.search.types import Document, Hit

DEPTH: Final = 10
LEFT_OUT: Final = frozenset({"adversarial"})
"""Categories whose questions have no answer: told by themselves, and not part of a set's figures."""


class Memory(msgspec.Struct, frozen=True):
    """A memory of a set."""

    id: str
    text: str
    speaker: str = ""
    date: str = ""
    session: str = ""
    caption: str = ""


class Ask(msgspec.Struct, frozen=True):
    """A question of a set, and which memories answer it."""

    id: str
    text: str
    evidence: tuple[str, ...]
    category: str = ""


class Case(msgspec.Struct, frozen=True):
    """One file of a set: memories, and the questions that are asked of them alone."""

    memories: tuple[Memory, ...]
    questions: tuple[Ask, ...]


class Measure(msgspec.Struct, frozen=True):
    """Means over questions, from 0 to 1."""

    questions: int
    recall5: float
    recall10: float
    ndcg10: float
    mrr10: float


class Searched(Protocol):
    """What is measured: an index, or a face."""

    def put(self, documents: Sequence[Document]) -> None:
        """Remember all of these."""

    def search(self, query: str, *, limit: int) -> Sequence[Hit]:
        """Answer a question, best first."""

    def close(self) -> None:
        """Let go of it."""


def cases(folder: Path) -> Iterator[Case]:
    """The files of a set, by name. Raises `msgspec.ValidationError` for one of another shape."""
    for path in sorted(folder.glob("*.json")):
        yield msgspec.json.decode(path.read_bytes(), type=Case)


def documents(case: Case) -> list[Document]:
    """The memories as documents: dialogues as messages of their sessions, what has no speaker as skills."""
    return [
        Document(
            id=memory.id,
            text=memory.text,
            kind="message" if memory.speaker else "skill",
            session=memory.session,
            position=position,
            speaker=memory.speaker,
            role=memory.speaker if memory.speaker in ROLES else "",
            caption=memory.caption,
            date=memory.date,
        )
        for position, memory in enumerate(case.memories)
    ]


def measured(folder: Path, make: Callable[[], Searched]) -> dict[str, Measure]:
    """Ask every question of a set; by category, with the whole under "". `make` gives an empty index for each file."""
    rows: dict[str, list[tuple[float, ...]]] = {}
    for case in cases(folder):
        index = make()
        index.put(documents(case))
        for question in case.questions:
            found = [hit.id for hit in index.search(question.text, limit=DEPTH)]
            row = judged(found, frozenset(question.evidence))
            rows.setdefault(question.category, []).append(row)
            if question.category not in LEFT_OUT:
                rows.setdefault("", []).append(row)
        index.close()
    return {category: _mean(found) for category, found in sorted(rows.items())}


def judged(found: Sequence[str], evidence: frozenset[str]) -> tuple[float, float, float, float]:
    """Recall at 5 and at 10, nDCG at 10 and the reciprocal rank of the first hit, cut at 10."""
    if not evidence:
        return 0.0, 0.0, 0.0, 0.0
    ranks = [rank for rank, id in enumerate(found[:DEPTH], 1) if id in evidence]
    ideal = sum(1 / log2(rank + 1) for rank in range(1, min(len(evidence), DEPTH) + 1))
    return (
        sum(rank <= 5 for rank in ranks) / len(evidence),
        len(ranks) / len(evidence),
        sum(1 / log2(rank + 1) for rank in ranks) / ideal,
        1 / ranks[0] if ranks else 0.0,
    )


def _mean(rows: Sequence[tuple[float, ...]]) -> Measure:
    return Measure(len(rows), *(sum(column) / len(rows) for column in zip(*rows, strict=True)))


def table(name: str, measures: Mapping[str, Measure]) -> Iterable[str]:
    """The figures of a set in per cent, a line for each category."""
    yield f"{name:<34} {'n':>6} {'r@5':>6} {'r@10':>6} {'nDCG':>6} {'MRR':>6}"
    for category, found in measures.items():
        figures = " ".join(
            f"{100 * value:6.1f}" for value in (found.recall5, found.recall10, found.ndcg10, found.mrr10)
        )
        yield f"  {category or 'all':<32} {found.questions:>6} {figures}"


def as_json(measures: Mapping[str, Measure]) -> str:
    """The same for machines."""
    told: dict[str, Any] = {category or "all": msgspec.structs.asdict(found) for category, found in measures.items()}
    return json.dumps(told)
