"""Agents whose index is on the server: what one process saves, every process finds; a machine keeps nothing."""

import asyncio
import contextlib
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remanence import MemoryArchitecture, create_memory_adapter
from remanence.errors import Misconfigured, Missing, Rejected, Unavailable
from remanence.faces.agents import records, shared
from remanence.model import BEGINNING, RESYNC, Notice
from remanence.protocols import Fetch
from remanence.runtime.blocking import run
from remanence.search.types import Document
from remanence.testing.clusters import Cluster
from remanence.testing.oracle import eventually
from remanence.testing.servers import Server, available_servers
from remanence.wire.keys import Keyspace

NO_REDIS_8 = "no Redis 8 here: put one on PATH, or name its binary in REMANENCE_TEST_REDIS8"
TIMEOUT = 20.0
Opens = Callable[..., MemoryArchitecture]


@pytest.fixture(scope="module")
def redis8() -> Iterator[Server]:
    if "redis8" not in available_servers():
        pytest.skip(NO_REDIS_8)
    with Server("redis8") as server:
        yield server


@pytest.fixture
def opens(redis8: Server, namespace: str, tmp_path: Path) -> Iterator[Opens]:
    """Opens memories of one namespace, each as on a machine of its own."""
    with contextlib.ExitStack() as stack:

        def opened(agent_id: str = "a", **options: Any) -> MemoryArchitecture:
            told = {
                "url": redis8.url,
                "namespace": namespace,
                "index": "redis",
                "path": str(tmp_path / uuid.uuid4().hex),
            }
            return stack.enter_context(MemoryArchitecture(backend="redis", agent_id=agent_id, **{**told, **options}))

        yield opened


def names(found):
    return [each.skill_name for each in found]


def test_what_one_saves_the_other_finds_at_once(opens):
    one, other = opens("a"), opens("b")
    one.save_skill("open_door", "Open the door with a key", [], tags=["x"])
    assert names(other.search_skills("how do I open doors")) == ["open_door"]
    episode = one.save_episode("Bake bread", "It rose", True, 3.0)
    assert [each.memory_id for each in other.search_episodes("bread")] == [episode.memory_id]
    assert [each.memory_id for each in other.list_episodes()] == [episode.memory_id]
    assert other.get_stats()["episodic"] == 1
    assert other.search_all("bread")["episodic"][0].outcome == "It rose"
    assert "Bake bread" in other.get_enriched_context("bread")
    explained = one.search_skills("door", explain=True)[0]
    assert explained.score == pytest.approx(sum(explained.parts.values()))


def test_nothing_is_kept_on_this_machine(opens, tmp_path):
    memory = opens()
    memory.save_skill("open_door", "Open the door with a key", [])
    assert names(memory.search_skills("door"))
    assert not list(tmp_path.rglob("search/*"))


def test_another_process_finds_it(opens, redis8, namespace, tmp_path):
    program = (
        "import sys; from remanence import MemoryArchitecture\n"
        "with MemoryArchitecture(backend='redis', agent_id='there', url=sys.argv[1], namespace=sys.argv[2], "
        "index='redis', path=sys.argv[3]) as memory:\n"
        "    print([each.skill_name for each in memory.search_skills('door')])\n"
        "    memory.save_skill('close_window', 'Close the window', [])\n"
    )
    memory = opens()
    memory.save_skill("open_door", "Open the door with a key", [])
    words = [sys.executable, "-c", program, redis8.url, namespace, str(tmp_path / "there")]
    told = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout == "['open_door']\n"
    assert names(memory.search_skills("window", limit=1)) == ["close_window"]


