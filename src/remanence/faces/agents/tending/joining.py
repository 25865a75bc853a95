"""The stage that merges near-duplicate episodes, and `unmerge`, which takes that back."""

from collections.abc import Hashable, Sequence

from remanence.errors import Conflict, Missing
from remanence.faces.agents.tending.absorbing import (
    Repair,
    absorbed,
    given_back,
    hidden,
    may_merge,
    may_vanish,
    rank,
    repairs,
    shown,
)
from remanence.faces.agents.tending.gathering import Seen, grouped, looked_through
from remanence.faces.agents.tending.hands import Hands, Replace
from remanence.faces.agents.tending.likeness import Group, richness, told
from remanence.faces.agents.tending.worker import TOGETHER, Worker, holding
from remanence.faces.agents.types import EpisodicMemory

_ATTEMPTS = 5


async def merge(worker: Worker) -> None:
    """Merge what is nearly the same: of one agent, with one outcome, one task and one result."""
    if not worker.policy.merge:
        return
    seen = await _look(worker)
    if await _repair(worker, seen):
        seen = await _look(worker)
    order = sorted(
        (at for at, each in enumerate(seen.episodes) if may_merge(each)),
        key=lambda at: rank(seen.episodes[at], richness(seen.sketches[at])),
    )
    episodes = [seen.episodes[at] for at in order]
    waiting: list[Group] = []
    sketches = [seen.sketches[at] for at in order]
    async for found in grouped(worker.hands, sketches, seen.vectors[order], worker.policy.duplicates):
        for group in found:
            waiting.append(group)
            if sum(1 + len(each.others) for each in waiting) >= TOGETHER:
                await _absorb(worker, waiting, episodes)
                waiting = []
        await worker.breathe()
    await _absorb(worker, waiting, episodes)


async def _look(worker: Worker) -> Seen:
    seen = await looked_through(worker.hands, worker.breathe, told, _who_and_how)
    worker.looked_at(len(seen.episodes))
    worker.tell("merge", 0, len(seen.episodes))
    return seen


def _who_and_how(episode: EpisodicMemory) -> Hashable:
    """Another agent would not find its own episode any more; and what failed is not what succeeded."""
    return episode.agent_id, episode.success


async def _absorb(worker: Worker, groups: Sequence[Group], judged: Sequence[EpisodicMemory]) -> None:
    """Carry out some merges: first all that stay say for whom, then those are hidden."""
    fresh = await worker.fresh(judged[at].memory_id for group in groups for at in (group.first, *group.others))
    plan = []
    for group in groups:
        first = holding([judged[group.first]], fresh)
        others = holding([judged[at] for at in group.others], fresh)
        if first and others:
            plan.append((first[0], absorbed(first[0], others, worker.hands.now()), others))
        else:
            worker.add("changed_meanwhile")
    written = await worker.write([Replace(first, stays) for first, stays, _ in plan])
    sure = [(stays, others) for (_, stays, others), ok in zip(plan, written, strict=True) if ok]
    worker.count("kept", (stays.memory_id for stays, _ in sure))
    worker.add("changed_meanwhile", written.count(False))
    pairs = [(stays, each) for stays, others in sure for each in others if each.memory_id in stays.merged_from]
    await _hide(worker, pairs)


async def _hide(worker: Worker, pairs: Sequence[tuple[EpisodicMemory, EpisodicMemory]]) -> None:
    done = await worker.write([Replace(each, hidden(each, stays)) for stays, each in pairs])
    worker.count("merged", (each.memory_id for (_, each), ok in zip(pairs, done, strict=True) if ok))
    worker.add("changed_meanwhile", done.count(False))


# --- what was left half done ----------------------------------------------------------------------


async def _repair(worker: Worker, seen: Seen) -> bool:
    """Put right what an earlier pass, or an `unmerge`, left half done; whether there was anything."""
    found = repairs({each.memory_id: each for each in seen.episodes})
    for each in found:
        await worker.breathe()
        if each.verb == "finish":
            await _finish(worker, each)
        else:
            first = (await worker.fresh([each.first])).get(each.first) if each.verb == "undo" else None
            worker.count("restored", await _undo(worker.hands, first, each) or [])
    return bool(found)


async def _finish(worker: Worker, repair: Repair) -> None:
    fresh = await worker.fresh([repair.first, *repair.others])
    first = fresh.get(repair.first)
    if first is not None:
        others = [fresh[name] for name in repair.others if name in first.merged_from and name in fresh]
        await _hide(worker, [(first, each) for each in others if may_vanish(each)])


async def unmerge(hands: Hands, memory_id: str) -> list[str]:
    """Take a merge back: all that was merged with an episode is found again as it was, and is not merged any more.

    `memory_id`: the episode that stands for the others, or one of them. Returns the ids, [] where it is in no merge.
    Stopped half way, the next pass goes on. Raises `Missing` where there is no such episode, `Conflict` where others
    kept changing it.
    """
    for _ in range(_ATTEMPTS):
        episode = await _episode(hands, memory_id)
        if episode is None:
            raise Missing(f"there is no episode {memory_id!r:.80}")
        name = episode.merged_into or memory_id
        first = await _episode(hands, name)
        if name == memory_id and not episode.merged_from:
            return []
        others = dict.fromkeys(each for each in (*(first.merged_from if first else ()), memory_id) if each != name)
        if (found := await _undo(hands, first, Repair("undo", name, list(others), alone=True))) is not None:
            return found
    raise Conflict(f"the episode {memory_id!r:.80} or one merged with it kept changing: try again")


async def _episode(hands: Hands, memory_id: str) -> EpisodicMemory | None:
    (found,) = await hands.get("episodic", [memory_id])
    return found if isinstance(found, EpisodicMemory) else None


async def _undo(hands: Hands, first: EpisodicMemory | None, repair: Repair) -> list[str] | None:
    """Show the others, then give `first` back what it was. None where one of them changed meanwhile."""
    stored = [each for each in await hands.get("episodic", repair.others) if isinstance(each, EpisodicMemory)]
    mine = [each for each in stored if each.merged_into in (None, repair.first)]
    steps = [Replace(each, shown(each, alone=repair.alone or each.stands_alone)) for each in mine]
    if not all(await hands.write([step for step in steps if step.now != step.was])):
        return None
    if first is None:
        return [each.memory_id for each in mine]
    if not all(await hands.write([Replace(first, given_back(first, hands.now(), alone=repair.alone))])):
        return None
    return [first.memory_id, *(each.memory_id for each in mine)]
