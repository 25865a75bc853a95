"""What an agent remembers: every verb and every field, on every backend, without `await` and with it."""

import asyncio
import inspect
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from remanence import MemoryArchitecture, RedisMemoryAdapter, create_memory_adapter
from remanence.errors import InvalidArgument, InvalidSetting, Missing
from remanence.testing.servers import Server, available_servers

Make = Callable[..., Any]

PLACES = [
    *((kind, api) for kind, api in zip(available_servers(), ("blocking", "asyncio", "blocking"), strict=False)),
    ("sqlite", "blocking"),
    ("sqlite", "asyncio"),
    ("memory", "blocking"),
    ("memory", "asyncio"),
]


class Awaited:
    """An adapter whose verbs are awaited on a loop of their own thread, for a test that does not await."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: dict[str, Any]) -> None:
        self._loop = loop
        self._adapter = self._run(create_memory_adapter(**options))

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._adapter, name)
        if not inspect.iscoroutinefunction(found):
            return found
        return lambda *args, **named: self._run(found(*args, **named))


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever, daemon=True)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join(10)
    made.close()


@pytest.fixture(params=PLACES, ids="-".join)
def make(
    request: pytest.FixtureRequest, loop: asyncio.AbstractEventLoop, _shared_servers: dict[str, Server], namespace: str
) -> Iterator[Make]:
    """Makes agents at a place of the test's own, closed after it."""
    kind, api = request.param
    there: dict[str, Any] = {"backend": kind, "namespace": namespace}
    if kind in available_servers():
        if kind not in _shared_servers:
            _shared_servers[kind] = Server(kind, unix_socket=True).start()
        there = {"url": _shared_servers[kind].url, "namespace": namespace}
    made: list[Any] = []

    def build(agent_id: str = "agent_001", **options: Any) -> Any:
        given = {**there, "agent_id": agent_id, **options}
        made.append(MemoryArchitecture(**given) if api == "blocking" else Awaited(loop, given))
        return made[-1]

    build.keeps = kind != "memory"  # type: ignore[attr-defined]
    yield build
    for each in made:
        each.close()


def ids(memories: Any) -> list[str]:
    return [each.memory_id for each in memories]


# --- fields ---------------------------------------------------------------------------------------


def test_an_episode_has_what_was_said_of_it_and_what_led_to_it(make: Make):
    agent = make(session_id="task")
    agent.add_step("search_web", "Found 10 results", "asked for", ["search", {"name": "fetch", "args": {"n": 1}}])
    agent.add_step("extract", "nothing", tool_calls=[{"function": {"name": "parse"}}], success=False, error="no table")
    before = datetime.now(UTC)
    saved = agent.save_episode("Research X", "Done", True, 5.2, "t-1", ["web", "research", "web"], 0.8)
    assert (saved.task_prompt, saved.outcome, saved.success, saved.duration_seconds) == (
        "Research X",
        "Done",
        True,
        5.2,
    )
    assert (saved.task_id, saved.tags, saved.importance) == ("t-1", ["web", "research"], 0.8)
    assert [step.action for step in saved.steps] == ["search_web", "extract"]
    assert saved.tools_used == ["search", "fetch", "parse"] and saved.error_messages == ["no table"]
    assert 0 < saved.compressed_tokens <= saved.original_tokens
    assert (saved.agent_id, saved.session_id, saved.source, saved.trust) == ("agent_001", "task", "", 1.0)
    assert before - timedelta(seconds=1) < saved.created_at == saved.last_accessed < before + timedelta(seconds=5)
    assert saved.access_count == 0 and not saved.pinned and saved.merged_into is None
    assert saved.expires_at is not None and saved.expires_at - saved.created_at == timedelta(days=30)
    assert agent.get_episode(saved.memory_id) == saved
    assert agent.search_episodes("research") == [saved] == agent.list_episodes().memories


def test_a_step_has_what_was_said_of_it(make: Make):
    agent = make()
    step = agent.add_step("a", "o", "r", [{"name": "t", "args": [1, None, "é"]}], False, "e")
    assert (step.step_number, step.action, step.observation, step.reasoning) == (1, "a", "o", "r")
    assert (step.tool_calls, step.success, step.error) == ([{"name": "t", "args": [1, None, "é"]}], False, "e")
    assert abs(step.timestamp - datetime.now(UTC)) < timedelta(seconds=5)
    second = agent.add_step("b", "p")
    assert (second.step_number, second.reasoning, second.tool_calls) == (2, "", [])
    assert (second.success, second.error) == (True, None)
    assert agent.get_recent_steps() == [step, second] and agent.get_recent_steps(1) == [second]
    assert agent.get_recent_steps(0) == []
    assert "FAILED a" in agent.get_context() and "b" in agent.get_context(1)


