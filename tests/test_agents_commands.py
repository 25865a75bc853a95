"""`remanence search`, `memories`, `audit`, `consolidate` and `forget --agent`, as people and programs use them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from remanence import MemoryArchitecture
from remanence.faces.agents.agents import Agents
from remanence.faces.agents.following import Follower
from remanence.faces.agents.tending.policy import Consolidated
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


FINE = b'{"type": "semantic", "pattern": "fine"}'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"type": "semantic", "pattern": 3}', "pattern"),
        (b'{"type": ["semantic"], "pattern": "x"}', "must have a type"),
        (b'{"type": "dream", "pattern": "x"}', "must have a type"),
        (b"[1, 2]", "must have a type"),
        (b'{"type": "semantic", ', "is no JSON"),
        (b"\xff\x00\x80", "is no JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"type": "semantic", "pattern": "%s"}' % (b"x" * 2_000_000), "over the limit"),
        (b'{"type": "semantic", "pattern": "\\ud800"}', "surrogate"),
        (b'{"type": "semantic", "pattern": "x", "importance": NaN}', "importance"),
        (b'{"type": "semantic", "pattern": "x", "created_at": "2026-01-01T00:00:00"}', "timezone"),
        (b'{"type": "skill", "skill_name": "s", "description": "d", "action_sequence": [Infinity]}', "finite"),
    ],
)
def test_a_line_that_is_no_memory_is_named_and_nothing_is_stored(
    line: bytes, reason: str, spoken: Any, answered: Answered, tmp_path: Path
):
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_bytes(FINE)
    bad.write_bytes(b"\n".join([FINE] * 120 + [b"", line, FINE, b"{", FINE]))
    code, _, err = spoken("memories", "load", str(good), str(bad))
    assert code == 2
    assert f"{bad}: line 122" in err
    assert reason in err
    assert "1 more line(s)" in err
    assert len(err) < 1000
    assert answered("memories", "list", "--json")[1]["semantic"] == []


def test_what_cannot_be_loaded_says_why(spoken: Any, tmp_path: Path):
    file = tmp_path / "memories.jsonl"
    file.write_bytes(FINE)
    for words, reason in (
        ([str(tmp_path)], "is a folder"),
        ([os.devnull], "plain file"),
        ([str(tmp_path / "other")], "no such file"),
        ([str(file), "--backend", "memory"], "keeps nothing"),
    ):
        code, _, err = spoken("memories", "load", *words)
        assert code == 2, words
        assert reason in err, words
    assert spoken("memories", "load", str(file))[1] == "1 memory loaded\n"


def test_ctrl_c_in_a_load_leaves_whole_hundreds_and_says_how_many(tmp_path: Path):
    file, place = tmp_path / "memories.jsonl", str(tmp_path / "place")
    file.write_bytes(b"\n".join([FINE] * 20_000))
    code = "import sys; from remanence.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "--path", place, "memories", "load", str(file)]
    child = subprocess.Popen(
        words, stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    )
    with MemoryArchitecture(path=place, auto_consolidate=False) as memory:
        while memory.get_stats()["semantic"] < 300:
            assert child.poll() is None
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=30)
        stored = memory.get_stats()["semantic"]
        assert memory.search_semantic("fine")
    assert child.returncode == 130
    assert 300 <= stored < 20_000
    assert stored % 100 == 0
    told = int(said.decode().removeprefix("stopped: the first ").split()[0].replace(",", ""))
    assert b"load the rest again" in said
    assert stored - 100 <= told <= stored


def test_all_memories_go_through_another_embedder(answered: Answered, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REMANENCE_EMBEDDER", "none")
    with MemoryArchitecture() as memory:
        memory.add_semantic("Probes need a minute")
    assert answered("search", "probes", "--mode", "semantic", "--json")[0] == 1
    assert "without an embedder" in answered("search", "probes", "--mode", "semantic")[2]
    monkeypatch.delenv("REMANENCE_EMBEDDER")
    assert "remanence memories embed" in answered("search", "zzz", "--type", "skill", "--mode", "semantic")[2]
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


HOSTILE = "a\x1b[31m\x9b2J\n\u202e\x07"
SPELLED = r"a\x1b[31m\u009b2J\x0a\u202e\x07"


@pytest.fixture
def hostile():
    """Memories whose every name and text would move a terminal's cursor."""
    with MemoryArchitecture(agent_id=HOSTILE) as memory:
        episode = {"memory_id": HOSTILE, "task_prompt": HOSTILE, "outcome": HOSTILE, "success": True}
        memory.load(
            [
                {"type": "episodic", "duration_seconds": 1, "trust": 0.1, **episode},
                {"type": "semantic", "memory_id": HOSTILE, "pattern": HOSTILE, "source_episodes": [HOSTILE + "?"]},
                {"type": "skill", "skill_name": HOSTILE, "description": "x" * 300, "action_sequence": [HOSTILE]},
            ]
        )
        yield memory


