"""`remanence tail`: every change once and in order, never a value, through whatever happens to the server."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from remanence.cli import main
from remanence.model import Append, Delete, Put
from remanence.sync.state import Memory
from remanence.testing.oracle import QUICK, eventually, write
from remanence.testing.servers import Server
from remanence.wire.keys import Keyspace

Command = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def command(capsysbinary: pytest.CaptureFixture[bytes]) -> Command:
    """Run a command in this process: (exit code, lines of stdout, of --json what they say, stderr)."""

    def call(*words: str) -> tuple[int, Any, str]:
        try:
            code = main(words)
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsysbinary.readouterr()
        lines = out.decode().splitlines()
        return code, [json.loads(line) for line in lines] if "--json" in words else lines, err.decode()

    return call


class Lines:
    """A `remanence tail --json` in a process of its own, and what it said so far."""

    def __init__(self, *words: str) -> None:
        self.said: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "remanence", "tail", "--json", *words],
            stdout=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as from a terminal's shell
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [each for each in list(self.said) if each["event"] == event]

    def keys_told(self) -> list[str]:
        return [each["key"] for each in self.of("change")]

    def end(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(20)
        self._reader.join()
        return code


@contextmanager
def tailing(*words: str) -> Iterator[Lines]:
    lines = Lines(*words)
    try:
        yield lines
    finally:
        lines.process.kill()
        lines.process.wait()
        lines._reader.join()
        assert lines.process.stdout is not None
        lines.process.stdout.close()


def heard_first(lines: Lines, memory: Memory) -> None:
    """Wait until the tail hears: it begins at the end of the log, wherever that was when it got there."""

    def heard() -> bool:
        memory.late = 0
        time.sleep(0.05)
        return "memory:late" in lines.keys_told()

    assert eventually(heard, 30)


def test_changes_are_told_in_order_once_and_without_values(server: Server, namespace: str):
    where = ("--url", server.url, "--namespace", namespace)
    with Memory(url=server.url, namespace=namespace, **QUICK) as memory, tailing(*where) as lines:
        heard_first(lines, memory)
        before = time.time()
        for number in range(50):
            memory.set(f"n{number}", "secret")
        del memory.n3
        assert eventually(lambda: lines.keys_told()[-1] == "memory:n3" and len(lines.keys_told()) > 50)
        assert lines.end() == 0
        wanted = [f"memory:n{number}" for number in range(50)] + ["memory:n3"]
        assert lines.keys_told()[-51:] == wanted
        last = lines.of("change")[-1]
        assert (last["kind"], last["result"]) == ("delete", "ok")
        assert before - 1 < last["time"] < time.time() + 1
        assert last["lineage"] and last["seq"] and len(last["op_id"]) == 22
        assert lines.said[-1] == {"event": "end", "cursor": last["cursor"]}
        assert "secret" not in json.dumps(lines.said)


def test_people_are_told_one_line_each_and_where_to_go_on(command: Command, any_server: Server, namespace: str):
    where = ("tail", "--url", any_server.url, "--namespace", namespace, "--for", "0.12")
    with Memory(url=any_server.url, namespace=namespace, **QUICK) as memory:
        memory.a = 1
        write(memory.engine.settings, Put("odd\x1b[31m key", b'{"value":1}'))
        code, lines, err = command(*where, "--since", "/")
        assert code == 0
        assert [line.split()[1] for line in lines] == ["put", "put"]
        assert "  memory:a  ok  " in lines[0]
        assert "\x1b" not in lines[1] and '"odd\\u001b[31m key"' in lines[1]
        cursor = lines[1].split()[-1]
        assert f"--since '{cursor}'" in err
        assert command(*where, "--since", cursor)[1] == []
        memory.b = 2
        code, lines, _ = command(*where, "--since", cursor)
        assert code == 0 and len(lines) == 1 and "memory:b" in lines[0]


def test_what_is_told_can_be_chosen(command: Command, any_server: Server, namespace: str):
    where = ("tail", "--json", "--url", any_server.url, "--namespace", namespace, "--for", "0.12", "--since", "/")
    with Memory(url=any_server.url, namespace=namespace, **QUICK) as memory:
        memory.a, memory.b, memory.c = 1, 2, 3
        write(
            memory.engine.settings, Put("memory:a", b'{"value":4}', base="A" * 22), Put("remanence:{x}:y", b'{"z":1}')
        )

    def told(*words: str) -> list[tuple[str, str]]:
        return [(each["key"], each["result"]) for each in command(*where, *words)[1] if each["event"] == "change"]

    assert told() == [("memory:a", "ok"), ("memory:b", "ok"), ("memory:c", "ok")]
    assert told("--all") == [*told(), ("memory:a", "conflict"), ("remanence:{x}:y", "ok")]
    assert told("--prefix", "memory:b") == [("memory:b", "ok")]
    assert told("--limit", "2") == told()[:2]
    said = command(*where[:-2], "--since", "/", "--limit", "1")[1]
    again = command(*where[:-2], "--since", said[-1]["cursor"], "--limit", "1")[1]
    assert again[0]["key"] == "memory:b", "the limit's cursor is behind what was told, not behind what was read"


def test_a_file_is_followed_too(command: Command, tmp_path: Path):
    where = ("--path", str(tmp_path / "file"), "--backend", "sqlite")
    with Memory(path=str(tmp_path / "file")) as memory, tailing(*where) as lines:
        heard_first(lines, memory)
        memory.x = 1
        assert eventually(lambda: lines.keys_told()[-1] == "memory:x")
        assert lines.of("change")[-1]["time"] == pytest.approx(time.time(), abs=5)
        assert lines.end() == 0
        said = command("tail", "--json", *where, "--since", "/", "--for", "0.12")[1]
        assert [each["key"] for each in said[:-1]][-len(lines.keys_told()) :] == lines.keys_told()
        assert said[0]["time"] is None, "a file's log has no times: none is made up"


def test_the_log_that_was_cut_off_is_told(command: Command, server: Server, namespace: str):
    options: Any = {"url": server.url, "namespace": namespace, "log_length": 100, **QUICK}
    with Memory(**options) as memory:
        memory.a = 1
        where = ("tail", "--url", server.url, "--namespace", namespace, "--for", "0.12")
        cursor = command(*where, "--since", "/", "--json")[1][-1]["cursor"]
        for number in range(300):
            memory.set("b", number)
        code, said, _ = command(*where, "--since", cursor, "--json")
        assert code == 0 and said[0]["event"] == "resync"
        assert [each["key"] for each in said[1:-1]] == ["memory:b"] * (len(said) - 2) and len(said) > 100
        assert command(*where, "--since", cursor)[1][0].startswith("-- the change log was cut off")


def test_a_log_without_its_last_entries_is_gone_back_in_and_nothing_is_told_twice(server: Server, namespace: str):
    with (
        Memory(url=server.url, namespace=namespace, **QUICK) as memory,
        tailing("--url", server.url, "--namespace", namespace) as lines,
        closing(server.client()) as client,
    ):
        heard_first(lines, memory)
        for number in range(5):
            memory.set(f"n{number}", number)
        assert eventually(lambda: lines.keys_told()[-1] == "memory:n4")
        log = Keyspace(namespace).log
        for position, _ in client.xrevrange(log, count=2):  # as a replica does that was promoted without them
            client.xdel(log, position)
        assert eventually(lambda: lines.of("resync"))
        memory.after = 1
        assert eventually(lambda: lines.keys_told()[-1] == "memory:after")
        assert lines.keys_told()[-6:] == [*(f"memory:n{number}" for number in range(5)), "memory:after"]


def test_it_goes_on_by_itself_behind_a_server_that_goes_away(fresh_server: Callable[..., Server], namespace: str):
    server = fresh_server(persistence="aof", fsync="always")
    with (
        Memory(url=server.url, namespace=namespace, **QUICK) as memory,
        tailing("--url", server.url, "--namespace", namespace) as lines,
    ):
        heard_first(lines, memory)
        server.kill()
        assert eventually(lambda: lines.of("away"))
        server.start()
        memory.after = 1
        assert eventually(lambda: lines.keys_told()[-1] == "memory:after", 20)
        assert not lines.of("resync"), "nothing was missed, so nothing is said to be"
        assert len(lines.of("away")) == len(lines.of("back")) == 1
        server.restart_empty()
        memory.emptied = 2
        assert eventually(lambda: lines.keys_told()[-1] == "memory:emptied", 20)
        assert eventually(lambda: lines.of("resync"), 5)
        ids = [each["op_id"] for each in lines.of("change")]
        assert lines.end() == 0 and ids


@pytest.mark.parametrize("since", ["x", "1-1/a;2-2/b", "7/" + "A" * 22, "1-1"])
def test_what_is_no_cursor_is_refused(command: Command, server: Server, namespace: str, since: str):
    code, _, err = command("tail", "--url", server.url, "--namespace", namespace, "--since", since)
    assert code == 2 and "since" in err


def test_the_memory_backend_has_nothing_to_follow(command: Command):
    assert command("tail", "--backend", "memory")[0] == 2


def test_lists_and_deletes_are_changes(command: Command, server: Server, namespace: str):
    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        write(memory.engine.settings, Append("l", (b"a", b"b")), Delete("l"))
        words = ("tail", "--json", "--url", server.url, "--namespace", namespace, "--for", "0.12", "--since", "/")
        assert [each["kind"] for each in command(*words)[1][:-1]] == ["append", "delete"]


def test_several_partitions_have_one_cursor(
    command: Command, server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
):
    options: Any = {"url": server.url, "namespace": namespace, "partitions": 3, **QUICK}
    monkeypatch.setenv("REMANENCE_PARTITIONS", "3")
    with Memory(**options) as memory:
        where = ("tail", "--json", "--url", server.url, "--namespace", namespace, "--for", "0.12")
        for number in range(9):
            memory.set(f"k{number}", number)
        code, said, _ = command(*where, "--since", "/;/;/")
        err = command(*where[:1], *where[2:], "--since", "/;/;/")[2]
        assert f"--since '{said[-1]['cursor']}'\n" in err, "in one line, however long"
        assert code == 0 and sorted(each["key"] for each in said[:-1]) == [f"memory:k{n}" for n in range(9)]
        assert len({each["partition"] for each in said[:-1]}) > 1
        memory.more = 1
        code, again, _ = command(*where, "--since", said[-1]["cursor"])
        assert [each["key"] for each in again[:-1]] == ["memory:more"]