def test_knowledge_has_what_was_said_of_it(make: Make):
    agent = make()
    source = agent.save_episode("p", "o", True, 1.0)
    saved = agent.add_semantic("Tables need headers", "web", ["x", "x"], 0.7, [source.memory_id, "gone"], ["t"], 0.9)
    assert (saved.pattern, saved.context, saved.examples) == ("Tables need headers", "web", ["x", "x"])
    assert (saved.confidence, saved.times_validated, saved.importance, saved.tags) == (0.7, 0, 0.9, ["t"])
    assert saved.source_episodes == [source.memory_id, "gone"]
    assert saved.expires_at is not None and saved.expires_at - saved.created_at == timedelta(days=90)
    assert agent.get_semantic(saved.memory_id) == saved
    assert agent.search_semantic("headers") == [saved] == agent.list_semantic().memories
    assert ids(agent.get_source_episodes(saved.memory_id)) == [source.memory_id]
    assert agent.get_source_episodes("none") == []


def test_a_skill_has_what_was_said_of_it_and_how_it_went(make: Make):
    agent = make()
    how = [{"action": "search_web", "params": {"query": "{{query}}", "n": [1, 2.5, None]}}, "extract"]
    saved = agent.save_skill("web_research", "Search the web", how, ["online"], ["facts"], ["research"], 0.6)
    assert (saved.skill_name, saved.description, saved.action_sequence) == ("web_research", "Search the web", how)
    assert (saved.preconditions, saved.postconditions, saved.tags) == (["online"], ["facts"], ["research"])
    assert (saved.success_rate, saved.times_executed, saved.average_duration) == (0.0, 0, 0.0)
    assert saved.importance == 0.6 and saved.expires_at - saved.created_at == timedelta(days=180)
    for success, duration in ((True, 5.0), (False, 1), (True, 0.0)):
        told = agent.record_skill_execution("web_research", success, duration)
    assert told == agent.get_skill("web_research")
    assert (told.times_executed, told.times_succeeded, told.average_duration) == (3, 2, 2.0)
    assert told.success_rate == pytest.approx(2 / 3) and told.action_sequence == how
    assert ids(agent.search_skills("web")) == ids(agent.list_skills()) == [saved.memory_id]
    assert agent.get_skill("another") is None


def test_a_skill_that_is_saved_again_goes_on_counting(make: Make):
    agent = make()
    first = agent.save_skill("s", "old words", ["a"], ["p"], tags=["one"], importance=0.9)
    agent.record_skill_execution("s", True, 2.0)
    agent.pin(first.memory_id)
    again = make("agent_002").save_skill("s", "new words", ["b"])
    assert (again.times_executed, again.success_rate, again.average_duration) == (1, 1.0, 2.0)
    assert (again.description, again.action_sequence, again.preconditions, again.tags) == ("new words", ["b"], [], [])
    assert (again.importance, again.agent_id, again.created_at) == (0.5, "agent_002", first.created_at)
    assert again.pinned and again.expires_at is None and again.memory_id == first.memory_id
    assert agent.search_skills("new", mode="keyword") == [again] and agent.search_skills("old", mode="keyword") == []


def test_where_a_memory_comes_from(make: Make):
    agent = make("scout", session_id="s-1")
    episode = agent.save_episode("p", "o", True, 1.0, source="mail", trust=0.25)
    semantic = agent.add_semantic("k", source="user", trust=0)
    skill = agent.save_skill("s", "d", [], source="file", trust=1)
    for each, source, trust in ((episode, "mail", 0.25), (semantic, "user", 0.0), (skill, "file", 1.0)):
        assert (each.agent_id, each.session_id, each.source, each.trust) == ("scout", "s-1", source, trust)
    assert agent.get_episode(episode.memory_id) == episode and agent.get_semantic(semantic.memory_id) == semantic
    with pytest.raises(InvalidArgument, match="sauce"):
        agent.save_episode("p", "o", True, 1.0, sauce="x")


# --- finding --------------------------------------------------------------------------------------


def test_every_type_is_found_in_one_search(make: Make):
    agent = make()
    assert agent.search_all("scraping") == {"episodic": [], "semantic": [], "skills": []}
    episode = agent.save_episode("web scraping", "done", True, 1.0)
    semantic = agent.add_semantic("scraping needs patience")
    skill = agent.save_skill("scrape", "scraping of pages", [])
    found = agent.search_all("scraping", 2)
    assert found == {"episodic": [episode], "semantic": [semantic], "skills": [skill]}
    told = agent.search_all("scraping", explain=True, messages=True)
    assert told["messages"] == [] and [each.memory for each in told["episodic"]] == [episode]
    (hit,) = told["semantic"]
    assert hit.parts and hit.score == pytest.approx(sum(hit.parts.values()))
    context = agent.get_enriched_context("scraping")
    for each in (episode, semantic, skill):
        assert each.memory_id in context
    lines = agent.tell_context("scraping").lines
    assert {line.source for line in lines} == {episode.memory_id, semantic.memory_id, skill.memory_id}


