"""What agents are handed and what stores hold: bad input, records of others, messages, and who is told of what."""

import enum
import logging
import math
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from remanence import MemoryArchitecture, MemoryClient
from remanence.errors import CorruptRecord, UsageError, WrongKind
from remanence.events import IndexFailed, MemoryHeard, RecordSkipped
from remanence.faces.agents.tending.audit import Checks
from remanence.faces.agents.tending.policy import Policy
from remanence.search.types import Favour
from remanence.testing.oracle import Heard, child, eventually
from remanence.testing.servers import Server
from remanence.wire.codec import pack
from remanence.wire.keys import Keyspace

Make = Callable[..., MemoryArchitecture]
LARGE = "x" * (2 << 20)


@pytest.fixture
def there(any_server: Server, namespace: str) -> dict[str, Any]:
    return {"url": any_server.url, "namespace": namespace}


# --- what is handed in ----------------------------------------------------------------------------

NO_TEXT: list[Any] = [None, 5, b"x", ["x"], "\ud800", LARGE]
NO_TEXTS: list[Any] = ["x", 5, [5], [None], {"x": 1}, ["\ud800"], [LARGE]]
NO_SHARE: list[Any] = [None, "1", True, math.nan, math.inf, -0.1, 1.1, 10**400, "\ud800", [1]]
NO_SECONDS: list[Any] = [None, "1", True, math.nan, math.inf, -1, 1e300, 10**400, "\ud800"]
NO_JSON: list[Any] = [None, "x", 5, [object()], [math.nan], [{1: 2}], ["\ud800"], [{"a": b"x"}], [LARGE]]
NO_TRUTH: list[Any] = [None, 1, "yes", [], "\ud800"]
NO_NAME: list[Any] = [*NO_TEXT, ""]
DEEP: list[Any] = []
DEEP.append(DEEP)

ARGUMENTS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "add_step": (
        {"action": "a", "observation": "o"},
        {"action": NO_TEXT, "observation": NO_TEXT, "reasoning": NO_TEXT, "tool_calls": NO_JSON[1:]}
        | {"success": NO_TRUTH, "error": NO_TEXT[1:]},
    ),
    "save_episode": (
        {"task_prompt": "p", "outcome": "o", "success": True, "duration_seconds": 1.0},
        {"task_prompt": NO_TEXT, "outcome": NO_TEXT, "success": NO_TRUTH, "duration_seconds": NO_SECONDS}
        | {"task_id": NO_TEXT[1:], "tags": NO_TEXTS, "importance": NO_SHARE, "trust": NO_SHARE, "source": NO_TEXT},
    ),
    "add_semantic": (
        {"pattern": "p"},
        {"pattern": NO_TEXT, "context": NO_TEXT, "examples": NO_TEXTS, "confidence": NO_SHARE}
        | {"source_episodes": NO_TEXTS, "tags": NO_TEXTS, "importance": NO_SHARE},
    ),
    "save_skill": (
        {"skill_name": "other", "description": "d", "action_sequence": []},
        {"skill_name": NO_NAME, "description": NO_TEXT, "action_sequence": NO_JSON, "preconditions": NO_TEXTS}
        | {"postconditions": NO_TEXTS, "tags": NO_TEXTS, "importance": NO_SHARE},
    ),
    "record_skill_execution": (
        {"skill_name": "known", "success": True, "duration": 1.0},
        {"skill_name": NO_NAME, "success": NO_TRUTH, "duration": NO_SECONDS},
    ),
    "update_skill": (
        {},
        {"description": NO_TEXT, "action_sequence": NO_JSON, "tags": NO_TEXTS, "importance": NO_SHARE},
    ),
    "search_episodes": (
        {"query": "q"},
        {"query": NO_TEXT[:4], "limit": [0, -1, "5", 1.5, None], "mode": ["x", None, 5, "\ud800"], "tags": NO_TEXTS[:4]}
        | {"since": ["2026", 5, datetime(2026, 1, 1)], "importance": NO_SHARE[1:], "trust": NO_SHARE[1:]}  # noqa: DTZ001
        | {"agent_id": [5, b"x", ["a"]], "favour": [None, {"use": 1}, "\ud800", Favour(use="1")]},  # type: ignore[arg-type]
    ),
    "list_skills": (
        {},
        {"limit": [0, -1, 1001, True, "5", None], "after": [None, 5, b"x", "x", "\ud800"]}
        | {"session_id": [5, b"x"], "tags": NO_TEXTS[:4], "nothing": [1], "success": [*NO_TRUTH[1:], DEEP]},
    ),
    "search_messages": ({"query": "q"}, {"query": NO_TEXT[:4], "limit": [0, "5"], "session_id": [5, b"x"]}),
    "load": ({}, {"memories": [None, 5, [5], ["x"], [{}], [{"type": ["skill"]}], [{"type": "x"}], {"type": "skill"}]}),
    "get_recent_steps": ({}, {"n": [-1, True, 1.5, "1", None]}),
    "get_context": ({}, {"detailed_steps": [-1, "1", None], "budget": [-1, "1", True]}),
    "get_episode": ({}, {"memory_id": NO_NAME}),
    "pin": ({}, {"memory_id": NO_NAME}),
    "unmerge": ({}, {"memory_id": NO_NAME}),
    "consolidate_now": ({}, {"policy": [1, "x", Checks()], "progress": [1, "x"], "reword": [1, "x"]}),
    "extract_patterns": ({}, {"min_episodes": [None, "3", 1], "policy": [1, "x"], "reword": [1, "x"]}),
    "audit": ({}, {"checks": [1, "x", Policy()], "progress": [1, "x"]}),
    "rotate_session": ({}, {"new_session_id": NO_NAME[1:]}),
}


