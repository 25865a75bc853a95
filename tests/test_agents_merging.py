"""Merging: which episodes stand for which, that it can be taken back, and what others change meanwhile."""

from typing import Any

import pytest
from msgspec.structs import replace

from remanence.errors import Conflict, Missing
from remanence.faces.agents.tending.absorbing import absorbed, given_back, hidden, repairs, shown
from remanence.faces.agents.tending.consolidation import Policy, consolidate, unmerge
from remanence.faces.agents.tending.hands import Replace
from remanence.model import Delete
from remanence.runtime.blocking import run
from remanence.testing.tending import (
    DAY,
    START,
    TWICE,
    GatewayHands,
    episode,
    generated,
    opened,
    stored,
    told,
)


def test_of_duplicates_one_stands_for_all(hands: GatewayHands):
    report = run(consolidate(stored(hands, *TWICE)))
    assert (report.state, report.kept, report.merged, report.looked_at) == ("done", ("b",), ("a",), 2)
    found = told(hands)
    assert found["a"] == replace(TWICE[0], merged_into="b")
    kept = found["b"]
    assert kept.merged_from == ["a"]
    assert (kept.tags, kept.access_count, kept.importance) == (["web", "deploy"], 5, 0.9)


def test_a_second_pass_changes_nothing(hands: GatewayHands):
    run(consolidate(stored(hands, *generated(60, retold=0.5).episodes)))
    before = told(hands)
    again = run(consolidate(hands))
    assert told(hands) == before
    assert (again.kept, again.merged, again.patterns_made, again.patterns_grown, again.restored) == ((),) * 5


def test_unmerge_restores_all_exactly_and_for_good(hands: GatewayHands):
    third = episode(
        "c", "Deploy web app to staging", "Rolled out.", importance=0.7, expires_at=START.replace(year=2126)
    )
    assert len(run(consolidate(stored(hands, *TWICE, third), Policy(min_episodes=9))).merged) == 2
    assert sorted(run(unmerge(hands, "c"))) == ["a", "b", "c"]
    restored = told(hands)
    assert {name: replace(each, stands_alone=False) for name, each in restored.items()} == {
        each.memory_id: each for each in (*TWICE, third)
    }
    assert run(consolidate(hands, Policy(min_episodes=9))).merged == ()
    assert run(unmerge(hands, "a")) == []
    with pytest.raises(Missing):
        run(unmerge(hands, "nobody"))


def test_what_was_changed_since_the_merge_stays_changed():
    first, other = TWICE[1], TWICE[0]
    merged = absorbed(first, [other, replace(other, memory_id="c", tags=["late"])], START)
    touched = replace(merged, tags=[*merged.tags, "mine"], access_count=merged.access_count + 4, importance=0.1)
    back = given_back(touched, START, alone=True)
    assert back.tags == [*first.tags, "mine"]
    assert back.access_count == first.access_count + 4
    assert back.importance == 0.1


def test_a_growing_group_keeps_its_first_and_gives_all_back():
    soon = replace(TWICE[0], importance=0.95, expires_at=START + DAY)
    hands = stored(opened(), soon, TWICE[1])
    assert run(consolidate(hands)).kept == ("b",)
    late = episode("z", "Deploy the web app to staging", "rolled out", tags=["late"], access_count=7, importance=1.0)
    stored(hands, late)
    report = run(consolidate(hands))
    assert (report.kept, report.merged) == (("b",), ("z",))
    assert (told(hands)["b"].importance, told(hands)["b"].access_count) == (1.0, 12)
    run(unmerge(hands, "z"))
    restored = [replace(told(hands)[name], stands_alone=False) for name in "abz"]
    assert restored == [soon, TWICE[1], late]


@pytest.mark.parametrize(
    "change",
    [{"success": False}, {"agent_id": "other"}, {"stands_alone": True}],
    ids=["another outcome", "another agent", "taken out of a merge"],
)
def test_what_only_looks_the_same_is_not_merged(change: dict[str, Any]):
    report = run(consolidate(stored(opened(), TWICE[0], replace(TWICE[1], **change))))
    assert report.merged == ()


def test_a_pinned_one_is_never_left_out_and_two_are_never_merged():
    one, other = (replace(each, pinned=True) for each in TWICE)
    assert run(consolidate(stored(opened(), one, other))).merged == ()
    assert run(consolidate(stored(opened(), one, TWICE[1]))).kept == ("a",)


def test_a_doubtful_one_neither_stands_for_a_trusted_one_nor_raises_it():
    doubtful = replace(TWICE[1], trust=0.2, importance=1.0, tags=["injected"], expires_at=None)
    hands = stored(opened(), replace(TWICE[0], trust=0.9), doubtful)
    assert run(consolidate(hands)).kept == ("a",)
    kept = told(hands)["a"]
    assert (kept.importance, kept.tags, kept.trust, kept.access_count) == (0.4, ["deploy"], 0.9, 5)


def test_one_that_says_more_is_not_left_out():
    longer = replace(TWICE[1], task_prompt="Deploy the web app to staging quickly today")
    hands = stored(opened(), *(replace(TWICE[0], importance=1.0, expires_at=None), longer))
    report = run(consolidate(hands, Policy(duplicate_overlap=0.6, duplicate_cosine=0.7)))
    assert report.kept == ("b",)


