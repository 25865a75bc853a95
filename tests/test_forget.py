"""Forgetting: what was erased is nowhere any more, and nothing that was away brings it back (T57)."""

import asyncio
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from remanence import (
    AsyncMemory,
    AsyncMemoryClient,
    ConversationMemory,
    IWorkingMemory,
    Memory,
    MemoryArchitecture,
    MemoryClient,
    RedisWorkingMemoryManager,
)
from remanence.errors import InvalidArgument, InvalidKey, Unavailable
from remanence.model import Erased, Put
from remanence.runtime.blocking import BlockingRuntime, run
from remanence.search.bodies import smaller
from remanence.stores.clock import StoreClock
from remanence.stores.dating import Dating
from remanence.stores.rows import Lineage, Row
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import QUICK, Child, eventually
from remanence.testing.servers import Server
from remanence.wire.keys import tag

Fresh = Callable[..., Server]
Answered = Callable[..., tuple[int, Any, str]]
SECRET = "a-secret-that-must-not-be-anywhere-9182736455"


def open_memory(server: Server, namespace: str, path: Path, **options: Any) -> Memory:
    return Memory(url=server.url, namespace=namespace, path=path, **{**QUICK, **options})


def on_disk(*folders: Path) -> list[str]:
    """The files that hold the secret."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return [file.name for file in files if SECRET.encode() in file.read_bytes()]


def on_server(server: Server, namespace: str) -> list[bytes]:
    """The keys of a namespace whose names or values hold the secret."""
    read: dict[bytes, Callable[[Any, bytes], Any]] = {
        b"string": lambda client, key: client.get(key),
        b"list": lambda client, key: client.lrange(key, 0, -1),
        b"hash": lambda client, key: client.hgetall(key),
        b"stream": lambda client, key: client.xrange(key),
    }
    with closing(server.client()) as client:
        keys = client.keys(f"*{{{tag(namespace)}}}*")
        return [key for key in keys if SECRET in f"{key!r} {read[client.type(key)](client, key)!r}"]


def told_by(memory: Memory, name: str) -> Any:
    """What the server has, as soon as it is there."""
    return eventually(lambda: not isinstance(_asked(memory, name), Unavailable)) and _asked(memory, name)


def _asked(memory: Memory, name: str) -> Any:
    try:
        return memory.get(name, None)
    except Unavailable as error:
        return error


def confirmed(memory: Memory, told: Erased) -> bool:
    return bool(eventually(lambda: not memory.engine.erased(told.id).waiting, 5.0))


def test_t57_what_a_process_that_was_away_and_a_copy_of_its_journal_bring_has_no_effect(
    fresh_server: Fresh, namespace: str, tmp_path: Path
):
    server = fresh_server()
    here, away, copy = tmp_path / "here", tmp_path / "away", tmp_path / "copy"
    one, other = open_memory(server, namespace, here), open_memory(server, namespace, away)
    one.secret, one.kept, other.log = SECRET, "kept", [SECRET]
    assert one.log == [SECRET]
    assert other.secret == SECRET
    server.pause()  # so that it cannot send
    other.set("secret", SECRET + "!")
    other.log.append(SECRET)
    other.set("kept", "kept by the other")
    other.engine.close(0.0)
    server.resume()
    shutil.copytree(away, copy)
    assert eventually(lambda: told_by(one, "kept") == "kept" and one.engine.status().available)

    told = [one.forget("secret"), one.forget("log")]
    assert [each.state for each in told] == ["erased", "erased"]
    assert not on_disk(here)
    assert not on_server(server, namespace)
    assert one.engine.erased(told[0].id).waiting, "the journal that is away has it still"

    for folder in (away, copy):
        assert on_disk(folder)
        with open_memory(server, namespace, folder) as back:
            assert back.engine.flush(5.0)
            assert back.get("secret", None) is None
            assert back.get("log", None) is None
            assert eventually(lambda folder=folder: not on_disk(folder)), (on_disk(folder), back.engine.status())
            assert confirmed(back, told[1])
    assert one.kept == "kept by the other"
    assert not on_server(server, namespace)
    one.close()


def test_t57_a_living_process_that_was_cut_off_brings_nothing_back(server: Server, namespace: str, tmp_path: Path):
    with FaultProxy(server) as proxy, open_memory(server, namespace, tmp_path / "1") as one:
        # nobody waits for its writes, so that they are at hand when they are sent
        other = Memory(url=proxy.url, namespace=namespace, path=tmp_path / "2", ack="journal", **QUICK)
        other.x, other.log = "x", ["x"]
        assert other.engine.flush(5.0)
        proxy.half_open()
        other.x = SECRET
        other.log.append(SECRET)
        other.y = "kept"
        assert one.engine.forget("memory:x").state == "erased"
        assert one.forget("log").state == "erased"
        proxy.heal()
        assert eventually(lambda: one.get("y", None) == "kept")
        assert other.engine.flush(5.0)
        assert [memory.get(name, None) for memory in (one, other) for name in ("x", "log")] == [None] * 4
        assert eventually(lambda: not on_disk(tmp_path))
        other.log = ["new"]
        other.log.append("newer")
        assert other.engine.flush(5.0)
        assert one.log == ["new", "newer"]
        other.close()
    assert not on_server(server, namespace)


def test_what_had_no_effect_is_let_go_of_too(server: Server, namespace: str, tmp_path: Path):
    with open_memory(server, namespace, tmp_path) as memory:
        memory.x = "x"
        late = Put("memory:x", f'{{"value":"{SECRET}"}}'.encode(), base="another")
        assert run(memory.engine.gateway.write([late]))[0].state == "rejected"
        assert [each.key for each in memory.engine.conflicts()] == ["memory:x"]
        memory.forget("x")
        assert not memory.engine.conflicts()
        assert not on_disk(tmp_path)


def test_what_is_written_afterwards_stays(server: Server, namespace: str, tmp_path: Path):
    with open_memory(server, namespace, tmp_path) as memory:
        memory.x, memory.log = SECRET, [SECRET]
        memory.forget("x")
        memory.forget("log")
        memory.x, memory.log = "new", ["new"]
        memory.log.append("newer")
        assert (memory.x, memory.log) == ("new", ["new", "newer"])
    with open_memory(server, namespace, tmp_path / "other") as memory:
        assert (memory.x, memory.log) == ("new", ["new", "newer"])


def test_with_the_server_away_it_is_gone_here_at_once_and_there_when_it_is_back(
    fresh_server: Fresh, namespace: str, tmp_path: Path
):
    server = fresh_server()
    with open_memory(server, namespace, tmp_path) as memory:
        memory.x, memory.kept = SECRET, "kept"
        assert memory.x == SECRET
        server.pause()
        memory.x = SECRET + "2"
        told = memory.engine.forget("memory:x", deadline=0.5)
        assert told.state == "journalled"
        assert memory.get("x", "gone") == "gone"
        assert not on_disk(tmp_path)
        assert memory.engine.erased(told.id).state == "journalled"
        memory.w = SECRET
        memory.engine.forget("memory:w", deadline=0.1)
        memory.w = "written afterwards"
        server.resume()
        assert memory.engine.flush(5.0)
        assert memory.engine.erased(told.id).state == "erased"
        assert memory.get("x", "gone") == "gone"
        assert (memory.w, memory.kept) == ("written afterwards", "kept")
    assert not on_server(server, namespace)


def test_a_server_that_forgets_does_not_get_it_back(fresh_server: Fresh, namespace: str, tmp_path: Path):
    server = fresh_server()
    one, other = open_memory(server, namespace, tmp_path / "1"), open_memory(server, namespace, tmp_path / "2")
    with one, other:
        one.x, other.y, other.z = SECRET, SECRET, "kept"
        told = one.engine.forget("", beginning=True)
        other.z = "written afterwards"
        assert confirmed(one, told)
        server.kill()
        server.start()  # with nothing
        assert eventually(lambda: told_by(one, "z") == "written afterwards")
        assert one.engine.flush(5.0)
        assert other.engine.flush(5.0)
        assert (told_by(one, "x"), told_by(one, "y")) == (None, None)
    assert not on_server(server, namespace)
    assert not on_disk(tmp_path)


def test_a_mirror_and_its_copy_let_go(server: Server, namespace: str, tmp_path: Path):
    with (
        open_memory(server, namespace, tmp_path / "1") as writer,
        open_memory(server, namespace, tmp_path / "2", reads="mirror") as reader,
    ):
        writer.x, writer.y = SECRET, "kept"
        assert reader.x == SECRET
        gateway: Any = reader.engine.gateway
        assert eventually(lambda: gateway.mirror.caught_up)
        with gateway.mutex:
            gateway.mirror.file.keep_copy()
        assert any(name.endswith("-before") for name in on_disk(tmp_path / "2"))
        told = writer.forget("x")
        assert eventually(lambda: len(writer.engine.erased(told.id).confirmed) == 2)
        assert reader.get("x", None) is None
        assert eventually(lambda: reader.read("y").source != "store")
        assert not on_disk(tmp_path)


KILLED = """
import os, sys
from remanence import Memory
from remanence.stores import erasing