@pytest.mark.parametrize("verb", ARGUMENTS)
def test_what_cannot_be_is_refused_and_leaves_nothing(verb: str):
    """With an error of the caller's family that does not repeat what was given."""
    good, bad = ARGUMENTS[verb]
    with MemoryArchitecture(backend="memory") as agent:
        agent.save_skill("known", "d", [])
        before = agent.get_stats(), agent.get_skill("known")
        for name, values in bad.items():
            for value in values:
                given = {**good, name: value}
                first = ("known",) if verb == "update_skill" else ()
                with pytest.raises(UsageError) as refusal:
                    getattr(agent, verb)(*first, **given)
                assert len(str(refusal.value)) < 400 and "\ud800" not in str(refusal.value), (name, value)
        assert (agent.get_stats(), agent.get_skill("known")) == before
        assert agent.add_step("a", "o").step_number == 1


@pytest.mark.parametrize("kind", [5, None, ["skill"], {"skill": 1}, "\ud800", "message"])
def test_what_is_no_type_is_not_watched(kind: Any):
    with MemoryArchitecture(backend="memory") as agent, pytest.raises(UsageError, match="one of episodic"):
        agent.watch(kind)


class Outcome(enum.StrEnum):
    WELL = "went well"


def test_texts_of_a_class_of_the_callers_own_are_texts(make: Make):
    agent = make()
    agent.add_step(Outcome.WELL, "o", tool_calls=[Outcome.WELL], error=Named("e"))
    saved = agent.save_episode(Named("p"), Outcome.WELL, True, 1.0, tags=[Outcome.WELL, Named("t")])
    known = agent.add_semantic(Named("k"), examples=[Named("e")], source=Named("s"))
    agent.save_skill(Named("n"), Named("d"), [Outcome.WELL])
    agent.load([{"type": "semantic", "memory_id": "m", "pattern": Named("k")}])
    assert agent.get_episode(saved.memory_id) == saved
    assert agent.get_semantic(known.memory_id) == known
    assert [each.pattern for each in agent.search_semantic("k")] == ["k", "k"]
    assert agent.get_skill("n") is not None


class Named(str):
    """A text that prints as something else."""

    def __str__(self) -> str:
        return "another"


def test_parts_that_nobody_may_change():
    with MemoryArchitecture(backend="memory") as agent:
        saved = agent.save_episode("p", "o", True, 1.0)
        for wrong in (
            {},
            {"memory_id": "x"},
            {"steps": []},
            {"created_at": "x"},
            {"x": 1},
            {"outcome": "x", "pinned": 1},
        ):
            with pytest.raises(UsageError, match="what can be changed is"):
                agent.update_episode(saved.memory_id, **wrong)
        assert agent.get_episode(saved.memory_id) == saved


SIGNS = "a:b a#b a#000000001 * ?[x] {tag} working episodic é 😀 %"
HOSTILE = [*SIGNS.split(), "a\nb", "\0", "' OR 1=1"]


@pytest.mark.parametrize("name", HOSTILE)
def test_ids_with_signs_of_their_own_are_just_ids(make: Make, name: str):
    other = make("a", session_id="s")
    agent = make(name, session_id=name)
    other.add_step("other's", "o")
    agent.add_step("mine", "o")
    agent.save_skill(name, "d", [], tags=[name], source=name)
    agent.record_skill_execution(name, True, 1.0)
    other.save_skill("other", "d", [], tags=["t"])
    assert [step.action for step in agent.get_recent_steps()] == ["mine"]
    assert [step.action for step in other.get_recent_steps()] == ["other's"]
    assert agent.get_session_history() == [name]
    for wanted in ({"agent_id": name}, {"tags": [name]}, {"session_id": name}):
        assert [each.skill_name for each in agent.list_skills(**wanted)] == [name]
    assert [each.skill_name for each in agent.search_skills("d", tags=[name], agent_id=name)] == [name]
    told = agent.get_skill(name)
    assert told is not None and told.times_executed == 1 and told.source == name
    assert agent.get_episode(name) is None
    agent.delete_skill(name)
    assert [each.skill_name for each in other.list_skills()] == ["other"]


