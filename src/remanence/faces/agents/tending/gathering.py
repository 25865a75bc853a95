"""All episodes of a namespace as far as they are compared: without their text."""

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from typing import Final

import msgspec
import numpy as np
from msgspec.structs import replace

from remanence.faces.agents.tending.absorbing import may_vanish
from remanence.faces.agents.tending.hands import Hands
from remanence.faces.agents.tending.likeness import Floats, Group, Likeness, Sketch, gathered, sketch
from remanence.faces.agents.types import EpisodicMemory

_EMBEDDED: Final = 500
"""Texts that are embedded before others have their turn: some 20 ms."""


class Seen(msgspec.Struct, frozen=True):
    """Episodes with their vectors and sketches, in one order."""

    episodes: list[EpisodicMemory]
    vectors: Floats
    sketches: list[Sketch]


def slim(episode: EpisodicMemory) -> EpisodicMemory:
    """An episode without what it says."""
    return replace(episode, task_prompt="", outcome="", steps=[], tools_used=[], error_messages=[])


async def listed(hands: Hands, pause: Callable[[], Awaitable[None]]) -> list[EpisodicMemory]:
    """All episodes, each once, without what they say."""
    found: dict[str, EpisodicMemory] = {}
    async for page in hands.pages("episodic"):
        for each in page.memories:
            if isinstance(each, EpisodicMemory):
                found[each.memory_id] = slim(each)
        await pause()
    return list(found.values())


async def grouped(
    hands: Hands, sketches: Sequence[Sketch], vectors: Floats, rule: Likeness
) -> AsyncIterator[list[Group]]:
    """`gathered`, each block computed where it holds nobody up."""
    blocks = gathered(sketches, vectors, rule)
    while (found := await hands.aside(lambda: next(blocks, None))) is not None:
        yield found


def _sketched(
    texts: Sequence[str], episodes: Sequence[EpisodicMemory], key: Callable[[EpisodicMemory], Hashable]
) -> list[Sketch]:
    return [sketch(said, key(each), joins=may_vanish(each)) for said, each in zip(texts, episodes, strict=True)]


async def looked_through(
    hands: Hands,
    pause: Callable[[], Awaitable[None]],
    text: Callable[[EpisodicMemory], str],
    key: Callable[[EpisodicMemory], Hashable],
) -> Seen:
    """All episodes, each once. `text` is what is compared of one, `key` with whom: those of an equal key."""
    episodes: list[EpisodicMemory] = []
    sketches: list[Sketch] = []
    vectors: list[Floats] = []
    known: set[str] = set()
    async for page in hands.pages("episodic"):
        fresh = [each for each in page.memories if isinstance(each, EpisodicMemory) and each.memory_id not in known]
        known.update(each.memory_id for each in fresh)
        for begin in range(0, len(fresh), _EMBEDDED):
            part = fresh[begin : begin + _EMBEDDED]
            texts = [text(each) for each in part]
            vectors.append(np.asarray(await hands.vectors(texts), dtype=np.float32))
            sketches += await hands.aside(lambda: _sketched(texts, part, key))  # noqa: B023 - it is awaited at once
            episodes += map(slim, part)
            await pause()
    together = np.concatenate(vectors) if vectors else np.zeros((0, 1), dtype=np.float32)
    return Seen(episodes, together, sketches)