@pytest.mark.parametrize("columns", [None, "80", "40"])
def test_what_was_stored_never_moves_the_cursor(
    hostile: MemoryArchitecture, columns: str | None, spoken: Any, monkeypatch: pytest.MonkeyPatch
):
    if columns:
        monkeypatch.setattr("remanence.commands.output.PLAIN_WIDTH", int(columns))
    for words in (
        ["memories", "list"],
        ["memories", "list", "--json"],
        ["search", "a", "--explain"],
        ["audit"],
        ["audit", "--json"],
        ["memories", "show", f"episodic:{HOSTILE}"],
        ["memories", "show", f"episodic:{HOSTILE}?"],
        ["memories", "load", HOSTILE],
        ["forget", "--subject", HOSTILE, "--yes"],
        ["memories", "delete", f"episodic:{HOSTILE}"],
    ):
        _, out, err = spoken(*words)
        assert all(each.isprintable() for line in (out + err).split("\n") for each in line), (words, out, err)
        assert out + err


def test_names_are_shown_so_that_they_can_be_copied(
    hostile: MemoryArchitecture, spoken: Any, answered: Answered, monkeypatch: pytest.MonkeyPatch
):
    for columns in (110, 60, 40):
        monkeypatch.setattr("remanence.commands.output.PLAIN_WIDTH", columns)
        for words in (["memories", "list"], ["search", "a"]):
            _, out, _ = spoken(*words)
            assert out.count(f"semantic:{SPELLED}") == 1, (columns, words, out)
            skill = next(line for line in out.split("\n") if line.startswith("skill:")).split()[0]
            assert len(skill) == len("skill:") + 32
            assert out.count("xxxx") >= 1  # and what it is about has room beside it, or under it
        assert f"  {SPELLED}\n" in spoken("audit")[1]
    code, out, _ = spoken("memories", "show", skill.partition(":")[2])  # an id alone is a name
    assert code == 0
    assert json.loads(out)["action_sequence"] == [HOSTILE]  # not broken at the width
    assert answered("memories", "show", skill, "--json")[1]["memories"][0]["skill_name"] == HOSTILE


def test_an_id_of_two_memories_has_to_be_said_in_full(hostile: MemoryArchitecture, spoken: Any):
    hostile.load([{"type": kind, "memory_id": "twin", "pattern": "p"} for kind in ("semantic",)])
    hostile.load([{"type": "episodic", "memory_id": "twin", **EPISODE}])
    code, _, err = spoken("memories", "delete", "twin")
    assert code == 2
    assert "episodic:twin, semantic:twin" in err
    assert hostile.get_semantic("twin") is not None
    assert spoken("memories", "delete", "semantic:twin")[0] == 0
    assert spoken("memories", "delete", "twin")[0] == 0
    assert hostile.get_episode("twin") is None


EPISODE = {"task_prompt": "p", "outcome": "o", "success": True, "duration_seconds": 1}


def test_a_record_that_cannot_be_read_hides_no_other_and_can_be_deleted(
    spoken: Any, answered: Answered, fresh_server: Callable[..., Server], tmp_path: Path
):
    server = fresh_server()
    with MemoryArchitecture(url=server.url, path=str(tmp_path)) as memory:
        kept = memory.add_semantic("Probes need a minute")
        with server.client() as client:
            client.set("memory:semantic:junk", b"junk")
        where = ["--url", server.url, "--path", str(tmp_path)]
        name = f"semantic:{kept.memory_id}"
        code, told, _ = answered("memories", "show", "semantic:junk", name, "semantic:none", "--json", *where)
        assert code == 1
        assert [each["name"] for each in told["memories"]] == [name]
        assert (told["missing"], told["unreadable"]) == (["semantic:none"], ["semantic:junk"])
        code, out, err = spoken("memories", "show", "semantic:junk", name, *where)
        assert code == 1
        assert json.loads(out)["name"] == name
        assert "semantic:junk" in err
        code, told, _ = answered("memories", "delete", "semantic:junk", "--json", *where)
        assert (code, told) == (0, {"deleted": ["semantic:junk"], "missing": []})
        assert answered("memories", "show", "semantic:junk", "--json", *where)[1]["missing"] == ["semantic:junk"]


def test_forgetting_what_is_not_there_says_so(agent: MemoryArchitecture, spoken: Any):
    code, _, err = spoken("forget", "--subject", "nobody", "--yes")
    assert code == 0
    assert "no memory with the tag nobody" in err
    code, _, err = spoken("forget", "--agent", "nobody", "--yes")
    assert code == 0
    assert "no memory of agent nobody" in err
    assert "no memory" not in spoken("forget", "--agent", "a1", "--yes")[2]


def test_an_index_that_is_not_complete_is_not_taken_for_everything(
    agent: MemoryArchitecture, spoken: Any, monkeypatch: pytest.MonkeyPatch
):
    async def never(self: Follower, timeout: float) -> bool:
        return False

    monkeypatch.setattr(Follower, "ready", never)
    monkeypatch.setattr("remanence.commands.agents.INDEXING", 1.0)
    code, _, err = spoken("forget", "--agent", "a1", "--yes")
    assert code == 3
    assert "run it again" in err
    monkeypatch.undo()
    assert len(agent.list_episodes()) == 2


def test_a_pass_that_another_worker_makes_is_told(
    agent: MemoryArchitecture, spoken: Any, monkeypatch: pytest.MonkeyPatch
):
    for state, said in (("busy", "nothing was done"), ("lost", "what was done so far holds")):

        async def told(*_: Any, state: Any = state) -> Consolidated:
            return Consolidated(state=state)

        monkeypatch.setattr(Agents, "consolidate_now", told)
        code, out, _ = spoken("consolidate")
        assert code == 1
        assert said in out
