"""Making knowledge of episodes that are like each other: what it says, how sure it is, and when it grows. Pure."""

import hashlib
import math
import re
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from remanence.faces.agents.tending.likeness import stem
from remanence.faces.agents.types import EpisodicMemory, SemanticMemory
from remanence.search.query import STOP_WORDS

SOURCE: Final = "consolidation"
"""The `source` of what was made here: only such memories are ever changed here."""
MOST_EXAMPLES: Final = 3
LONGEST_EXAMPLE: Final = 200
LONGEST_PATTERN: Final = 500
"""Characters of a wording from outside; a longer one is not taken."""
MOST_NAMED: Final = 8
"""Words, tools or tags that are named in one sentence."""
_WORD: Final = re.compile(r"\w+")


class Wording(msgspec.Struct, frozen=True, kw_only=True):
    """What a pattern says, as given to who words it better. It is made of memories: data, not instructions."""

    pattern: str
    context: str
    examples: list[str]


class Change(NamedTuple):
    """A pattern to store: as it was (None: new) and as it is to be. `worded`: its sentence is new."""

    was: SemanticMemory | None
    now: SemanticMemory
    worded: bool


def sources(group: Iterable[EpisodicMemory]) -> list[str]:
    """The ids of all episodes behind a group, also of those that were merged into one of it."""
    return list(dict.fromkeys(name for each in group for name in (each.memory_id, *each.merged_from)))


def size(group: Iterable[EpisodicMemory]) -> int:
    """How many experiences a group is: one that stands for others counts as all of them."""
    return sum(1 + len(each.merged_from) for each in group)


def confidence(agreeing: int, total: int) -> float:
    """How sure it is that the next one goes the same way: (agreeing + 1) / (total + 2), Laplace's rule of succession.

    3 of 3: 0.8; 2 of 3: 0.6; 10 of 10: 0.92. Few never make sure.
    """
    return round((agreeing + 1) / (total + 2), 4)


def matched(
    groups: Sequence[Collection[str]], patterns: Mapping[str, SemanticMemory], living: Collection[str]
) -> list[str | None]:
    """For each group of source ids the pattern that was made of it before, each once; None for a new group.

    That is the one it shares most with, and at least half of the smaller of both.
    """
    behind: dict[str, list[str]] = {}
    for pattern_id, pattern in patterns.items():
        for name in pattern.source_episodes:
            behind.setdefault(name, []).append(pattern_id)
    free = {name: sum(each in living for each in pattern.source_episodes) for name, pattern in patterns.items()}
    found: list[str | None] = []
    for group in groups:
        shared = Counter(pattern_id for name in group for pattern_id in behind.get(name, ()) if pattern_id in free)
        best = min(shared, key=lambda name: (-shared[name], name), default=None)
        if best is not None and 2 * shared[best] < min(len(group), free[best]):
            best = None
        if best is not None:
            del free[best]
        found.append(best)
    return found


def refused(group: Collection[str], unwanted: Iterable[Collection[str]], living: Collection[str]) -> bool:
    """Whether a pattern of these source ids would be one that somebody deleted.

    `unwanted`: the source ids of each of those. It is one by the same rule that finds the pattern of a group that grew.
    """
    for names in unwanted:
        there = [name for name in names if name in living]
        shared = len(set(there).intersection(group))
        if shared and 2 * shared >= min(len(group), len(there)):
            return True
    return False


def drafted(group: Sequence[EpisodicMemory], now: datetime, lifetime: float | None) -> SemanticMemory:
    """What a group of similar episodes teaches. Its id comes from theirs: made twice, it is the same one.

    `lifetime`: seconds it is kept, None for ever.
    """
    agents = {each.agent_id for each in group}
    good, total = _successes(group), size(group)
    return SemanticMemory(
        memory_id=pattern_id(sources(group)),
        created_at=now,
        updated_at=now,
        last_accessed=now,
        importance=max(each.importance for each in group),
        tags=_common([each.tags for each in group], 0.5),
        agent_id=agents.pop() if len(agents) == 1 else "",
        source=SOURCE,
        trust=min(each.trust for each in group),
        expires_at=_expiry(now, lifetime),
        pattern=sentence(group),
        context=_context(group),
        examples=_examples(group),
        confidence=confidence(max(good, total - good), total),
        times_validated=max(good, total - good),
        source_episodes=sources(group),
    )


