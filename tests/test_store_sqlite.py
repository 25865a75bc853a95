import multiprocessing
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

from remanence.errors import Closed, DeadlineExceeded, Misconfigured
from remanence.model import Append, Batch, Op, Put
from remanence.protocols import Length, Tail
from remanence.stores import sqlite
from remanence.stores.sqlite import SQLiteStore
from remanence.testing.contract import StoreContract
from remanence.testing.contract_versions import DEPTH, VersionContract
from remanence.testing.store_case import PAST, StoreCase, append, delete, op_id, put, run, text
from remanence.wire.sqlite import Database


class SQLiteCase(StoreCase):
    capabilities = frozenset({"expiry"})
    options: ClassVar[dict[str, Any]] = {}
    now = 1_700_000_000.0

    @pytest.fixture(autouse=True)
    def _in_a_folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "deep" / "store.db"

    def make_store(self) -> SQLiteStore:
        self.sqlite = SQLiteStore(self.path, lambda: self.now, time.monotonic, **self.options)
        return self.sqlite

    def another(self, mutex: Any = None) -> SQLiteStore:
        return SQLiteStore(str(self.path), lambda: self.now, time.monotonic, mutex=mutex)

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def rows(self, sql: str) -> list[Any]:
        database = Database(str(self.path))
        try:
            return database.run(sql)
        finally:
            database.close()


class TestSQLiteStore(SQLiteCase, StoreContract):
    pass


class TestWithVersions(SQLiteCase, StoreContract, VersionContract):
    options: ClassVar[dict[str, Any]] = {"history": DEPTH}


