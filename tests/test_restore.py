"""`remanence restore`: what a server lost and a mirror on this machine has is stored again."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from remanence import Memory, MemoryClient
from remanence.cli import main
from remanence.testing.servers import Server
from remanence.wire.keys import Keyspace


@pytest.fixture
def lost(fresh_server: Callable[..., Server], namespace: str, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """A server that came back empty, after the journals forgot; and the command on it."""
    with fresh_server() as server:
        options: Any = {"url": server.url, "namespace": namespace}
        with (
            Memory(reads="mirror", retain=0.0, **options) as memory,
            MemoryClient(retain=0.0, session_ttl=600, **options) as client,
        ):
            for n in range(250):
                memory.set(f"n{n}", {"n": n})
            memory.set("brief", 1, ttl=300)
            for n in range(30):
                client.add("s", "user", str(n))
            mirror = memory.engine.gateway.mirror
            limit = time.monotonic() + 10
            while not (mirror.caught_up and mirror.file.count == 252):
                memory.get("n0")
                assert time.monotonic() < limit
                time.sleep(0.02)
            time.sleep(2.5)  # until the journals have let go of what was applied
        server.restart_empty()

        def restore(*words: str) -> tuple[int, Any]:
            code = main(["--url", server.url, "--namespace", namespace, "--json", "restore", *words])
            told = capsys.readouterr().out
            return code, json.loads(told) if told else None

        yield server, options, restore


def test_all_of_it_comes_back_once(lost: Any):
    _, options, restore = lost
    assert restore("--dry-run")[1]["missing"] == 252
    code, told = restore("--yes")
    assert (code, told["stored"], told["missing"]) == (0, 252, 252)
    with Memory(**options) as memory, MemoryClient(**options) as client:
        assert [memory.get(f"n{n}") for n in range(250)] == [{"n": n} for n in range(250)]
        assert 250 < memory.ttl("brief") <= 300
        assert [message["content"] for message in client.get("s")] == [str(n) for n in range(30)]
        assert 500 < client.ttl("s") <= 600
    assert restore("--yes")[1]["missing"] == 0


def test_what_is_there_stays_as_it_is(lost: Any):
    _, options, restore = lost
    with Memory(**options) as memory:
        memory.n7 = "new"
    assert restore("--yes", "--prefix", "memory:n7")[1]["stored"] == 10, "n70 to n79"
    with Memory(**options) as memory:
        assert memory.n7 == "new"
        assert memory.n70 == {"n": 70}
        assert "n1" not in memory


def test_a_mirror_that_met_the_empty_server_kept_a_copy(lost: Any):
    _, options, restore = lost
    with Memory(reads="mirror", **options) as memory:
        memory.other = 1
        mirror = memory.engine.gateway.mirror
        limit = time.monotonic() + 10
        while not mirror.caught_up or mirror.file.count > 1:
            memory.get("other")
            assert time.monotonic() < limit
            time.sleep(0.02)
        assert Path(mirror.file.path + "-before").stat().st_mode & 0o777 == 0o600
        assert restore("--yes")[1]["stored"] == 252
        while memory.get("n3", None) != {"n": 3}:  # as soon as its mirror hears of it
            assert time.monotonic() < limit
            time.sleep(0.02)


def test_nobody_is_asked_twice(lost: Any, monkeypatch: pytest.MonkeyPatch):
    _, _, restore = lost
    assert restore()[0] == 2, "no terminal, no --yes"


def test_without_a_mirror_it_says_what_makes_one(server: Server, namespace: str, capsys: pytest.CaptureFixture[str]):
    assert main(["--url", server.url, "--namespace", namespace, "restore"]) != 0
    assert "REMANENCE_READS" in capsys.readouterr().err


def test_a_file_that_is_none_is_told_and_the_rest_restored(lost: Any):
    server, options, restore = lost
    with closing(server.client()) as client:
        assert not client.keys(Keyspace(options["namespace"]).data("*"))
    with Memory(reads="mirror", **options) as memory:
        folder = Path(memory.engine.gateway.mirror.file.path).parent
    (folder / "9.mirror").write_bytes(b"nothing of ours" * 100)
    code, told = restore("--yes")
    assert (code, told["stored"], told["unread"]) == (1, 252, [str(folder / "9.mirror")])
