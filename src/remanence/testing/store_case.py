"""What the contract of stores is written with: ops by number, one store per test, a word per question."""

import asyncio
import time
import unittest
from collections.abc import Coroutine, Sequence
from typing import Any, ClassVar, TypeVar

from remanence.model import NEVER, Append, Batch, Delete, Op, Outcome, Put, Record, Touch, Watermark
from remanence.protocols import Ask, Fetch, Lifetime, Store, Tail, Versions

T = TypeVar("T")
PAST = 1_600_000_000_000_000
"""An hlc of the year 2020: no clock clamps it."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never suspends."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise AssertionError("the store suspended: set `asynchronous = True` in its contract")


def op_id(number: int) -> str:
    """The operation id with this number; a higher number is a higher id."""
    return f"{number:022d}"


def text(number: int) -> bytes:
    """A document's body that tells which one it is."""
    return b'{"n":%d}' % number


# --- ops: number n has id n, time PAST + n and text n -----------------------------------------------


def put(n: int, key: str = "k", *, ttl: int = NEVER, base: str | None = None, **how: Any) -> Op:
    """A put."""
    return _op(n, Put(key, text(n), ttl, base), how)


def delete(n: int, key: str = "k", *, base: str | None = None, **how: Any) -> Op:
    """A delete."""
    return _op(n, Delete(key, base), how)


def append(n: int, key: str, item: bytes = b"item", *, ttl: int = NEVER, **how: Any) -> Op:
    """An append of one item."""
    return _op(n, Append(key, (item,), ttl), how)


def touch(n: int, key: str, ttl: int, **how: Any) -> Op:
    """A touch."""
    return _op(n, Touch(key, ttl), how)


def _op(n: int, write: Put | Delete | Append | Touch, how: dict[str, Any]) -> Op:
    return Op(op_id(n), how.pop("hlc", PAST + n), write, **how)


class StoreCase:
    """A test's own store, and what to ask of it."""

    asynchronous: ClassVar[bool] = False
    """Whether the store's coroutines wait on a running asyncio loop."""
    capabilities: ClassVar[frozenset[str]] = frozenset({"expiry", "foreign"})
    """"expiry": lifetimes end while the test waits. "foreign": others write beside us (`plant`)."""
    patience: ClassVar[float] = 5.0
    """Seconds that one call may take."""

    _store: Store | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    # --- what a subclass says

    def make_store(self) -> Store:
        """An empty store of the test's own. Called on the loop where there is one."""
        raise NotImplementedError

    def plant(self, key: str, value: bytes | list[bytes]) -> None:
        """Store a value at `key` as others do, without a stamp."""
        raise unittest.SkipTest("nobody else writes to this store")

    def advance(self, seconds: float) -> None:
        """Let the store's clock move on."""
        time.sleep(seconds)

    def deadline(self) -> float:
        """A point in time up to which a call may take, on the clock that the store was given."""
        return time.monotonic() + self.patience

    # --- what the tests use

    @property
    def store(self) -> Store:
        """The store of this test."""
        if self._store is None:
            self._store = self.run(self._made())
        return self._store

    async def _made(self) -> Store:
        return self.make_store()

    def teardown_method(self) -> None:
        """Close what the test opened."""
        if self._store is not None:
            self.run(self._store.close())
            self._store = None
        if self._loop is not None:
            self._loop.close()
            self._loop = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of one of the store's coroutines."""
        if not self.asynchronous:
            return run(work)
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(work)

    def needs(self, capability: str) -> None:
        """Skip the test where the store cannot have this."""
        if capability not in self.capabilities:
            raise unittest.SkipTest(f"the store lacks {capability}")

    def open(self, lineage: str = "L", nonce: str = "N") -> Watermark:
        """Begin a session."""
        return self.run(self.store.open(lineage, nonce, self.deadline()))

    def forward(self, seq: int, ident: str, nonce: str = "N") -> bool:
        """Set the watermark of lineage L."""
        return self.run(self.store.forward("L", nonce, seq, ident, self.deadline()))

    def send(
        self, first: int, *ops: Op, lineage: str = "L", nonce: str = "N", prev: tuple[str, int] | None = None
    ) -> Outcome:
        """Apply a batch."""
        return self.run(self.store.apply(Batch(lineage, nonce, first, ops, prev), self.deadline()))

    def apply(self, *ops: Op) -> list[str]:
        """Apply ops of no lineage; their results."""
        return list(self.send(1, *ops, lineage="", nonce="").results)

    def ask(self, *asks: Ask) -> list[Any]:
        """The answers."""
        return list(self.run(self.store.read(asks, self.deadline()))[0])

    def record(self, key: str = "k") -> tuple[bytes, str, int] | None:
        """(body, etag, hlc) of a document."""
        [found] = self.ask(Fetch(key))
        assert found is None or (isinstance(found, Record) and found.key == key), found
        return (found.body, found.etag, found.hlc) if found else None

    def versions(self, key: str = "k") -> list[tuple[str, int, bytes | None]]:
        """(etag, hlc, body) of each earlier version of a document, newest first."""
        [found] = self.ask(Versions(key))
        return [(each.etag, each.hlc, each.body) for each in found]

    def items(self, key: str = "l") -> list[bytes]:
        """All items of a list."""
        [found] = self.ask(Tail(key))
        return list(found)

    def left(self, key: str) -> int:
        """Milliseconds that `key` will live."""
        [found] = self.ask(Lifetime(key))
        return int(found)

    def lives(self, key: str, ttl: int) -> bool:
        """Whether `key` was given `ttl` milliseconds at some time in this test."""
        return ttl - 1000 * self.patience < self.left(key) <= ttl

    def pages(self, prefix: str, count: int) -> list[str]:
        """All keys that a whole scan finds, in order and each once."""
        found: set[str] = set()
        cursor = ""
        for _ in range(10_000):
            keys, cursor = self.run(self.store.scan(prefix, cursor, count, self.deadline()))
            found.update(keys)
            if not cursor:
                return sorted(found)
        raise AssertionError("the scan does not end")

    def seqs(self, *lineages: str) -> Sequence[int]:
        """The stored seq of each lineage."""
        return [mark.seq for mark in self.run(self.store.read((), self.deadline(), lineages))[1]]

    def history(self, lineage: str, limit: int) -> list[tuple[int, str]]:
        """The newest entries of a lineage in the change log."""
        return list(self.run(self.store.history(lineage, limit, self.deadline())))