def pattern_id(names: Iterable[str]) -> str:
    """A UUID (version 8) of the ids of the sources, whatever their order."""
    digest = hashlib.blake2b("\n".join(sorted(names)).encode(), digest_size=16, person=b"rem-pattern")
    made = bytearray(digest.digest())
    made[6], made[8] = made[6] & 0x0F | 0x80, made[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(made)))


def grown(
    pattern: SemanticMemory,
    group: Sequence[EpisodicMemory],
    living: Collection[str],
    now: datetime,
    lifetime: float | None,
) -> Change | None:
    """The pattern with what the group adds to it; None where that is nothing.

    Its sentence stays, whoever worded it, unless most episodes say the opposite by now. `times_validated` counts the
    new ones that say the same.
    """
    known = set(pattern.source_episodes)
    fresh = [name for name in sources(group) if name not in known]
    if not fresh:
        return None
    before = [each for each in group if known.intersection((each.memory_id, *each.merged_from))]
    draft = drafted(group, now, lifetime)
    turned = bool(before) and _succeeds(before) != _succeeds(group)
    kept = [name for name in pattern.source_episodes if name in living]
    agreeing = sources(each for each in group if each.success == _succeeds(group))
    return Change(
        pattern,
        replace(
            pattern,
            updated_at=now,
            pattern=draft.pattern if turned else pattern.pattern,
            context=draft.context,
            examples=list(dict.fromkeys([*pattern.examples, *draft.examples]))[:MOST_EXAMPLES],
            confidence=draft.confidence,
            trust=min(pattern.trust, draft.trust),
            importance=max(pattern.importance, draft.importance),
            times_validated=pattern.times_validated + len(set(agreeing) - known),
            source_episodes=[*kept, *fresh],
            expires_at=None if pattern.expires_at is None else _expiry(now, lifetime),
        ),
        turned,
    )


# --- wording ------------------------------------------------------------------------------------


def sentence(group: Sequence[EpisodicMemory]) -> str:
    """What the episodes have in common, as one plain sentence."""
    went = "succeed" if _succeeds(group) else "fail"
    usual = "" if _unanimous(group) else "mostly "
    told = f"Tasks about {_subject(group)} {usual}{went}"
    if tools := _common([each.tools_used for each in group], 0.5):
        told += f", with {_listed(tools)}"
    failed = [each for each in group if not each.success]
    if not _succeeds(group) and (errors := _common([_words(" ".join(each.error_messages)) for each in failed], 0.5)):
        told += f"; errors speak of {_listed(errors)}"
    return told + "."


def _subject(group: Sequence[EpisodicMemory]) -> str:
    """Words that two thirds of the tasks share, in the order of the first; its beginning where there are none."""
    common = _common([_words(each.task_prompt) for each in group], 2 / 3)
    return _listed(common) if common else f"“{_shortened(group[0].task_prompt, 80)}”"


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.lower()) if word not in STOP_WORDS]


def _common(lists: Sequence[Sequence[str]], share: float) -> list[str]:
    """What at least that share of the lists hold, endings aside, as it is first written; at most eight."""
    written: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for each in lists:
        for word in each:
            written.setdefault(stem(word), word)
        counts.update({stem(word) for word in each})
    least = max(2, math.ceil(share * len(lists) - 1e-9)) if len(lists) > 1 else 1
    return [word for root, word in written.items() if counts[root] >= least][:MOST_NAMED]


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _context(group: Sequence[EpisodicMemory]) -> str:
    first = min(each.created_at for each in group).date()
    last = max(each.created_at for each in group).date()
    when = f"on {first}" if first == last else f"between {first} and {last}"
    return f"{_successes(group)} of {size(group)} episodes succeeded, {when}."


def _examples(group: Sequence[EpisodicMemory]) -> list[str]:
    return [_shortened(f"{each.task_prompt} → {each.outcome}", LONGEST_EXAMPLE) for each in group[:MOST_EXAMPLES]]


def _shortened(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def _successes(group: Iterable[EpisodicMemory]) -> int:
    return sum(1 + len(each.merged_from) for each in group if each.success)


def _succeeds(group: Sequence[EpisodicMemory]) -> bool:
    return 2 * _successes(group) >= size(group)


def _unanimous(group: Sequence[EpisodicMemory]) -> bool:
    return len({each.success for each in group}) == 1


def _expiry(now: datetime, lifetime: float | None) -> datetime | None:
    return None if lifetime is None else now + timedelta(seconds=lifetime)


def usable(wording: object) -> str | None:
    """A wording from outside as it may be stored, None for what is no text, empty, or too long."""
    if not isinstance(wording, str):
        return None
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in wording).split())
    return text if 0 < len(text) <= LONGEST_PATTERN else None