def test_steps_too_large_together_for_one_memory_do_not_keep_an_episode_from_being_saved():
    with MemoryArchitecture(backend="memory") as agent:
        for n in range(6):
            agent.add_step(f"s{n}", "x" * 200_000)
        saved = agent.save_episode("p", "o", True, 1.0)
        assert [step.action for step in saved.steps] == ["s4", "s5"]
        agent.add_step("next", "o")
        assert [step.action for step in agent.save_episode("p", "o", True, 1.0).steps] == ["next"]


# --- what others left -----------------------------------------------------------------------------


def foreign(**parts: Any) -> bytes:
    """A record of an episode that another program wrote."""
    when = "2026-01-01T00:00:00+00:00"
    told = {"type": "episodic", "memory_id": "bad", "created_at": when, "updated_at": when, "last_accessed": when}
    told |= {"task_prompt": "memory", "outcome": "o", "success": True, "duration_seconds": 1.0}
    return pack({**told, **parts})


CORRUPT = {
    "pickle": b"\x00\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94K\x01s.",
    "json": b'{"task_prompt": "memory"}',
    "empty": b"",
    "cut short": foreign()[:-9],
    "no zlib": b"\x01abc",
    "another type": foreign(type="semantic"),
    "another's id": foreign(memory_id="other"),
    "no id": foreign(memory_id=""),
    "counts past every file's": foreign(access_count=1 << 63),
    "time without zone": foreign(created_at="0001-01-01T00:00:00"),
    "importance": foreign(importance=7.0),
    "a list": [1],
}


@pytest.mark.parametrize("name", CORRUPT)
def test_what_others_left_is_told_of_and_keeps_nobody_from_the_rest(
    make: Make, any_server: Server, namespace: str, name: str
):
    agent = make()
    good = agent.save_episode("memory", "o", True, 1.0)
    keys = Keyspace(namespace)
    with any_server.client() as plain:
        body: Any = CORRUPT[name]
        if isinstance(body, list):
            plain.rpush(keys.data("memory:episodic:bad"), b"x")
        else:
            plain.set(keys.data("memory:episodic:bad"), body)
        plain.set(keys.data("memory:episodic:").encode() + b"\xff", foreign())  # and a key that is no text
        plain.rpush(keys.data("session:").encode() + b"\xff", b"{}")
    with pytest.raises(WrongKind if isinstance(body, list) else CorruptRecord, match="bad"):
        agent.get_episode("bad")
    late = make("late", durability="volatile")  # reads all anew
    heard = Heard(late.engine)
    assert late.search_episodes("memory") == [good] == late.list_episodes().memories
    assert late.get_stats()["episodic"] == 1 and late.get_stats()["indexed"]
    assert not heard.of(IndexFailed)
    assert eventually(lambda: "memory:episodic:bad" in {each.key for each in heard.of(RecordSkipped)})
    another = agent.save_episode("memory", "two", True, 1.0)
    assert eventually(lambda: len(late.search_episodes("memory")) == 2), "the index goes on"
    agent.delete_episode("bad")
    assert agent.get_episode("bad") is None and agent.get_episode(another.memory_id) == another


def test_a_record_that_is_damaged_while_it_is_known(make: Make, any_server: Server, namespace: str):
    agent = make()
    heard = Heard(agent.engine)
    good, bad = agent.save_episode("memory", "o", True, 1.0), agent.save_episode("memory", "o", True, 1.0)
    wrong = agent.save_episode("memory", "o", True, 1.0)
    with any_server.client() as plain:
        plain.set(Keyspace(namespace).data(f"memory:episodic:{bad.memory_id}"), b"\x00\x80")
        plain.delete(Keyspace(namespace).data(f"memory:episodic:{wrong.memory_id}"))
        plain.sadd(Keyspace(namespace).data(f"memory:episodic:{wrong.memory_id}"), b"x")
    assert agent.list_episodes().memories == [good]
    assert agent.search_episodes("memory") == [good]
    told = {each.key.rpartition(":")[2] for each in heard.of(RecordSkipped)}
    assert told == {bad.memory_id, wrong.memory_id}