def test_what_is_deleted_or_changed_is_found_so_by_all(opens):
    one, other = opens("a"), opens("b")
    bread = one.add_semantic("Bread needs salt", "baking", tags=["food"])
    door = one.add_semantic("Doors need keys", "house")
    one.update_semantic(bread.memory_id, pattern="Soup needs salt", tags=["kitchen"])
    assert [each.pattern for each in other.search_semantic("salt", tags=["kitchen"])] == ["Soup needs salt"]
    assert other.search_semantic("salt", tags=["food"]) == []
    other.delete_semantic(door.memory_id)
    assert [each.memory_id for each in one.search_semantic("keys")] == [bread.memory_id]
    one.forget(memory_ids=[bread.memory_id])
    assert other.search_semantic("salt") == []
    assert other.get_stats()["semantic"] == 0


def test_what_has_expired_is_not_found(opens):
    memory = opens()
    memory.save_episode("Bake bread", "It rose", True, 3.0, ttl=0.3)
    kept = memory.save_episode("Bake bread again", "It fell", False, 3.0)
    time.sleep(0.4)
    assert [each.memory_id for each in memory.search_episodes("bread")] == [kept.memory_id]
    assert memory.get_stats()["episodic"] == 1


@pytest.mark.parametrize("agent", ['a" or 1 == 1 or "', "x'y", "a\\", "] in [", "é🙂"])
def test_a_filter_means_the_agent_and_nothing_else(opens, agent):
    mine, other = opens(agent), opens("other")
    mine.save_skill("open_door", "Open the door", [], tags=[agent])
    other.save_skill("close_door", "Close the door", [])
    assert names(other.search_skills("door", agent_id=agent)) == ["open_door"]
    assert names(other.search_skills("door", tags=[agent])) == ["open_door"]
    assert other.search_skills("door", agent_id=agent + '"') == []


def test_what_was_there_before_the_index_is_found(opens):
    with contextlib.closing(opens(index="local")) as before:
        before.load({"type": "skill", "skill_name": f"skill_{n}", "description": f"number {n}"} for n in range(250))
    memory = opens()
    memory.search_skills("number")
    assert eventually(lambda: memory.get_stats()["indexed"])
    assert memory.get_stats()["skill"] == 250
    assert names(memory.search_skills("skill_77", limit=1)) == ["skill_77"]


class Vowels:
    """Another embedder."""

    name = "vowels"
    dimensions = 5

    def embed(self, texts):
        found = np.array([[text.lower().count(letter) for letter in "aeiou"] for text in texts], dtype=np.float32)
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        return found / np.where(lengths == 0, 1, lengths)


def test_after_a_change_of_embedder_all_is_found_again(opens):
    before = opens("a")
    for n in range(30):
        before.save_skill(f"skill_{n}", "open the door", [])
    after = opens("b", embedder=Vowels())
    assert eventually(lambda: len(after.search_skills("door", limit=50, mode="semantic")) == 30)
    assert len(before.search_skills("door", limit=50, mode="semantic")) == 30
    after.save_skill("another", "close the door", [])
    assert len(after.search_skills("door", limit=50, mode="semantic")) == 31


def test_what_is_erased_by_its_keys_is_out_of_the_index_too(opens):
    one, other = opens("a"), opens("b")
    for n in range(5):
        one.save_episode(f"Bake bread {n}", "It rose", True, 3.0)
    assert len(other.search_episodes("bread", limit=9)) == 5
    one.engine.forget("memory:", beginning=True)
    assert other.search_episodes("bread") == []  # each that is found and gone is taken out
    assert other.get_stats()["episodic"] == 0


def library_of(memory: MemoryArchitecture) -> Any:
    assert eventually(lambda: memory.get_stats()["indexed"])
    return memory.engine.library(memory.engine.settings)


