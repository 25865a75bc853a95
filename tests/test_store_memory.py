import asyncio
from typing import Any, ClassVar

import pytest

from remanence.model import Batch, Put
from remanence.stores.memory import MemoryStore
from remanence.stores.rules import prolonged, span
from remanence.testing.contract import StoreContract
from remanence.testing.contract_versions import DEPTH, VersionContract
from remanence.testing.store_case import PAST, StoreCase, append, delete, op_id, put, run, text

START = 1_700_000_000.0


class MemoryCase(StoreCase):
    options: ClassVar[dict[str, Any]] = {}

    def make_store(self) -> MemoryStore:
        self.now = START
        self.memory = MemoryStore(lambda: self.now, **self.options)
        return self.memory

    def plant(self, key: str, value: bytes | list[bytes]) -> None:
        assert self.store is self.memory
        self.memory.plant(key, value)

    def advance(self, seconds: float) -> None:
        self.now += seconds


class TestMemoryStore(MemoryCase, StoreContract):
    pass


class TestWithVersions(MemoryCase, StoreContract, VersionContract):
    options: ClassVar[dict[str, Any]] = {"history": DEPTH}


class Suspending(MemoryStore):
    """A store that waits on a loop, as a third party's may."""

    async def apply(self, batch: Batch, deadline: float) -> Any:
        await asyncio.sleep(0)
        return await super().apply(batch, deadline)


class TestSuspendingStore(MemoryCase, StoreContract):
    asynchronous = True

    def make_store(self) -> MemoryStore:
        super().make_store()
        self.memory = Suspending(lambda: self.now)
        return self.memory


def test_a_blocking_contract_refuses_a_store_that_suspends() -> None:
    store = Suspending(lambda: START)
    with pytest.raises(AssertionError, match="asynchronous = True"):
        run(store.apply(Batch("", "", 1, [put(1)]), 0.0))


class TestTime(MemoryCase):
    options: ClassVar[dict[str, Any]] = {"tombstone_ttl": 10.0, "watermark_ttl": 20.0}

    def test_a_record_lives_exactly_as_long_as_it_should(self) -> None:
        self.apply(put(1, ttl=1000))
        self.advance(0.9995)
        assert self.left("k") == 1
        self.advance(0.0005)
        assert self.record() is None and self.left("k") == -2

    def test_a_tombstone_is_forgotten_after_its_time(self) -> None:
        self.apply(delete(9))
        self.advance(9.9)
        assert self.apply(put(1, live=False)) == ["stale"]
        self.advance(0.1)
        assert self.apply(put(1, live=False)) == ["ok"]

    def test_a_silent_lineage_is_forgotten_after_its_time(self) -> None:
        self.open()
        self.send(1, put(1))
        self.advance(19)
        assert self.open().seq == 1
        self.advance(19)
        assert self.send(2, put(2)).seq == 2
        self.advance(1)
        assert self.send(3, put(3)).status == "fenced"
        assert self.open().seq == 0

    def test_the_clamp_follows_the_clock(self) -> None:
        now = int(START * 1e6)
        self.apply(put(1, hlc=now + 6_000_000))
        assert self.record() == (text(1), op_id(1), now + 5_000_000)

    def test_what_nobody_reads_again_does_not_pile_up(self) -> None:
        for n in range(0, 6000, 100):
            self.apply(
                *(put(n + i, f"k{n + i}", ttl=50) for i in range(50)),
                *(delete(n, f"d{n + i}") for i in range(50)),
            )
            self.advance(1)
        snapshot = self.memory.snapshot()
        assert len(snapshot.values) < 1200 and len(snapshot.ends) < 1200 and len(snapshot.tombstones) < 1700


