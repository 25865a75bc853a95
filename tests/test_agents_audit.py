"""The hygiene report: each kind of finding, nothing that is none, and never a text."""

import builtins
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from remanence.engine import BlockingEngine
from remanence.errors import InvalidSetting
from remanence.faces.agents.tending.audit import Audit, Broken, Checks, Duplicates, Loop, SecretFound, audit
from remanence.faces.agents.tending.consolidation import Policy, consolidate
from remanence.faces.agents.tending.hands import Add
from remanence.faces.agents.tending.secrets import detectors, kinds, texts
from remanence.faces.agents.types import SemanticMemory, SkillMemory, WorkingMemoryStep
from remanence.model import Put
from remanence.runtime.blocking import run
from remanence.settings import Settings
from remanence.testing.tending import GatewayHands, episode, generated

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
TOKEN = "ghp_abcdefghijklmnopqrstuvwxyz0123456789"
KEY = "AKIA" + "IOSFODNN7EXAMPLE"
SECRET = "hunter2-and-more"


@pytest.fixture(params=["memory", "sqlite"])
def hands(request: pytest.FixtureRequest, tmp_path: Any) -> Any:
    engine = BlockingEngine(Settings(backend=request.param, path=str(tmp_path)))
    yield GatewayHands(engine.gateway)
    engine.close()


def stored(hands: GatewayHands, *memories: Any) -> GatewayHands:
    assert all(run(hands.write([Add(each) for each in memories])))
    return hands


def semantic(name: str, pattern: str, **fields: Any) -> SemanticMemory:
    made = fields.pop("created_at", NOW - DAY)
    return SemanticMemory(
        **{
            "memory_id": name,
            "created_at": made,
            "updated_at": made,
            "last_accessed": made,
            "pattern": pattern,
            **fields,
        }
    )


def skill(name: str, description: str, **fields: Any) -> SkillMemory:
    made = NOW - DAY
    given = {"created_at": made, "updated_at": made, "last_accessed": made, **fields}
    return SkillMemory(memory_id=name, skill_name=name, description=description, **given)


def recent(name: str, task: str, outcome: str = "Done", **fields: Any) -> Any:
    return episode(name, task, outcome, created_at=fields.pop("created_at", NOW - DAY), **fields)


def test_nothing_stored_nothing_found(hands: GatewayHands):
    report = run(audit(hands))
    assert report.looked_at == {"episodic": 0, "semantic": 0, "skill": 0}
    assert set(report.counts.values()) == {0}


def test_good_memories_have_no_findings(hands: GatewayHands):
    stored(
        hands,
        recent("a", "Deploy the web app", access_count=1),
        semantic("b", "Deployments on Friday fail", source_episodes=["a"]),
        skill("c", "How to deploy"),
    )
    report = run(audit(hands))
    assert report.looked_at == {"episodic": 1, "semantic": 1, "skill": 1}
    assert set(report.counts.values()) == {0}, report
    assert report.left_out == ()


def test_each_kind_of_finding(hands: GatewayHands):
    old = NOW - 100 * DAY
    stored(
        hands,
        recent("stale", "Order new chairs", created_at=old, access_count=2),
        recent("unused", "Paint the fence", created_at=NOW - 40 * DAY),
        recent("kept", "Water the plants", created_at=old, pinned=True),
        recent("doubted", "Open the gate", trust=0.4),
        semantic("broken", "Gates rust", source_episodes=["doubted", "gone1", "gone2"]),
    )
    run(hands.gateway.write([Put("memory:skill:odd", b'{"what":"is this"}')]))
    report = run(audit(hands))
    assert report.stale == ("stale",)
    assert report.never_used == ("unused",)
    assert report.low_trust == ("doubted",)
    assert report.broken_links == (Broken("broken", ("gone1", "gone2")),)
    assert report.unreadable == ("memory:skill:odd",)
    assert report.counts == {
        **dict.fromkeys(("duplicates", "secrets", "loops"), 0),
        **dict.fromkeys(("stale", "never_used", "low_trust", "broken_links", "unreadable"), 1),
    }


