"""T40: the memory store is the specification; Lua on every server, and SQLite, do exactly what it does."""

import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import msgspec
import pytest
import redis
from hypothesis import strategies as st

from remanence.model import ABSENT, Append, Batch, Blank, Delete, Op, Put, Record, Touch
from remanence.protocols import Fetch, Length, Lifetime, Store, Tail, Versions
from remanence.runtime.blocking import BlockingRuntime
from remanence.stores.memory import MemoryStore
from remanence.stores.redis import RedisStore
from remanence.stores.sqlite import SQLiteStore
from remanence.testing.servers import Server
from remanence.testing.store_case import PAST, run, text
from remanence.wire.address import Address
from remanence.wire.keys import Keyspace
from remanence.wire.redis import blocking_connect

KEYS = ("a", "b", "c:*", "nul\0é🧠")
LINEAGES = ("A", "B", "C-_0")
NONCES = ("n", "m")
TTLS = (-2, -1, 0, 0, 30_000, 60_000, 90_000)
IDS = tuple(first + middle * 20 + last for first in "-0Aaz_" for middle in "m" for last in "1Z")
BODIES = (
    text(1),
    b'{"value":[1,2],"last_modified":5}',
    b"\x00\x81\xa1a",
    b"\x01xyz",
    b'{"stamp":"mine","a":1}',
)
FOREIGN = (
    b"", b"plain", b"{}", b"\x00", b"\x01" + b"x" * 60, b'{"stamp":"', b'{"stamp":"' + b"0" * 38 + b'",',
    b'{"stamp":"' + b"m" * 22 + b"0" * 16 + b'","a":1}', b"\x00" + b"_" * 22 + b"1600000000000009" + b"\xff",
    b"\x00" + b"m" * 21 + b"/" + b"1600000000000009", b"\x80\x04N.", [b"theirs"], [b"", b"\xff"],
)  # fmt: skip
DEADLINE = 30.0
SOAK_SEEDS = int(os.environ.get("SOAK_SEEDS", "100000"))


class Draft(NamedTuple):
    """An op before it is known what is stored: `base` says in words which etag it expects."""

    kind: str
    key: str
    ident: str
    hlc: int
    live: bool
    merge: bool
    folded: bool
    base: str
    ttl: int
    body: bytes
    items: tuple[bytes, ...]


class Step(NamedTuple):
    """One call, of which each verb uses what it needs."""

    verb: str
    lineage: str
    nonce: str
    offset: int
    drafts: tuple[Draft, ...]
    prev: tuple[str, int] | None
    key: str
    value: bytes | list[bytes]


often_true = st.sampled_from([True, True, True, False])
drafts = st.builds(
    Draft,
    kind=st.sampled_from(["put"] * 6 + ["append"] * 4 + ["delete"] * 2 + ["touch", "blank"]),
    key=st.sampled_from(KEYS),
    ident=st.sampled_from(IDS),
    hlc=st.integers(PAST, PAST + 12),
    live=st.booleans(),
    merge=st.booleans(),
    folded=st.sampled_from([False, False, True]),
    base=st.sampled_from(["none", "none", "current", "current", "absent", "other", "?"]),
    ttl=st.sampled_from(TTLS),
    body=st.sampled_from(BODIES),
    items=st.lists(st.sampled_from([b"", b"x", b"\x00\xff", b"y" * 50]), max_size=3).map(tuple),
)
steps = st.builds(
    Step,
    verb=st.sampled_from(["apply"] * 8 + ["loose"] * 3 + ["open"] * 3 + ["forward", "read", "scan", "plant"]),
    lineage=st.sampled_from(LINEAGES),
    nonce=st.sampled_from(["n", "n", "n", "n", "m"]),
    offset=st.sampled_from([0, 0, 0, 0, -1, -2, -5, 1]),
    drafts=st.lists(drafts, min_size=1, max_size=6).map(tuple),
    prev=st.none() | st.tuples(st.sampled_from(LINEAGES), st.integers(0, 4)),
    key=st.sampled_from(KEYS),
    value=st.sampled_from(FOREIGN),
)
histories = st.lists(steps, min_size=1, max_size=14)
depths = st.sampled_from([0, 0, 2])
"""How many earlier versions both keep."""
Follow = Callable[[list[Step], int], None]
"""Lets the specification and a store that keep so many earlier versions take a history."""


