"""How an index keeps up with what is written, by this process and by others, however much that is."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from remanence import MemoryArchitecture
from remanence.errors import Unavailable
from remanence.faces.agents import following
from remanence.faces.agents.following import Follower
from remanence.faces.agents.own import OwnWrites
from remanence.feed.subscription import QUEUE
from remanence.testing.clusters import Cluster
from remanence.testing.faults import FaultProxy
from remanence.testing.oracle import QUICK, eventually
from remanence.testing.servers import Server
from remanence.wire.keys import Keyspace

Make = Callable[..., MemoryArchitecture]
MANY = QUEUE + 200
"""More memories than notices that wait for a listener."""


def episodes(count: int) -> Iterator[dict[str, Any]]:
    for n in range(count):
        told = {"task_prompt": f"task {n}", "outcome": "done", "success": True, "duration_seconds": 1.0}
        yield {"type": "episodic", "memory_id": f"m{n}", **told}


def follower_of(agent: MemoryArchitecture) -> Follower:
    return agent.engine.library(agent.engine.settings).follower


def counted(agent: MemoryArchitecture, name: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The first argument, or None, of each call of a coroutine function of the agent's follower from now on."""
    follower, calls = follower_of(agent), []
    called = getattr(follower, name)

    async def count(*args: Any) -> Any:
        calls.append(args[0] if args else None)
        return await called(*args)

    monkeypatch.setattr(follower, name, count)
    return calls