def test_duplicates_are_of_one_type_agent_and_outcome(hands: GatewayHands):
    same = ("Deploy the web app to staging", "Rolled out")
    stored(
        hands,
        recent("a", *same),
        recent("b", "deploying web app to staging", "rolled out!"),
        recent("c", *same, success=False),
        recent("d", *same, agent_id="other"),
        semantic("e", "\n".join(same)),
        semantic("f", "\n".join(same)),
    )
    found = run(audit(hands)).duplicates
    assert sorted((each.memory_id, each.others) for each in found) == [("a", ("b",)), ("e", ("f",))]


def test_merged_ones_are_no_findings_but_their_secrets_are(hands: GatewayHands):
    text = ("Deploy the web app to staging", f"Rolled out with {KEY}")
    stored(hands, recent("a", *text, trust=0.4), recent("b", *text, trust=0.4))
    run(consolidate(hands, Policy(min_episodes=9)))
    report = run(audit(hands))
    assert report.low_trust == ("a",)
    assert report.duplicates == () and report.broken_links == ()
    assert {each.memory_id for each in report.secrets} == {"a", "b"}
    assert report.looked_at["episodic"] == 2


def test_secrets_are_found_wherever_they_are_and_never_shown(hands: GatewayHands):
    step = WorkingMemoryStep(
        step_number=1,
        action="curl",
        observation="ok",
        timestamp=NOW,
        tool_calls=[{"name": "http", "args": {"headers": {"Authorization": f"token {TOKEN}"}}}],
    )
    stored(
        hands,
        recent("steps", "Call the API", steps=[step]),
        recent("outcome", "Set up the database", f"It works with DB_PASSWORD={SECRET} now"),
        semantic("pattern", f"The key is {KEY}", examples=["none"]),
        skill("skill", "Log in", action_sequence=[{"do": "login", "password": SECRET}]),
        recent("clean", "Talk about passwords", "The secret of good passwords is length, not symbols"),
    )
    report = run(audit(hands))
    assert set(report.secrets) == {
        SecretFound("steps", "steps", "GitHub Token"),
        SecretFound("outcome", "outcome", "Secret Keyword"),
        SecretFound("pattern", "pattern", "AWS Access Key"),
        SecretFound("skill", "action_sequence", "Secret Keyword"),
    }
    shown = repr(report) + msgspec.json.encode(report).decode()
    for text in (TOKEN, KEY, SECRET, "database", "symbols", "curl"):
        assert text not in shown


