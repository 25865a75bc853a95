"""Merging near-duplicate episodes and taking it back: what becomes of each record. Pure.

One episode stays and says so first (`merged_from`); only then are the others left out of searches (`merged_into`). To
take it back goes the other way round. Whoever is interrupted in between leaves what `repairs` can tell apart.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple

from msgspec.structs import replace

from remanence.faces.agents.tending.likeness import MOST_TOGETHER
from remanence.faces.agents.types import EpisodicMemory, Lent

_FOREVER: Final = datetime.max.replace(tzinfo=UTC)


def rank(episode: EpisodicMemory, words: int) -> tuple[bool, bool, float, int, float, float, datetime, str]:
    """Who stays, the least first: standing for others already, pinned, trusted, of most words, lasting, important, old.

    The trusted one before all, so that nothing of doubtful origin takes the place of what is known.
    """
    lasting = (episode.expires_at or _FOREVER).timestamp()
    return (
        not episode.merged_from,
        not episode.pinned,
        -episode.trust,
        -words,
        -lasting,
        -episode.importance,
        episode.created_at,
        episode.memory_id,
    )


def may_merge(episode: EpisodicMemory) -> bool:
    """Whether an episode takes part: not one that is merged already, nor one that was taken out of a merge."""
    return episode.merged_into is None and not episode.stands_alone and len(episode.merged_from) < MOST_TOGETHER


def may_vanish(episode: EpisodicMemory) -> bool:
    """Whether it may be left out for another: not a pinned one, nor one that stands for others."""
    return may_merge(episode) and not episode.pinned and not episode.merged_from


def same_state(judged: EpisodicMemory, now: EpisodicMemory | None) -> bool:
    """Whether what was decided of an episode still holds for it as it is now: its text, its part in a merge."""
    return (
        now is not None
        and now.updated_at == judged.updated_at
        and now.pinned == judged.pinned
        and now.merged_into == judged.merged_into
        and now.merged_from == judged.merged_from
        and now.stands_alone == judged.stands_alone
    )


def absorbed(first: EpisodicMemory, others: Sequence[EpisodicMemory], now: datetime) -> EpisodicMemory:
    """`first` as it stands for the others, too: used as often as all, lasting as long as the longest of them.

    Tags and importance come from those that are trusted as much: who may say little may not raise what is known.
    """
    others = others[: MOST_TOGETHER - len(first.merged_from)]
    before = first.lent
    lenders = [each for each in others if each.trust >= first.trust]
    tags = [tag for tag in dict.fromkeys(tag for each in lenders for tag in each.tags) if tag not in first.tags]
    uses = sum(each.access_count for each in others)
    importance = max(first.importance, *(each.importance for each in lenders)) if lenders else first.importance
    used = max(first.last_accessed, *(each.last_accessed for each in others))
    expiry = _latest([first, *others])
    return replace(
        first,
        tags=[*first.tags, *tags],
        access_count=first.access_count + uses,
        importance=importance,
        last_accessed=used,
        expires_at=expiry,
        merged_from=[*first.merged_from, *(each.memory_id for each in others)],
        lent=Lent(
            merged_at=now,
            importance=(before.importance[0] if before else first.importance, importance),
            last_accessed=(before.last_accessed[0] if before else first.last_accessed, used),
            expires_at=(before.expires_at[0] if before else first.expires_at, expiry),
            access_count=uses + (before.access_count if before else 0),
            tags=[*(before.tags if before else []), *tags],
        ),
    )


def _latest(episodes: Sequence[EpisodicMemory]) -> datetime | None:
    ends = [each.expires_at for each in episodes]
    return None if None in ends else max(end for end in ends if end is not None)


def hidden(other: EpisodicMemory, first: EpisodicMemory) -> EpisodicMemory:
    """An episode that another stands for. All else stays as it is."""
    return replace(other, merged_into=first.memory_id)


def shown(other: EpisodicMemory, *, alone: bool) -> EpisodicMemory:
    """An episode that stands for itself again; `alone`: and is not merged again."""
    return replace(other, merged_into=None, stands_alone=alone)


def given_back(first: EpisodicMemory, now: datetime, *, alone: bool) -> EpisodicMemory:
    """An episode without what a merge lent it. What was changed since by others stays changed.

    A lifetime that would be over by now stays as the merge made it.
    """
    lent = first.lent
    bare = replace(first, merged_from=[], lent=None, stands_alone=alone)
    if lent is None:
        return bare
    end = first.expires_at
    kept = first.pinned and end is None  # somebody pinned it since: that is for ever
    if not kept and end == lent.expires_at[1] and (lent.expires_at[0] is None or lent.expires_at[0] > now):
        end = lent.expires_at[0]
    used, important = lent.last_accessed, lent.importance
    return replace(
        bare,
        tags=[tag for tag in first.tags if tag not in lent.tags],
        access_count=max(0, first.access_count - lent.access_count),
        importance=important[0] if first.importance == important[1] else first.importance,
        last_accessed=used[0] if first.last_accessed == used[1] else first.last_accessed,
        expires_at=end,
    )


class Repair(NamedTuple):
    """What was left half done: `others` of `first` still to be hidden, or to be shown and `first` given back.

    "orphan": the one that stood for `others` is gone, or does not know of them. They are shown.
    """

    verb: Literal["finish", "undo", "orphan"]
    first: str
    others: list[str]
    alone: bool = False


def repairs(episodes: Mapping[str, EpisodicMemory]) -> list[Repair]:
    """What is to be put right before anything is merged."""
    found = [repair for each in episodes.values() if each.merged_from and (repair := _half_done(each, episodes))]
    lost: dict[str, list[str]] = {}
    for each in episodes.values():
        if each.merged_into is not None and not _known(each, episodes.get(each.merged_into)):
            lost.setdefault(each.merged_into, []).append(each.memory_id)
    return found + [Repair("orphan", first, others) for first, others in lost.items()]


def _known(other: EpisodicMemory, first: EpisodicMemory | None) -> bool:
    return first is not None and other.memory_id in first.merged_from


def _half_done(first: EpisodicMemory, episodes: Mapping[str, EpisodicMemory]) -> Repair | None:
    others = [episodes[name] for name in first.merged_from if name in episodes]
    open_ones = [each for each in others if each.merged_into != first.memory_id or each.pinned]  # since it was hidden
    if not open_ones:
        return None
    names = [each.memory_id for each in others if each.merged_into in (None, first.memory_id)]
    if any(each.stands_alone for each in open_ones):  # somebody was taking the merge back
        return Repair("undo", first.memory_id, names, alone=True)
    merged_at = first.lent.merged_at if first.lent else None
    if any(not may_vanish(each) or merged_at is None or each.updated_at >= merged_at for each in open_ones):
        return Repair("undo", first.memory_id, names)  # it is not what was judged any more
    return Repair("finish", first.memory_id, [each.memory_id for each in open_ones])
