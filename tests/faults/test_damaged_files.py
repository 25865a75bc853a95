"""Journal files that were damaged, copied, or used by two processes at once."""

import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from remanence import Memory, events
from remanence.errors import CorruptRecord
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import QUICK, Child, Heard, eventually, judge
from remanence.testing.servers import Server
from remanence.testing.simple import append, items_of, nowhere

Fresh = Callable[..., Server]


LEAVE = """
import os, sys
from remanence import Memory
from remanence.model import Append
from remanence.runtime.blocking import run
url, namespace, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
memory = Memory(url=url, namespace=namespace, deadline=0.2, backoff_most=0.05)
for i in range(count):
    run(memory.engine.gateway.write([Append("list", (f"w:{i + 1}".encode(),))]))
print(memory.engine.status().journal, flush=True)
if sys.argv[4] == "killed":
    os.kill(os.getpid(), 9)
memory.close(0.1)
"""


def left_behind(url: str, namespace: str, how: str, count: int = 300) -> Path:
    """The journal of a process that ended with `count` writes unsent."""
    with Child(LEAVE, url, namespace, count, how) as writer:
        path = Path(writer.line())
        writer.process.wait(20)
    assert path.exists()
    return path


def garble(path: Path, chance: random.Random, flips: int = 40) -> None:
    data = bytearray(path.read_bytes())
    if not data:
        return
    for _ in range(flips):
        data[chance.randrange(len(data))] ^= chance.randrange(1, 256)
    path.write_bytes(data)


def truncate(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(max(1, path.stat().st_size)))