def test_a_search_admits_what_it_was_asked_for(make: Make):
    one, other = make("one", session_id="s1"), make("other", session_id="s2")
    good = one.save_episode("deploy the service", "worked", True, 1.0, tags=["a", "b"], importance=0.9)
    bad = other.save_episode("deploy the service", "failed", False, 1.0, tags=["a"], trust=0.2)
    later = datetime.now(UTC)
    assert set(ids(one.search_episodes("deploy"))) == {good.memory_id, bad.memory_id}
    for wanted in (
        {"success_only": True},
        {"tags": ["b", "a"]},
        {"include_linked_sessions": False},
        {"agent_id": "one"},
        {"importance": 0.6},
        {"trust": 0.5},
        {"until": good.created_at},
        {"limit": 1, "success_only": True, "mode": "keyword"},
    ):
        assert ids(one.search_episodes("deploy", **wanted)) == [good.memory_id], wanted
    assert ids(one.search_episodes("deploy", since=bad.created_at)) == [bad.memory_id]
    assert one.search_episodes("deploy", since=later) == []
    assert len(one.search_episodes("deploy", limit=1)) == 1
    assert ids(other.search_episodes("service", include_linked_sessions=False)) == [bad.memory_id]
    assert one.search_semantic("deploy") == [] == one.search_skills("deploy")


@pytest.mark.parametrize(
    "query", ['"', "AND OR NOT", "a* NEAR(b", "{col}: x", "😀", "текст 文", "", " ", "\ud800", "x " * 20_000]
)
def test_any_text_is_a_query(query: str, namespace: str):
    with MemoryArchitecture(backend="memory", namespace=namespace) as agent:
        agent.save_episode("a text", "x", True, 1.0)
        for mode in ("fused", "keyword", "semantic"):
            assert len(agent.search_episodes(query, mode=mode)) <= 1
        assert set(agent.search_all(query)) == {"episodic", "semantic", "skills"}
        agent.get_enriched_context(query)


def test_lists_are_newest_first_a_page_at_a_time(make: Make):
    agent, other = make(session_id="mine"), make("other")
    made = [agent.add_semantic(f"k{n}", importance=n / 10, tags=[f"t{n % 2}"]) for n in range(7)]
    newest = ids(reversed(made))
    page = agent.list_semantic(limit=3)
    found = ids(page)
    assert len(page) == 3 and page.after
    other.add_semantic("newer than the page")
    agent.delete_semantic(newest[4])
    while page.after:
        page = agent.list_semantic(limit=3, after=page.after)
        found += ids(page)
    assert found == newest[:4] + newest[5:]
    left = newest[:4] + newest[5:]
    assert ids(agent.list_semantic(agent_id="agent_001", session_id="mine")) == left
    assert ids(agent.list_semantic(tags=["t1"])) == [each.memory_id for each in reversed(made) if each.tags == ["t1"]]
    assert ids(agent.list_semantic(importance=0.45, agent_id="agent_001")) == [newest[0], newest[1]]
    assert ids(agent.list_semantic(since=made[5].created_at, until=made[5].created_at)) == [made[5].memory_id]
    assert ids(agent.list_semantic(agent_id="nobody")) == [] == ids(agent.list_episodes()) == ids(agent.list_skills())


# --- changing -------------------------------------------------------------------------------------


def test_each_part_can_be_changed(make: Make):
    agent = make()
    episode = agent.save_episode("p", "o", True, 1.0)
    parts: dict[str, Any] = {"task_prompt": "weather", "outcome": "sun", "success": False, "duration_seconds": 2}
    parts |= {"task_id": "t", "tags": ["x"], "importance": 1, "trust": 0.5, "source": "me"}
    for name, value in parts.items():
        assert getattr(agent.update_episode(episode.memory_id, **{name: value}), name) == value, name
    changed = agent.get_episode(episode.memory_id)
    assert {name: getattr(changed, name) for name in parts} == parts and changed.updated_at > episode.updated_at
    assert (changed.created_at, changed.expires_at) == (episode.created_at, episode.expires_at)
    assert agent.search_episodes("weather", mode="keyword", trust=0.5, tags=["x"]) == [changed]
    assert agent.search_episodes("weather", success_only=True) == [] == agent.search_episodes("weather", trust=0.6)

    semantic = agent.add_semantic("k")
    parts = {"pattern": "tides", "context": "sea", "examples": ["e"], "confidence": 0.9, "source_episodes": ["1"]}
    changed = agent.update_semantic(semantic.memory_id, **parts)
    assert {name: getattr(changed, name) for name in parts} == parts
    assert agent.search_semantic("tides", mode="keyword") == [changed] == agent.list_semantic().memories

    agent.save_skill("s", "d", [])
    parts = {"description": "ships", "action_sequence": [{"a": [1]}], "preconditions": ["c"], "postconditions": ["d"]}
    changed = agent.update_skill("s", **parts)
    assert {name: getattr(changed, name) for name in parts} == parts
    assert agent.search_skills("ships", mode="keyword") == [changed]


