"""Versions of a record: kept where asked for, told newest first, gone back to; on every backend, online or not."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from remanence import AsyncConversationMemory, AsyncMemory, ConversationMemory, Memory
from remanence.errors import CorruptRecord, InvalidArgument, InvalidKey, Missing, Unavailable
from remanence.faces.versions import Version
from remanence.protocols import Versions
from remanence.runtime.blocking import run
from remanence.stores.versions import before, once, read
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import QUICK, eventually
from remanence.testing.servers import Server, available_servers
from remanence.testing.store_case import op_id
from remanence.wire.keys import Keyspace
from remanence.wire.sqlite import Database, sql_text


@pytest.fixture(params=["memory", "sqlite", *available_servers()])
def options(request: pytest.FixtureRequest, _shared_servers: dict[str, Server], namespace: str) -> dict[str, Any]:
    """Each backend in turn, empty, keeping three earlier versions."""
    kind = str(request.param)
    if kind in ("memory", "sqlite"):
        return {"backend": kind, "namespace": namespace, "history": 3}
    if kind not in _shared_servers:
        _shared_servers[kind] = Server(kind, unix_socket=True).start()
    return {"url": _shared_servers[kind].url, "namespace": namespace, "history": 3, **QUICK, "deadline": 5.0}


@pytest.fixture
def memory(options: dict[str, Any]) -> Iterator[Any]:
    with Memory(**options) as made:
        yield made


def values(memory: Any, name: str = "x") -> list[Any]:
    return [each.value for each in memory.history(name)]


# --- what is told ---------------------------------------------------------------------------------


def test_every_kind_of_write_makes_a_version(memory: Any):
    assert memory.history("x") == []
    start = time.time()
    ids = [memory.set("x", 1).op_id]
    memory.increment("x", 4)
    memory.update("x", lambda x: x * 2)
    ids.append(memory.set("x", {"a": []}).op_id)
    found = memory.history("x")
    assert [each.value for each in found] == [{"a": []}, 10, 5, 1]
    assert [found[0].id, found[3].id] == ids[::-1], "the id of the write"
    assert len({each.id for each in found}) == 4
    times = [each.at for each in found]
    assert times == sorted(times, reverse=True) and start - 1 < times[-1] <= times[0] < time.time() + 1
    assert {(each.deleted, each.problem, each.source) for each in found} == {(False, "", "store")}
    memory.x["a"].append("deep")
    assert memory.x == {"a": ["deep"]}
    assert values(memory) == [{"a": ["deep"]}, {"a": []}, 10, 5], "as many as the setting says"
    assert memory.keys() == ["x"] and list(memory) == ["x"]


def test_a_delete_is_told_as_such(memory: Any):
    memory.x = 1
    del memory.x
    deleted, first = memory.history("x")
    assert deleted.deleted and deleted.value is None and deleted.at >= first.at and first.value == 1
    assert "x" not in memory
    memory.x = None
    memory.x = 3
    assert [(each.value, each.deleted) for each in memory.history("x")] == [
        (3, False),
        (None, False),
        (None, True),
        (1, False),
    ]


def test_what_had_no_effect_is_no_version(memory: Any):
    memory.x = [1]
    with pytest.raises(IndexError):
        memory.x.pop(7)
    assert not memory.compare_and_set("x", "other", 5)
    assert values(memory) == [[1]]


def test_a_value_is_not_in_the_repr(memory: Any):
    memory.x = "secret"
    assert "secret" not in repr(memory.history("x"))


def test_they_go_with_a_record_that_expires(memory: Any):
    memory.x = 1
    memory.set("x", 2, ttl=0.15)
    assert values(memory) == [2, 1]
    assert eventually(lambda: memory.history("x") == [])
    memory.x = 3
    assert values(memory) == [3]


def test_names_are_checked_and_methods_are_no_names(memory: Any):
    with pytest.raises(InvalidKey):
        memory.history("")
    with pytest.raises(InvalidKey, match="set"):
        memory.history = 1


# --- going back -----------------------------------------------------------------------------------


def test_rollback_writes_the_value_anew(memory: Any):
    memory.x = {"theme": "light"}
    memory.x = {"theme": "dark"}
    first = memory.history("x")[1]
    receipt = memory.rollback("x", first)
    assert memory.x == {"theme": "light"}
    found = memory.history("x")
    assert [each.value["theme"] for each in found] == ["light", "dark", "light"]
    assert found[0].id == receipt.op_id != found[2].id == first.id
    assert memory.rollback("x", found[1].id).state == "applied", "by its id"
    assert memory.x == {"theme": "dark"}


def test_rollback_to_a_delete_deletes_and_behind_it_restores(memory: Any):
    memory.set("x", 1)
    del memory.x
    memory.x = 2
    deleted = memory.history("x")[1]
    memory.rollback("x", deleted)
    assert "x" not in memory
    assert [each.deleted for each in memory.history("x")] == [True, False, True, False]
    memory.rollback("x", memory.history("x")[3])
    assert memory.x == 1


def test_rollback_keeps_the_lifetime(memory: Any):
    memory.x = 1
    memory.set("x", 2, ttl=60)
    memory.rollback("x", memory.history("x")[1])
    assert memory.x == 1 and 50 < memory.ttl("x") <= 60


def test_rollback_to_what_is_not_there(memory: Any):
    memory.x = memory.y = 1
    for unknown in ("nothing", memory.history("y")[0]):
        with pytest.raises(Missing, match="no such version"):
            memory.rollback("x", unknown)
    for wrong in (1, None, b"x"):
        with pytest.raises(InvalidArgument, match="version"):
            memory.rollback("x", wrong)
    assert values(memory) == [1]


def test_a_version_that_cannot_be_read_hides_no_other(server: Server, namespace: str):
    with closing(server.client()) as client, Memory(url=server.url, namespace=namespace, history=3, **QUICK) as memory:
        m: Any = memory
        m.x = 1
        m.x = 2
        client.set(Keyspace(namespace).data("memory:x"), b"\x80\x04garbage")
        broken, first = m.history("x")
        assert broken.problem and broken.value is None and broken.at is None and first.value == 1
        with pytest.raises(CorruptRecord):
            m.rollback("x", broken)
        m.rollback("x", first)
        assert m.x == 1
        assert [bool(each.problem) for each in m.history("x")] == [False, True, False]


# --- where nothing is kept ------------------------------------------------------------------------


def test_without_the_setting_only_the_present_version_is_there(options: dict[str, Any]):
    with Memory(**{**options, "history": 0}) as memory:
        m: Any = memory
        first = m.set("x", 1)
        m.x = 2
        (present,) = m.history("x")
        assert present.value == 2
        with pytest.raises(Missing, match="REMANENCE_HISTORY"):
            m.rollback("x", first.op_id)
        m.rollback("x", present)
        assert m.x == 2 and len(m.history("x")) == 1
        del m.x
        assert m.history("x") == []


def test_nothing_is_kept_on_the_server_that_nobody_asked_for(server: Server, namespace: str):
    keys = Keyspace(namespace)
    with closing(server.client()) as client, Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        m: Any = memory
        for n in range(3):
            m.x = n
        del m.x
        assert not client.exists(keys.history("memory:x"))
    with closing(server.client()) as client, Memory(url=server.url, namespace=namespace, history=1, **QUICK) as memory:
        m = memory
        for n in range(5):
            m.x = n
        assert client.llen(keys.history("memory:x")) == 1
        assert keys.history("memory:x").startswith(f"remanence:{{{keys.tag}}}:")


# --- on the way to a server -----------------------------------------------------------------------


def test_changes_sent_together_are_a_version_each(server: Server, namespace: str):
    options: Any = {"url": server.url, "namespace": namespace, **QUICK}
    with Memory(**options, history=9, ack="journal", linger=0.2) as memory:
        m: Any = memory
        m.x = []
        for n in range(5):
            m.edit("x").append(n)
        assert memory.engine.flush(5)
        assert values(m) == [list(range(n)) for n in range(5, -1, -1)]
    with Memory(**options, history=9, ack="journal", linger=0.2, batch_bytes=1024) as memory:
        m = memory
        m.y = ["x" * 900]
        assert memory.engine.flush(5)
        for n in range(5):
            m.edit("y").append(n)
        assert memory.engine.flush(5)
        assert len(m.history("y")) < 6, "of a big value not every change is sent whole"
        assert m.history("y")[0].value[1:] == [0, 1, 2, 3, 4] and m.history("y")[-1].value[1:] == []


def test_own_pending_writes_are_versions(server: Server, namespace: str):
    with Memory(url=server.url, namespace=namespace, history=3, ack="journal", linger=2.0, **QUICK) as memory:
        m: Any = memory
        m.x = 1
        m.x = 2
        assert memory.engine.flush(5)
        before = m.history("x")
        ids = [m.set("x", n).op_id for n in (3, 4)]
        found = m.history("x")
        assert [each.value for each in found] == [4, 3, 2, 1]
        assert [each.id for each in found] == [*ids[::-1], *(each.id for each in before)]
        del m.x
        assert [each.deleted for each in m.history("x")] == [True, False, False, False]
        assert memory.engine.status().pending == 3, "still"
        assert memory.engine.flush(5)
        assert [each.value for each in m.history("x")] == [None, 4, 3, 2]


def test_a_write_that_is_sent_again_is_one_version(server: Server, namespace: str):
    with (
        FaultProxy(server) as proxy,
        Memory(url=proxy.url, namespace=namespace, history=20, **{**QUICK, "deadline": 2.0}) as memory,
    ):
        m: Any = memory
        m.x = 0
        for n in range(1, 6):
            proxy.drop_replies(1, after=b"EVALSHA")
            m.x = n
        assert memory.engine.flush(5)
        proxy.heal()
        assert values(m) == [5, 4, 3, 2, 1, 0]


def test_every_change_of_many_processes_is_a_version(server: Server, namespace: str):
    def count(pool: int) -> None:
        with Memory(url=server.url, namespace=namespace, history=100, pool=pool, **QUICK) as memory:
            for _ in range(10):
                memory.increment("n")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(count, range(1, 5)))
    with Memory(url=server.url, namespace=namespace, history=100, **QUICK) as memory:
        assert values(memory, "n") == list(range(40, 0, -1))


@pytest.mark.parametrize("reads", ["near", "mirror"])
def test_it_is_the_servers_whatever_reads_are(server: Server, namespace: str, reads: Any):
    options: Any = {"url": server.url, "namespace": namespace, "history": 3, **QUICK}
    with Memory(**options, reads=reads) as memory, Memory(**options) as other:
        m: Any = memory
        m.x = 1
        assert m.x == 1
        other.x = 2
        other.x = 3
        assert values(m) == [3, 2, 1]
        assert eventually(lambda: m.get("gone", None) is None and m.read("x").source != "store")
        o: Any = memory.engine.gateway
        other.gone = 1
        del other.gone
        assert eventually(lambda: m.get("gone", None) is None)
        (kept,) = (each.value for each in run(o.read([Versions("memory:gone")])))
        assert [each.body is None for each in kept] == [True, False]


def test_in_several_partitions(server: Server, namespace: str):
    with Memory(url=server.url, namespace=namespace, partitions=4, history=2, **QUICK) as memory:
        for name in "abcdefgh":
            for n in range(3):
                memory.set(name, n)
        assert all(values(memory, name) == [2, 1, 0] for name in "abcdefgh")


# --- while the server is away ---------------------------------------------------------------------


def test_offline_it_is_what_this_process_knows(server: Server, namespace: str):
    options: Any = {"namespace": namespace, "history": 5, **QUICK}
    with (
        FaultProxy(server) as proxy,
        Memory(url=proxy.url, **options) as memory,
        Memory(url=server.url, **options) as o,
    ):
        m: Any = memory
        o.unseen = 1
        o.x = 1
        o.x = 2
        m.x = 3
        assert values(m) == [3, 2, 1]
        old = m.history("x")[2]
        proxy.refuse()
        proxy.reset_all()
        m.x = 4
        del m.x
        m.x = 5
        found = m.history("x")
        assert [(each.value, each.deleted) for each in found] == [(5, False), (None, True), (4, False), (3, False)]
        assert {each.source for each in found} == {"local"}
        with pytest.raises(Unavailable):
            m.history("unseen")
        with pytest.raises(Unavailable, match="not known here"):
            m.rollback("x", old)
        assert m.rollback("x", found[3]).state == "journalled"
        assert m.x == 3
        proxy.accept()
        assert memory.engine.flush(5)
        assert eventually(lambda: m.history("x")[0].source == "store")
        assert [(each.value, each.deleted) for each in m.history("x")] == [
            (3, False),
            (5, False),
            (None, True),
            (4, False),
            (3, False),
            (2, False),
        ]


# --- other colours and older files ----------------------------------------------------------------


def test_the_same_on_asyncio(options: dict[str, Any]):
    async def check() -> None:
        async with AsyncMemory(**options) as memory, AsyncConversationMemory("c", **options) as conversation:
            await memory.set("x", 1)
            await memory.set("x", 2)
            await conversation.set("x", "other")
            found = await memory.history("x")
            assert [each.value for each in found] == [2, 1]
            await memory.rollback("x", found[1])
            assert await memory.get("x") == 1
            assert [each.value for each in await conversation.history("x")] == ["other"]
            with pytest.raises(Missing):
                await conversation.rollback("x", found[1])

    asyncio.run(check())


def test_a_conversation_has_its_own(options: dict[str, Any]):
    with ConversationMemory("a", **options) as one, ConversationMemory("b", **options) as two:
        for n in range(2):
            one.set("x", n)
            two.set("x", -n)
        assert values(one) == [1, 0] and values(two) == [-1, 0]
        one.rollback("x", one.history("x")[1])
        assert (one.get("x"), two.get("x")) == (0, -1)


def test_a_file_that_was_made_without_versions(tmp_path: Path):
    path = tmp_path / "remanence.db"
    made = Database(str(path))
    made.run(sql_text("store.sql"))
    assert not made.run("SELECT 1 FROM sqlite_schema WHERE name = 'versions'")
    made.close()
    with Memory(backend="sqlite", path=str(tmp_path), history=2) as memory:
        memory.set("x", 1)
        memory.set("x", 2)
        assert values(memory) == [2, 1]


# --- decisions ------------------------------------------------------------------------------------


def test_what_the_server_has_is_read_or_passed_over():
    one = read(b'v{"stamp":"' + op_id(1).encode() + b"%016d" % 5 + b'","value":1}')
    assert one is not None and (one.etag, one.hlc, one.body) == (op_id(1), 5, b'{"value":1}')
    two = read(b"d" + op_id(2).encode() + b"%016d" % 6)
    assert two is not None and (two.etag, two.hlc, two.body) == (op_id(2), 6, None)
    for other in (b"", b"x", b"d", b"d" + b"0" * 37, b"d" + b"x" * 38):
        assert read(other) is None, other
    assert once([two, one, None, two]) == (two, one)


def test_what_was_written_between_two_answers_is_not_told_twice():
    entries = [read(b"d" + op_id(n).encode() + b"%016d" % n) for n in (4, 3, 2, 1)]
    kept = once(entries)
    assert before(op_id(5), kept) == kept and before(None, kept) == kept
    assert [each.etag for each in before(op_id(3), kept)] == [op_id(2), op_id(1)]


def test_a_version_compares_by_what_it_is():
    assert Version("a", 1, 2.0) == Version("a", 1, 2.0) != Version("b", 1, 2.0)
