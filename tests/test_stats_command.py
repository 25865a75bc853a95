"""`remanence stats`: what is stored, by face, once or live."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from remanence.commands import stats
from remanence.model import Put
from remanence.settings import Settings
from remanence.testing.command_line import Command, fill, load, started
from remanence.testing.servers import Server


def test_stats_count_keys_by_face(spoken: Command, fresh_server: Callable[..., Server]):
    server = fresh_server()
    fill(server.url)
    with server.client() as client:
        client.set("elsewhere", "1")
    code, out, err = spoken("--url", server.url, "stats", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    keys = told["keys"]
    assert (keys["shared state"], keys["session messages"], keys["conversation memory"]) == (3, 1, 1)
    assert keys[stats.OTHERS] == 1
    assert stats.INTERNAL not in keys, "what the library keeps for itself is no record"
    assert told["change_log"] == 6
    assert told["used_memory"] > 0
    assert not told["keys_cut"]
    _, out, _ = spoken("--url", server.url, "stats")
    assert "shared state" in out
    assert "3 keys" in out


def test_stats_of_a_large_store_say_that_they_were_cut(spoken: Command, monkeypatch: pytest.MonkeyPatch):
    load(Settings.build(), [Put(f"memory:{n}", b'{"value":1}') for n in range(1500)])
    monkeypatch.setattr(stats, "MOST_KEYS", 1000)
    code, out, _ = spoken("stats", "--json")
    assert code == 0
    assert json.loads(out)["keys_cut"]
    assert json.loads(out)["keys"]["shared state"] == 1000
    _, out, _ = spoken("stats")
    assert "1,000+ keys" in out


def test_stats_before_anything_was_stored(spoken: Command, tmp_path: Path):
    code, out, _ = spoken("stats")
    assert code == 0
    assert "nothing stored yet" in out
    assert not (tmp_path / "remanence").exists()


@pytest.mark.parametrize("words", [("--json",), ()])
def test_live_stats_go_on_until_ctrl_c(words: tuple[str, ...]):
    with started("stats", "--live", "--interval", "0.1", *words, stdout=subprocess.PIPE) as process:
        assert process.stdout
        looks: list[bytes] = []
        while len(looks) < 3:
            line = process.stdout.readline()
            assert line
            looks += [line] if b"available" in line else []
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, b"")
    if words:
        assert all(json.loads(look)["available"] for look in looks)