def killed(*_):
    os.kill(os.getpid(), 9)

memory = Memory(url=sys.argv[1], namespace=sys.argv[2], path=sys.argv[3])
memory.x = sys.argv[4]
setattr(erasing.Erasing if sys.argv[5] == "carry_out" else erasing, sys.argv[5], killed)
memory.forget("x")
"""


@pytest.mark.parametrize("at", ["carry_out", "note_seen"])
def test_a_process_that_is_killed_in_the_middle_leaves_it_to_the_next(
    server: Server, namespace: str, tmp_path: Path, at: str
):
    with Child(KILLED, server.url, namespace, tmp_path, SECRET, at) as child:
        code, _, complaints = child.end(20.0)
    assert code == -9, complaints
    with open_memory(server, namespace, tmp_path) as memory:
        assert eventually(lambda: memory.get("x", None) is None)
        assert memory.engine.flush(5.0)
        assert eventually(lambda: not on_disk(tmp_path))
    assert not on_server(server, namespace)


def test_a_conversation_a_session_and_a_memory_are_forgotten_through_their_faces(server: Server, namespace: str):
    options: Any = {"url": server.url, "namespace": namespace, **QUICK}
    shared, one, two = Memory(**options), ConversationMemory("1", **options), ConversationMemory("1:2", **options)
    client, manager = MemoryClient(**options), RedisWorkingMemoryManager(**options)
    one.x, two.x, shared.x = SECRET, "other", "shared"
    client.add("1", "user", SECRET)
    client.add("12", "user", "other")
    manager.store({"conversation_id": "1", "data": [IWorkingMemory(SECRET)]})
    assert on_server(server, namespace)
    told = [one.forget(), client.forget("1"), manager.forget({"conversation_id": "1"})]
    assert {each.state for each in told} == {"erased"}
    assert not on_server(server, namespace)
    assert (two.x, shared.x, client.count("12"), client.count("1")) == ("other", "shared", 1, 0)
    for face in (shared, one, two, client, manager):
        face.close()


def test_awaited(server: Server, namespace: str):
    async def scene() -> None:
        options: Any = {"url": server.url, "namespace": namespace, **QUICK}
        async with AsyncMemory(**options) as memory, AsyncMemoryClient(**options) as client:
            await memory.set("x", SECRET)
            await client.add("s", "user", SECRET)
            told = await memory.forget("x")
            assert (await memory.engine.erased(told.id)).state == "erased"
            assert (await client.forget("s")).state == "erased"
            assert (await memory.engine.forget("memory:", beginning=True)).state == "erased"

    asyncio.run(scene())
    assert not on_server(server, namespace)


def test_every_partition_lets_go(server: Server, namespace: str, tmp_path: Path):
    with open_memory(server, namespace, tmp_path, partitions=3) as memory:
        for i in range(20):
            memory.set(f"x{i}", SECRET)
        memory.set("y", "kept")
        told = memory.engine.forget("memory:x", beginning=True)
        assert told.state == "erased"
        assert confirmed(memory, told)
        assert memory.keys() == ["y"]
        assert memory.forget("y").state == "erased"
        with pytest.raises(InvalidArgument):
            memory.engine.erased("nothing")
    assert not on_server(server, namespace)
    assert not on_disk(tmp_path)


def test_a_journal_that_was_taken_over_and_deleted_is_not_waited_for(server: Server, namespace: str, tmp_path: Path):
    first = open_memory(server, namespace, tmp_path)
    second = open_memory(server, namespace, tmp_path, staleness=2.0)  # an engine, and so a journal, of its own
    first.x, second.y = 1, 2
    first.close()
    second.close()
    with open_memory(server, namespace, tmp_path, retain=0.1) as memory:
        memory.z = 3
        assert eventually(lambda: len(list(tmp_path.rglob("*.journal"))) == 1)
        told = memory.engine.forget("memory:x")
        assert eventually(lambda: not memory.engine.erased(told.id).waiting)
        assert len(memory.engine.erased(told.id).confirmed) == 1


def test_a_document_that_edits_are_made_to_is_not_kept_at_hand(server: Server, namespace: str, tmp_path: Path):
    with open_memory(server, namespace, tmp_path) as memory:
        memory.log = ["a"]
        memory.log.append("b")
        at_hand = memory.engine.gateway.drain._settling.documents  # type: ignore[attr-defined] # a resilient store's
        assert at_hand["memory:log"].body
        memory.engine.forget("memory:", beginning=True)
        assert "memory:log" not in at_hand


def test_a_slow_answer_about_the_time_lets_no_older_write_pass_as_newer():
    """The server told its time at some moment of half a second: a write made at its end may be no later than that."""
    runtime = BlockingRuntime()
    clock = StoreClock(runtime)
    told = int(runtime.wall() * 1e6)
    clock.hear(told, runtime.boottime() - 0.5)
    wall, boot = runtime.wall(), runtime.boottime()
    row = Row(1, "op", clock.tick(0, wall, boot), Put("k", b"{}"), wall, boot, 2)
    lineage = Lineage("l", 1, 1, boot_id=runtime.boot_id())
    assert Dating(clock, runtime).earliest(lineage, row) <= told + 50_000


def test_listeners_hear_of_each_key_that_one_erasure_took(server: Server, namespace: str, tmp_path: Path):
    with open_memory(server, namespace, tmp_path) as memory, memory.watch(timeout=2) as changes:
        for name in ("a", "b", "c"):
            memory.set(name, 1)
        memory.engine.forget("memory:", beginning=True)
        heard = {each.name for _, each in zip(range(6), changes, strict=False) if each.kind == "deleted"}
        assert heard == {"a", "b", "c"}


def test_an_erasure_of_everything_empties_the_index(server: Server, namespace: str, tmp_path: Path):
    options = {"url": server.url, "namespace": namespace}
    with (
        MemoryArchitecture(path=str(tmp_path / "1"), **options) as agent,
        MemoryArchitecture(path=str(tmp_path / "2"), **options) as other,
    ):
        for number in range(5):
            agent.save_episode(f"Secret task {number}", "Done", True, 1.0)
        assert eventually(lambda: other.get_stats()["episodic"] == 5)
        agent.engine.forget("", beginning=True)
        assert eventually(lambda: agent.get_stats()["episodic"] == other.get_stats()["episodic"] == 0)


def test_what_was_erased_is_in_no_free_page_of_an_index(tmp_path: Path):
    with MemoryArchitecture("sqlite", path=str(tmp_path)) as agent:
        saved = [agent.save_episode(f"Secret task {number}", "x" * 300, True, 1.0) for number in range(20)]
        bodies = run(
            agent.engine.library(agent.engine.settings).catalogue.bodies(
                [f"memory:episodic:{each.memory_id}" for each in saved]
            )
        )
    stored = [smaller(each.body) for each in bodies.values()]
    (file,) = tmp_path.glob("search/*.db")
    assert all(each in file.read_bytes() for each in stored)
    with MemoryArchitecture("sqlite", path=str(tmp_path)) as agent:
        agent.forget(memory_ids=[each.memory_id for each in saved])
    assert not any(each in file.read_bytes() for each in stored)


def test_near_reads_notice(server: Server, namespace: str, tmp_path: Path):
    with (
        open_memory(server, namespace, tmp_path / "1") as writer,
        open_memory(server, namespace, tmp_path / "2", reads="near") as reader,
    ):
        writer.x = SECRET
        assert eventually(lambda: reader.read("x").source == "near")
        writer.forget("x")
        assert eventually(lambda: reader.get("x", None) is None, 3.0)


@pytest.mark.parametrize("history", [0, 3])
def test_earlier_versions_go_too_whoever_kept_them(server: Server, namespace: str, tmp_path: Path, history: int):
    with (
        open_memory(server, namespace, tmp_path / "1", history=3) as keeper,
        open_memory(server, namespace, tmp_path / "2", history=history) as memory,
    ):
        for name in ("x", "deleted", "exact"):
            keeper.set(name, SECRET)
            keeper.set(name, "harmless")
        keeper.delete("deleted")
        assert len(on_server(server, namespace)) == 3
        assert memory.forget("exact").state == "erased"
        told = memory.engine.forget("memory:", beginning=True)
        assert confirmed(memory, told)
        assert not on_server(server, namespace)
        assert not on_disk(tmp_path)
        keeper.x = "new"
        assert [each.value for each in keeper.history("x")] == ["new"]


@pytest.mark.parametrize("backend", ["sqlite", "memory"])
def test_without_a_server(backend: str, tmp_path: Path):
    with Memory(backend=backend, path=tmp_path, history=2) as memory:
        memory.x = SECRET
        memory.x, memory.kept, memory.log = SECRET, "kept", [SECRET] * 300
        assert bool(on_disk(tmp_path)) is (backend == "sqlite")
        told = memory.engine.forget("memory:x")
        memory.forget("log")
        assert told == memory.engine.erased(told.id)
        assert (memory.get("x", None), memory.kept) == (None, "kept")
        assert not on_disk(tmp_path)
        memory.engine.forget(beginning=True)
        assert memory.keys() == []


def test_what_cannot_be_forgotten_is_refused(server: Server, tmp_path: Path):
    with open_memory(server, "", tmp_path) as memory:
        with pytest.raises(InvalidArgument, match="other programs"):
            memory.engine.forget("", beginning=True)
        with pytest.raises(InvalidArgument, match="which value"):
            memory.forget()
        for wrong in ("", 5, "\ud800", "x" * 600):
            with pytest.raises(InvalidKey):
                memory.engine.forget(wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="no erasure of this id"):
            memory.engine.erased("nothing")
        assert memory.engine.status().pending == 0


REPLICATING = "import sys; from remanence.cli import main; sys.exit(main(['replicate', *sys.argv[1:]]))"


def test_where_a_namespace_is_replicated_to_it_is_forgotten_as_well(
    fresh_server: Fresh, server: Server, namespace: str, tmp_path: Path
):
    far = fresh_server()
    with (
        open_memory(server, namespace, tmp_path / "1") as near,
        open_memory(far, namespace, tmp_path / "2", reads="mirror") as reader,
        Child(REPLICATING, server.url, far.url, "--namespace", namespace, "--merge"),
    ):
        near.x, near.log, near.kept = SECRET, [SECRET], "kept"
        assert eventually(lambda: reader.get("log", None) == [SECRET] and reader.get("x", None) == SECRET)
        near.forget("x")
        near.engine.forget("memory:l", beginning=True)
        assert eventually(lambda: (reader.get("x", None), reader.get("log", None)) == (None, None))
        assert eventually(lambda: not on_disk(tmp_path))
        near.x, near.log = "new", ["new"]
        assert eventually(lambda: reader.get("log", None) == ["new"])
        near.more = 1
        assert eventually(lambda: reader.get("more", None) == 1)
        assert reader.log == ["new"]
    assert not on_server(far, namespace)


# --- the command ------------------------------------------------------------------------------------


def test_the_command_erases_a_conversation_and_waits_for_the_others(
    answered: Answered, server: Server, namespace: str, tmp_path: Path
):
    options: Any = {"url": server.url, "namespace": namespace, "path": tmp_path, **QUICK}
    at = ("--url", server.url, "--namespace", namespace, "--json")
    with ConversationMemory("c", **options) as memory, MemoryClient(**options) as client:
        memory.x = SECRET
        client.add("c", "user", SECRET)
        code, told, _ = answered("forget", "--conversation", "c", "--yes", *at)
        assert code == 0
        assert len(told["receipts"]) == 5
        assert all(each["state"] == "erased" and not each["waiting"] for each in told["receipts"])
        assert (memory.get("x", None), client.count("c")) == (None, 0)
        code, again, _ = answered("forget", "--receipt", told["receipts"][0]["id"], *at)
        assert (code, again["receipts"][0]["id"]) == (0, told["receipts"][0]["id"])
    assert not on_disk(tmp_path)


@pytest.mark.parametrize("words", [(), ("--receipt", "x", "key"), ("", "--yes"), ("key",)])
def test_the_command_says_what_is_wrong(answered: Answered, words: tuple[str, ...]):
    code, _, complaint = answered("forget", *words, "--backend", "sqlite")
    assert code == 2
    assert "forget" in complaint
