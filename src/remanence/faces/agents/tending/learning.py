"""The stage that learns: groups of similar episodes become patterns, and patterns grow with them."""

import inspect
from collections.abc import AsyncIterator, Collection, Sequence

from msgspec.structs import replace

from remanence.faces.agents.tending import patterns
from remanence.faces.agents.tending.gathering import grouped, looked_through
from remanence.faces.agents.tending.hands import Add, Replace, Step
from remanence.faces.agents.tending.patterns import Change, Wording
from remanence.faces.agents.tending.worker import TOGETHER, Reword, Worker, holding
from remanence.faces.agents.types import EpisodicMemory, SemanticMemory


async def learn(worker: Worker, reword: Reword | None) -> None:
    """Make and grow patterns. Tasks are compared, not outcomes: how often they succeed is what is learned."""
    seen = await looked_through(worker.hands, worker.breathe, lambda each: each.task_prompt, lambda each: None)
    worker.looked_at(len(seen.episodes))
    living = {each.memory_id for each in seen.episodes}
    order = sorted(
        (at for at, each in enumerate(seen.episodes) if each.merged_into is None),
        key=lambda at: (seen.episodes[at].created_at, seen.episodes[at].memory_id),
    )
    sketches = [seen.sketches[at]._replace(joins=True) for at in order]
    groups: list[list[EpisodicMemory]] = []
    alone = dict.fromkeys(order)
    async for found in grouped(worker.hands, sketches, seen.vectors[order], worker.policy.similar):
        for group in found:
            places = [order[at] for at in (group.first, *group.others)]
            groups.append([seen.episodes[at] for at in places])
            for at in places:
                del alone[at]
        await worker.breathe()
    groups += [[seen.episodes[at]] for at in alone]  # an episode may stand for several
    enough = [group for group in groups if patterns.size(group) >= worker.policy.min_episodes]
    await _note(worker, enough, living, reword)


async def _note(
    worker: Worker, groups: Sequence[list[EpisodicMemory]], living: Collection[str], reword: Reword | None
) -> None:
    known = {each.memory_id: each async for each in semantic(worker) if each.source == patterns.SOURCE}
    unwanted = await _unwanted(worker, living)  # behind `known`: whoever deletes one notes that first
    every = [patterns.sources(group) for group in groups]
    pairs = [
        (group, name)
        for group, ids, name in zip(groups, every, patterns.matched(every, known, living), strict=True)
        if name is not None or not patterns.refused(ids, unwanted, living)
    ]
    for begin in range(0, len(pairs), TOGETHER):
        changes: list[Change] = []
        for group, name in pairs[begin : begin + TOGETHER]:
            change = await _change(worker, group, known.get(name) if name else None, living)
            if change is not None:
                changes.append(await _reworded(worker, change, reword) if change.worded and reword else change)
        await _write(worker, changes)
        worker.tell("patterns", min(begin + TOGETHER, len(pairs)), len(pairs))


async def _unwanted(worker: Worker, living: Collection[str]) -> list[frozenset[str]]:
    """The source ids of each pattern that somebody deleted, as long as one of these episodes is there."""
    notes = await worker.hands.unwanted()
    await worker.breathe()
    await worker.hands.drop([each for each in notes if each.source_episodes.isdisjoint(living)])
    return [each.source_episodes for each in notes]


async def _change(
    worker: Worker, judged: Sequence[EpisodicMemory], known: SemanticMemory | None, living: Collection[str]
) -> Change | None:
    """What a group makes of a pattern, by the episodes as they are now; None for nothing."""
    if known is not None and set(patterns.sources(judged)) <= set(known.source_episodes):
        return None  # nothing new: no need to read them
    group = holding(judged, await worker.fresh(each.memory_id for each in judged))
    if patterns.size(group) < worker.policy.min_episodes:
        worker.add("changed_meanwhile")
        return None
    now, lifetime = worker.hands.now(), worker.policy.pattern_ttl
    if known is None:
        return Change(None, patterns.drafted(group, now, lifetime), True)
    return patterns.grown(known, group, living, now, lifetime)


async def _reworded(worker: Worker, change: Change, reword: Reword) -> Change:
    """With the sentence that `reword` gives. Whatever it raises is its own affair: ours stays."""
    now = change.now
    try:
        answer = reword(Wording(pattern=now.pattern, context=now.context, examples=list(now.examples)))
        better = patterns.usable(await answer if inspect.isawaitable(answer) else answer)
    except Exception:  # any error of a caller's own code, which is not needed
        better = None
    await worker.breathe()
    if better is None:
        worker.add("unworded")
        return change
    return change._replace(now=replace(now, pattern=better))


async def _write(worker: Worker, changes: Sequence[Change]) -> None:
    steps: list[Step] = [Add(each.now) if each.was is None else Replace(each.was, each.now) for each in changes]
    done = await worker.write(steps)
    sure = [each for each, ok in zip(changes, done, strict=True) if ok]
    worker.count("patterns_made", (each.now.memory_id for each in sure if each.was is None))
    worker.count("patterns_grown", (each.now.memory_id for each in sure if each.was is not None))
    worker.add("changed_meanwhile", done.count(False))


async def semantic(worker: Worker) -> AsyncIterator[SemanticMemory]:
    """All that was learned."""
    async for page in worker.hands.pages("semantic"):
        await worker.breathe()
        for each in page.memories:
            if isinstance(each, SemanticMemory):
                yield each
