"""How the reasons to find a memory become one score. Pure; one set of constants, measured in docs.

Structure is what a memory store knows anyway: who spoke, in which session, next to what. It is worth more than
a better model. Weighted min-max fusion is used because reciprocal ranks measured worse than keywords alone.
"""

from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from remanence.search.types import Favour

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Numbers = NDArray[np.int64]

CANDIDATES: Final = 300
"""The best of each list, by keyword and by meaning, that are looked at more closely."""
LOOKED: Final = 200
"""The best of the candidates, which are compared with the question word by word."""


class Weights(NamedTuple):
    """How much each way to match counts; together 1."""

    keyword: float
    meaning: float
    late: float


PLAIN: Final = Weights(0.5, 0.5, 0.0)
"""Where the words' states are not known."""
WRITTEN: Final = Weights(0.25, 0.35, 0.4)
SAID: Final = Weights(0.3, 0.2, 0.5)
"""Of a turn that somebody with a name said: it is short, and its one vector tells more of who and when than of what."""
SPEAKER: Final = 0.2
"""The question names the speaker, or says "I" and the user said it."""
USER: Final = 0.25
"""In a log of user and assistant, the user said it."""
WHEN: Final = 0.1
"""The question asks when, and the memory holds a time expression."""
NEIGHBOUR: Final = 0.2
"""Of the score of each neighbour within `REACH` turns."""
NEIGHBOUR_OF_ROLES: Final = 0.05
"""The same in a log of user and assistant, where an answer repeats what was asked and proves little."""
REACH: Final = 2
ALIKE: Final = 1e-6
"""Scores that differ by less are equal: scaled to 0 and 1, what float32 rounds off would decide the order."""
SESSION: Final = 0.3
"""Of the score of the best match of the session."""

_FURTHEST: Final = 1 << 31
_STRIDE: Final = 1 << 33  # positions of two sessions can never come within reach of each other


class Candidates(msgspec.Struct, frozen=True):
    """What is known of each candidate, as columns of one length."""

    keyword: Floats
    meaning: Floats
    session: Numbers
    """Equal numbers, the same session; below 0 for none."""
    position: Numbers
    named: Flags
    """The question names its speaker."""
    user: Flags
    role: Flags
    """It is the user's or the assistant's."""
    said: Flags
    """Somebody with a name said it."""
    timed: Flags
    created: Floats
    importance: Floats
    uses: Floats


Parts = dict[str, Floats]


def fused(found: Candidates, when: bool, mine: bool, meaning: bool, late: Floats | None = None) -> Parts:
    """What each reason gives each candidate; their sum is the score. Without `meaning`, keywords weigh for all.

    `late` is how well each agrees word by word, NaN where that was not looked at; None where nothing was.
    """
    if not meaning:
        parts: Parts = {"keyword": scaled(found.keyword)}
    elif late is None:
        parts = {"keyword": PLAIN.keyword * scaled(found.keyword), "meaning": PLAIN.meaning * scaled(found.meaning)}
    else:
        keyword, close, words = (np.where(found.said, said, other) for said, other in zip(SAID, WRITTEN, strict=True))
        parts = {"keyword": keyword * scaled(found.keyword), "meaning": close * scaled(found.meaning)}
        parts["words"] = words * scaled_known(late)
    base = sum(parts.values(), np.zeros(len(found.keyword)))
    parts["speaker"] = np.where(found.named | (found.user & mine), SPEAKER, 0.0)
    parts["user"] = np.where(found.user, USER, 0.0)
    parts["when"] = np.where(found.timed & when, WHEN, 0.0)
    parts["neighbours"] = np.where(found.role, NEIGHBOUR_OF_ROLES, NEIGHBOUR) * neighbours(
        base, found.session, found.position
    )
    parts["session"] = SESSION * session_best(base, found.session)
    return parts


def favoured(found: Candidates, favour: Favour, now: float) -> Parts:
    """What was asked to be favoured, each from 0 to its weight."""
    ages = np.maximum(now - found.created, 0.0)
    parts = {
        "recency": favour.recency * 0.5 ** (ages / favour.half_life),
        "importance": favour.importance * np.clip(found.importance, 0.0, 1.0),
        "use": favour.use * (1 - 1 / (1 + np.maximum(found.uses, 0.0))),
    }
    return {name: part for name, part in parts.items() if getattr(favour, name)}


def order(scores: Floats, found: Candidates) -> NDArray[np.intp]:
    """The candidates, best first. Equals: the newer, the more important, the more used, the one put last."""
    last = np.arange(len(scores))
    return np.lexsort((-last, -found.uses, -found.importance, -found.created, -scores))


def scaled(scores: Floats) -> Floats:
    """From 0 for the worst to 1 for the best; equals, but for rounding, are all 1 if they are more than nothing."""
    if len(scores) == 0:
        return scores
    low, high = scores.min(), scores.max()
    if high - low > ALIKE:
        return np.asarray((scores - low) / (high - low))
    return np.full(len(scores), float(high > ALIKE))


def scaled_known(scores: Floats) -> Floats:
    """The same for those that are known; 0 for the others, which are NaN."""
    known = ~np.isnan(scores)
    found = np.zeros(len(scores))
    found[known] = scaled(scores[known])
    return found


def neighbours(base: Floats, session: Numbers, position: Numbers) -> Floats:
    """For each candidate, the sum of the scores of those within `REACH` turns of its session."""
    keys = session * _STRIDE + np.clip(position, -_FURTHEST, _FURTHEST)
    by_key = np.argsort(keys, kind="stable")
    ordered = keys[by_key]
    total = np.zeros(len(base))
    for step in [step for step in range(-REACH, REACH + 1) if step]:
        at = np.minimum(np.searchsorted(ordered, keys + step), len(ordered) - 1)
        total += np.where((ordered[at] == keys + step) & (session >= 0), base[by_key[at]], 0.0)
    return total


def session_best(base: Floats, session: Numbers) -> Floats:
    """For each candidate, the best score of its session, its own included; 0 outside of sessions."""
    _, codes = np.unique(session, return_inverse=True)
    best = np.full(codes.max(initial=-1) + 1, -np.inf)
    np.maximum.at(best, codes, base)
    return np.where(session >= 0, best[codes], 0.0)