@pytest.mark.parametrize("words", [("memory:skill:",), ("--prefix", "memory:s"), ("--all",), ("--subject", "bob")])
def test_the_command_leaves_nothing_in_the_index_though_nobody_hears_it(
    opens, redis8, namespace, answered, monkeypatch, words
):
    monkeypatch.setenv("REMANENCE_INDEX", "redis")
    with contextlib.closing(opens()) as memory:
        saved = memory.save_skill("open_door", "Open the door with a key", [], tags=["bob"])
        kept = memory.save_episode("Bake bread", "It rose", True, 3.0)
    named = [f"{word}{saved.memory_id}" if word.endswith(":") else word for word in words]
    answered("forget", *named, "--yes", "--wait", "0", "--json", "--url", redis8.url, "--namespace", namespace)
    left = [] if words == ("--all",) else [f"memory:episodic:{kept.memory_id}".encode()]
    with contextlib.closing(redis8.client()) as client:
        assert client.hkeys(Keyspace(namespace).index("entries")) == left
        sets = list(client.scan_iter(f"{Keyspace(namespace).index('vectors')}*"))
        assert [name.decode().rpartition(":")[2] for name in sets] == ["episodic"] * len(left)


def test_where_the_log_does_not_go_on_all_is_put_in_that_is_missing_and_what_is_gone_taken_out(opens):
    memory = opens()
    memory.save_skill("open_door", "Open the door with a key", [])
    catalogue = library_of(memory).catalogue
    lost, stale = catalogue.index.list()[0][0], "memory:skill:never"
    run(catalogue.filled("1-1/another's"))  # a place that the log does not have
    catalogue.index.remove([lost])
    catalogue.index.put([Document(id=stale, text="door", kind="skill")])
    opens("b").search_skills("door")
    assert eventually(lambda: catalogue.index.list() == ([lost], ""))
    assert run(catalogue.cursor()) not in (None, "1-1/another's")


def test_what_another_process_deleted_is_taken_out_by_who_hears_of_it(opens):
    one = opens()
    kept = one.add_semantic("Bread needs salt", "baking")
    with contextlib.closing(opens("b", index="local")) as other:  # which does not know of the index
        assert eventually(lambda: other.list_semantic().memories)
        assert eventually(lambda: one.get_stats()["indexed"])
        other.delete_semantic(kept.memory_id)
        assert eventually(lambda: one.get_stats()["semantic"] == 0)


@pytest.fixture
def soon(monkeypatch):
    """What is heard of is looked for at once."""
    monkeypatch.setattr(shared, "DOUBT", 0.2)