def test_what_stands_for_others_lasts_as_long_as_they():
    short, long = replace(TWICE[0], pinned=True, expires_at=START + DAY), replace(TWICE[1], expires_at=START + 9 * DAY)
    hands = stored(opened(), short, long)
    run(consolidate(hands))
    assert told(hands)["a"].expires_at == START + 9 * DAY
    run(unmerge(hands, "a"))
    assert told(hands)["a"].expires_at == START + DAY


def test_those_whose_first_is_gone_are_found_again():
    hands = stored(opened(), *TWICE)
    run(consolidate(hands))
    run(hands.gateway.write([Delete("memory:episodic:b")]))
    report = run(consolidate(hands))
    assert report.restored == ("a",)
    assert told(hands) == {"a": TWICE[0]}


def test_a_memory_that_changes_under_the_pass_is_left_alone():
    class Edited(GatewayHands):
        """Somebody edits an episode between its reading and its writing."""

        async def write(self, steps):
            current = (await self.get("episodic", ["a"]))[0]
            if current.outcome != "Edited":
                await super().write([Replace(current, replace(current, outcome="Edited", updated_at=self.now()))])
            return await super().write(steps)

    hands = stored(opened(), *TWICE)
    report = run(consolidate(Edited(hands.gateway)))
    assert report.merged == () and report.changed_meanwhile == 1
    assert told(hands)["a"].outcome == "Edited" and told(hands)["a"].merged_into is None
    assert run(consolidate(hands)).restored == ("b", "a")  # the merge that had been begun is given back
    assert told(hands)["b"] == TWICE[1]


def test_a_memory_that_changed_since_it_was_compared_is_left_alone():
    class Edited(GatewayHands):
        """Somebody edits an episode after all were looked at."""

        async def get(self, kind, memory_ids):
            (current,) = await super().get("episodic", ["a"])
            if current.outcome != "Edited":
                await self.write([Replace(current, replace(current, outcome="Edited", updated_at=self.now()))])
            return await super().get(kind, memory_ids)

    hands = stored(opened(), *TWICE)
    report = run(consolidate(Edited(hands.gateway)))
    assert (report.kept, report.merged, report.changed_meanwhile) == ((), (), 1)
    assert told(hands) == {"a": replace(TWICE[0], outcome="Edited", updated_at=START), "b": TWICE[1]}


def test_half_done_merges_are_told_apart():
    first, other = TWICE[1], TWICE[0]
    stays = absorbed(first, [other], START)
    assert [each.verb for each in repairs({"a": other, "b": stays})] == ["finish"]
    assert repairs({"a": hidden(other, stays), "b": stays}) == []
    assert [each.verb for each in repairs({"a": hidden(other, stays)})] == ["orphan"]
    assert [each.verb for each in repairs({"a": hidden(other, stays), "b": first})] == ["orphan"]
    lost = replace(other, memory_id="c", merged_into="nobody")
    assert [each.verb for each in repairs({"a": other, "b": stays, "c": lost})] == ["finish", "orphan"]
    aside = shown(hidden(other, stays), alone=True)
    assert [(each.verb, each.alone) for each in repairs({"a": aside, "b": stays})] == [("undo", True)]
    edited = replace(other, updated_at=START + DAY)
    assert [(each.verb, each.alone) for each in repairs({"a": edited, "b": stays})] == [("undo", False)]


def test_a_merge_that_keeps_changing_is_a_conflict():
    class Refusing(GatewayHands):
        async def write(self, steps):
            return [False for _ in steps]

    hands = stored(opened(), *TWICE)
    run(consolidate(hands))
    with pytest.raises(Conflict):
        run(unmerge(Refusing(hands.gateway), "a"))


def test_one_that_is_pinned_while_it_is_left_out_is_found_again():
    hands = stored(opened(), *TWICE)
    (left,) = run(consolidate(hands)).merged
    run(hands.write([Replace(told(hands)[left], replace(told(hands)[left], pinned=True))]))
    assert run(consolidate(hands)).kept == (left,)
    assert (told(hands)["a"].merged_into, told(hands)["b"].merged_into) == (None, "a")
    assert run(consolidate(hands)).restored == ()


def test_what_was_pinned_since_a_merge_has_no_end_when_that_is_taken_back():
    soon, lasting = replace(TWICE[1], expires_at=START + DAY), TWICE[0]
    merged = replace(absorbed(soon, [lasting], START), pinned=True, expires_at=None)
    assert given_back(merged, START, alone=True).expires_at is None


def test_hundreds_of_duplicates_are_merged_some_at_a_time():
    class Counting(GatewayHands):
        """Notes how much is read and written at once."""

        most = 0

        async def get(self, kind, memory_ids):
            Counting.most = max(Counting.most, len(memory_ids))
            return await super().get(kind, memory_ids)

        async def write(self, steps):
            Counting.most = max(Counting.most, len(steps))
            return await super().write(steps)

    hands = stored(opened(), *(replace(TWICE[0], memory_id=f"m{at:04d}") for at in range(1200)))
    report = run(consolidate(Counting(hands.gateway), Policy(min_episodes=9000)))
    assert (len(report.kept), len(report.merged)) == (2, 1198)
    assert Counting.most <= 100
    assert sorted(len(each.merged_from) for each in told(hands).values() if each.merged_from) == [198, 1000]