def test_more_than_waits_for_a_listener_is_read_on_in_the_log(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Not all memories anew: there may be a hundred thousand of them."""
    reader, writer = make(), make("b", path=str(tmp_path / "other"), enable_pubsub=False)
    reader.get_stats()
    anew = counted(reader, "_read_all", monkeypatch)
    lost = counted(reader, "_lost_track", monkeypatch)
    with reader.engine.library(reader.engine.settings).catalogue.mutex:  # the follower is held up
        writer.load(episodes(MANY))
    assert eventually(lambda: reader.get_stats()["episodic"] == MANY, 30.0)
    assert lost and not anew


def test_where_the_log_is_cut_all_is_read(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    reader, writer = make(log_length=100), make("b", path=str(tmp_path / "other"), log_length=100, enable_pubsub=False)
    reader.save_skill("gone", "d", [])
    reader.get_stats()
    anew = counted(reader, "_read_all", monkeypatch)
    with reader.engine.library(reader.engine.settings).catalogue.mutex:
        writer.delete_skill("gone")
        writer.load(episodes(MANY))
    assert eventually(lambda: reader.get_stats()["episodic"] == MANY, 30.0)
    assert eventually(lambda: reader.get_stats()["skill"] == 0)  # one type is read after the other
    assert 1 <= len(anew) <= 3
    writer.save_skill("later", "d", [])
    assert eventually(lambda: reader.get_stats()["skill"] == 1)


def test_what_a_process_wrote_itself_is_not_read_again(make: Make, monkeypatch: pytest.MonkeyPatch):
    """Also where the log tells of it before its writer knows what it wrote."""
    expect = OwnWrites.expect
    monkeypatch.setattr(OwnWrites, "expect", lambda *told: (time.sleep(0.001), expect(*told)))
    monkeypatch.setattr(following, "WRITING", 30.0)  # on a busy machine the load takes long
    agent = make()
    agent.get_stats()
    asked = counted(agent, "_asked", monkeypatch)
    agent.load(episodes(200))
    agent.save_episode("one", "more", True, 1.0)
    agent.update_episode("m1", importance=0.9)
    agent.delete_episode("m2")
    assert eventually(lambda: not follower_of(agent)._catalogue.own._expected)
    assert agent.get_stats()["episodic"] == 200
    assert not asked


def test_what_a_process_wrote_twice_is_not_read_because_of_the_first(make: Make, monkeypatch: pytest.MonkeyPatch):
    """The log tells of that later than the index has the second."""
    agent = make()
    agent.get_stats()
    handle, follower = Follower._handle, follower_of(agent)
    asked = counted(agent, "_asked", monkeypatch)

    async def slowly(follower: Follower, notices: Any) -> None:
        for each in notices:
            await handle(follower, [each])

    monkeypatch.setattr(Follower, "_handle", slowly)
    with agent.engine.library(agent.engine.settings).catalogue.mutex:  # the follower is held up
        agent.save_skill("s", "d", [])
        for n in range(20):
            agent.update_skill("s", description=f"d{n}")
    assert eventually(lambda: not follower._catalogue.own._expected)
    assert agent.search_skills("d19", mode="keyword") and not asked


def test_a_write_that_hangs_holds_up_nobody(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    agent, other = make(), make("b", path=str(tmp_path / "other"))
    agent.get_stats()
    library = agent.engine.library(agent.engine.settings)
    with library.catalogue.own.writing(["memory:skill:never", "memory:episodic:m0"]):
        other.load(episodes(3))
        assert eventually(lambda: agent.get_stats()["episodic"] == 3, following.WRITING * 8)


# --- what must not be missed -------------------------------------------------------------------------


def test_an_erasure_waits_until_all_that_there_is_is_known(make: Make, tmp_path: Path):
    reader, writer = make(deadline=0.5), make("b", path=str(tmp_path / "other"), enable_pubsub=False)
    reader.get_stats()
    mutex = reader.engine.library(reader.engine.settings).catalogue.mutex
    with ThreadPoolExecutor() as pool:
        with mutex:
            writer.load(episodes(3))
            told = pool.submit(reader.forget, agent_id="b")
            time.sleep(1.0)  # longer than a deadline
        assert len(told.result()) == 6  # with its steps, its session, and the notes of its patterns
    assert writer.get_many("episodic", ["m0", "m1", "m2"]) == {}


def test_who_cannot_know_what_there_is_erases_nothing(make: Make, any_server: Server):
    with FaultProxy(any_server) as proxy:
        agent = make(url=proxy.url, **QUICK)
        saved = agent.save_episode("p", "o", True, 1.0, tags=["bob"])
        agent.get_stats()
        proxy.refuse()
        proxy.reset_all()
        for whom in ({"agent_id": "a"}, {"subject": "bob"}):
            with pytest.raises(Unavailable, match="nothing was erased"):
                agent.forget(**whom)
        assert {each.state for each in agent.forget(memory_ids=[saved.memory_id])} == {"journalled"}
        proxy.accept()


# --- who is told ----------------------------------------------------------------------------------


def messages(pubsub: Any, count: int, timeout: float = 10.0) -> list[dict[str, Any]]:
    """What a plain subscriber hears; that no more than `count` come."""
    found: list[dict[str, Any]] = []
    limit = time.monotonic() + timeout
    while len(found) < count and time.monotonic() < limit:
        if (each := pubsub.get_message(ignore_subscribe_messages=True, timeout=0.1)) is not None:
            found.append(json.loads(each["data"]))
    assert pubsub.get_message(ignore_subscribe_messages=True, timeout=0.3) is None
    return found


@pytest.mark.parametrize(("late", "patience"), [(0.0, 0.25), (0.02, 0.25), (0.02, 0.0)])
def test_the_channel_tells_each_applied_change_once(
    make: Make, any_server: Server, namespace: str, late: float, patience: float, monkeypatch: pytest.MonkeyPatch
):
    """Also where the log tells of a write before its writer has its answer."""
    monkeypatch.setattr(following, "WRITING", patience)
    expect = OwnWrites.expect
    monkeypatch.setattr(OwnWrites, "expect", lambda *told: (time.sleep(late), expect(*told)))
    with any_server.client() as plain, closing(plain.pubsub()) as pubsub, FaultProxy(any_server) as proxy:
        pubsub.subscribe(*(Keyspace(namespace).data(f"agent:memory:{kind}") for kind in ("episodic", "skill")))
        agent = make("one", url=proxy.url, **QUICK)
        make("one", url=proxy.url, **QUICK).get_stats()  # another of the same process and agent
        quiet = make("quiet", enable_pubsub=False, url=any_server.url)
        saved = [agent.save_episode(f"memory {n}", "o", True, 1.0) for n in range(20)]
        agent.delete_episode(saved[0].memory_id)
        quiet.save_episode("quiet", "o", True, 1.0)
        told = messages(pubsub, 21)
        wanted = [("add", each.memory_id) for each in saved] + [("delete", saved[0].memory_id)]
        assert sorted((each["action"], each["memory_id"]) for each in told) == sorted(wanted)
        assert {(each["type"], each["agent_id"]) for each in told} == {("episodic", "one")}
        proxy.refuse()
        proxy.reset_all()
        agent.save_skill("later", "d", [])
        assert messages(pubsub, 0) == [], "what is journalled is not applied"
        proxy.accept()
        assert [each["type"] for each in messages(pubsub, 1)] == ["skill"]


@pytest.mark.slow
def test_the_channel_of_a_cluster():
    with Cluster() as cluster, MemoryArchitecture(agent_id="one", url=cluster.url, namespace="n") as agent:
        agent.get_stats()
        with closing(cluster.client()) as plain, closing(plain.pubsub()) as pubsub:
            pubsub.ssubscribe(Keyspace("n", tagged=True).data("agent:memory:semantic"))
            saved = agent.add_semantic("k")

            def heard() -> Any:
                return pubsub.get_sharded_message(ignore_subscribe_messages=True, timeout=0.1)

            found = eventually(heard)
            assert json.loads(found["data"])["memory_id"] == saved.memory_id