class TestFile(SQLiteCase):
    def test_only_the_user_may_read_it(self) -> None:
        self.apply(put(1))
        assert stat.S_IMODE(self.path.parent.stat().st_mode) == 0o700
        files = list(self.path.parent.iterdir())
        assert len(files) == 3 and all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)

    def test_everything_is_there_after_reopening(self) -> None:
        self.open()
        self.send(1, put(1), append(2, "l", b"x"), put(3, "t", ttl=60_000), delete(4, "d"), put(5, "l"))
        before = run(self.sqlite.dump())
        run(self.sqlite.close())
        self._store = self.another()
        assert run(self._store.dump()) == before
        assert self.left("t") == 60_000
        assert self.apply(put(1, "d", live=False)) == ["stale"]
        assert list(self.send(6, put(6)).results) == ["ok"]
        assert self.history("L", 2) == [(6, op_id(6)), (5, op_id(5))]

    def test_a_closed_store_says_so(self) -> None:
        self.apply(put(1))
        run(self.sqlite.close())
        with pytest.raises(Closed):
            self.record()

    def test_a_file_of_a_later_version_is_refused(self) -> None:
        self.apply(put(1))
        run(self.sqlite.close())
        self.rows("UPDATE about SET value = '3' WHERE name = 'schema'")
        self._store = self.another()
        with pytest.raises(Misconfigured, match=r"store\.db was written by a later version .* format is 3"):
            self.record()
        self.rows("UPDATE about SET value = '1' WHERE name = 'schema'")
        assert self.record() == (text(1), op_id(1), PAST + 1)

    def test_a_factory_opens_the_file(self, tmp_path: Path) -> None:
        store = SQLiteStore(lambda: Database(str(tmp_path / "f")), time.time, time.monotonic)
        assert run(store.apply(Batch("", "", 1, [put(1)]), self.deadline())).status == "ok"
        run(store.close())
        assert (tmp_path / "f").exists()

    def test_a_writer_waits_until_its_deadline_and_a_reader_not_at_all(self) -> None:
        self.apply(put(1))
        other = Database(str(self.path))
        with other.transaction():
            begun = time.monotonic()
            assert self.record() is not None
            assert time.monotonic() - begun < 0.1
            with pytest.raises(DeadlineExceeded):
                run(self.store.apply(Batch("", "", 1, [put(2)]), time.monotonic() + 0.3))
            assert 0.2 < time.monotonic() - begun < 1.5
        other.close()
        assert self.apply(put(3)) == ["ok"]

    def test_a_failing_batch_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open()
        self.send(1, put(1))
        before = run(self.sqlite.dump())

        def fail(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("remanence.stores.sqlite_shelf.Shelf.keep", fail)
        with pytest.raises(KeyboardInterrupt):
            self.send(2, put(2), append(3, "l"), delete(4, "k"))
        monkeypatch.undo()
        assert run(self.sqlite.dump()) == before
        assert self.seqs("L") == [1] and self.history("L", 9) == [(1, op_id(1))]
        assert self.apply(put(5, live=False)) == ["ok"], "nor is there a tombstone"


class TestTidying(SQLiteCase):
    options: ClassVar[dict[str, Any]] = {"log_length": 300, "tombstone_ttl": 5.0, "watermark_ttl": 5.0}

    def test_what_expired_is_deleted_little_by_little(self) -> None:
        for n in range(0, 1000, 100):
            self.apply(*(put(n + i, f"k{n + i}", ttl=1000) for i in range(100)))
            self.apply(*(delete(n + i, f"d{n + i}") for i in range(100)))
        self.apply(Op(op_id(1), PAST, Append("l", (b"x",) * 1000, 1000)), put(2, "stays"))
        self.open()
        tables = ("documents", "items", "lists", "tombstones", "watermarks")
        counted = "SELECT " + ", ".join(f"(SELECT count(*) FROM {table})" for table in tables)
        assert self.rows(counted) == [(1001, 1000, 1, 1000, 1)]
        self.advance(10)
        self.apply(put(3, "stays"))
        [first] = self.rows(counted)
        assert first[0] > 700 and first[3] > 700, "no single write pays for all"
        for _ in range(8):
            self.apply(put(3, "stays"))
        assert self.rows(counted) == [(1, 0, 0, 0, 0)]

    def test_a_deleted_list_leaves_no_items(self) -> None:
        self.apply(Op(op_id(1), PAST, Append("l", (b"x",) * 600)), delete(2, "l"), append(3, "l", b"new"))
        assert self.items() == [b"new"]
        for _ in range(5):
            self.advance(2)
            self.apply(put(4))
        assert self.items() == [b"new"]
        assert self.rows("SELECT count(*) FROM items") == [(1,)]

    def test_what_is_remembered_ends(self) -> None:
        self.apply(delete(9))
        self.open()
        self.advance(4.9)
        assert self.send(1, put(1, live=False)).results == ("stale",)
        self.advance(0.2)
        assert self.send(2, put(1, live=False)).status == "fenced"
        assert self.open().seq == 0
        assert self.send(1, put(1, live=False)).results == ("ok",)

    def test_a_scan_goes_on_key_by_key(self) -> None:
        self.apply(put(1, "a"), put(2, "a*"), append(3, "a/"), put(4, "b"))
        assert self.pages("", 1) == ["a", "a*", "a/", "b"]
        assert self.pages("a", 1) == ["a", "a*", "a/"]

    def test_the_log_is_bounded(self) -> None:
        self.open()
        for first in range(1, 2000, 50):
            self.send(first, *(put(n) for n in range(first, first + 50)))
        found = [seq for seq, _ in self.history("L", 5000)]
        assert found[0] == 2000 and 300 <= len(found) <= 300 + 2 * 256

    def test_expired_rows_do_not_come_back_when_the_clock_goes_back(self) -> None:
        self.apply(put(1, ttl=1000), append(2, "l", b"old", ttl=1000))
        self.advance(2)
        assert self.apply(append(3, "k", b"x"), put(4, "l")) == ["ok", "ok"]
        self.advance(-2)
        assert self.items("k") == [b"x"]
        assert self.record("l") == (text(4), op_id(4), PAST + 4)


class TestLongLists(SQLiteCase):
    def test_the_end_of_a_long_list_is_read_alone(self) -> None:
        items = tuple(b"%d" % n for n in range(20_000))
        self.apply(Op(op_id(1), PAST, Append("l", items)))
        sql = "SELECT item FROM items WHERE list = 1 AND position > 9 AND position <= 19 ORDER BY position"
        [(*_, plan)] = self.rows(f"EXPLAIN QUERY PLAN {sql}")
        assert "SEARCH" in plan and "position>" in plan
        begun = time.perf_counter()
        for _ in range(200):
            assert self.ask(Tail("l", -10, -1), Length("l")) == [list(items[-10:]), 20_000]
        assert time.perf_counter() - begun < 2.0, "200 readings of 20,000 items would take longer"


# --- several processes ----------------------------------------------------------------------------


def write_much(path: str, name: str, count: int) -> None:
    """Append and put from one process, in a lineage of its own."""
    store = SQLiteStore(path, time.time, time.monotonic)
    run(store.open(name, name, time.monotonic() + 60))
    for n in range(1, count + 1):
        ops = [
            Op(f"{name}{n:020d}", PAST + n, Append("shared", (f"{name}:{n}".encode(),))),
            Op(f"{name}{n + 500_000:020d}", PAST + n, Put(f"{name}:{n}", text(n))),
        ]
        outcome = run(store.apply(Batch(name, name, 2 * n - 1, ops), time.monotonic() + 60))
        assert (outcome.status, outcome.seq) == ("ok", 2 * n), outcome
    run(store.close())


class TestProcesses(SQLiteCase):
    def test_processes_that_write_at_once_lose_nothing(self) -> None:
        names, count = ["aa", "bb", "cc", "dd"], 150
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=write_much, args=(str(self.path), name, count)) for name in names]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(100)
        assert [worker.exitcode for worker in workers] == [0] * 4
        found = [item.decode().split(":") for item in self.items("shared")]
        for name in names:
            assert [int(n) for owner, n in found if owner == name] == list(range(1, count + 1))
        assert self.seqs(*names) == [2 * count] * 4
        assert len(self.pages("", 100)) == 4 * count + 1
        assert self.sqlite._database is not None and self.sqlite._database.healthy() == ""

    def test_threads_that_share_a_store_take_turns(self) -> None:
        store = self._store = self.another(threading.Lock())

        def work(name: str) -> None:
            for n in range(50):
                op = Op(f"{name}{n:021d}", PAST, Append("l", (name.encode(),)))
                run(store.apply(Batch("", "", 1, [op]), time.monotonic() + 30))

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(self.items()) == sorted([b"a", b"b", b"c", b"d"] * 50)


