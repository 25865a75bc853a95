"""`remanence search`, `memories`, `audit`, `consolidate` and `forget --agent`, as people and programs use them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from remanence import MemoryArchitecture
from remanence.testing.servers import Server

Answered = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def agent():
    """An agent with something of each type, on the embedded default."""
    with MemoryArchitecture(agent_id="a1") as memory:
        memory.save_episode("Deploy billing", "Rolled back: probes failed", False, 9.0, tags=["deploy"], importance=0.9)
        memory.save_episode("Book a room", "Done", True, 1.0, trust=0.2)
        memory.add_semantic("Probes need a minute", context="staging")
        memory.save_skill("roll back", "Return to the last good release", ["undo"])
        yield memory


def names(told: dict[str, Any]) -> dict[str, list[str]]:
    return {kind: [each["memory"]["name"].partition(":")[0] for each in some] for kind, some in told.items()}


def test_search_finds_each_type_and_says_why(agent: MemoryArchitecture, answered: Answered):
    code, told, _ = answered("search", "why did the probes fail?", "--json", "--explain")
    assert code == 0
    assert told["episodic"][0]["memory"]["task_prompt"] == "Deploy billing"
    assert sum(told["episodic"][0]["parts"].values()) == pytest.approx(told["episodic"][0]["score"])
    assert names(told)["skill"] == ["skill"]
    code, text, _ = answered("search", "probes", "--type", "semantic", "--limit", "1")
    assert code == 0
    assert "Probes need a minute" in text
    assert "Deploy" not in text


def test_search_filters_and_says_when_nothing_is_found(agent: MemoryArchitecture, answered: Answered):
    for words in (["--tag", "deploy"], ["--importance", "0.8"], ["--type", "episodic", "--trust", "0.9"]):
        _, told, _ = answered("search", "what happened", *words, "--json")
        assert [each["memory"]["task_prompt"] for each in told["episodic"]] == ["Deploy billing"], words
    code, told, _ = answered("search", "probes", "--agent", "nobody", "--json")
    assert code == 1
    assert not any(told.values())
    assert answered("search", "probes", "--days", "0")[0] == 2


def test_memories_are_listed_shown_and_deleted(agent: MemoryArchitecture, answered: Answered):
    _, told, _ = answered("memories", "list", "--json")
    assert {kind: len(some) for kind, some in told.items()} == {"episodic": 2, "semantic": 1, "skill": 1}
    name = told["skill"][0]["name"]
    code, told, _ = answered("memories", "show", name, "--json")
    assert code == 0
    assert told["memories"][0]["skill_name"] == "roll back"
    assert told["memories"][0]["success_rate"] == 0.0
    code, told, _ = answered("memories", "delete", name, "semantic:nothing", "--json")
    assert (code, told) == (1, {"deleted": [name], "missing": ["semantic:nothing"]})
    assert agent.get_skill("roll back") is None
    assert agent.search_skills("roll back") == []


@pytest.mark.parametrize(
    "words",
    [
        ["show"],
        ["list", "episodic:1"],
        ["show", "nothing:1"],
        ["show", "episodic:"],
        ["load", "/nowhere"],
        ["embed", "x"],
    ],
)
def test_a_wrong_call_is_said(words: list[str], spoken: Any):
    code, out, err = spoken("memories", *words)
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1


def test_files_are_loaded_and_can_be_loaded_again(answered: Answered, spoken: Any, tmp_path: Path):
    memories = [
        {"type": "episodic", "memory_id": f"e{n}", "task_prompt": f"Task {n}", "outcome": "Done", "success": True}
        | {"duration_seconds": 1, "agent_id": "old", "created_at": "2026-01-02T03:04:05+00:00"}
        for n in range(250)
    ]
    file = tmp_path / "memories.jsonl"
    file.write_text("\n".join(map(json.dumps, memories)))
    for _ in range(2):
        code, told, _ = answered("memories", "load", str(file), "--json")
        assert (code, told) == (0, {"loaded": 250})
    with MemoryArchitecture() as memory:
        assert memory.get_stats()["episodic"] == 250
        found = memory.get_episode("e7")
        assert found is not None
        assert (found.agent_id, found.created_at.year) == ("old", 2026)
        assert memory.search_episodes("task 249", limit=1)[0].memory_id == "e249"
    file.write_text('{"type": "semantic", "pattern": "fine"}\n{"type": "semantic", "pattern": 3}\n')
    code, _, err = spoken("memories", "load", str(file))
    assert code == 2
    assert "memories[1]" in err
    assert "pattern" in err


def test_all_memories_go_through_another_embedder(answered: Answered, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REMANENCE_EMBEDDER", "none")
    with MemoryArchitecture() as memory:
        memory.add_semantic("Probes need a minute")
    assert answered("search", "probes", "--mode", "semantic", "--json")[0] == 1
    monkeypatch.delenv("REMANENCE_EMBEDDER")
    assert answered("memories", "embed", "--json")[0] == 0  # together with the background, which begins at once
    assert answered("search", "probes", "--mode", "semantic", "--json")[0] == 0
    assert answered("memories", "embed", "--json")[1] == {"embedded": 0}


def test_consolidation_merges_and_takes_back(agent: MemoryArchitecture, answered: Answered):
    agent.save_episode("book a room", "done", True, 1.0, trust=0.2)
    code, told, _ = answered("consolidate", "--json")
    assert code == 0
    assert (told["state"], len(told["merged"])) == ("done", 1)
    assert len(agent.list_episodes()) == 2
    code, back, _ = answered("consolidate", "--unmerge", told["kept"][0], "--json")
    assert code == 0
    assert set(back["restored"]) == {*told["merged"], *told["kept"]}
    assert len(agent.list_episodes()) == 3
    assert answered("consolidate", "--json")[1]["merged"] == []
    assert answered("consolidate", "--forget-below", "2")[0] == 2


def test_an_audit_tells_what_is_wrong_and_no_text(agent: MemoryArchitecture, answered: Answered):
    agent.add_semantic("the key is AKIAIOSFODNN7EXAMPLE", source_episodes=["gone"])
    code, told, _ = answered("audit", "--json")
    assert code == 1
    assert told["counts"]["secrets"] >= 1
    assert told["counts"]["broken_links"] == 1
    assert told["counts"]["low_trust"] == 1
    code, text, _ = answered("audit")
    assert code == 1
    assert "AKIA" not in text
    assert "secrets" in text


def test_an_agent_and_a_subject_are_forgotten(agent: MemoryArchitecture, answered: Answered):
    with MemoryArchitecture(agent_id="a2") as other:
        kept = other.save_episode("Keep this", "Done", True, 1.0)
        other.save_episode("Not this", "Done", True, 1.0, tags=["bob"])
        agent.add_step("act", "seen")
        assert answered("forget", "--subject", "bob", "--yes", "--json")[0] == 0
        assert [each.memory_id for each in other.list_episodes(agent_id="a2")] == [kept.memory_id]
        code, told, _ = answered("forget", "--agent", "a1", "--yes", "--json")
        assert code == 0
        assert len(told["receipts"]) >= 5
        assert [each.memory_id for each in other.list_episodes()] == [kept.memory_id]
        assert agent.get_recent_steps() == []
        assert other.get_stats()["semantic"] == other.get_stats()["skill"] == 0


def test_a_server_that_is_away_is_exit_code_3(spoken: Any, fresh_server: Callable[..., Server], tmp_path: Path):
    server = fresh_server()
    server.kill()
    for words in (["search", "x"], ["memories", "list"], ["audit"], ["consolidate"]):
        code, _, err = spoken(*words, "--url", server.url, "--path", str(tmp_path))
        assert code == 3, words
        assert len(err.splitlines()) == 1, err
