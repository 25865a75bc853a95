"""Likeness: which memories say the same, and which of many belong together."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remanence.faces.agents.tending.likeness import Likeness, gathered, overlap, sketch, stem, tells_all


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Deploy the web app to staging", "deploying web app on staging!"),
        ("Write tests for the parser\nAll 14 tests pass", "Writing tests for the parser\nAll 14 tests passed"),
        ("User's build didn't start", "users build did not start"),
        (
            "Asked to translate it to French\nTranslated and reviewed",
            "asked to translate it into French\nTranslated, reviewed",
        ),
        ("部署到测试环境", "部署到测试环境。"),
    ],
)
def test_the_same_in_other_words_is_told_wholly(one: str, other: str):
    first, second = sketch(one), sketch(other)
    if "'" not in one:
        assert tells_all(first, second) and overlap(first, second) >= 0.8
    assert overlap(first, second) > 0.5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Deploy version 1.2 of the web app to staging", "Deploy version 1.3 of the web app to staging"),
        ("Move the files from backup to archive", "Move the files from archive to backup"),
        ("The user does want newsletters every week", "The user does not want newsletters every week"),
        ("Write to Alice about the report", "Write to Bob about the report"),
        ("Scale the cluster up for the night run", "Scale the cluster down for the night run"),
        ("Turn the light in the hall on", "Turn the light in the hall off"),
        ("restart billing on every node in the cluster", "restart search on every node in the cluster"),
        ("Book a flight from Berlin to Lisbon", "Book a flight from Lisbon to Berlin"),
        ("Alice told Bob about the plan", "Bob told Alice about the plan"),
        ("3 of 5 nodes came back", "5 of 3 nodes came back"),
        ("It ran without errors and was told", "It ran without errors and was not told"),
        ("It was in the notes of the meeting", "It was not in the notes of the meeting"),
        ("Notes are in the wiki of the team", "Notes are not in the wiki of the team"),
        ("It worked and the users were told", "It worked and the users weren't told"),
    ],
)
def test_one_different_fact_is_another_memory(one: str, other: str):
    assert not tells_all(sketch(one), sketch(other))
    assert not tells_all(sketch(other), sketch(one))


@pytest.mark.parametrize(("word", "root"), [("running", "run"), ("deployed", "deploy"), ("is", "is")])
def test_endings_are_cut(word: str, root: str):
    assert stem(word) == root


@settings(max_examples=50)
@given(st.text(max_size=80), st.text(max_size=80))
def test_any_text_can_be_compared(one: str, other: str):
    first, second = sketch(one), sketch(other)
    assert 0 <= overlap(first, second) == overlap(second, first) <= 1
    assert tells_all(first, sketch(one))


def _nearly(count: int, seed: int) -> tuple[Any, Any]:
    chance = np.random.default_rng(seed)
    rows = chance.normal(size=(count, 3)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    colours = ["red", "green", "blue", "grey", "pink", "black"]
    words = [" ".join(chance.choice(colours, chance.integers(0, 7))) for _ in range(count)]
    sketches = [sketch(text, key=int(chance.integers(2)), joins=bool(chance.random() < 0.8)) for text in words]
    return sketches, rows


ALWAYS, NEVER = 0, 10**9
"""How dear it is to look memories up by their words, so that it is always done, or never."""


@pytest.fixture(params=[ALWAYS, NEVER], ids=["by words", "all with all"], scope="module")
def way(request: pytest.FixtureRequest) -> Iterator[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("remanence.faces.agents.tending.likeness._DEARER", request.param)
        yield request.param


@given(st.integers(0, 40), st.integers(0, 10_000), st.sampled_from([0.0, 0.2, 0.33, 0.5, 0.8, 1.0]))
def test_groups_are_those_of_comparing_all_with_all(way: int, count: int, seed: int, least: float):
    sketches, rows = _nearly(count, seed)
    rule = Likeness(0.5, least)
    found = {group.first: group.others for part in gathered(sketches, rows, rule) for group in part}
    expected: dict[int, list[int]] = {}
    taken: set[int] = set()
    for at in range(count):
        if at in taken:
            continue
        near = [
            other
            for other in range(at + 1, count)
            if other not in taken
            and sketches[other].joins
            and sketches[at].key == sketches[other].key
            and float(rows[at] @ rows[other]) >= 0.5
            and overlap(sketches[at], sketches[other]) >= least
        ]
        if near:
            expected[at] = near
            taken.update(near)
    assert found == expected


def test_groups_do_not_depend_on_how_much_is_computed_at_once(way: int, monkeypatch: pytest.MonkeyPatch):
    sketches, rows = _nearly(120, 7)
    whole = [group for part in gathered(sketches, rows, Likeness(0.5, 0.5)) for group in part]
    monkeypatch.setattr("remanence.faces.agents.tending.likeness._ROWS", 7)
    monkeypatch.setattr("remanence.faces.agents.tending.likeness._COLUMNS", 5)
    parts = list(gathered(sketches, rows, Likeness(0.5, 0.5)))
    assert len(parts) > 5
    assert sorted(group for part in parts for group in part) == sorted(whole)


@given(
    st.lists(st.lists(st.sampled_from(["red", "blue", "Rome", "7", "not", "up", "ox", "the"]), max_size=5), max_size=9),
    st.sampled_from([0.0, 0.1]),
)
def test_looking_at_many_at_once_misses_nobody(way: int, texts: list[list[str]], least: float):
    sketches = [sketch(" ".join(words)) for words in texts]
    rows = np.ones((len(texts), 1), dtype=np.float32)
    found = {
        group.first: group.others
        for part in gathered(sketches, rows, Likeness(0.5, least, whole=True))
        for group in part
    }
    taken: set[int] = set()
    for at in range(len(texts)):
        rest = [other for other in range(at + 1, len(texts)) if other not in taken]
        same = [o for o in rest if overlap(sketches[at], sketches[o]) >= least and tells_all(sketches[at], sketches[o])]
        assert found.get(at, []) == (same if at not in taken else [])
        taken.update(same if at not in taken else [])
