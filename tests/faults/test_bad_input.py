"""Hostile names, values, records and files: a clear error for that one alone, and nothing is executed."""

import itertools
import pickle  # noqa: TID251 -- what an attacker would place, never read here
import sqlite3
import time
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remanence import ConversationMemory, Memory, MemoryClient, RedisWorkingMemoryManager
from remanence.errors import CorruptRecord, RemanenceError, UsageError
from remanence.testing.oracle import QUICK, Heard
from remanence.testing.servers import Server, available_servers
from remanence.wire.keys import Keyspace

Fresh = Callable[..., Server]

HOSTILE = [
    ":", "::", "a:b", "{", "}", "{a}", "*", "?", "[a-z]", "[", "]", "\\", "\0", "a\0b", "\n", "\r\n",
    " ", "\t", "%", "%3A", "%25", "é", "e\u0301", "🧠", "\u202eabc", "\ufeff", "\x7f", "'", '"',
    "`; FLUSHALL", "../..", "/", "\ud800", "a" * 511, "🧠" * 200, "a" * 1_000_000, "WORKING_MEMORY",
    "log", "d:x", "w:x", "remanence:", "-", "+", "(", "$", "__x",
]  # fmt: skip
anything = st.text(st.characters(), min_size=0, max_size=60) | st.sampled_from(HOSTILE)


@pytest.fixture(params=["sqlite", *available_servers()])
def options(request: pytest.FixtureRequest, _shared_servers: dict[str, Server], namespace: str) -> dict[str, Any]:
    """The options of each backend in turn."""
    if request.param == "sqlite":
        return {"backend": "sqlite"}
    if request.param not in _shared_servers:
        _shared_servers[request.param] = Server(request.param, unix_socket=True).start()
    return {"url": _shared_servers[request.param].url, "namespace": namespace, **QUICK}


def short(error: Exception) -> None:
    """A refusal says what is wrong without repeating a megabyte of it."""
    assert len(str(error)) < 400


quickly = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_t50_names_in_shared_state(options: dict[str, Any]):
    with Memory(**options) as memory:

        @quickly
        @given(anything, anything)
        def check(name: str, other: str) -> None:
            try:
                memory.set(name, f"of {name!r}")
                memory.set(other, f"of {other!r}")
            except UsageError as error:
                short(error)
                return
            assert memory.get(name) == (f"of {name!r}" if name != other else f"of {other!r}")
            assert memory.get(other) == f"of {other!r}"
            assert name in memory and name in memory.keys(name)
            memory.delete(name)
            assert name not in memory
            if name != other:
                assert memory.get(other) == f"of {other!r}"

        check()


def test_t50_ids_of_conversations(options: dict[str, Any]):
    @quickly
    @given(anything, anything, st.sampled_from(["x", "a:b", "é"]))
    def check(one: str, two: str, name: str) -> None:
        try:
            first, second = ConversationMemory(one, **options), ConversationMemory(two, **options)
        except UsageError as error:
            short(error)
            return
        with first, second:
            try:
                first.set(name, "first")
                second.set(name, "second")
            except UsageError as error:  # the longest id leaves no room for a name
                short(error)
                return
            assert first.get(name) == ("second" if one == two else "first")
            assert name in first.keys()  # noqa: SIM118 -- a method of ours
            first.delete(name)

    with Memory(**options):
        check()


def test_t50_t51_no_two_ids_make_one_key(options: dict[str, Any]):
    """Exhaustively, over an alphabet of separators and globs: other ids, other keys."""
    words = ["".join(letters) for n in (1, 2) for letters in itertools.product(":{}*%a ", repeat=n)]
    keys: dict[str, tuple[str, ...]] = {}
    with Memory(**options) as memory:
        for word in words:
            assert keys.setdefault(memory.key_of(word), (word,)) == (word,)
        for one in words[:30]:
            with ConversationMemory(one, **options) as conversation:
                for two in words[:30]:
                    assert keys.setdefault(conversation.key_of(two), (one, two)) == (one, two)


def test_t50_ids_of_sessions(options: dict[str, Any]):
    with MemoryClient(**options) as client:

        @quickly
        @given(anything, anything)
        def check(one: str, two: str) -> None:
            try:
                client.clear(one)
                client.clear(two)
                client.add(one, "user", f"one {one!r}")
                client.add(two, "assistant", f"two {two!r}")
            except UsageError as error:
                short(error)
                return
            told = [message["content"] for message in client.get(one)]
            assert told == [f"one {one!r}"] + ([f"two {two!r}"] if one == two else [])
            client.clear(one)
            assert not client.exists(one)

        check()


class Asked:
    """The interface of the seed, as any object may have it."""

    def __init__(self, conversation_id: str, **more: Any) -> None:
        self.conversation_id = conversation_id
        self.memory_type = "WORKING_MEMORY"
        self.data = self.query = self.memory_id = self.filters = self.metadata = None
        self.limit = 5
        self.__dict__.update(more)


class Stored:
    """A working memory, as any object may be one."""

    def __init__(self, text: str) -> None:
        self.working_memory = text

    def to_dict(self) -> dict[str, str]:
        return {"working_memory": self.working_memory}


def test_t50_ids_of_working_memory(server: Server, namespace: str):
    manager = RedisWorkingMemoryManager(server.url, namespace=namespace, **QUICK)

    @quickly
    @given(anything, anything)
    def check(one: str, two: str) -> None:
        try:
            manager.store(Asked(one, data=[Stored(f"one {one!r}")]))
            manager.store(Asked(two, data=[Stored(f"two {two!r}")]))
        except (UsageError, ValueError, TypeError) as error:
            short(error)
            return
        told = [each.working_memory for each in manager.retrieve(Asked(one))]
        assert told == ([f"two {two!r}"] if one == two else [f"one {one!r}"])
        manager.delete(Asked(one))
        assert not manager.retrieve(Asked(one))

    try:
        check()
    finally:
        manager.close()


