"""Documents that a server gave as near a question, judged as `fusion` judges: by meaning, words and structure."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from remanence.search import fusion
from remanence.search.bm25 import Words
from remanence.search.columns import Codes
from remanence.search.entries import Entry
from remanence.search.query import MOST_TERMS, Asked, names
from remanence.search.types import Favour, Hit, Mode


class Near(msgspec.Struct, frozen=True):
    """A document, and how near the question its best piece is, from -1 to 1."""

    id: str
    entry: Entry
    cosine: float


class Known(msgspec.Struct, frozen=True):
    """What is known of all documents: how many pieces there are, of how many terms, and how many hold each term."""

    pieces: int
    terms: int
    holding: Mapping[str, int]


class Wish(msgspec.Struct, frozen=True):
    """How the answer shall be."""

    mode: Mode
    limit: int
    favour: Favour
    explain: bool


def judged(near: Sequence[Near], told: Asked, known: Known, wish: Wish, now: float) -> list[Hit]:
    """The best of these documents, best first."""
    if not near:
        return []
    found = _candidates(near, told, known)
    if wish.mode == "semantic":
        parts: fusion.Parts = {"meaning": found.meaning}
    else:
        parts = fusion.fused(found, told.when, told.mine, True)
    parts |= fusion.favoured(found, wish.favour, now)
    scores = sum(parts.values(), np.zeros(len(near)))
    return [
        Hit(
            id=near[place].id,
            kind=near[place].entry.kind,
            score=float(scores[place]),
            parts={name: float(part[place]) for name, part in parts.items()} if wish.explain else None,
        )
        for place in fusion.order(scores, found)[: wish.limit].tolist()
    ]


def _candidates(near: Sequence[Near], told: Asked, known: Known) -> fusion.Candidates:
    entries, sessions = [each.entry for each in near], Codes()
    roles = np.array([entry.role in ("user", "assistant") for entry in entries])
    named = {speaker: names(told, speaker) for speaker in {entry.speaker for entry in entries}}
    codes = [sessions.of(entry.session) if entry.position >= 0 else -1 for entry in entries]
    return fusion.Candidates(
        keyword=_keyword(entries, told, known),
        meaning=np.array([each.cosine for each in near]),
        session=np.array(codes, dtype=np.int64),
        position=np.array([entry.position for entry in entries], dtype=np.int64),
        named=np.array([named[entry.speaker] for entry in entries]),
        user=np.array([entry.role == "user" for entry in entries]),
        role=roles,
        said=np.array([bool(entry.speaker) for entry in entries]) & ~roles,
        timed=np.array([entry.timed for entry in entries]),
        created=np.array([entry.created for entry in entries]),
        importance=np.array([entry.importance for entry in entries]),
        uses=np.array([float(entry.uses) for entry in entries]),
    )


def _keyword(entries: Sequence[Entry], told: Asked, known: Known) -> fusion.Floats:
    """The score of each one's best piece, as it is among all documents."""
    counts = [len(entry.pieces) for entry in entries]
    parts = [piece for entry in entries for piece in entry.pieces]
    words = Words()
    words.add([packed for _, packed in parts], [length for length, _ in parts])
    held = words.postings(told.terms, None)
    holding = {term: max(known.holding.get(term, 0), len(postings.places)) for term, postings in held.items()}
    rarest = sorted(held, key=lambda term: holding[term])[:MOST_TERMS]
    scores = words.scores(
        [held[term] for term in rarest],
        max(known.pieces, len(parts)),
        known.terms / max(1, known.pieces),
        [holding[term] for term in rarest],
    )
    owners = np.repeat(np.arange(len(entries)), counts)
    found = np.zeros(len(entries))
    np.maximum.at(found, owners, scores[: len(owners)])
    return found