def test_a_step_that_is_none_is_skipped(make: Make, any_server: Server, namespace: str):
    agent = make(session_id="s")
    heard = Heard(agent.engine)
    agent.add_step("a", "o")
    with any_server.client() as plain:
        plain.rpush(Keyspace(namespace).data("agent:a:working:s"), b"\x80", b"[]", b'{"action": 5}')
    agent.add_step("b", "o")
    assert [step.action for step in agent.get_recent_steps()] == ["a", "b"]
    assert len(heard.of(RecordSkipped)) == 3


# --- messages -------------------------------------------------------------------------------------


def test_messages_are_found_as_soon_as_they_are_added(make: Make, there: dict[str, Any]):
    agent = make()
    assert agent.search_messages("tea") == []
    add = (
        "import sys\nfrom remanence import MemoryClient\n"
        f"with MemoryClient(**{there!r}) as client:\n"
        "    client.add('s', 'user', 'Do you like green tea?', metadata={'speaker': 'Ada'})\n"
        "    client.add('s', 'assistant', 'I prefer coffee')\n"
    )
    child(add)
    (found,) = agent.search_messages("tea", mode="keyword")
    assert (found.session_id, found.position, found.role, found.content) == ("s", 0, "user", "Do you like green tea?")
    assert found.metadata == {"speaker": "Ada"} and found.timestamp and found.memory_id
    assert agent.search_messages("tea", session_id="other") == []
    with MemoryClient(**there) as client:
        for n in range(30):
            client.add("s", "user", f"word{n}")
            assert [each.position for each in agent.search_messages(f"word{n}", mode="keyword")] == [n + 2]
    assert [each.memory.position for each in agent.search_messages("coffee", 1, explain=True)] == [1]
    assert agent.search_all("coffee", 1, messages=True)["messages"][0].position == 1
    assert "prefer coffee" in agent.get_enriched_context("coffee", messages=True)
    assert agent.get_stats()["messages"] == 32


def test_sessions_that_end_and_begin_again(make: Make, there: dict[str, Any]):
    agent = make()
    with MemoryClient(**there) as client, MemoryClient(session_ttl=0.4, **there) as short:
        client.add("cleared", "user", "old apples")
        client.add("again", "user", "old pears")
        client.add("again", "user", "old plums")
        short.add("short", "user", "short figs")
        for word in ("apples", "pears", "figs"):
            assert len(agent.search_messages(word, mode="keyword")) == 1
        client.clear("cleared")
        client.clear("again")
        client.add("again", "user", "new pears")
        assert agent.search_messages("apples plums", mode="keyword") == []
        assert [each.content for each in agent.search_messages("pears", mode="keyword")] == ["new pears"]
        time.sleep(0.5)
        assert agent.search_messages("figs", mode="keyword") == []


def test_a_session_is_not_mistaken_for_another(make: Make, there: dict[str, Any]):
    """Whatever follows in its id, be it a sign that we use."""
    agent = make()
    with MemoryClient(**there) as client:
        ids = ["a#b", "a", "a#000000000", "a#1", "a:episodes", "a\0#"]
        for n in range(3):
            for each in ids:
                client.add(each, "user", f"figs {n}")
        found = agent.search_messages("figs", 50, mode="keyword")
        assert {(each.session_id, each.position) for each in found} == {(each, n) for each in ids for n in range(3)}
        client.clear("a")
        found = agent.search_messages("figs", 50, mode="keyword")
        assert {each.session_id for each in found} == {*ids} - {"a"} and len(found) == 15


# --- who is told ----------------------------------------------------------------------------------


def test_others_are_told_of_what_an_agent_does(make: Make, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG, "remanence")
    one, two = make("one"), make("two", use_interval=0.05)
    two.get_stats()
    heard = Heard(two.engine)
    saved = one.save_episode("memory", "o", True, 1.0)
    wanted = f"Received memory update: add episodic {saved.memory_id} from one"
    assert eventually(lambda: wanted in caplog.messages)
    two.search_episodes("memory")  # a use is no update
    assert eventually(lambda: (now := two.list_episodes().memories) and now[0].access_count == 1)
    time.sleep(0.3)  # the log has told of that
    one.update_episode(saved.memory_id, outcome="new")
    assert eventually(lambda: len(heard.of(MemoryHeard)) >= 2)  # what follows at once would be told with it, as one
    one.delete_episode(saved.memory_id)
    assert eventually(lambda: len(heard.of(MemoryHeard)) >= 3)
    time.sleep(1.2)
    told = heard.of(MemoryHeard)
    assert [(each.action, each.memory_id) for each in told] == [
        (x, saved.memory_id) for x in ("add", "update", "delete")
    ]
    assert {each.agent_id for each in told[:2]} == {"one"} and told[2].agent_id in ("one", "unknown")
