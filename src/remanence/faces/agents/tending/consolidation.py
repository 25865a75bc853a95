"""Tending an agent's memory: near-duplicates merged, patterns learned, and what is useless forgotten where asked.

What to do is decided purely (`likeness`, `absorbing`, `patterns`, `utility`). Here and in the stages (`joining`,
`learning`) it is carried out, so that it can be stopped anywhere and begun again. One worker tends a namespace.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from msgspec.structs import replace

from remanence.errors import WorldError
from remanence.faces.agents.tending.absorbing import same_state
from remanence.faces.agents.tending.gathering import listed
from remanence.faces.agents.tending.hands import Hands, Mark, Remove, Step
from remanence.faces.agents.tending.joining import merge, unmerge
from remanence.faces.agents.tending.learning import learn, semantic
from remanence.faces.agents.tending.policy import Consolidated, Policy
from remanence.faces.agents.tending.utility import forgettable
from remanence.faces.agents.tending.worker import TOGETHER, Lost, Progress, Reword, Worker
from remanence.faces.agents.types import EpisodicMemory

STAGES: Final = ("merge", "patterns", "forget")
_DEFAULT: Final = Policy()


async def consolidate(
    hands: Hands, policy: Policy = _DEFAULT, progress: Progress | None = None, reword: Reword | None = None
) -> Consolidated:
    """Merge near-duplicate episodes, learn patterns, and forget what `policy` says.

    A pass that was stopped half way is gone on with where it stood. `reword` may word new patterns better: its failure
    is counted and changes nothing else. Raises the `WorldError` family, `Unavailable` above all: call again later.
    """
    return await _tended(hands, policy, progress, reword, STAGES)


async def extract_patterns(
    hands: Hands, policy: Policy = _DEFAULT, progress: Progress | None = None, reword: Reword | None = None
) -> Consolidated:
    """Learn patterns alone, of at least `policy.min_episodes` similar episodes. Otherwise as `consolidate`."""
    return await _tended(hands, policy, progress, reword, ("patterns",))


async def _tended(
    hands: Hands, policy: Policy, progress: Progress | None, reword: Reword | None, stages: Sequence[str]
) -> Consolidated:
    token = await hands.lease(policy.lease)
    if token is None:
        return Consolidated(state="busy")
    worker = Worker(hands, policy, token, progress)
    begun = hands.now()
    try:
        await _run(worker, reword, stages)
        state = "done"
    except Lost:
        state = "lost"
    finally:
        with suppress(WorldError):  # it ends by itself
            await hands.release(worker.token)
    return replace(worker.report, state=state, seconds=(hands.now() - begun).total_seconds())


async def _run(worker: Worker, reword: Reword | None, stages: Sequence[str]) -> None:
    """The stages in turn. Only whole passes are marked, and gone on with."""
    hands, policy, whole = worker.hands, worker.policy, stages is STAGES
    begun = hands.now()
    if whole:
        found = await hands.mark()
        if found is not None and found.policy == policy.name and found.stage in stages[1:]:
            stages, begun = stages[stages.index(found.stage) :], found.begun
            worker.report = replace(worker.report, resumed=True)
    for stage in stages:
        if whole:
            await hands.note(Mark(stage=stage, begun=begun, policy=policy.name))
        worker.tell(stage, 0, 0)
        if stage == "merge":
            await merge(worker)
        elif stage == "patterns":
            await learn(worker, reword)
        else:
            await _forget(worker)
    if whole:
        await hands.note(Mark(stage="", begun=begun, policy=policy.name, finished=hands.now()))


async def _forget(worker: Worker) -> None:
    policy = worker.policy
    if not policy.forgets:
        return
    needed = {name async for each in semantic(worker) for name in each.source_episodes}
    episodes = await listed(worker.hands, worker.breathe)
    worker.looked_at(len(episodes))
    found = forgettable(
        episodes,
        needed,
        worker.hands.now(),
        half_life=policy.half_life,
        below=policy.forget_below,
        after=policy.forget_after,
        most=policy.most_episodes,
        spare=policy.spare,
    )
    for begin in range(0, len(found), TOGETHER):
        await _remove(worker, found[begin : begin + TOGETHER])
        worker.tell("forget", min(begin + TOGETHER, len(found)), len(found))
    if policy.most_episodes is not None:
        worker.add("too_many", max(0, len(episodes) - len(worker.report.forgotten) - policy.most_episodes))


async def _remove(worker: Worker, judged: Sequence[EpisodicMemory]) -> None:
    """Remove episodes that nobody has used or changed since, first those that are merged into them."""
    fresh = await worker.fresh(name for each in judged for name in (*each.merged_from, each.memory_id))
    steps: list[Step] = []
    names: list[str] = []
    for each in judged:
        now = fresh.get(each.memory_id)
        if now is None or not same_state(each, now) or now.last_accessed != each.last_accessed:
            worker.add("changed_meanwhile")
            continue
        others = [fresh[name] for name in each.merged_from if name in fresh]
        gone = [*(other for other in others if other.merged_into == each.memory_id), now]
        if any(one.pinned for one in gone):
            worker.add("changed_meanwhile")
            continue
        steps += map(Remove, gone)
        names += [one.memory_id for one in gone]
    done = await worker.write(steps)
    worker.count("forgotten", (name for name, ok in zip(names, done, strict=True) if ok))


__all__ = ["STAGES", "Consolidated", "Policy", "consolidate", "extract_patterns", "unmerge"]
