"""Consolidation: what is forgotten, that a pass can be stopped anywhere, and that two do no harm."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from remanence import MemoryArchitecture, create_memory_adapter
from remanence.errors import InvalidSetting
from remanence.faces.agents.tending import audit, gathering, likeness
from remanence.faces.agents.tending.consolidation import Consolidated, Policy, consolidate, unmerge
from remanence.faces.agents.tending.face import Tended
from remanence.faces.agents.tending.hands import Page, Replace
from remanence.faces.agents.tending.utility import utility
from remanence.faces.agents.types import EpisodicMemory, SemanticMemory
from remanence.runtime.blocking import run
from remanence.testing.oracle import eventually
from remanence.testing.tending import (
    DAY,
    START,
    TWICE,
    Clock,
    Crash,
    GatewayHands,
    Stopped,
    deployments,
    episode,
    generated,
    opened,
    stored,
    told,
)

# --- forgetting -----------------------------------------------------------------------------------


def old(name: str, task: str, **fields: Any) -> EpisodicMemory:
    return episode(name, task, created_at=START - 400 * DAY, **fields)


USELESS = old("useless", "Rename a variable", importance=0.0, success=False)
KINDS = [
    USELESS,
    old("pinned", "Water the plants at home", importance=0.0, success=False, pinned=True),
    old("important", "Never delete the ledger", importance=1.0),
    old("used", "Look up train times", importance=0.3, access_count=50),
    episode("young", "Order new chairs", importance=0.0, success=False, trust=0.3),
    old("source", "Paint the fence", importance=0.0, success=False),
]
LESSON = SemanticMemory(
    memory_id="lesson",
    created_at=START,
    updated_at=START,
    last_accessed=START,
    pattern="Fences peel",
    source_episodes=["source"],
)


def test_nothing_is_forgotten_unless_asked(hands: GatewayHands):
    assert run(consolidate(stored(hands, *KINDS, LESSON))).forgotten == ()
    assert len(told(hands)) == 7


def test_only_what_is_useless_and_old_is_forgotten(hands: GatewayHands):
    if isinstance(hands.gateway.runtime, Clock):
        report = run(consolidate(stored(hands, *KINDS, LESSON), Policy(forget_below=0.2)))
        assert report.forgotten == ("useless",)
        assert set(told(hands)) == {"pinned", "important", "used", "young", "source", "lesson"}


def test_past_the_most_the_least_useful_go_and_the_rest_is_told():
    hands = stored(opened(), *KINDS, LESSON)
    report = run(consolidate(hands, Policy(most_episodes=4, spare=2 * 86400)))
    assert set(report.forgotten) == {"useless", "used"} or set(report.forgotten) == {"useless", "important"}
    assert report.forgotten[0] == "useless" and report.too_many == 0
    report = run(consolidate(hands, Policy(most_episodes=1, spare=2 * 86400)))
    assert set(told(hands)) == {"pinned", "young", "source", "lesson"}
    assert report.too_many == 2


def test_with_one_that_is_forgotten_go_those_it_stands_for():
    hands = stored(opened(), *(replace(USELESS, memory_id=name) for name in "ab"))
    run(consolidate(hands))
    report = run(consolidate(hands, Policy(forget_below=0.2)))
    assert sorted(report.forgotten) == ["a", "b"] and told(hands) == {}


def test_one_that_stands_for_a_pinned_one_is_not_forgotten():
    hands = stored(opened(), *(replace(USELESS, memory_id=name) for name in "ab"))
    report = run(consolidate(hands))
    other = told(hands)[report.merged[0]]
    run(hands.write([Replace(other, replace(other, pinned=True))]))
    report = run(consolidate(hands, Policy(forget_below=0.2, merge=False)))
    assert (report.forgotten, report.changed_meanwhile) == ((), 0) and set(told(hands)) == {"a", "b"}


def test_one_whose_other_is_pinned_in_the_last_moment_is_not_forgotten():
    class Pinned(GatewayHands):
        """Somebody pins the hidden one after all were judged."""

        async def get(self, kind, memory_ids):
            for each in await super().get(kind, memory_ids):
                if each.merged_into and not each.pinned:
                    await self.step(Replace(each, replace(each, pinned=True)))
            return await super().get(kind, memory_ids)

    hands = stored(opened(), *(replace(USELESS, memory_id=name) for name in "ab"))
    run(consolidate(hands))
    report = run(consolidate(Pinned(hands.gateway), Policy(forget_below=0.2)))
    assert (report.forgotten, report.changed_meanwhile) == ((), 1) and set(told(hands)) == {"a", "b"}


def test_the_right_is_kept_while_what_was_learned_is_read():
    """There may be more of it than is read within the time of a lease."""
    clock = Clock()

    class Slow(GatewayHands):
        async def pages(self, kind):
            async for page in super().pages(kind):
                for each in page.memories if kind == "semantic" else ():
                    clock.move(6)
                    yield Page([each])
                if kind != "semantic":
                    yield page

    lessons = [replace(LESSON, memory_id=f"l{at}") for at in range(5)]
    hands = stored(opened(clock), *everything_at_once(), *lessons)
    assert run(consolidate(Slow(hands.gateway), ASKED)).state == "done"


@given(
    st.floats(0, 1), st.floats(0, 1), st.integers(0, 10**6), st.booleans(), st.integers(-10, 4000), st.floats(1, 1e9)
)
def test_utility_is_a_share_and_each_part_counts(importance, trust, uses, success, age, half_life):
    made = episode("u", "x", importance=importance, trust=trust, access_count=uses, success=success)
    worth = utility(made, made.created_at + age * DAY, half_life)
    assert 0 <= worth <= 1.0000001
    assert worth <= utility(replace(made, access_count=uses + 1), made.created_at + age * DAY, half_life)
    assert worth >= utility(made, made.created_at + (age + 1) * DAY, half_life)
    assert worth <= utility(replace(made, importance=1.0, trust=1.0), made.created_at + age * DAY, half_life)


# --- stopped anywhere, and two at once ------------------------------------------------------------


def everything_at_once() -> list[Any]:
    """Duplicates, groups, useless ones: all that a pass can do."""
    twins = [episode(f"t{at}", "Deploy the web app to staging", f"rolled out{'!' * at}") for at in range(3)]
    longer = episode("t9", "Resize all images of the gallery", "Resized 120", tags=["img"], access_count=2)
    again = episode("t8", "Resizing images of gallery", "resized 120", importance=0.8)
    return [*twins, longer, again, *deployments(4, failures=1), USELESS, replace(USELESS, memory_id="useless2")]


ASKED = Policy(forget_below=0.2, lease=10)


def comparable(hands: GatewayHands) -> dict[str, Any]:
    """All that is stored but when: a pass that is begun again later has later times."""
    found = {}
    for name, each in told(hands).items():
        if isinstance(each, SemanticMemory):
            each = replace(each, created_at=START, updated_at=START, last_accessed=START, expires_at=None)
        elif each.lent is not None:
            each = replace(each, lent=replace(each.lent, merged_at=START))
        found[name] = each
    return found


def writes_of(work: Callable[[Stopped], Any], start: Callable[[], GatewayHands]) -> int:
    counted = Stopped(start().gateway, 10**6)
    run(work(counted))
    return 10**6 - counted.left


def test_stopped_before_any_write_and_begun_again_it_ends_the_same():
    whole = stored(opened(), *everything_at_once())
    report = run(consolidate(whole, ASKED))
    assert report.merged and report.patterns_made and report.forgotten
    expected = comparable(whole)
    total = writes_of(lambda each: consolidate(each, ASKED), lambda: stored(opened(), *everything_at_once()))
    assert total > 12
    for at in range(total):
        clock = Clock()
        hands = stored(opened(clock), *everything_at_once())
        with pytest.raises(Crash):
            run(consolidate(Stopped(hands.gateway, at), ASKED))
        if at < total - 1:  # the last write is the release itself
            assert run(consolidate(hands, ASKED)).state == "busy"
        clock.move(11)
        assert run(consolidate(hands, ASKED)).state == "done"
        assert comparable(hands) == expected, f"stopped before write {at} of {total}"


def test_stopped_twice_it_still_ends_the_same():
    whole = stored(opened(), *everything_at_once())
    run(consolidate(whole, ASKED))
    expected = comparable(whole)
    for at in range(2, 14, 3):
        for again in range(2, 8, 3):
            clock = Clock()
            hands = stored(opened(clock), *everything_at_once())
            for stop in (at, again):
                with suppress(Crash):
                    run(consolidate(Stopped(hands.gateway, stop), ASKED))
                clock.move(11)
            run(consolidate(hands, ASKED))
            assert comparable(hands) == expected, f"stopped before {at}, then before {again}"


def test_an_unmerge_that_was_stopped_is_gone_on_with():
    def merged() -> GatewayHands:
        hands = stored(opened(), *TWICE, replace(TWICE[0], memory_id="c"))
        run(consolidate(hands))
        return hands

    total = writes_of(lambda each: unmerge(each, "a"), merged)
    assert total == 3
    for at in range(1, total):
        hands = merged()
        with pytest.raises(Crash):
            run(unmerge(Stopped(hands.gateway, at), "a"))
        assert run(consolidate(hands)).restored
        found = {
            name: replace(each, stands_alone=False)
            for name, each in told(hands).items()
            if isinstance(each, EpisodicMemory)
        }
        assert found == {each.memory_id: each for each in (*TWICE, replace(TWICE[0], memory_id="c"))}


def test_a_pass_that_was_stopped_is_gone_on_with_where_it_stood():
    clock = Clock()
    hands = stored(opened(clock), *everything_at_once())
    with pytest.raises(Crash):
        run(consolidate(Stopped(hands.gateway, 12), ASKED))
    mark = run(hands.mark())
    assert mark is not None and mark.stage in ("patterns", "forget")
    clock.move(11)
    stages: list[str] = []
    report = run(consolidate(hands, ASKED, progress=lambda stage, done, of: stages.append(stage)))
    assert report.resumed and "merge" not in stages
    assert run(hands.mark()).stage == ""
    assert not run(consolidate(hands, ASKED)).resumed


def test_two_workers_at_once_one_does_it_and_the_other_says_so():
    hands = stored(opened(), *everything_at_once())
    other: list[Consolidated] = []

    def meanwhile(stage: str, done: int, of: int) -> None:
        if not other:
            other.append(run(consolidate(GatewayHands(hands.gateway), ASKED)))

    report = run(consolidate(hands, ASKED, progress=meanwhile))
    assert (report.state, other[0].state) == ("done", "busy")
    assert other[0].merged == () and report.merged
    assert run(consolidate(hands, ASKED)).state == "done"


def test_who_was_away_too_long_stops_and_harms_nothing():
    clock = Clock()
    hands = stored(opened(clock), *everything_at_once())
    states: list[str] = []

    def late(stage: str, done: int, of: int) -> None:
        if not states:
            clock.move(ASKED.lease + 1)
            states.append(run(consolidate(GatewayHands(hands.gateway), replace(ASKED, lease=600))).state)

    first = run(consolidate(hands, ASKED, progress=late))
    whole = stored(opened(), *everything_at_once())
    run(consolidate(whole, ASKED))
    assert states == ["done"] and first.state in ("done", "lost")
    assert comparable(hands) == comparable(whole)


def test_a_right_that_somebody_else_has_is_noticed():
    clock = Clock()
    hands = stored(opened(clock), *everything_at_once())
    taken: list[str | None] = []

    def late(stage: str, done: int, of: int) -> None:
        if not taken:
            clock.move(ASKED.lease + 1)
            taken.append(run(hands.lease(600)))

    assert run(consolidate(hands, ASKED, progress=late)).state == "lost"
    assert taken[0] is not None
    assert run(hands.renew(taken[0], 600)) is not None  # and it was not given back for them
    assert all(each.merged_into is None for each in told(hands).values())


# --- the pure parts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"duplicate_cosine": 1.5},
        {"min_episodes": 1},
        {"half_life": 0},
        {"lease": -1},
        {"forget_below": float("nan")},
        {"forget_below": "0.5"},
        {"min_episodes": None},
        {"lease": 10**400},
        {"merge": 1},
        {"forget_after": float("nan")},
        {"most_episodes": 0},
        {"pattern_ttl": 0},
    ],
)
def test_a_policy_out_of_range_is_refused(wrong: dict[str, Any]):
    with pytest.raises(InvalidSetting):
        Policy(**wrong)


@pytest.mark.slow
def test_ten_thousand_episodes_take_seconds():
    hands = stored(opened(), *generated(10_000).episodes)
    begin = hands.gateway.runtime.monotonic()
    report = run(consolidate(hands))
    assert report.looked_at >= 10_000 and report.merged
    assert hands.gateway.runtime.monotonic() - begin < 60  # 6 s on an idle machine; the bar is for a busy one


# --- in the background ------------------------------------------------------------------------------


def test_it_is_done_by_itself_unless_nobody_wants_it(tmp_path: Path):
    place = {"path": str(tmp_path), "consolidate_interval": 1.0}
    with MemoryArchitecture("sqlite", auto_consolidate=False, **place) as agent:
        agent.save_episode("Fix the login bug", "Done. The fix was simple", True, 3)
        agent.save_episode("fix the login bug", "done, the fix was simple", True, 3)
        assert not eventually(lambda: len(agent.list_episodes()) == 1, 1.5)
        with MemoryArchitecture("sqlite", **place) as other:
            other.initialize()
            assert eventually(lambda: len(agent.list_episodes()) == 1, 10.0)


def test_whoever_else_the_loop_serves_is_not_held_up(monkeypatch: pytest.MonkeyPatch):
    """What compares many runs on a thread of its own."""
    threads: set[int] = set()

    def noting(module: Any, name: str) -> None:
        work = getattr(module, name)

        def noted(*args: Any, **named: Any) -> Any:
            threads.add(threading.get_ident())
            return work(*args, **named)

        monkeypatch.setattr(module, name, noted)

    noting(gathering, "sketch")
    noting(audit, "sketch")
    noting(audit, "secrets_of")
    noting(likeness, "_nearest")

    async def consolidated() -> Consolidated:
        async with await create_memory_adapter("sqlite", auto_consolidate=False) as agent:
            for each in TWICE:
                await agent.save_episode(each.task_prompt, each.outcome, True, 1.0)
            await agent.audit()
            return await agent.consolidate_now()

    assert len(asyncio.run(consolidated()).merged) == 1
    assert threads and threading.get_ident() not in threads


# --- leaving others their time --------------------------------------------------------------------


@pytest.mark.parametrize(("hurry", "least", "most"), [(False, 0.2, 2.0), (True, 0.05, 0.19)])
def test_who_tends_in_the_background_rests_most_of_the_time(hurry: bool, least: float, most: float):
    with MemoryArchitecture("memory", "a") as memory:
        library = memory.engine.library(memory.engine.settings)
        tended = Tended(memory.engine.gateway, library, memory.engine.settings, "a", hurry=hurry)
        run(tended.pause())
        begun = time.monotonic()
        run(tended.aside(lambda: time.sleep(0.05)))
        assert least <= time.monotonic() - begun < most