def header(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(b"\0" * 100 + data[100:])


DAMAGES = [garble, truncate, header]


@pytest.mark.parametrize("how", ["killed", "closed"])
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("seed", [26, *(pytest.param(i, marks=pytest.mark.soak) for i in range(4))])
def test_t26_damaged_files(
    server: Server,
    server_kind: str,
    namespace: str,
    how: str,
    suffix: str,
    damage: Any,
    seed: int,
    tmp_path: Path,
):
    """Whatever happened to a file: service goes on, nothing is doubled, what is set aside is told."""
    with FaultProxy(server) as proxy:
        proxy.refuse()
        path = left_behind(proxy.url, namespace, how)
        whole = {each.name for each in path.parent.iterdir()}
        target = Path(f"{path}{suffix}")
        if not target.exists():
            pytest.skip(f"a file that was {how} has no {suffix}")
        damage(target, random.Random(seed))
        proxy.accept()
        with Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
            heard = Heard(memory.engine)
            append(memory, "new:1")
            append(memory, "new:2")
            memory.x = 1
            assert memory.x == 1
            assert memory.engine.flush(5), memory.engine.status()
            eventually(lambda: False, 0.2)
        found = items_of(server, namespace)
        assert len(found) == len(set(found)), "a write was applied twice"
        assert [each for each in found if each.startswith("new")] == ["new:1", "new:2"]
        assert not judge([each for each in found if each.startswith("w:")], []).disordered
        kept = [each for each in path.parent.iterdir() if ".damaged-" in each.name]
        if kept:
            assert any(Path(each.kept).name in {k.name for k in kept} for each in heard.soon(events.JournalSetAside))
        elif suffix != "-wal" and whole:
            assert len([each for each in found if each.startswith("w:")]) == 300 or damage is garble


def test_what_is_damaged_in_an_adopted_journal_keeps_nobody_elses_writes(server: Server, namespace: str):
    """Met when all its writes are with the server, and its conflicts are to be kept here."""
    with FaultProxy(server) as proxy:
        proxy.refuse()
        wait = LEAVE.replace("memory.close", "sys.stdin.readline()\nmemory.close")
        words = (wait, proxy.url, namespace, 3, "closed")
        with Child(*words) as one, Child(*words) as other:  # of one alone the next process makes its own
            paths = [Path(each.line()) for each in (one, other)]
            for each in (one, other):
                each.say("end")
                each.process.wait(20)
        for path in paths:
            with closing(sqlite3.connect(path)) as file, file:
                file.execute("INSERT INTO outcomes VALUES (-1, 'o', CAST(x'ff' AS TEXT), 'conflict', '', x'90', 0.0)")
        proxy.accept()
        with Memory(url=proxy.url, namespace=namespace, retain=1.0, **QUICK) as memory:
            heard = Heard(memory.engine)
            append(memory, "new:1")
            assert eventually(lambda: heard.of(events.JournalSetAside), 20)
            heard.events.clear()
            for n in range(20):
                append(memory, f"new:{n + 2}")
                time.sleep(0.1)
            assert memory.engine.flush(5) and not heard.of(events.BecameUnavailable)
        found = items_of(server, namespace)
        assert sorted(each for each in found if each.startswith("w:")) == ["w:1", "w:1", "w:2", "w:2", "w:3", "w:3"]
        assert [each for each in found if each.startswith("new")] == [f"new:{n + 1}" for n in range(21)]


def test_t26_refusing_a_damaged_file_where_it_is_configured(namespace: str):
    url = nowhere()
    path = left_behind(url, namespace, "closed", 10)
    path.write_bytes(b"this was a journal")
    memory = Memory(url=url, namespace=namespace, on_corrupt="raise", **QUICK)
    with pytest.raises(CorruptRecord, match="REMANENCE_ON_CORRUPT"):
        memory.x = 1
    memory.close()
    assert path.read_bytes() == b"this was a journal"


def test_t26_damage_in_use_is_met_once(server: Server, namespace: str):
    """The file is overwritten under a running process: its callers go on."""
    with FaultProxy(server) as proxy, Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
        for i in range(50):
            append(memory, f"old:{i + 1}")
        proxy.refuse()
        proxy.reset_all()
        for i in range(2000):  # more than is held in memory
            append(memory, f"old:{i + 51}")
        path = Path(memory.engine.status().journal)
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.write(os.urandom(size))
        with Path(f"{path}-wal").open("r+b") as file:
            file.truncate(0)
        proxy.accept()
        failures = []
        for i in range(20):
            try:
                append(memory, f"new:{i + 1}")
            except Exception as error:
                failures.append(error)
            time.sleep(0.02)
        assert len(failures) <= 1 and all(isinstance(each, CorruptRecord) for each in failures), failures
        assert eventually(lambda: memory.engine.status().pending == 0, 5), memory.engine.status()
        found = items_of(server, namespace)
        assert len(found) == len(set(found))
        assert len([each for each in found if each.startswith("new:")]) >= 20 - len(failures)


# --- two processes, one file ----------------------------------------------------------------------


SHARING = """
import sys
from types import SimpleNamespace
from remanence import Memory
from remanence.model import Append
from remanence.runtime.blocking import run
from remanence.stores import shelf

shelf.fcntl = SimpleNamespace(flock=lambda *_: None, LOCK_EX=0, LOCK_NB=0)
name, url, namespace, count, adopt = sys.argv[1:6]
options = {"deadline": 0.5, "heartbeat": 0.2, "backoff_most": 0.1, "adopt": adopt == "yes"}
memory = Memory(url=url, namespace=namespace, **options)
memory.engine.gateway
print(memory.engine.status().journal, flush=True)
sys.stdin.readline()
for i in range(int(count)):
    run(memory.engine.gateway.write([Append("list", (f"{name}:{i + 1}".encode(),))]))
assert memory.engine.flush(10), memory.engine.status()
print("done", flush=True)
sys.stdin.readline()
memory.close()
"""


@pytest.mark.parametrize("away", [False, True], ids=["online", "on and off"])
@pytest.mark.parametrize("count", [100, pytest.param(3000, marks=pytest.mark.soak)])
def test_t29_two_processes_with_one_file_and_no_locks(server: Server, namespace: str, count: int, away: bool):
    with FaultProxy(server) as proxy:
        left_behind(proxy.url, namespace, "closed", 1)
        arguments = (proxy.url, namespace, count, "no")
        with Child(SHARING, "a", *arguments) as a, Child(SHARING, "b", *arguments) as b:
            files = {a.line(), b.line()}
            assert len(files) == 1, f"they do not share a file: {a.process.poll()} {b.process.poll()} {files}"
            a.say()
            b.say()
            if away:
                for _ in range(5):
                    time.sleep(0.03)
                    proxy.refuse()
                    proxy.reset_all()
                    time.sleep(0.03)
                    proxy.accept()
            for process in (a, b):
                assert process.line() == "done", process.end()
            a.say()
            b.say()
            a.end()
            b.end()
    found = items_of(server, namespace)
    wanted = ["w:1", *(f"{name}:{i + 1}" for name in "ab" for i in range(count))]
    findings = judge(found, wanted)
    assert not findings, findings


def test_t27_a_journal_copied_while_its_process_lives_on(server: Server, namespace: str, tmp_path: Path):
    """A backup put back beside the original: what both hold is applied once, what either wrote later too."""
    with FaultProxy(server) as proxy:
        proxy.refuse()
        path = left_behind(proxy.url, namespace, "closed", 20)
        copy = path.with_name("copied.journal")
        shutil.copy(path, copy)
        proxy.accept()
        with Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
            append(memory, "new:1")
            assert memory.engine.flush(5)
            assert eventually(lambda: len(memory.engine.gateway.adopted) + 1 >= 2 or not copy.exists(), 8)  # type: ignore[attr-defined]
            eventually(lambda: False, 0.5)
            assert memory.engine.status().pending == 0
    assert not judge(items_of(server, namespace), [*(f"w:{i + 1}" for i in range(20)), "new:1"])


def test_t39_t52_a_row_that_cannot_be_read_is_set_aside_alone(server: Server, namespace: str):
    """A stranger wrote into the journal: that row becomes a dead letter, the rest is sent in order."""
    with FaultProxy(server) as proxy:
        proxy.refuse()
        path = left_behind(proxy.url, namespace, "closed", 10)
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE rows SET write = x'80049520636f730a73797374656d0a' WHERE n = 5")
        proxy.accept()
        with Memory(url=proxy.url, namespace=namespace, **QUICK) as memory:
            heard = Heard(memory.engine)
            append(memory, "new:1")
            assert memory.engine.flush(5), memory.engine.status()
            status = memory.engine.status()
            assert status.dead_letters == 1
            assert len(heard.soon(events.DeadLettered)) == 1
    assert items_of(server, namespace) == [*(f"w:{i}" for i in range(1, 11) if i != 5), "new:1"]
