"""The command line: what it promises to people and to scripts."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import remanence
from remanence.cli import VERBS
from remanence.commands.transfer import Entry, line_of
from remanence.model import Put
from remanence.settings import Settings
from remanence.testing.command_line import Command, load, started
from remanence.testing.servers import PortClaim


@pytest.fixture
def away() -> Iterator[str]:
    """An address where nobody listens."""
    claim = PortClaim()
    yield f"redis://:open%20sesame@127.0.0.1:{claim.number}/0"
    claim.release()


# --- arguments ------------------------------------------------------------------------------------


def test_help_names_every_verb_and_imports_none():
    program = (
        "import sys\nfrom remanence.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted(name for name in sys.modules if name.startswith(('remanence.commands.', 'rich'))))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    *text, modules = told.stdout.splitlines()
    assert modules == "[]"
    for verb in VERBS:
        assert f"  {verb.name} " in "\n".join(text)


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS])
def test_every_verb_explains_itself_with_the_common_options(spoken: Command, verb: str):
    code, out, _ = spoken(verb, "--help")
    assert code == 0
    assert {"--url", "--path", "--namespace", "--backend", "--json"} <= set(out.replace(",", " ").split())


def test_the_version(spoken: Command):
    assert spoken("--version") == (0, f"remanence {remanence.__version__}\n", "")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("dance",),
        ("stats", "--loudly"),
        ("stats", "--interval", "0"),
        ("import",),
        ("--backend", "paper", "stats"),
    ],
    ids=" ".join,
)
def test_a_wrong_call_is_one_clear_line_and_exit_code_2(spoken: Command, words: tuple[str, ...]):
    code, out, err = spoken(*words)
    assert (code, out) == (2, "")
    assert err.startswith("remanence: ")
    assert err.count("\n") == 1
    code, out, err = spoken("--json", *words)
    assert (code, out) == (2, "")
    assert json.loads(err)["exit"] == 2


def test_options_count_before_and_after_the_verb(spoken: Command, tmp_path: Path):
    before, after = (str(tmp_path / name) for name in ("before", "after"))
    _, out, _ = spoken("--path", before, "--json", "stats")
    assert json.loads(out)["place"].startswith(before)
    _, out, _ = spoken("--path", before, "stats", "--path", after, "--json", "--namespace", "x")
    assert json.loads(out)["place"].startswith(f"{after}/remanence-")


def test_a_url_said_here_wins_over_the_environment(spoken: Command, away: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEMORY_BACKEND", "sqlite")
    code, out, _ = spoken("--url", away, "stats", "--json")
    assert code == 3
    assert json.loads(out)["backend"] == "redis"


@pytest.mark.parametrize("verb", ["doctor", "stats", "export", "import"])
def test_a_server_that_is_away_is_exit_code_3_and_no_secret_is_told(
    spoken: Command, away: str, tmp_path: Path, verb: str
):
    file = tmp_path / "export"
    file.write_bytes(
        b'{"remanence":"export","version":1}\n' + line_of(Entry("memory:a", "document", (b'{"value":1}',)))
    )
    words = {"export": ("export", "-"), "import": ("import", str(file))}.get(verb, (verb,))
    for given in (words, (*words, "--json")):
        code, out, err = spoken("--url", away, *given)
        assert code == 3
        assert "cannot be reached" in out + err
        assert "sesame" not in out + err
        assert "Traceback" not in out + err


# --- readers that go away -------------------------------------------------------------------------


def test_a_reader_that_goes_away_is_no_error():
    load(Settings.build(), [Put(f"memory:{n}", b'{"value":"%b"}' % (b"v" * 900)) for n in range(500)])
    with started("export", stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr
        assert process.stderr.read() == b""
        assert process.wait(20) == 141


@pytest.mark.parametrize("words", [("doctor",), ("stats",), ("doctor", "--json")])
def test_a_reader_that_never_was_is_no_error_either(words: tuple[str, ...]):
    with started(*words, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.close()
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (141, b"")