class Pair:
    """The specification and a store, side by side, through the same history."""

    def __init__(self, subject: Store, plant: Callable[[str, bytes | list[bytes]], None] | None, depth: int) -> None:
        self.model = MemoryStore(time.time, history=depth)
        self.subject = subject
        self.plant = plant
        for lineage in LINEAGES[:2]:  # the third one nobody opens at first
            self.open(lineage, "n")

    def both(self, call: Callable[[Store], Any]) -> Any:
        """What both answer, which must be the same."""
        wanted, found = simple(run(call(self.model))), simple(run(call(self.subject)))
        assert found == wanted
        return wanted

    def open(self, lineage: str, nonce: str) -> None:
        self.both(lambda store: store.open(lineage, nonce, deadline()))

    def take(self, step: Step) -> None:
        """Make one call on both."""
        lineage, nonce = step.lineage, step.nonce
        match step.verb:
            case "open":
                self.open(lineage, nonce)
            case "forward":
                seq = self.seq(lineage) + 2 * step.offset
                self.both(lambda store: store.forward(lineage, nonce, seq, IDS[0], deadline()))
            case "read":
                self.compare()
            case "scan":
                assert self.keys(self.subject, step.key[:1]) == self.keys(self.model, step.key[:1])
            case "plant" if self.plant is not None:
                self.model.plant(step.key, step.value)
                self.plant(step.key, step.value)
            case "apply" | "loose":
                loose = step.verb == "loose"
                first = 1 if loose else max(1, self.seq(lineage) + 1 + step.offset)
                ops = self.resolved(step.drafts)
                batch = Batch("" if loose else lineage, nonce, first, ops, None if loose else step.prev)
                self.both(lambda store: store.apply(batch, deadline()))

    def seq(self, lineage: str) -> int:
        return run(self.model.read([], 0.0, [lineage]))[1][0].seq

    def resolved(self, drafts: tuple[Draft, ...]) -> list[Op]:
        """Ops with the bases that the drafts describe; chains within the batch are followed."""
        etags: dict[str, str] = {}
        ops = []
        for draft in drafts:
            if draft.key not in etags:
                [found] = run(self.model.read([Fetch(draft.key)], 0.0))[0]
                etags[draft.key] = found.etag if isinstance(found, Record) else ABSENT
            words = {"none": None, "current": etags[draft.key], "absent": ABSENT, "other": IDS[1], "?": "?"}
            ops.append(made(draft, words[draft.base]))
            if draft.kind in ("put", "delete"):
                etags[draft.key] = draft.ident if draft.kind == "put" else ABSENT
        return ops

    def keys(self, store: Store, prefix: str) -> list[str]:
        found: set[str] = set()
        cursor = ""
        count = 1000 if isinstance(store, RedisStore) else 3  # a server walks past what other tests left
        while True:
            page, cursor = run(store.scan(prefix, cursor, count, deadline()))
            found.update(page)
            if not cursor:
                return sorted(found)

    def compare(self) -> None:
        """All that can be asked."""
        asks = [ask for key in KEYS for ask in (Fetch(key), Tail(key), Length(key), Tail(key, -2, 5), Versions(key))]
        self.both(lambda store: store.read(asks, deadline(), LINEAGES))
        lives = [Lifetime(key) for key in KEYS]
        stores: list[Store] = [self.model, self.subject]
        wanted, found = ([*map(milliseconds, run(store.read(lives, deadline()))[0])] for store in stores)
        assert all(near(a, b) for a, b in zip(wanted, found, strict=True)), (wanted, found)
        for lineage in LINEAGES:
            self.same_history(lineage)

    def same_history(self, lineage: str) -> None:
        self.both(lambda store: store.history(lineage, 1000, deadline()))


def made(draft: Draft, base: str | None) -> Op:
    write: Any = {
        "put": Put(draft.key, draft.body, draft.ttl, base),
        "append": Append(draft.key, draft.items, draft.ttl),
        "delete": Delete(draft.key, base),
        "touch": Touch(draft.key, draft.ttl),
        "blank": Blank(draft.key, base),
    }[draft.kind]
    return Op(draft.ident, draft.hlc, write, draft.live, draft.merge, draft.folded)


def simple(answer: Any) -> Any:
    """An answer as values that can be compared: without the clock, errors by their class."""
    if isinstance(answer, msgspec.Struct):
        return {name: simple(value) for name, value in msgspec.structs.asdict(answer).items() if name != "clock"}
    if isinstance(answer, tuple | list):
        return [simple(each) for each in answer]
    return type(answer) if isinstance(answer, Exception) else answer


def milliseconds(told: Any) -> int:
    assert isinstance(told, int), told
    return told


def near(a: int, b: int) -> bool:
    """Whether two lifetimes are the same but for the time that passed between the questions."""
    return a == b if a < 0 or b < 0 else abs(a - b) < 10_000