def held_back(memory: MemoryArchitecture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Has what this one does next reach the store, and the index only with the call that this returns."""
    catalogue, waiting = library_of(memory).catalogue, []
    take = catalogue.take

    async def later(entries, gone=(), over=None):
        waiting.append((entries, gone))
        return []

    def now() -> None:
        for entries, gone in waiting:
            run(take(entries, gone))

    monkeypatch.setattr(catalogue, "take", later)
    return now


def test_what_is_put_in_late_does_not_take_the_place_of_what_is_newer(opens, monkeypatch):
    one, other = opens("a"), opens("b")
    bread = one.add_semantic("Bread needs salt", "baking", tags=["first"])
    door = one.add_semantic("Doors need keys", "house")
    put_in = held_back(one, monkeypatch)
    one.update_semantic(bread.memory_id, tags=["second"])
    one.update_semantic(door.memory_id, pattern="Doors need handles")
    other.update_semantic(bread.memory_id, tags=["third"])
    other.delete_semantic(door.memory_id)
    put_in()
    assert other.search_semantic("bread", tags=["second"]) == []
    assert [each.memory_id for each in other.search_semantic("bread", tags=["third"])] == [bread.memory_id]
    assert library_of(one).catalogue.index.counts() == {"semantic": 1}


def test_what_is_taken_out_late_does_not_take_out_what_was_saved_anew(opens, monkeypatch):
    one, other = opens("a"), opens("b")
    one.save_skill("open_door", "Open the door with a key", [])
    take_out = held_back(one, monkeypatch)
    one.delete_skill("open_door")
    other.save_skill("open_door", "Open the door", [])
    take_out()
    assert names(other.search_skills("door")) == ["open_door"]


def test_who_cannot_read_the_store_takes_nothing_out(opens, monkeypatch):
    memory = opens()
    memory.save_skill("open_door", "Open the door with a key", [])
    library_of(memory)

    async def away(*asked, **options):
        raise Unavailable("the server cannot be reached")

    with monkeypatch.context() as patched:
        patched.setattr(type(memory.engine.gateway), "read", away)
        with pytest.raises(Unavailable):
            memory.search_skills("door")
        with pytest.raises(Unavailable):
            memory.list_skills()
        with pytest.raises(Unavailable):
            memory.forget(agent_id="a")
    assert names(memory.search_skills("door")) == ["open_door"]


def test_what_its_writer_did_not_put_in_others_do(opens, soon, monkeypatch):
    one, other = opens("a"), opens("b")
    library_of(other)
    held_back(one, monkeypatch)
    one.save_skill("open_door", "Open the door with a key", [])
    assert eventually(lambda: names(other.search_skills("door")) == ["open_door"])
    one.delete_skill("open_door")
    assert eventually(lambda: library_of(other).catalogue.index.counts() == {})
    with contextlib.closing(opens("c", index="local")) as local:
        local.add_semantic("Bread needs salt", "baking")
        local.update_semantic(local.add_semantic("Soup", "baking").memory_id, tags=["x"])
    assert eventually(lambda: [each.pattern for each in other.search_semantic("salt", tags=["x"])] == ["Soup"])
    assert len(other.search_semantic("salt")) == 2


def test_what_nobody_put_in_is_put_in_by_who_comes_next(opens, soon, monkeypatch):
    with contextlib.closing(opens("a")) as one:
        one.save_skill("open_door", "Open the door with a key", [])
        library_of(one)
    with contextlib.closing(opens("b", index="local")) as local:  # nobody hears it
        local.save_skill("close_window", "Close the window", [])
        local.delete_skill("open_door")
    other = opens("c")
    assert eventually(lambda: names(other.search_skills("window")) == ["close_window"])
    assert eventually(lambda: library_of(other).catalogue.index.counts() == {"skill": 1})


def test_how_far_the_log_was_heard_is_noted_where_nothing_is_said_of_memories(opens, soon, monkeypatch):
    monkeypatch.setattr(shared, "UPKEEP", 0.1)
    memory = opens()
    memory.save_skill("open_door", "Open the door with a key", [])
    catalogue = library_of(memory).catalogue
    for _ in range(3):
        before = run(catalogue.cursor())
        memory.add_step("look", "nothing")
        assert eventually(lambda before=before: run(catalogue.cursor()) != before)


def test_what_a_server_undid_is_put_in_as_it_is_then(opens):
    memory = opens()
    bread = memory.add_semantic("Bread needs salt", "baking", tags=["now"])
    library = library_of(memory)
    (key,) = library.catalogue.index.list()[0]
    library.catalogue.index.put([Document(id=key, text="Bread", kind="semantic", tags=("before",))])
    run(library.follower._handle([Notice(key, RESYNC, BEGINNING)]))
    assert eventually(
        lambda: [each.memory_id for each in memory.search_semantic("bread", tags=["now"])] == [bread.memory_id]
    )
    assert memory.search_semantic("bread", tags=["before"]) == []


def test_what_is_journalled_alone_is_found_by_all_when_it_was_sent(opens):
    one, other = opens("a", ack="journal"), opens("b")
    for n in range(20):
        one.save_skill(f"skill_{n}", "open the door", [])
        other.search_skills("door", limit=50)
    assert eventually(lambda: len(other.search_skills("door", limit=50)) == 20)


def test_whatever_several_do_at_once_the_index_comes_to_hold_what_the_store_has(opens, soon):
    def change(memory: MemoryArchitecture, seed: int) -> None:
        chance = random.Random(seed)
        for n in range(25):
            name = f"skill_{chance.randrange(4)}"
            with contextlib.suppress(Missing, Rejected):  # another was faster
                match chance.randrange(4):
                    case 0:
                        memory.delete_skill(name)
                    case 1:
                        memory.update_skill(name, tags=[f"{seed}-{n}"])
                    case 2:
                        memory.search_skills("door", tags=[f"{seed}-{n - 1}"])
                    case _:
                        memory.save_skill(name, f"Open the door {seed} {n}", [], tags=[f"{seed}-{n}"])

    memories = [opens("a"), opens("b"), opens("c", ack="journal")]
    with ThreadPoolExecutor() as pool:
        list(pool.map(change, memories, range(3)))
    assert all(memory.engine.flush(TIMEOUT) for memory in memories)
    catalogue, gateway = library_of(memories[0]).catalogue, memories[0].engine.gateway

    def same() -> bool:
        keys = [records.key_of("skill", records.skill_id(f"skill_{n}")) for n in range(4)]
        told = zip(keys, run(gateway.read([Fetch(key) for key in keys], fresh=True)), strict=True)
        stored = {key: each.value.etag for key, each in told if each.value is not None}
        return {id: each.version for id, each in catalogue.index._held(keys).items()} == stored

    assert eventually(same)


def test_loaded_again_a_skill_is_found_as_it_came_to_be(opens):
    memory = opens()
    told = {"type": "skill", "skill_name": "open_door", "description": "Open the door"}
    first = datetime(2020, 1, 1, tzinfo=UTC)
    memory.load([{**told, "created_at": first}])
    memory.load([{**told, "tags": ["new"]}])
    until = first + timedelta(days=1)
    assert names(memory.search_skills("door", tags=["new"], until=until)) == ["open_door"]


def test_who_only_notes_uses_embeds_nothing(opens):
    class Counts(Vowels):
        made = 0

        def embed(self, texts):
            self.made += len(texts)
            return super().embed(texts)

    memory = opens(embedder=Counts(), use_interval=60.0)
    saved = [memory.save_episode("open the door", f"number {n}", True, 1.0) for n in range(3)]
    library = library_of(memory)
    memory.get_many("episodic", [each.memory_id for each in saved])
    before = library.embedder.made
    run(library.uses.note_down(now=True))
    entries = library.catalogue.index
    assert eventually(lambda: [each.uses for each in entries._held(entries.list()[0]).values()] == [1, 1, 1])
    assert library.embedder.made == before


def test_what_was_saved_while_the_server_was_away_is_found_later(tmp_path, namespace):
    if "redis8" not in available_servers():
        pytest.skip(NO_REDIS_8)
    with Server("redis8") as server:
        told = {"url": server.url, "namespace": namespace, "index": "redis", "path": str(tmp_path), "deadline": 0.3}
        with MemoryArchitecture(backend="redis", agent_id="a", **told) as memory:
            memory.save_skill("open_door", "Open the door with a key", [])
            assert eventually(lambda: memory.get_stats()["indexed"])
            server.pause()
            memory.save_skill("close_window", "Close the window", [])
            server.resume()
            assert eventually(lambda: "close_window" in _tried(lambda: names(memory.search_skills("window"))))
            assert names(memory.search_skills("door", limit=1)) == ["open_door"]
            server.pause()
            memory.save_skill("shut_gate", "Shut the gate", [])
        server.resume()
        with MemoryArchitecture(backend="redis", agent_id="a", **told) as memory:  # which sends what was left
            assert eventually(lambda: "shut_gate" in _tried(lambda: names(memory.search_skills("gate"))))


def _tried(what: Callable[[], Any]) -> Any:
    try:
        return what()
    except ConnectionError:
        return []
    except Exception as error:
        if getattr(error, "retryable", False):
            return []
        raise


def test_what_a_server_forgot_and_got_again_is_found(tmp_path, namespace):
    if "redis8" not in available_servers():
        pytest.skip(NO_REDIS_8)
    with Server("redis8") as server:
        told = {"url": server.url, "namespace": namespace, "index": "redis", "path": str(tmp_path), "heartbeat": 0.1}
        with MemoryArchitecture(backend="redis", agent_id="a", **told) as memory:
            memory.save_skill("open_door", "Open the door with a key", [])
            server.restart_empty()
            assert eventually(lambda: "open_door" in _tried(lambda: names(memory.search_skills("door"))))


def test_uses_move_how_long_the_index_finds_it(opens):
    memory = opens(extend_on_use=True, episodic_ttl=3.0, use_interval=0.05)
    memory.save_episode("Bake bread", "It rose", True, 3.0, ttl=2.0)
    limit = time.monotonic() + 3.0
    while time.monotonic() < limit:
        assert memory.search_episodes("bread")
        time.sleep(0.05)


def test_others_hear_of_it_on_the_channel(opens, redis8, namespace):
    memory, client = opens("a"), redis8.client()
    listener = client.pubsub()
    memory.initialize()
    listener.psubscribe("*agent:memory:*")
    assert listener.get_message(timeout=5.0)["type"] == "psubscribe"
    memory.save_episode("Bake bread", "It rose", True, 3.0)
    heard = eventually(lambda: listener.get_message(timeout=0.1))
    assert b'"action": "add"' in heard["data"]
    listener.close()
    client.close()


def test_it_is_the_same_in_a_loop(redis8, namespace, tmp_path):
    async def both() -> None:
        told = {"url": redis8.url, "namespace": namespace, "index": "redis"}
        one = await create_memory_adapter("redis", agent_id="a", path=str(tmp_path / "1"), **told)
        other = await create_memory_adapter("redis", agent_id="b", path=str(tmp_path / "2"), **told)
        async with one, other:
            await asyncio.gather(*(one.save_skill(f"skill_{n}", f"number {n}", []) for n in range(20)))
            assert names(await other.search_skills("skill_7", limit=1)) == ["skill_7"]
            assert len(await other.list_skills()) == 20

    asyncio.run(both())


def test_messages_and_words_alone_are_not_in_it(opens):
    memory = opens()
    with pytest.raises(Misconfigured, match="REMANENCE_INDEX=local"):
        memory.search_messages("hello")
    with pytest.raises(Misconfigured, match="REMANENCE_INDEX=local"):
        memory.search_skills("door", mode="keyword")
    assert memory.search_all("door") == {"episodic": [], "semantic": [], "skills": []}


@pytest.mark.parametrize("kind", [kind for kind in available_servers() if kind != "redis8"])
def test_another_server_is_refused_before_anything_is_saved(kind, tmp_path):
    with (
        Server(kind) as server,
        MemoryArchitecture(backend="redis", url=server.url, index="redis", path=str(tmp_path)) as memory,
    ):
        for call in (memory.initialize, lambda: memory.save_skill("a", "b", []), lambda: memory.search_skills("a")):
            with pytest.raises(Misconfigured, match="Redis has from version 8 on"):
                call()


def test_it_needs_a_server(tmp_path):
    with (
        MemoryArchitecture(backend="sqlite", index="redis", path=str(tmp_path)) as memory,
        pytest.raises(Misconfigured, match="REDIS_URL"),
    ):
        memory.search_skills("door")


def test_a_cluster_keeps_it_in_parts(namespace, tmp_path):
    if "redis8" not in available_servers():
        pytest.skip(NO_REDIS_8)
    with Cluster("redis8", primaries=2) as cluster:
        told = {"url": cluster.url, "namespace": namespace, "index": "redis", "deadline": 5.0}
        with (
            MemoryArchitecture(backend="redis", agent_id="a", path=str(tmp_path / "1"), **told) as one,
            MemoryArchitecture(backend="redis", agent_id="b", path=str(tmp_path / "2"), **told) as other,
        ):
            one.load({"type": "skill", "skill_name": f"skill_{n}", "description": "what"} for n in range(40))
            assert names(other.search_skills("skill_7", limit=1)) == ["skill_7"]
            assert len(other.list_skills(limit=100)) == other.get_stats()["skill"] == 40