def test_without_the_detector_the_report_says_what_was_left_out(hands: GatewayHands, monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("detect_secrets"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert detectors() is None
    report = run(audit(stored(hands, recent("a", f"password={SECRET}"))))
    assert report.secrets == ()
    assert "pip install 'remanence[audit]'" in report.left_out[0]


def test_nothing_is_sent_anywhere_to_verify_it(monkeypatch: pytest.MonkeyPatch):
    import requests

    def refused(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a secret was about to be sent")

    monkeypatch.setattr(requests.Session, "request", refused)
    found = detectors()
    assert found is not None
    for text in (
        TOKEN,
        KEY,
        f"https://user:{SECRET}@host/",
        "xoxb-123456789012-abcdefghijklmnop",
        f"password={SECRET}",
    ):
        assert kinds(text, found), text


@pytest.mark.parametrize("depth", [1, 500])
def test_texts_are_found_at_any_depth(depth: int):
    value: Any = "here"
    for _ in range(depth):
        value = [{"k": value}]
    assert "here" in set(texts(value))


def test_what_repeats_something_just_recalled_is_a_loop(hands: GatewayHands):
    base = NOW - DAY
    moment = base + timedelta(hours=1)
    said = ("Find the cause of the slow build", "The cache was disabled")
    stored(
        hands,
        recent("first", *said, created_at=base, last_accessed=moment, access_count=1),
        recent("again", *said, created_at=moment + timedelta(seconds=5)),
        semantic("lesson", " ".join(said), created_at=moment + timedelta(seconds=50)),
        recent("late", *said, created_at=moment + timedelta(seconds=61)),
        recent("other", "Paint the fence in the garden", created_at=moment + timedelta(seconds=5)),
        recent("before", *said, created_at=base - timedelta(seconds=5)),
        recent("x", "Feed the cat twice", created_at=base, last_accessed=base, access_count=1),
        recent("y", "Feed the cat twice", created_at=base, last_accessed=base, access_count=1),
    )
    assert sorted(run(audit(hands)).loops, key=lambda each: each.memory_id) == [
        Loop("again", "first", 5.0),
        Loop("lesson", "first", 50.0),
    ]
    assert len(run(audit(hands, Checks(loop_within=100))).loops) == 3


def test_an_audit_changes_nothing(hands: GatewayHands):
    stored(hands, *generated(60, retold=0.5).episodes)
    before = run(hands.everything())
    steps: list[tuple[str, int, int]] = []
    run(audit(hands, progress=lambda *each: steps.append(each)))
    assert run(hands.everything()) == before
    assert [each[0] for each in steps][-1] == "skill" and steps[0][1] > 0


def _pairs(found: tuple[Duplicates, ...]) -> set[str]:
    return {name for each in found for name in (each.memory_id, *each.others)}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_duplicates_are_found_with_precision_and_recall(seed: int):
    told = generated(600, seed, retold=0.3)
    engine = BlockingEngine(Settings(backend="memory"))
    report = run(audit(stored(GatewayHands(engine.gateway), *told.episodes)))
    engine.close()
    root = {name: told.truth.get(name, name) for name in (each.memory_id for each in told.episodes)}
    right = sum(root[each.memory_id] == root[other] for each in report.duplicates for other in each.others)
    claimed = sum(len(each.others) for each in report.duplicates)
    precision, recall = right / claimed, right / len(told.truth)
    assert len(told.truth) > 100
    assert precision >= 0.99, f"precision {precision:.3f}, recall {recall:.3f}"
    assert recall >= 0.95, f"precision {precision:.3f}, recall {recall:.3f}"


def test_precision_counts_only_if_near_ones_are_there():
    """The generated data is hard: by their vectors alone, four in ten of those that look the same are not."""
    told = generated(600, 1, retold=0.3)
    engine = BlockingEngine(Settings(backend="memory"))
    hands = stored(GatewayHands(engine.gateway), *told.episodes)
    vectors = run(hands.vectors([f"{each.task_prompt}\n{each.outcome}" for each in told.episodes]))
    engine.close()
    names = [each.memory_id for each in told.episodes]
    near = [(names[i], names[j]) for i in range(len(names)) for j in range(i) if vectors[i] @ vectors[j] >= 0.9]
    same = sum(told.truth.get(one, one) == told.truth.get(other, other) for one, other in near)
    assert same / len(near) < 0.6


@pytest.mark.parametrize("wrong", [{"duplicate_cosine": 2}, {"stale_after": -1}, {"loop_within": float("nan")}])
def test_checks_out_of_range_are_refused(wrong: dict[str, Any]):
    with pytest.raises(InvalidSetting):
        Checks(**wrong)


def test_a_report_is_frozen_and_goes_through_json(hands: GatewayHands):
    report = run(audit(stored(hands, recent("a", f"password={SECRET}"))))
    assert msgspec.json.decode(msgspec.json.encode(report), type=Audit) == report
    with pytest.raises(AttributeError):
        report.stale = ()  # type: ignore[misc]
    assert replace(report, stale=("x",)).counts["stale"] == 1
