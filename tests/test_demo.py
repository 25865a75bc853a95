"""The demo: what it tells is true, it says when something is wrong, and it leaves nothing behind."""

import inspect
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from remanence.cli import main
from remanence.commands import demo
from remanence.commands.demo_acts import ACKNOWLEDGED, Child, DemoFailed, Tally, private_place, tally
from remanence.testing.command_line import hear_ctrl_c
from remanence.testing.servers import available_servers

ENVIRONMENT = {"REDIS_URL": "redis://127.0.0.1:1/0", "REMANENCE_DURABILITY": "volatile", "KEY_PREFIX": "x:"}
"""Settings of whoever watches, none of which may change the story."""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo's folder is made."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def demo_processes(folder: Path) -> list[str]:
    """Processes of demos that work below `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"demo_child" in (process / "cmdline").read_bytes():
                found += [process.name] if os.fsencode(folder) in (process / "environ").read_bytes() else []
        except OSError:  # ended meanwhile, or not ours
            continue
    return found


@pytest.mark.skipif(not available_servers(), reason="no server to take down")
def test_the_whole_story_is_true(temporary: Path):
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "remanence", "demo", "--json"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["fine"]
    assert told["remembers"] == {
        "preferences": {"theme": "dark", "languages": ["en", "fr"]},
        "messages": [
            {"role": "user", "content": "What is RAG?"},
            {"role": "assistant", "content": "Retrieval-augmented generation."},
        ],
        "working_memory": ["Likes tea"],
    }
    survived = told["survives"]
    assert survived["written"] >= ACKNOWLEDGED
    assert survived["written"] <= survived["found"] <= survived["written"] + 1
    outage = told["outlives"]
    assert outage["tally"]["written"] == outage["tally"]["found"] > 500
    assert (outage["tally"]["lost"], outage["tally"]["duplicated"], outage["tally"]["ordered"]) == (
        0,
        0,
        True,
    )
    assert outage["deepest"] > 100
    assert outage["resent"] > 100
    assert told["seconds"] <= time.monotonic() - began
    assert not list(temporary.glob("remanence-demo-*"))
    assert demo_processes(temporary) == []


def test_without_a_server_it_says_how_to_get_one(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(demo, "available_servers", dict)
    before = dict(os.environ)
    assert main(["demo"]) == 0
    told = capsys.readouterr().out
    assert "memory.preferences" in told
    assert "{'theme': 'dark', 'languages': ['en', 'fr']}" in told
    assert told.count("0 lost, 0 twice, in order") == 1
    assert "pip install 'remanence[demo]'" in " ".join(told.split())
    assert dict(os.environ) == before
    assert not list(temporary.glob("remanence-demo-*"))


def test_a_loss_is_told_and_is_exit_code_1(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(demo, "available_servers", dict)
    monkeypatch.setattr(demo, "survive", lambda folder: (1, tally({"a": 3}, ["a 1", "a 3", "a 3"])))
    assert main(["demo"]) == 1
    told = capsys.readouterr().out
    assert "1 lost, 1 twice, in order" in told
    assert "Please report" in told
    assert main(["demo", "--json"]) == 1
    assert not json.loads(capsys.readouterr().out)["fine"]


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        (["a 1", "b 1", "a 2"], Tally(3, 3, 0, 0, True)),
        (["a 1", "b 1", "a 2", "a 3"], Tally(3, 4, 0, 0, True)),
        (["a 2", "b 1"], Tally(3, 2, 1, 0, True)),
        (["a 1", "a 2"], Tally(3, 2, 1, 0, True)),
        (["a 1", "a 2", "b 1", "b 1"], Tally(3, 4, 0, 1, True)),
        (["a 2", "a 1", "b 1"], Tally(3, 3, 0, 0, False)),
    ],
)
def test_the_count_finds_what_is_lost_doubled_or_out_of_order(contents: list[str], expected: Tally):
    found = tally({"a": 2, "b": 1}, contents)
    assert found == expected
    assert found.fine is (expected.lost == 0 and expected.duplicated == 0 and expected.ordered)
    assert found.unspoken == ("a 3" in contents)


@pytest.mark.parametrize("option", ["--url", "--path", "--namespace", "--backend"])
def test_it_has_a_place_of_its_own(option: str, capsys: pytest.CaptureFixture[str]):
    assert main(["demo", option, "sqlite"]) == 2
    assert f"leave out {option}" in capsys.readouterr().err


def test_a_process_of_it_that_fails_is_a_clear_error(tmp_path: Path):
    (tmp_path / "file").touch()
    place = private_place(tmp_path / "file")
    with place, Child(tmp_path, "remember") as child, pytest.raises(DemoFailed) as raised:
        child.wait()
    assert "file" in str(raised.value)


@pytest.mark.skipif(not available_servers(), reason="no server to take down")
def test_ctrl_c_ends_it_with_all_its_processes(temporary: Path):
    command = [sys.executable, "-u", "-m", "remanence", "demo"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=hear_ctrl_c) as process:
        assert process.stdout
        for line in process.stdout:
            if "kill -9" in line and " s " in line:
                break
        assert len(demo_processes(temporary)) == 2
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")
    assert demo_processes(temporary) == []
    assert not list(temporary.glob("remanence-demo-*"))


@pytest.mark.parametrize("columns", [110, 80, 40])
def test_what_it_shows_of_the_source_is_whole(columns: int):
    shown = io.StringIO()
    Console(file=shown, width=columns).print(demo._code(demo.learn, skipped=4))
    source = inspect.getsource(demo.learn).splitlines()[4:]
    assert "".join(shown.getvalue().split()) == "".join("".join(source).split())