FORKING = """
import os, sys, threading, time
from remanence.stores.sqlite import SQLiteStore
from remanence.model import Append, Batch, Op
from remanence.testing.store_case import op_id, run

def add(store, item):
    op = Op(op_id(1), 1, Append("l", (item,)))
    assert run(store.apply(Batch("", "", 1, [op]), time.monotonic() + 20)).status == "ok"

store = SQLiteStore(sys.argv[1], time.time, time.monotonic, mutex=threading.Lock())
add(store, b"before")
ready, go = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    add(store, b"child")
    os.write(ready[1], b"x")
    os.read(go[0], 1)
    add(store, b"child, later")
    os._exit(0)
os.read(ready[0], 1)
add(store, b"parent")
run(store.close())  # were it the last user by its own count, it would delete what the child writes to
os.write(go[1], b"x")
assert os.waitpid(child, 0)[1] == 0
"""


class TestFork(SQLiteCase):
    def test_a_forked_child_loses_nothing_even_when_its_parent_closes_first(self) -> None:
        child = subprocess.run([sys.executable, "-W", "error", "-c", FORKING, str(self.path)], timeout=60)
        assert child.returncode == 0
        assert self.items() == [b"before", b"child", b"parent", b"child, later"]

    def test_no_connection_is_open_at_a_fork(self) -> None:
        self.apply(put(1))
        sqlite._before_fork()
        try:
            assert self.sqlite._database is None
        finally:
            sqlite._after_fork()
        assert self.record() is not None

    def test_a_fork_waits_for_the_call_under_way(self) -> None:
        lock = threading.Lock()
        self._store = self.another(lock)
        self.apply(put(1))
        sqlite._before_fork()
        assert lock.locked()
        sqlite._after_fork()
        assert not lock.locked()
        assert self.apply(put(2)) == ["ok"]

    def test_a_connection_of_another_process_is_not_touched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.apply(put(1))
        theirs = self.sqlite._database
        monkeypatch.setattr(self.sqlite, "_owner", os.getpid() + 1)
        assert self.record() == (text(1), op_id(1), PAST + 1)
        assert theirs is not None and self.sqlite._database is not theirs
        assert theirs in sqlite._abandoned and theirs.run("SELECT 1") == [(1,)], "still open: closing is not ours"
        sqlite._abandoned.remove(theirs)
        theirs.close()