# --- bombs ----------------------------------------------------------------------------------------


EXPLODED: list[str] = []


class Bomb:
    """What runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return EXPLODED.append, ("boom",)


def bombs() -> dict[str, bytes]:
    made = pickle.dumps(Bomb())
    return {
        "pickle": made,
        "pickle behind a flag": b"\x00" + made,
        "pickle compressed": b"\x01" + zlib.compress(made),
        "yaml": b"!!python/object/apply:os.system ['echo boom']",
        "json with a class": b'{"py/object": "os.system", "value": 1',
        "zlib bomb": b"\x01" + zlib.compress(b"x" * (40 << 20)),
        "zlib bomb, stamped": b"\x01" + b"A" * 22 + b"0" * 16 + zlib.compress(b"x" * (40 << 20)),
        "zlib cut": b"\x01" + zlib.compress(b'{"value": 1}')[:-3],
        "deep": b'{"value": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        "NaN": b'{"value": NaN}',
        "Infinity": b'{"value": -Infinity}',
        "no UTF-8": b'{"value": "\xff\xfe"}',
        "half": b'{"value": [1, 2',
        "empty": b"",
        "zero": b"\0",
        "unknown flag": b"\x07abc",
    }


@pytest.fixture(scope="module")
def material() -> dict[str, bytes]:
    return bombs()


@pytest.mark.parametrize("name", [
    "pickle", "pickle behind a flag", "pickle compressed", "yaml", "json with a class", "zlib bomb",
    "zlib bomb, stamped", "zlib cut", "deep", "deep objects", "NaN", "Infinity", "no UTF-8", "half", "empty",
    "zero", "unknown flag",
])  # fmt: skip
def test_t52_t53_bombs_in_the_place_of_values(server: Server, namespace: str, material: dict[str, bytes], name: str):
    """Never executed, never read as missing, an error for that key alone, in little time and memory."""
    keys = Keyspace(namespace)
    with closing(server.client()) as client, Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        memory.good = 1
        client.set(keys.data("memory:bad"), material[name])
        tracemalloc.start()
        started = time.monotonic()
        with pytest.raises(CorruptRecord) as told:
            memory.get("bad")
        assert time.monotonic() - started < 1.0
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert held < 20 << 20, f"reading it took {held >> 20} MB"
        assert "memory:bad" in str(told.value) and len(str(told.value)) < 300
        with pytest.raises(RemanenceError):
            memory.increment("bad")
        assert client.get(keys.data("memory:bad")) == material[name], "what could not be read was overwritten"
        assert memory.good == 1
        memory.bad = "mended"
        assert memory.bad == "mended"
        assert memory.engine.status().dead_letters == 0
    assert not EXPLODED


def test_t53_what_json_leaves_open(server: Server, namespace: str):
    """Huge numbers and members given twice have one meaning, and reading them ends at once."""
    keys = Keyspace(namespace)
    digits = b"9" * 5000
    with closing(server.client()) as client, Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        client.set(keys.data("memory:twice"), b'{"value": 1, "value": 2}')
        assert memory.twice == 2
        client.set(keys.data("memory:exponent"), b'{"value": 1e999}')
        client.set(keys.data("memory:long"), b'{"value": ' + digits + b"}")
        for name in ("exponent", "long"):
            started = time.monotonic()
            with suppress(CorruptRecord):
                assert memory.get(name) is not None
            assert time.monotonic() - started < 1.0
        for value in (float("nan"), float("inf"), {1: 2}, {"a": {1}}, object(), b"bytes", "\ud800"):
            with pytest.raises((TypeError, ValueError)) as told:
                memory.value = value
            assert "value" in str(told.value)
        assert "value" not in memory


def test_t52_bombs_among_messages(server: Server, namespace: str, material: dict[str, bytes]):
    """An entry that cannot be read is left out, counted and told of; the rest of the history is there."""
    with (
        MemoryClient(url=server.url, namespace=namespace, **QUICK) as memory,
        closing(server.client()) as client,
    ):
        heard = Heard(memory.engine)
        memory.add("s", "user", "first")
        for bomb in material.values():
            client.rpush(Keyspace(namespace).data("session:s"), bomb)
        memory.add("s", "user", "last")
        assert [message["content"] for message in memory.get("s")] == ["first", "last"]
        assert memory.get("s", limit=1)[0]["content"] == "last"
        assert len(heard.events) > 2
    assert not EXPLODED


def test_t52_bombs_in_the_change_log_and_watermark(server: Server, namespace: str):
    """What others put where the protocol keeps its own does not run, and does not stop writers for ever."""
    made = pickle.dumps(Bomb())
    keys = Keyspace(namespace)
    with closing(server.client()) as client, Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        memory.x = 1
        client.xadd(keys.log, {"c": made, "w": made, "o": made})
        client.set(keys.tombstone("memory:x"), made)
        del memory.x
        memory.x = 2
        assert memory.x == 2
        assert memory.engine.flush(2)
    assert not EXPLODED


def test_t52_bombs_in_the_embedded_file(material: dict[str, bytes]):
    with Memory(backend="sqlite") as memory:
        memory.good = 1
        memory.bad = 2
        path = Path(memory.engine.status().journal)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE documents SET body = ? WHERE key = 'memory:bad'", (material["pickle"],))
    with Memory(backend="sqlite") as memory:
        with pytest.raises(CorruptRecord):
            memory.get("bad")
        assert memory.good == 1
        memory.bad = 3
        assert memory.bad == 3
    assert not EXPLODED
