"""The journal's disk and file: full, forbidden, shared over a network, damaged, used by two at once."""

import ctypes
import json
import os
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from remanence import Memory, events
from remanence.errors import CorruptRecord, JournalFull, JournalUnusable
from remanence.model import Append
from remanence.runtime.blocking import run
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import QUICK, Child, Heard, child, eventually, judge
from remanence.testing.servers import PortClaim, Server
from remanence.wire.keys import Keyspace

Fresh = Callable[..., Server]


def append(memory: Memory, *items: str) -> None:
    run(memory.engine.gateway.write([Append("list", tuple(item.encode() for item in items))]))


def items_of(server: Server, namespace: str) -> list[str]:
    with closing(server.client()) as client:
        found: Any = client.lrange(Keyspace(namespace).data("list"), 0, -1)
        return [item.decode() for item in found]


def nowhere() -> str:
    """The address of a server that is not there."""
    claim = PortClaim()
    claim.release()
    return f"redis://127.0.0.1:{claim.number}/0"


def healthy(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as database:
        return bool(database.execute("PRAGMA integrity_check").fetchone()[0] == "ok")


# --- a disk that is full --------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1.5 MB, where root may mount one."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() or libc.mount(b"none", bytes(folder), b"tmpfs", 0, b"size=1536k"):
        pytest.skip("only root may mount the small file system this needs")
    yield folder
    libc.umount2(bytes(folder), 2)  # detached: what is still open closes later


def test_t23_disk_full_while_the_server_is_away(small_disk: Path, server: Server, namespace: str):
    with FaultProxy(server) as proxy:
        with Memory(url=proxy.url, namespace=namespace, path=str(small_disk), **QUICK) as memory:
            memory.known = "here"
            proxy.refuse()
            proxy.reset_all()
            number = fill(memory)
            assert memory.known == "here", "a full disk keeps nobody from reading"
            assert memory.engine.status().pending >= number - 1
            for _ in range(20):
                with pytest.raises(JournalFull, match="free some space"):
                    append(memory, "w:" + "9" * 6000)
            proxy.accept()
            assert memory.engine.flush(10)
            assert memory.known == "here"
            found = items_of(server, namespace)
            assert [each[:10] for each in found] == [f"w:{i + 1:08d}" for i in range(number)]
            journal = Path(memory.engine.status().journal)
        assert healthy(journal)


def fill(memory: Memory, most: int = 5000) -> int:
    """Append until the disk is full; how many were taken."""
    for number in range(1, most):
        try:
            append(memory, f"w:{number:08d}" + "x" * 2000)
        except JournalFull:
            return number - 1
    pytest.fail("the disk never filled")


def test_t23_disk_filled_by_others_while_the_server_is_there(small_disk: Path, server: Server, namespace: str):
    with Memory(url=server.url, namespace=namespace, path=str(small_disk), **QUICK) as memory:
        heard = Heard(memory.engine)
        memory.known = "here"
        append(memory, "w:1")
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        number, refused = 1, 0
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            try:
                append(memory, f"w:{number + 1}")
                number += 1
            except JournalFull:
                refused += 1
            reading = memory.read("known")
            assert reading.value == "here" and not reading.stale, "the server is there and must be asked"
            with pytest.raises(AttributeError, match="no value is stored"):
                _ = memory.unknown
            time.sleep(0.01)
        assert refused
        assert not heard.of(events.BecameUnavailable), "the server was blamed for the disk"
        ballast.unlink()
        append(memory, f"w:{number + 1}")
        assert memory.engine.flush(5)
        journal = Path(memory.engine.status().journal)
    assert items_of(server, namespace) == [f"w:{i + 1}" for i in range(number + 1)]
    assert healthy(journal)


def test_t23_disk_filled_by_what_the_server_has_already(small_disk: Path, server: Server, namespace: str):
    """Rows kept against a server that forgets make room for new ones before a write is refused."""
    with Memory(url=server.url, namespace=namespace, path=str(small_disk), **QUICK) as memory:
        for number in range(1, 1200):
            append(memory, f"w:{number}:" + "x" * 2000)
        assert memory.engine.flush(5)
        assert len(items_of(server, namespace)) == 1199


# --- a folder that cannot be used -----------------------------------------------------------------


UNPRIVILEGED = """
import encodings.idna, os, sys, json
from remanence import Memory
from remanence.errors import JournalUnusable
with Memory(backend="memory") as memory:  # what is imported late
    memory.x = 1
if os.geteuid() == 0:
    os.setgid(65534); os.setuid(65534)
path, url, volatile = sys.argv[1:4]
try:
    memory = Memory(url=url, path=path, allow_volatile=volatile == "yes", deadline=0.2, close_timeout=0.1)
    memory.x = 1
    status = memory.engine.status()
    print(json.dumps([status.journal, status.durable, memory.x]))
    memory.close()
except JournalUnusable as error:
    print(json.dumps(str(error)))
"""


def unprivileged(path: Path, volatile: bool) -> Any:
    return json.loads(child(UNPRIVILEGED, path, nowhere(), "yes" if volatile else "no"))


@pytest.fixture
def forbidden() -> Iterator[Path]:
    """A folder that others may read; where we are root, the child gives up being it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o555)
        yield Path(name)


def test_t24_a_folder_that_cannot_be_written(forbidden: Path):
    told = unprivileged(forbidden, volatile=False)
    assert "cannot be" in told and "REMANENCE_PATH" in told


def test_t24_volatile_only_where_configured_and_stated(forbidden: Path):
    assert unprivileged(forbidden, volatile=True) == ["volatile", False, 1]


def test_t24_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    memory = Memory(url=nowhere(), path=str(tmp_path / "file" / "deeper"), **QUICK)
    with pytest.raises(JournalUnusable, match="cannot be made"):
        memory.x = 1
    memory.close()


def test_t24_a_missing_folder_is_made_for_the_owner_alone(tmp_path: Path):
    with Memory(url=nowhere(), path=str(tmp_path / "a" / "b"), **QUICK) as memory:
        memory.x = 1
        journal = Path(memory.engine.status().journal)
        assert journal.stat().st_mode & 0o777 == 0o600
        assert journal.parent.stat().st_mode & 0o777 == 0o700
        assert memory.engine.status().durable


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs"])
@pytest.mark.parametrize("backend", ["redis", "sqlite"])
def test_t25_network_file_systems_are_refused(monkeypatch: pytest.MonkeyPatch, kind: str, backend: str):
    monkeypatch.setattr("remanence.wire.sqlite.filesystem", lambda path: kind)
    url = nowhere() if backend == "redis" else None
    with Memory(**({"url": url} if url else {"backend": "sqlite"})) as memory:
        with pytest.raises(JournalUnusable, match=kind) as told:
            memory.x = 1
        assert "REMANENCE_PATH" in str(told.value)


# --- a damaged file -------------------------------------------------------------------------------


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
@pytest.mark.parametrize("seed", [26, *(pytest.param(i, marks=pytest.mark.soak) for i in range(20))])
def test_t26_damaged_files(
    server: Server, server_kind: str, namespace: str, how: str, suffix: str, damage: Any, seed: int, tmp_path: Path
):
    """Whatever happened to a file left behind: service goes on, nothing is doubled, and what is set aside is told."""
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
            assert any(Path(each.kept).name in {k.name for k in kept} for each in heard.of(events.JournalSetAside))
        elif suffix != "-wal" and whole:
            assert len([each for each in found if each.startswith("w:")]) == 300 or damage is garble


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
    """The file is overwritten under a running process: its callers go on, whatever SQLite still had at hand."""
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
from remanence import Memory
from remanence.model import Append
from remanence.runtime.blocking import run
from remanence.stores import shelf

class NoLock:
    def __init__(self, path): pass
    def release(self, *, delete=False): pass

shelf.Lock = NoLock
name, url, namespace, count, adopt = sys.argv[1:6]
memory = Memory(url=url, namespace=namespace, deadline=0.5, heartbeat=0.2, backoff_most=0.1, adopt=adopt == "yes")
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
            assert len(heard.of(events.DeadLettered)) == 1
    assert items_of(server, namespace) == [*(f"w:{i}" for i in range(1, 11) if i != 5), "new:1"]