def deadline() -> float:
    return time.monotonic() + DEADLINE


class OnServer:
    """What a server holds of one namespace, byte by byte."""

    def __init__(self, client: "redis.Redis", keys: Keyspace) -> None:
        self.client: Any = client
        self.keys = keys

    def plant(self, key: str, value: bytes | list[bytes]) -> None:
        name = self.keys.data(key)
        self.client.delete(name)
        if isinstance(value, bytes):
            self.client.set(name, value)
        else:
            self.client.rpush(name, *value)

    def dump(self) -> dict[str, bytes | list[bytes]]:
        found: dict[str, bytes | list[bytes]] = {}
        for key in KEYS:
            name = self.keys.data(key)
            if kind := {b"string": 1, b"list": 2}.get(self.client.type(name)):
                found[key] = self.client.get(name) if kind == 1 else self.client.lrange(name, 0, -1)
        return found

    def tombstones(self) -> dict[str, bytes]:
        stamps = {key: self.client.get(self.keys.tombstone(key)) for key in KEYS}
        return {key: stamp for key, stamp in stamps.items() if stamp is not None}

    def old_lives(self) -> dict[str, int]:
        """How long the earlier versions live, where there are any."""
        return {key: self.client.pttl(name) for key in KEYS if self.client.exists(name := self.keys.history(key))}

    def log(self) -> list[bytes]:
        return [entry[b"c"] for _, entry in self.client.xrange(self.keys.log)]

    def clear(self) -> None:
        names = [name(key) for key in KEYS for name in (self.keys.data, self.keys.tombstone, self.keys.history)]
        self.client.delete(*names, self.keys.log, *(self.keys.watermark(lineage) for lineage in LINEAGES))


def same_bytes(model: MemoryStore, server: OnServer) -> None:
    assert server.dump() == model.dump()
    dead = model.snapshot().tombstones
    assert server.tombstones() == {key: b"%s%016d" % (etag.encode(), hlc) for key, ((etag, hlc), _) in dead.items()}
    state, now = model.snapshot(), time.time() * 1000
    ends = {key: end / 1000 for key, (kept, end) in state.versions.items() if kept and end / 1000 > now}
    wanted = {key: -1 if math.isinf(end) else int(end - now) for key, end in ends.items()}
    found = server.old_lives()
    assert found.keys() == wanted.keys() and all(near(wanted[key], found[key]) for key in found), (wanted, found)
    told = [f"{c.op_id} {c.lineage} {c.seq} {c.kind} {c.result} {server.keys.data(c.key)}" for c in model.log()]
    assert server.log() == [entry.encode() for entry in told]


@pytest.fixture
def on_server(server: Server, namespace: str) -> Iterator[Follow]:
    client = server.client()
    keys = Keyspace(namespace)
    address = Address(server.unix_url, connect_timeout=5.0)
    held = OnServer(client, keys)

    def follow(history: list[Step], depth: int) -> None:
        held.clear()
        subject = RedisStore(blocking_connect(address), BlockingRuntime(), keys, history=depth)
        try:
            pair = Pair(subject, held.plant, depth)
            for step in history:
                pair.take(step)
            pair.compare()
            same_bytes(pair.model, held)
        finally:
            run(subject.close())

    yield follow
    held.clear()
    client.close()


@pytest.fixture
def on_file(tmp_path: Path) -> Follow:
    def follow(history: list[Step], depth: int) -> None:
        path = tmp_path / "store.db"
        for old in tmp_path.glob("store.db*"):
            old.unlink()
        subject = SQLiteStore(path, time.time, time.monotonic, history=depth)
        try:
            pair = Pair(subject, None, depth)
            for step in history:
                pair.take(step)
            pair.compare()
            assert run(subject.dump()) == pair.model.dump()
        finally:
            run(subject.close())

    return follow


def search(follow: Follow, examples: int) -> None:
    """Let hypothesis look for a history in which they differ."""
    health = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large]
    settings = hypothesis.settings(max_examples=examples, suppress_health_check=health, database=None)
    settings(hypothesis.given(histories, depths)(lambda history, depth: follow(history, depth)))()


def test_every_server_does_what_the_specification_does(on_server: Follow) -> None:
    search(on_server, 250)


def test_sqlite_does_what_the_specification_does(on_file: Follow) -> None:
    search(on_file, 100)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_server_does_so_for_long(on_server: Follow) -> None:
    search(on_server, SOAK_SEEDS // 10)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_sqlite_does_so_for_long(on_file: Follow) -> None:
    search(on_file, SOAK_SEEDS // 20)