def test_validations_are_counted(make: Make):
    agent = make()
    known = agent.add_semantic("k", confidence=0.4)
    assert agent.validate_semantic(known.memory_id).times_validated == 1
    told = make("other").validate_semantic(known.memory_id, 0.8)
    assert (told.times_validated, told.confidence) == (2, 0.8)
    assert agent.get_semantic(known.memory_id) == told


def test_what_is_deleted_is_found_nowhere(make: Make):
    agent = make()
    episode, semantic = agent.save_episode("gone", "o", True, 1.0), agent.add_semantic("gone")
    skill = agent.save_skill("gone", "d", [])
    agent.record_skill_execution("gone", True, 1.0)
    assert [agent.get_stats()[kind] for kind in ("episodic", "semantic", "skill")] == [1, 1, 1]
    for _ in range(2):
        agent.delete_episode(episode.memory_id)
        agent.delete_semantic(semantic.memory_id)
        agent.delete_skill("gone")
    assert [agent.get_stats()[kind] for kind in ("episodic", "semantic", "skill")] == [0, 0, 0]
    assert agent.search_all("gone") == {"episodic": [], "semantic": [], "skills": []}
    assert [len(each()) for each in (agent.list_episodes, agent.list_semantic, agent.list_skills)] == [0, 0, 0]
    assert agent.get_episode(episode.memory_id) is agent.get_semantic(semantic.memory_id) is None
    assert agent.get_skill("gone") is None
    assert agent.save_skill("gone", "d", []).times_executed == 0 and ids(agent.list_skills()) == [skill.memory_id]


def test_what_is_not_there_is_missing(make: Make):
    agent = make()
    for call in (
        lambda: agent.update_episode("none", outcome="x"),
        lambda: agent.update_semantic("none", pattern="x"),
        lambda: agent.update_skill("none", description="x"),
        lambda: agent.validate_semantic("none"),
        lambda: agent.record_skill_execution("none", True, 1.0),
        lambda: agent.pin("none"),
        lambda: agent.unpin("none"),
    ):
        with pytest.raises(Missing):
            call()
    assert (len(agent.list_episodes()), len(agent.list_semantic()), len(agent.list_skills())) == (0, 0, 0)


def test_numbers_of_a_memory(make: Make):
    agent = make(session_id="here")
    agent.add_step("a", "o")
    agent.save_episode("p", "o", True, 1.0)
    told = agent.get_stats()
    assert json.loads(json.dumps(told)) == told
    wanted = {"agent_id": "agent_001", "session_id": "here", "sessions": 1, "working_steps": 1, "episodic": 1}
    wanted |= {"semantic": 0, "skill": 0, "messages": 0, "available": True, "pending": 0, "indexed": True}
    assert told == wanted


# --- both ways ------------------------------------------------------------------------------------


def test_blocking_and_asyncio_have_the_same_verbs():
    verbs = {
        name
        for name, each in inspect.getmembers(RedisMemoryAdapter, inspect.isfunction)
        if not name.startswith("_") and name not in ("close", "aclose", "leave", "keys_to_forget", "loadable")
    }
    assert len(verbs) >= 34
    for verb in sorted(verbs):
        blocking, awaited = (
            list(inspect.signature(getattr(kind, verb)).parameters.values())
            for kind in (MemoryArchitecture, RedisMemoryAdapter)
        )
        assert blocking == awaited, verb
    assert inspect.signature(MemoryArchitecture) == inspect.signature(RedisMemoryAdapter)
    arguments = list(inspect.signature(create_memory_adapter).parameters.values())
    assert arguments == list(inspect.signature(RedisMemoryAdapter).parameters.values())


def test_a_place_is_named_once():
    for backend in ("sqlite", "memory"):
        with pytest.raises(InvalidSetting, match="leave them out"):
            MemoryArchitecture(backend=backend, redis_host="localhost")
    with pytest.raises(InvalidSetting, match="backend"):
        MemoryArchitecture(backend="postgres")
