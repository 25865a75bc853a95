"""An agent's sessions, what outlives a restart, how long memories live, and counting by many at once."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from remanence import MemoryArchitecture, RedisMemoryAdapter, create_memory_adapter
from remanence.errors import InvalidArgument, InvalidKey, InvalidTTL, Missing
from remanence.faces.agents.types import TYPES
from remanence.testing.clusters import Cluster
from remanence.testing.oracle import Child, child, eventually
from remanence.testing.servers import Server, available_servers

Make = Callable[..., MemoryArchitecture]
SWIFT: dict[str, Any] = {"use_interval": 0.05}


@pytest.fixture(params=[*available_servers(), "sqlite"])
def place(request: pytest.FixtureRequest, _shared_servers: dict[str, Server], namespace: str) -> dict[str, Any]:
    """Where memories outlive a process."""
    if request.param == "sqlite":
        return {"backend": "sqlite", "namespace": namespace}
    if request.param not in _shared_servers:
        _shared_servers[request.param] = Server(request.param, unix_socket=True).start()
    return {"url": _shared_servers[request.param].url, "namespace": namespace}


@pytest.fixture
def make(place: dict[str, Any]) -> Iterator[Make]:
    made: list[MemoryArchitecture] = []

    def build(agent_id: str = "a", **options: Any) -> MemoryArchitecture:
        made.append(MemoryArchitecture(agent_id=agent_id, **{**place, **options}))
        return made[-1]

    yield build
    for each in made:
        each.close()


def actions(steps: Any) -> list[str]:
    return [step.action for step in steps]


# --- a restart ------------------------------------------------------------------------------------


def test_every_field_outlives_a_restart(make: Make):
    with make(session_id="s") as agent:
        agent.add_step("a", "o", "r", [{"name": "t"}], False, "e")
        episode = agent.save_episode("p", "o", True, 1.5, "t", ["x"], 0.9, source="src", trust=0.5)
        semantic = agent.add_semantic("k", "c", ["e"], 0.7, [episode.memory_id], ["y"], 0.2)
        semantic = agent.validate_semantic(semantic.memory_id)
        agent.save_skill("s", "d", [{"a": [1, None, "é"]}], ["b"], ["c"], ["z"], 0.3)
        skill = agent.record_skill_execution("s", True, 0.25)
        agent.add_step("later", "o")
    again = make(session_id="s")
    assert again.get_episode(episode.memory_id) == episode and episode.steps[0].error == "e"
    assert again.get_semantic(semantic.memory_id) == semantic and again.get_skill("s") == skill
    assert again.search_episodes("p") == [episode] and again.search_semantic("k") == [semantic]
    assert again.search_skills("s") == [skill] and again.list_skills().memories == [skill]
    assert actions(again.get_recent_steps()) == ["a", "later"]
    assert "later" in again.get_context()


def test_a_session_goes_on_after_a_restart(make: Make):
    with make(session_id="s") as agent:
        agent.add_step("one", "o")
        agent.save_episode("p", "o", True, 1.0)
        agent.add_step("two", "o")
        agent.rotate_session("s2")
        agent.add_step("three", "o")
    again = make(session_id="s2", working_capacity=3)
    four = again.add_step("four", "o")
    assert four.step_number == 4 and actions(again.get_recent_steps()) == ["two", "three", "four"]
    assert again.get_session_history() == ["s", "s2"]
    assert actions(again.save_episode("q", "o", True, 1.0).steps) == ["two", "three", "four"]
    again.add_step("five", "o")
    assert actions(again.save_episode("q", "o", True, 1.0).steps) == ["five"]
    assert again.save_episode("q", "o", True, 1.0).steps == []
    assert make("another", session_id="s2").get_recent_steps() == [], "steps are an agent's own"


# --- sessions -------------------------------------------------------------------------------------


def test_sessions_are_a_chain(make: Make):
    agent = make()
    agent.add_step("before", "o")
    first = agent.session_id
    second = agent.rotate_session()
    assert second == agent.session_id != first and agent.rotate_session("third") == "third"
    assert agent.get_session_history() == [first, second, "third"]
    assert actions(agent.get_recent_steps()) == ["before"] and agent.get_stats()["sessions"] == 3
    assert agent.save_episode("p", "o", True, 1.0).session_id == "third"
    other = make("b", session_id=second)
    assert other.get_session_history() == [first, second]
    assert other.rotate_session("third") == "third" and other.get_session_history() == [first, second, "third"]
    for wrong, error in (("third", InvalidArgument), ("", InvalidKey), ("x" * 497, InvalidKey), (5, InvalidKey)):
        with pytest.raises(error):
            other.rotate_session(wrong)
    assert other.add_step("a", "o") in other.get_recent_steps() and other.session_id == "third"


def test_what_was_done_at_once_is_in_one_session(make: Make, place: dict[str, Any]):
    """Threads and tasks that make the first call together number their steps one after the other."""
    make(session_id="s").add_step("first", "o")
    agent = make(session_id="s", agent_id="a", use_interval=9.0)
    gate = threading.Barrier(6)

    def step(n: int) -> None:
        gate.wait(10)
        for m in range(5):
            agent.add_step(f"{n}-{m}", "o")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(step, range(6)))
    assert sorted(step.step_number for step in agent.get_recent_steps(50)) == list(range(1, 32))

    async def together() -> None:
        async with RedisMemoryAdapter(agent_id="a", session_id="s", **place) as adapter:
            made = await asyncio.gather(*(adapter.add_step(f"t{n}", "o") for n in range(5)))
            assert sorted(step.step_number for step in made) == list(range(32, 37))
            assert await adapter.get_session_history() == ["s"]
        async with RedisMemoryAdapter(agent_id="a", **place) as adapter:
            await asyncio.gather(*(adapter.add_step(f"t{n}", "o") for n in range(5)))
            assert len(await adapter.get_recent_steps()) == 5

    asyncio.run(together())


# --- how long -------------------------------------------------------------------------------------


def saved(agent: MemoryArchitecture, kind: str, name: str = "memory", **origin: Any) -> Any:
    if kind == "episodic":
        return agent.save_episode(name, "o", True, 1.0, **origin)
    return agent.add_semantic(name, **origin) if kind == "semantic" else agent.save_skill(name, "memory", [], **origin)


def found(agent: MemoryArchitecture, kind: str) -> tuple[int, int, int]:
    """How many a search, a list and the numbers tell of."""
    name = {"episodic": "episodes", "skill": "skills"}.get(kind, kind)
    searched, listed = getattr(agent, f"search_{name}")("memory"), getattr(agent, f"list_{name}")()
    return len(searched), len(listed), agent.get_stats()[kind]


@pytest.mark.parametrize("kind", TYPES)
def test_what_expired_is_found_nowhere(make: Make, kind: str):
    agent, other = make(**{f"{kind}_ttl": 0.5}), make("b", use_interval=9.0)
    memory = saved(agent, kind)
    assert memory.expires_at - memory.created_at == timedelta(seconds=0.5)
    lasting = saved(agent, kind, "lasting memory", ttl=None)
    longer = saved(agent, kind, "another memory", ttl=timedelta(hours=1))
    assert lasting.expires_at is None and longer.expires_at - longer.created_at == timedelta(hours=1)
    assert min(found(agent, kind)) >= 2, "on a slow machine one may have expired by now"
    assert eventually(lambda: min(found(other, kind)) >= 2)
    time.sleep(max(0.0, 0.6 - (datetime.now(UTC) - memory.created_at).total_seconds()))
    assert other.get_stats()[kind] == 2, "before a search has missed it"
    assert found(agent, kind) == (2, 2, 2) == found(other, kind)
    assert agent.find(kind, memory.memory_id) is None
    if kind == "episodic":
        with pytest.raises(Missing):
            agent.update_episode(memory.memory_id, outcome="x")


def test_steps_live_for_their_time(make: Make):
    agent = make(session_id="s", working_ttl=0.3)
    agent.add_step("a", "o")
    assert len(agent.get_recent_steps()) == 1
    time.sleep(0.4)
    assert agent.get_recent_steps() == []


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), True, "1", 1e12])
def test_a_wrong_lifetime_stores_nothing(ttl: Any):
    with MemoryArchitecture(backend="memory") as agent:
        for kind in TYPES:
            with pytest.raises(InvalidTTL):
                saved(agent, kind, ttl=ttl)
            assert found(agent, kind) == (0, 0, 0)


def test_a_pinned_memory_stays(make: Make):
    agent = make(episodic_ttl=0.5)
    memory, other = saved(agent, "episodic"), saved(agent, "episodic")
    pinned = agent.pin(memory.memory_id)
    assert pinned.pinned and pinned.expires_at is None and agent.pin(memory.memory_id).pinned
    time.sleep(0.6)
    assert agent.get_episode(memory.memory_id).pinned and agent.get_episode(other.memory_id) is None
    assert found(agent, "episodic") == (1, 1, 1)
    loose = agent.unpin(memory.memory_id)
    assert not loose.pinned and loose.expires_at is not None
    time.sleep(0.6)
    assert found(agent, "episodic") == (0, 0, 0)


def test_every_type_can_be_pinned(make: Make):
    agent = make()
    for kind in TYPES:
        memory = saved(agent, kind)
        assert agent.pin(memory.memory_id) == agent.find(kind, memory.memory_id)
        assert agent.find(kind, memory.memory_id).expires_at is None


def test_uses_are_counted(make: Make):
    agent = make(**SWIFT)
    memory = saved(agent, "episodic")
    agent.search_episodes("memory")
    agent.get_episode(memory.memory_id)
    agent.get_enriched_context("memory")
    assert eventually(lambda: agent.list_episodes().memories[0].access_count == 3)
    now = agent.list_episodes().memories[0]
    assert now.last_accessed > memory.last_accessed and now.updated_at == memory.updated_at
    assert now.expires_at == memory.expires_at


def test_use_extends_a_life_where_the_setting_says_so(make: Make):
    agent = make(extend_on_use=True, episodic_ttl=3.0, **SWIFT)
    used, unused = saved(agent, "episodic"), saved(agent, "episodic")
    pinned, lasting = saved(agent, "episodic"), saved(agent, "episodic", ttl=None)
    longer = saved(agent, "episodic", ttl=3600.0)
    agent.pin(pinned.memory_id)
    started = time.monotonic()
    while time.monotonic() - started < 3.6:
        for each in (used, pinned, lasting, longer):
            assert agent.get_episode(each.memory_id) is not None
        time.sleep(0.2)
    left = {each.memory_id: each.expires_at for each in agent.list_episodes()}
    assert left.pop(used.memory_id) > used.expires_at  # type: ignore[operator]
    assert left == {pinned.memory_id: None, lasting.memory_id: None, longer.memory_id: longer.expires_at}
    assert agent.get_episode(unused.memory_id) is None


# --- counting -------------------------------------------------------------------------------------

COUNTING = """
import json, sys, threading
from remanence import MemoryArchitecture
name, options, times = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
with MemoryArchitecture(agent_id=name, **options) as agent:
    def count():
        for n in range(times):
            agent.record_skill_execution("s", n % 4 != 0, 0.001)
            if n % 10 == 9:
                agent.save_skill("s", f"by {name}", [name, n])
    print("ready", flush=True)
    input()
    threads = [threading.Thread(target=count) for _ in range(3)]
    [each.start() for each in threads]
    [each.join() for each in threads]
    assert agent.engine.flush(30)
