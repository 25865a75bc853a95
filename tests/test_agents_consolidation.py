"""Consolidation: what is merged, learned and forgotten, that it can be taken back, and be stopped anywhere."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from remanence import MemoryArchitecture
from remanence.engine import BlockingEngine
from remanence.errors import Conflict, InvalidSetting, Missing
from remanence.events import Events
from remanence.faces.agents.tending.absorbing import absorbed, given_back, hidden, repairs, shown
from remanence.faces.agents.tending.consolidation import Consolidated, Policy, consolidate, extract_patterns, unmerge
from remanence.faces.agents.tending.hands import Add, Mark, Replace, Step
from remanence.faces.agents.tending.likeness import Likeness, gathered, overlap, sketch, stem, tells_all
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
from remanence.faces.agents.tending.utility import utility
from remanence.faces.agents.types import EpisodicMemory, SemanticMemory
from remanence.model import Delete
from remanence.protocols import Gateway
from remanence.runtime.blocking import BlockingRuntime, run
from remanence.settings import Settings
from remanence.stores.direct import DirectStore
from remanence.stores.memory import MemoryStore
from remanence.testing.oracle import eventually
from remanence.testing.tending import GatewayHands, episode, generated

START = datetime(2026, 5, 2, tzinfo=UTC)
DAY = timedelta(days=1)


class Clock(BlockingRuntime):
    """A runtime whose wall clock stands where it was put."""

    def __init__(self) -> None:
        super().__init__()
        self.time = START.timestamp()

    def wall(self) -> float:
        return self.time

    def move(self, seconds: float) -> None:
        self.time += seconds


class Crash(BaseException):
    """The process ends here."""


class Stopped(GatewayHands):
    """Dies before the write of this number, counted from 0, whatever it is; nothing works afterwards."""

    def __init__(self, gateway: Gateway, at: int) -> None:
        super().__init__(gateway)
        self.left = at

    def _live(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Crash

    async def step(self, step: Step) -> bool:
        self._live()
        return await super().step(step)

    async def note(self, mark: Mark) -> None:
        self._live()
        await super().note(mark)

    async def release(self, token: str) -> None:
        self._live()
        await super().release(token)


def opened(clock: Clock | None = None) -> GatewayHands:
    """Hands on an empty store in memory, with a clock of its own."""
    runtime = clock or Clock()
    store = MemoryStore(runtime.wall)
    way = DirectStore(store, runtime, Settings(backend="memory"), Events(), place="volatile", durable=False)
    return GatewayHands(way)


@pytest.fixture(params=["memory", "sqlite"])
def hands(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GatewayHands]:
    if request.param == "memory":
        yield opened()
        return
    engine = BlockingEngine(Settings(backend="sqlite", path=str(tmp_path)))
    yield GatewayHands(engine.gateway)
    engine.close()


def stored(hands: GatewayHands, *memories: Any) -> GatewayHands:
    assert all(run(hands.write([Add(each) for each in memories])))
    return hands


def told(hands: GatewayHands) -> dict[str, Any]:
    return run(hands.everything())


def learned(hands: GatewayHands) -> list[SemanticMemory]:
    return [each for each in told(hands).values() if isinstance(each, SemanticMemory)]


# --- what is alike --------------------------------------------------------------------------------


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
    words = [" ".join(chance.choice(["red", "green", "blue", "grey"], 3)) for _ in range(count)]
    sketches = [sketch(text, key=int(chance.integers(2)), joins=bool(chance.random() < 0.8)) for text in words]
    return sketches, rows


@given(st.integers(0, 40), st.integers(0, 10_000))
def test_groups_are_those_of_comparing_all_with_all(count: int, seed: int):
    sketches, rows = _nearly(count, seed)
    rule = Likeness(0.5, 0.5)
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
            and overlap(sketches[at], sketches[other]) >= 0.5
        ]
        if near:
            expected[at] = near
            taken.update(near)
    assert found == expected


def test_groups_do_not_depend_on_how_much_is_computed_at_once(monkeypatch: pytest.MonkeyPatch):
    sketches, rows = _nearly(120, 7)
    whole = [group for part in gathered(sketches, rows, Likeness(0.5, 0.5)) for group in part]
    monkeypatch.setattr("remanence.faces.agents.tending.likeness._ROWS", 7)
    monkeypatch.setattr("remanence.faces.agents.tending.likeness._COLUMNS", 5)
    parts = list(gathered(sketches, rows, Likeness(0.5, 0.5)))
    assert len(parts) > 10
    assert sorted(group for part in parts for group in part) == sorted(whole)


@given(
    st.lists(st.lists(st.sampled_from(["red", "blue", "Rome", "7", "not", "up", "ox", "the"]), max_size=5), max_size=9)
)
def test_looking_at_many_at_once_misses_nobody(texts: list[list[str]]):
    sketches = [sketch(" ".join(words)) for words in texts]
    rows = np.ones((len(texts), 1), dtype=np.float32)
    found = {
        group.first: group.others for part in gathered(sketches, rows, Likeness(0.5, 0.1, whole=True)) for group in part
    }
    taken: set[int] = set()
    for at in range(len(texts)):
        rest = [other for other in range(at + 1, len(texts)) if other not in taken]
        same = [o for o in rest if overlap(sketches[at], sketches[o]) >= 0.1 and tells_all(sketches[at], sketches[o])]
        assert found.get(at, []) == (same if at not in taken else [])
        taken.update(same if at not in taken else [])


# --- merging --------------------------------------------------------------------------------------

TWICE = (
    episode("a", "Deploy the web app to staging", "Rolled out", tags=["deploy"], access_count=3, importance=0.4),
    episode(
        "b",
        "deploying web app to staging!",
        "rolled out",
        tags=["web", "deploy"],
        access_count=2,
        importance=0.9,
        created_at=START,
    ),
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


# --- patterns -------------------------------------------------------------------------------------


def deployments(count: int, failures: int = 0, first: int = 0, **fields: Any) -> list[EpisodicMemory]:
    services = ("billing", "search", "login", "invoice", "gallery", "parser", "mailing", "payroll", "checkout")
    return [
        episode(
            f"d{at}",
            f"Deploy the {services[at]} service to staging",
            "Rolled out" if at - first >= failures else "It broke",
            success=at - first >= failures,
            tags=["deploy", services[at]],
            tools_used=["kubectl", "helm"],
            error_messages=[] if at - first >= failures else ["timeout while pulling image"],
            trust=0.5 + at / 20,
            created_at=START - DAY * (20 - at),
            **fields,
        )
        for at in range(first, first + count)
    ]


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


@pytest.mark.parametrize(
    "wrong",
    [
        {"duplicate_cosine": 1.5},
        {"min_episodes": 1},
        {"half_life": 0},
        {"lease": -1},
        {"forget_below": float("nan")},
        {"forget_after": float("nan")},
        {"most_episodes": 0},
        {"pattern_ttl": 0},
    ],
)
def test_a_policy_out_of_range_is_refused(wrong: dict[str, Any]):
    with pytest.raises(InvalidSetting):
        Policy(**wrong)


def test_a_merge_that_keeps_changing_is_a_conflict():
    class Refusing(GatewayHands):
        async def write(self, steps):
            return [False for _ in steps]

    hands = stored(opened(), *TWICE)
    run(consolidate(hands))
    with pytest.raises(Conflict):
        run(unmerge(Refusing(hands.gateway), "a"))


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
