import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from remanence.model import PASSED, Append, Blank, Op, Put
from remanence.runtime.asynchronous import AsyncRuntime
from remanence.runtime.blocking import BlockingRuntime
from remanence.stores.redis import RedisStore
from remanence.testing.contract import StoreContract
from remanence.testing.contract_versions import DEPTH, VersionContract
from remanence.testing.contract_writes import WriteContract
from remanence.testing.servers import Server, available_servers
from remanence.testing.store_case import PAST, StoreCase, append, delete, op_id, put
from remanence.wire.address import Address
from remanence.wire.keys import Keyspace
from remanence.wire.redis import async_connect, blocking_connect


class RedisCase(StoreCase):
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def _on_a_server(self, server: Server, namespace: str) -> Iterator[None]:
        self.address = Address(server.unix_url, connect_timeout=5.0)
        self.keys = Keyspace(namespace)
        self.client = server.client()
        yield
        self.client.close()

    def make_store(self) -> RedisStore:
        if self.asynchronous:
            return RedisStore(async_connect(self.address), AsyncRuntime(), self.keys, **self.options)
        return RedisStore(blocking_connect(self.address), BlockingRuntime(), self.keys, **self.options)

    def plant(self, key: str, value: bytes | list[bytes]) -> None:
        if isinstance(value, bytes):
            self.client.set(self.keys.data(key), value)
        else:
            self.client.rpush(self.keys.data(key), *value)


class TestRedisStore(RedisCase, StoreContract):
    def test_other_types_are_another_kind(self) -> None:
        self.client.hset(self.keys.data("h"), "field", "value")
        self.client.zadd(self.keys.data("z"), {"member": 1})
        for key in ("h", "z"):
            assert self.apply(put(1, key), append(2, key)) == ["wrongtype", "wrongtype"]
            assert self.left(key) == -1
            assert self.apply(delete(3, key)) == ["ok"]
            assert self.left(key) == -2


class TestWithVersions(RedisCase, StoreContract, VersionContract):
    options: ClassVar[dict[str, Any]] = {"history": DEPTH}


class TestRedisStoreOnALoop(RedisCase, StoreContract):
    asynchronous = True


class TestShortWay(RedisCase, WriteContract):
    """The same of each op alone and of a lineage that has begun: what the script does before all else."""

    def apply(self, *ops: Op) -> list[str]:
        """Each in a batch of its own, unless they hang together."""
        results: list[str] = []
        for part in [ops] if any(op.folded for op in ops) else [(op,) for op in ops]:
            if self.seqs("S") == [0]:
                self.open("S")
                self.send(1, Op("s" * 22, 1, Blank("s")), lineage="S")
            (seq,) = self.seqs("S")
            results += self.send(seq + 1, *part, lineage="S").results
        return results

    def stamp(self, key: str = "k") -> int:
        return self.record(key)[2]  # type: ignore[index]

    def test_a_clock_that_runs_ahead_is_held_back(self) -> None:
        now = int(time.time() * 1e6)
        for n in (1, 2):
            assert self.apply(put(n, hlc=now + 3_600_000_000)) == ["ok"]
            assert now < self.stamp() < now + 60_000_000

    def test_what_its_server_has_seen_is_told(self) -> None:
        self.apply(put(1))
        assert self.send(3, put(2, hlc=PAST + 7), lineage="S").highest == self.stamp() == PAST + 7

    def test_a_live_put_whose_lifetime_has_passed_leaves_nothing(self) -> None:
        assert self.apply(put(1), put(2, ttl=PASSED)) == ["ok", "expired"]
        assert self.record() is None

    def test_a_live_put_over_a_packed_body_comes_behind_it(self) -> None:
        assert self.apply(Op(op_id(1), PAST + 9, Put("k", b"\x00packed")), put(2, hlc=PAST + 3)) == ["ok", "ok"]
        assert self.stamp() == PAST + 10

    def test_more_items_than_the_stack_holds(self) -> None:
        items = tuple(b"%d" % n for n in range(20_000))
        assert self.apply(append(1, "l", b"first"), Op(op_id(2), PAST, Append("l", items))) == ["ok", "ok"]
        assert self.items() == [b"first", *items]


class TestTime(RedisCase):
    options: ClassVar[dict[str, Any]] = {"tombstone_ttl": 0.1, "watermark_ttl": 0.4}

    def test_what_is_remembered_ends(self) -> None:
        self.apply(delete(9))
        self.open()
        assert self.send(1, put(1, live=False)).results == ("stale",)
        time.sleep(0.12)
        assert self.send(2, put(1, live=False)).results == ("ok",)
        time.sleep(0.4)
        assert self.send(3, put(1)).status == "fenced"
        assert self.open().seq == 0


class TestLog(RedisCase):
    options: ClassVar[dict[str, Any]] = {"log_length": 100}

    def test_the_log_is_bounded(self) -> None:
        self.open()
        for first in range(1, 1000, 100):
            self.send(first, *(put(n) for n in range(first, first + 100)))
        found = [seq for seq, _ in self.history("L", 5000)]
        assert found[0] == 1000 and 100 <= len(found) <= 300, "trimmed by whole nodes of the stream"
        assert found == list(range(1000, 1000 - len(found), -1))

    def test_writers_of_a_few_ops_trim_it_too(self) -> None:
        for n in range(60):
            lineage = f"short-{n}" if n % 2 else ""
            if lineage:
                self.open(lineage)
            self.send(1, *(put(i) for i in range(20)), lineage=lineage, nonce="N" if lineage else "")
        assert 100 <= self.client.xlen(self.keys.log) <= 300


class TestLocale(StoreCase):
    """A server sorts text as its environment says, and its replica may have another."""

    @pytest.fixture(autouse=True)
    def _server_with_a_locale(self, server_kind: str) -> Iterator[None]:
        with tempfile.TemporaryDirectory(dir="/tmp") as folder:
            self.socket = f"{folder}/s"
            made = shutil.which("localedef") and subprocess.run(
                ["localedef", "-i", "en_US", "-f", "UTF-8", f"{folder}/en_US.UTF-8"], capture_output=True
            )
            if not made or made.returncode:
                pytest.skip("no locale that sorts otherwise can be made here")
            server = subprocess.Popen(
                [available_servers()[server_kind], "--port", "0", "--unixsocket", self.socket, "--save", ""],
                env={"LC_ALL": "en_US.UTF-8", "LOCPATH": folder},
                stdout=subprocess.DEVNULL,
                cwd=folder,
            )
            try:
                yield
            finally:
                server.kill()
                server.wait()

    def make_store(self) -> RedisStore:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.connect(self.socket)  # the file is there before anybody listens
                break
            time.sleep(0.01)
        address = Address(f"unix://{self.socket}?db=0", connect_timeout=5.0)
        return RedisStore(blocking_connect(address), BlockingRuntime(), Keyspace("x"))

    test_ids = WriteContract.test_ids_decide_between_equal_times_byte_by_byte
