"""Patterns: what is learned of episodes that are alike, how it grows, and who words it."""

from typing import Any

import pytest
from msgspec.structs import replace

from remanence.faces.agents.tending.consolidation import Policy, consolidate, extract_patterns
from remanence.faces.agents.tending.patterns import (
    LONGEST_PATTERN,
    SOURCE,
    Wording,
    confidence,
    drafted,
    grown,
    pattern_id,
    usable,
)
from remanence.runtime.blocking import run
from remanence.testing.tending import (
    START,
    TWICE,
    GatewayHands,
    deployments,
    episode,
    learned,
    opened,
    stored,
    told,
)


def test_similar_episodes_become_a_pattern(hands: GatewayHands):
    group = deployments(5, failures=1)
    report = run(consolidate(stored(hands, *group, episode("x", "Book a hotel in Rome", "Booked"))))
    (pattern,) = learned(hands)
    assert report.patterns_made == (pattern.memory_id,)
    assert pattern.pattern == "Tasks about deploy, service and staging mostly succeed, with kubectl and helm."
    assert pattern.context == "4 of 5 episodes succeeded, between 2026-04-12 and 2026-04-16."
    assert pattern.confidence == pytest.approx(5 / 7, abs=1e-4) == confidence(4, 5)
    assert set(pattern.source_episodes) == {each.memory_id for each in group}
    assert (pattern.source, pattern.trust, pattern.tags) == (SOURCE, 0.5, ["deploy"])
    assert pattern.times_validated == 4
    assert len(pattern.examples) == 3
    assert pattern.memory_id == pattern_id(reversed(pattern.source_episodes))


def test_failures_make_a_pattern_that_says_so():
    hands = stored(opened(), *deployments(4, failures=4))
    run(extract_patterns(hands))
    (pattern,) = learned(hands)
    assert pattern.pattern.endswith("fail, with kubectl and helm; errors speak of timeout, pulling and image.")


def test_too_few_make_none_and_the_number_is_a_setting():
    hands = stored(opened(), *deployments(3))
    assert run(extract_patterns(hands, Policy(min_episodes=4))).patterns_made == ()
    assert len(run(extract_patterns(hands, Policy(min_episodes=3))).patterns_made) == 1
    assert len(told(hands)) == 4


def test_one_that_stands_for_others_counts_as_all_of_them():
    hands = stored(opened(), *(replace(TWICE[0], memory_id=name) for name in "abc"))
    report = run(consolidate(hands))
    assert len(report.merged) == 2 and len(report.patterns_made) == 1
    assert sorted(learned(hands)[0].source_episodes) == ["a", "b", "c"]


def test_a_pattern_grows_with_its_group():
    hands = stored(opened(), *deployments(3))
    run(consolidate(hands))
    (before,) = learned(hands)
    stored(hands, *deployments(2, failures=1, first=3))
    report = run(consolidate(hands))
    (after,) = learned(hands)
    assert report.patterns_grown == (before.memory_id,) == (after.memory_id,)
    assert after.times_validated == before.times_validated + 1  # one of the two went the other way
    assert after.confidence == confidence(4, 5)
    assert after.pattern == before.pattern
    assert set(after.source_episodes) == {f"d{at}" for at in range(5)}


def test_a_pattern_does_not_grow_by_what_it_has():
    group = deployments(3)
    pattern = drafted(group, START, None)
    living = {each.memory_id for each in group}
    assert grown(pattern, group, living, START, None) is None
    assert grown(pattern, [*group, *deployments(1, first=4)], living, START, None) is not None


def test_a_pattern_that_is_refuted_says_the_opposite():
    hands = stored(opened(), *deployments(3))
    run(consolidate(hands))
    stored(hands, *deployments(6, failures=6, first=3))
    run(consolidate(hands))
    (after,) = learned(hands)
    assert "mostly fail" in after.pattern
    assert after.confidence == confidence(6, 9)


def test_a_pattern_worded_by_its_user_keeps_its_wording_when_it_grows():
    hands = stored(opened(), *deployments(3))
    run(consolidate(hands, reword=lambda said: "Deploying to staging works."))
    stored(hands, *deployments(1, first=3))
    run(consolidate(hands))
    assert learned(hands)[0].pattern == "Deploying to staging works."
    assert len(learned(hands)[0].source_episodes) == 4


async def _awaited(said: Wording) -> str:
    return f"Better: {said.pattern}"


def _raising(said: Wording) -> str:
    raise OSError("the model is away")


@pytest.mark.parametrize(
    ("reword", "taken"),
    [
        (lambda said: f"Better: {said.pattern}", True),
        (_awaited, True),
        (_raising, False),
        (lambda said: "", False),
        (lambda said: 7, False),
        (lambda said: None, False),
        (lambda said: "x" * (LONGEST_PATTERN + 1), False),
    ],
)
def test_a_better_wording_is_taken_if_it_is_one(reword: Any, taken: bool):
    hands = stored(opened(), *deployments(3))
    report = run(consolidate(hands, reword=reword))
    (pattern,) = learned(hands)
    assert pattern.pattern.startswith("Better:" if taken else "Tasks about deploy")
    assert report.unworded == (0 if taken else 1)
    assert report.state == "done"


def test_a_wording_is_stored_as_one_line():
    assert usable(" Two\nlines\x00 and\tmore\ud800 ") == "Two lines and more"