class TestState(MemoryCase):
    def test_a_dump_is_the_stored_bytes(self) -> None:
        self.apply(put(1), append(2, "l", b"x"), put(3, "gone", ttl=10))
        self.advance(1)
        dump = self.memory.dump()
        assert dump == {"k": b'{"stamp":"%s%016d","n":1}' % (op_id(1).encode(), PAST + 1), "l": [b"x"]}
        dump["l"].append(b"y")  # type: ignore[union-attr]
        assert self.items() == [b"x"]

    def test_a_snapshot_shares_nothing_with_the_store(self) -> None:
        self.open()
        self.send(1, put(1), append(2, "l", b"x"), put(3, "t", ttl=5000))
        before = self.memory.snapshot()
        dump = self.memory.dump()
        self.send(4, put(4), append(5, "l", b"y"), delete(6, "t"), put(7, "new"))
        for _ in range(2):
            self.memory.restore(before)
            assert self.memory.dump() == dump and self.seqs("L") == [3] and self.left("t") == 5000
            assert self.send(4, append(4, "l", b"z"), put(5, "t", live=False)).seq == 5
            assert self.items() == [b"x", b"z"]

    def test_restoring_nothing_is_a_server_that_restarts_empty(self) -> None:
        self.open()
        self.send(1, put(1), delete(2, "d"))
        self.memory.restore()
        assert self.memory.dump() == {} and self.memory.log() == [] and self.pages("", 9) == []
        assert self.send(3, put(3)).status == "fenced"
        assert self.apply(put(1, "d", live=False)) == ["ok"]

    def test_a_scan_goes_on_key_by_key(self) -> None:
        self.apply(put(1, "a"), put(2, "a*"), append(3, "a/"), put(4, "b"))
        assert self.pages("", 1) == ["a", "a*", "a/", "b"]
        assert self.pages("a", 1) == ["a", "a*", "a/"]

    def test_changes_tell_what_each_op_became(self) -> None:
        self.open()
        self.send(1, put(1), append(2, "k"), delete(3, base="x"))
        told = [(c.lineage, c.seq, c.op_id, c.key, c.kind, c.result) for c in self.memory.log()]
        assert told == [
            ("L", 1, op_id(1), "k", "put", "ok"),
            ("L", 2, op_id(2), "k", "append", "wrongtype"),
            ("L", 3, op_id(3), "k", "delete", "conflict"),
        ]

    def test_an_op_that_cannot_be_stored_does_not_hold_up_others(self) -> None:
        broken = put(1)
        unstampable = type(broken)(op_id(1), PAST, Put("k", b"{}"))
        assert self.apply(unstampable, put(2, "other")) == ["error", "ok"]
        assert self.pages("", 9) == ["other"]


class TestLog(MemoryCase):
    options: ClassVar[dict[str, Any]] = {"log_length": 5}

    def test_the_log_keeps_the_newest(self) -> None:
        self.open()
        self.send(1, *(put(n) for n in range(1, 10)))
        assert [seq for seq, _ in self.history("L", 99)] == [9, 8, 7, 6, 5]
        self.memory.restore()
        self.open()
        self.send(1, *(put(n) for n in range(1, 10)))
        assert len(self.memory.log()) == 5, "an emptied log keeps its bound"


class Counting:
    def __init__(self) -> None:
        self.entered = 0
        self.inside = False

    def __enter__(self) -> None:
        assert not self.inside
        self.inside = True
        self.entered += 1

    def __exit__(self, *_: object) -> None:
        self.inside = False


def test_the_mutex_is_held_in_every_call() -> None:
    mutex = Counting()

    def clock() -> float:
        assert mutex.inside
        return START

    store = MemoryStore(clock, mutex=mutex)
    run(store.open("L", "N", 0.0))
    run(store.forward("L", "N", 1, "x", 0.0))
    run(store.apply(Batch("L", "N", 2, [put(2)]), 0.0))
    run(store.read([], 0.0, ["L"]))
    run(store.scan("", "", 9, 0.0))
    run(store.history("L", 9, 0.0))
    run(store.facts(0.0))
    store.plant("k", b"x")
    store.dump()
    store.restore(store.snapshot())
    store.log()
    assert mutex.entered == 12


@pytest.mark.parametrize(
    ("ttl", "live", "created", "left", "given"),
    [(0, True, True, -1, -1), (0, False, False, 5, 0), (9, True, False, 99, 9), (9, False, False, 99, -1),
     (9, False, False, 8, 9), (9, False, False, 9, -1), (9, False, False, -1, -1), (9, False, True, 99, 9),
     (-1, True, False, 5, -1), (-2, True, False, 5, -1)],
)  # fmt: skip
def test_prolonged(ttl: int, live: bool, created: bool, left: int, given: int) -> None:
    assert prolonged(ttl, live, created, left) == given


def test_a_span_is_half_open() -> None:
    assert span(-10, -1, 20_000) == (19_990, 20_000)
    assert span(5, 4, 9) == span(0, -1, 0) == span(9, 9, 9) == (0, 0)