print("done")
"""


def test_counts_are_exact_however_many_count(make: Make, place: dict[str, Any]):
    agent = make()
    created = agent.save_skill("s", "d", []).created_at
    processes = [Child(COUNTING, name, json.dumps(place), 20) for name in ("one", "two")]
    try:
        assert [each.line() for each in processes] == ["ready", "ready"]
        for each in processes:
            each.say()
        for _ in range(20):
            agent.record_skill_execution("s", True, 0.001)
        assert [each.end() for each in processes] == [(0, "done\n", "")] * 2
    finally:
        for each in processes:
            each.__exit__()
    told = agent.get_skill("s")
    assert told is not None and told.created_at == created
    assert (told.times_executed, told.times_succeeded) == (140, 110) and told.total_microseconds == 140_000
    assert told.description in ("by one", "by two") and len(agent.list_skills()) == 1


# --- a cluster ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_on_a_cluster():
    """Memories lie on several servers; the index, the steps and the counts are one."""
    with Cluster() as cluster:
        there: dict[str, Any] = {"url": cluster.url, "namespace": "n"}
        with MemoryArchitecture(agent_id="a", session_id="s", **there) as agent:
            agent.add_step("one", "o")
            episodes = [agent.save_episode(f"memory {n}", "o", True, 1.0) for n in range(12)]
            assert actions(agent.get_episode(episodes[0].memory_id).steps) == ["one"]
            agent.save_skill("s", "memory", [])
            for _ in range(3):
                agent.record_skill_execution("s", True, 1.0)
            agent.delete_episode(episodes[0].memory_id)
            assert found(agent, "episodic") == (5, 11, 11)
            out = child(
                "from remanence import MemoryArchitecture\n"
                f"with MemoryArchitecture(agent_id='b', session_id='s', **{there!r}) as b:\n"
                "    print(len(b.list_episodes()), b.get_skill('s').times_executed, b.get_session_history())\n",
            )
            assert out == "11 3 ['s']\n"

        async def awaited() -> None:
            async with await create_memory_adapter(agent_id="a", session_id="s", **there) as adapter:
                assert actions(await adapter.get_recent_steps()) == ["one"]
                assert len(await adapter.search_episodes("memory", limit=50)) == 11
                await adapter.rotate_session("s2")
                assert await adapter.get_session_history() == ["s", "s2"]

        asyncio.run(awaited())
