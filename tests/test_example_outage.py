"""The example that kills servers and writers, on a few made-up conversations."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from remanence.testing.servers import Server

EXAMPLE = Path(__file__).parent.parent / "examples" / "survive_an_outage.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("survive_an_outage", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """Two files of three sessions of fifteen messages, and a file that is no conversation."""
    folder = tmp_path / "talks"
    folder.mkdir()
    (folder / "LICENSE.txt").write_text("no conversation")
    for name in ("one", "two: with * and ?"):
        memories = [
            {
                "id": f"{session}:{n}",
                "text": f"Größe {n}?",
                "speaker": ("Ann", "Bob")[n % 2],
                "session": session,
            }
            for session in ("S1", "S2", "S3")
            for n in range(15)
        ]
        (folder / f"{name}.json").write_text(json.dumps({"memories": memories}))
    return folder


def started(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "error", str(EXAMPLE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


@pytest.mark.slow
def test_every_message_survives(talks: Path, server_kind: str):
    flag = "valkey" if server_kind == "valkey" else "redis"
    ended = started(talks, "--server", flag, "--processes", 2, "--seconds", 1.5, "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    told = json.loads(ended.stdout)
    assert told["server"].startswith(flag.removesuffix("-server"))
    assert (told["messages"], told["sessions"]) == (90, 6)
    assert (told["server_kills"], told["of_them_emptied"], told["writer_kills"]) == (4, 1, 2)
    assert told["sent_again"] > 0, "the server that came back empty was told again"
    assert (told["lost"], told["duplicated"], told["out_of_order"], told["foreign"]) == (0, 0, 0, 0)
    assert told["exact"] is True


def test_roles_and_metadata(example: ModuleType, talks: Path):
    sessions = dict(example.conversations(talks))
    assert list(sessions) == [f"{name} {s}" for name in ("one", "two: with * and ?") for s in ("S1", "S2", "S3")]
    first, second = sessions["one S1"][:2]
    assert first == {"role": "user", "content": "Größe 0?", "metadata": {"id": "S1:0", "speaker": "Ann"}}
    assert second["role"] == "assistant"
    own = example.message({"id": 1, "text": "x", "speaker": "assistant"}, ["assistant", "user"])
    assert own["role"] == "assistant"


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        ("abcd", {}),
        ("abc", {"lost": 1}),
        ("", {"lost": 4}),
        ("abcdd", {"duplicated": 1}),
        ("abcdab", {"duplicated": 2}),
        ("acbd", {"out_of_order": 1}),
        ("dcba", {"out_of_order": 3}),
        ("abcdx", {"foreign": 1}),
        ("xbbda", {"foreign": 1, "lost": 1, "duplicated": 1, "out_of_order": 1}),
    ],
)
def test_what_differs_is_counted(example: ModuleType, found: str, wrong: dict[str, int]):
    assert +example.compare("abcd", found) == wrong


@pytest.mark.parametrize("fault", ["lost", "duplicated", "out_of_order", "foreign", "changed", "session", "none"])
def test_the_proof_notices(
    example: ModuleType, talks: Path, tmp_path: Path, fresh_server: Callable[..., Server], fault: str
):
    sessions = example.conversations(talks)
    server, result = fresh_server(), example.Result("test")
    with server.client() as plain:
        for session_id, messages in sessions:
            plain.rpush(f"session:{session_id}", *(json.dumps(each) for each in messages))
        key = f"session:{sessions[0][0]}"
        entries: Any = plain.lrange(key, 0, -1)
        if fault == "lost":
            plain.rpop(key)
        elif fault == "duplicated":
            plain.rpush(key, entries[0])
        elif fault == "out_of_order":
            plain.lset(key, 0, entries[1])
            plain.lset(key, 1, entries[0])
        elif fault == "foreign":
            plain.rpush(key, '{"role":"user","content":"foreign"}')
        elif fault == "changed":
            plain.lset(key, 3, entries[3].replace(b"3", b"4"))
        elif fault == "session":
            plain.rpush("session:unexpected", entries[0])
    example.prove(sessions, server, result, tmp_path)
    assert result.exact is (fault == "none"), result
    assert bool(result.faults) is (fault not in ("none", "session"))


def test_what_cannot_be_done_is_said(example: ModuleType, talks: Path, tmp_path: Path):
    empty = tmp_path / "empty"
    empty.mkdir()
    refused = started(empty)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert "0 session(s)" in refused.stderr
    (empty / "x.json").write_text("[]")
    assert "holds no conversations" in example.unfit(empty, 1, 1.0)
    (empty / "x.json").write_text(json.dumps({"memories": [{"id": 1, "text": "a"}, {"id": 1, "text": "b"}]}))
    assert "two messages of one id" in example.unfit(empty, 1, 1.0)
    assert "at least one process" in example.unfit(talks, 0, 1.0)
    assert "no negative time" in example.unfit(talks, 1, -1.0)
    assert example.unfit(talks, 6, 0.0) == ""
