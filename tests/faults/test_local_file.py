"""The journal's disk and file: full, forbidden, shared over a network, damaged, used by two at once."""

import ctypes
import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from remanence import Memory, events
from remanence.errors import JournalFull, JournalUnusable
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import QUICK, Heard, child
from remanence.testing.servers import Server
from remanence.testing.simple import append, items_of, nowhere

Fresh = Callable[..., Server]


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


# --- a folder that cannot be used -----------------------------------------------------------------


UNPRIVILEGED = """
import os, sys, json, tempfile
from remanence import Memory
from remanence.errors import JournalUnusable
with tempfile.TemporaryDirectory() as folder:  # now import everything: where we go there may be no right to
    with Memory(url=sys.argv[2], path=folder, close_timeout=0.1) as memory:
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
