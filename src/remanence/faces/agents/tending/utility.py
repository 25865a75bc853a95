"""What a memory is worth keeping for, and which may be forgotten. Pure; nothing is written as time passes.

The parts are those of the retrieval score of Park et al., "Generative Agents: Interactive Simulacra of Human Behavior"
(UIST 2023), without relevance, for there is no question here: importance, and recency that falls off exponentially
since the last use. How often it was used, how it went and how far it is trusted are added.
"""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Final

from remanence.faces.agents.types import EpisodicMemory

HALF_USED: Final = 3
"""Uses that are worth half of what any number of them is."""


def utility(episode: EpisodicMemory, now: datetime, half_life: float) -> float:
    """From 0 to 1: trust × (0.4 importance + 0.3 recency + 0.2 use + 0.1 success).

    Recency is 0.5 ** (seconds since the last use / `half_life`), use is n / (n + 3) of n uses.
    """
    idle = max(0.0, (now - last_used(episode)).total_seconds())
    use = episode.access_count / (episode.access_count + HALF_USED)
    worth = 0.4 * episode.importance + 0.3 * 0.5 ** (idle / half_life) + 0.2 * use + 0.1 * episode.success
    return float(episode.trust * worth)


def last_used(episode: EpisodicMemory) -> datetime:
    """When somebody last had to do with it."""
    return max(episode.last_accessed, episode.created_at)


def forgettable(
    episodes: Iterable[EpisodicMemory],
    needed: Collection[str],
    now: datetime,
    *,
    half_life: float,
    below: float | None,
    after: float,
    most: int | None,
    spare: float,
) -> list[EpisodicMemory]:
    """The episodes to forget, the least useful first; those that are merged into one go with it.

    Never one that is pinned, or that what was learned rests on (`needed`), or that stands for such a one. Of the
    others those below `below` that are older than `after` seconds; and where there are more than `most`, as many as
    are too many and older than `spare`.
    """
    everything = list(episodes)
    kept = {each.memory_id for each in everything if each.pinned}.union(needed)
    free = [each for each in everything if not (each.merged_into or _rests_on(each, kept))]
    ordered = sorted(((utility(each, now, half_life), each.memory_id, each) for each in free), key=lambda row: row[:2])
    excess = 0 if most is None else max(0, len(everything) - most)
    stored = {each.memory_id for each in everything}
    found = []
    for worth, _, episode in ordered:
        age = (now - episode.created_at).total_seconds()
        useless = below is not None and worth < below and age > after
        if useless or (excess > 0 and age > spare):
            found.append(episode)
            excess -= 1 + sum(name in stored for name in episode.merged_from)
    return found


def _rests_on(episode: EpisodicMemory, kept: Collection[str]) -> bool:
    return episode.memory_id in kept or any(name in kept for name in episode.merged_from)
