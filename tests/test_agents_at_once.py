"""One memory, changed by several at the same time: the index never goes back to an earlier version."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest

from remanence import MemoryArchitecture
from remanence.errors import Missing, Rejected
from remanence.faces.agents.library import Library
from remanence.faces.agents.records import skill_id
from remanence.protocols import Fetch
from remanence.runtime.blocking import run
from remanence.testing.oracle import eventually

Make = Callable[..., MemoryArchitecture]


def library_of(agent: MemoryArchitecture) -> Library:
    return agent.engine.library(agent.engine.settings)


def between(
    thing: Any, name: str, happens: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, *, before: bool
) -> None:
    """Has something happen before or behind the next call of a function."""
    called: Callable[..., Any] = getattr(thing, name)

    if not iscoroutinefunction(called):

        def plainly(*args: Any) -> Any:
            monkeypatch.setattr(thing, name, called)
            happens()
            return called(*args)

        monkeypatch.setattr(thing, name, plainly)
        return

    async def call(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(thing, name, called)
        if before:
            happens()
        found = await called(*args, **options)
        if not before:
            happens()
        return found

    monkeypatch.setattr(thing, name, call)


def found(agent: MemoryArchitecture, query: str) -> list[str]:
    return [each.memory_id for some in agent.search_all(query, mode="keyword").values() for each in some]


def words(agent: MemoryArchitecture) -> set[str]:
    """Which of the words of these tests find something."""
    return {word for word in ("first", "second", "third") if found(agent, word)}


@pytest.fixture(params=["same", "another"])
def pair(request: pytest.FixtureRequest, make: Make) -> tuple[MemoryArchitecture, MemoryArchitecture]:
    """An agent, and who changes its memories: itself, or one of another process that shares the file."""
    agent = make()
    other = agent if request.param == "same" else make("b")
    for each in {id(agent): agent, id(other): other}.values():
        each.get_stats()
        library_of(each).follower.close()  # nobody puts right later what is wrong now
    return agent, other


def test_what_was_read_is_not_put_over_what_was_written_since(pair, monkeypatch: pytest.MonkeyPatch):
    agent, other = pair
    skill = agent.save_skill("s", "first", [])
    follower, key = library_of(agent).follower, f"memory:skill:{skill.memory_id}"
    for happens, known in [
        (lambda: other.update_skill("s", description="second"), {"second"}),
        (lambda: other.delete_skill("s"), set()),
        (lambda: other.save_skill("s", "third", []), {"third"}),
    ]:
        between(follower, "_asked", happens, monkeypatch, before=False)
        run(follower.refresh([key]))
        assert words(agent) == words(other) == known


def test_what_changes_while_a_batch_is_read_holds_up_no_other(pair, monkeypatch: pytest.MonkeyPatch):
    agent, other = pair
    one = agent.save_episode("first", "o", True, 1.0).memory_id
    two = agent.save_episode("third", "o", True, 1.0).memory_id
    follower, keys = library_of(agent).follower, [f"memory:episodic:{each}" for each in (one, two)]
    run(library_of(agent).catalogue.remove(keys))
    asked: list[int] = []
    real = follower._asked

    async def counted(asks: Any) -> Any:
        asked.append(len(asks))
        read = await real(asks)
        other.update_episode(one, task_prompt="second", importance=len(asked) / 10)
        return read

    monkeypatch.setattr(follower, "_asked", counted)
    run(follower.refresh(keys))
    assert asked == [2, 1]
    assert words(agent) == {"second", "third"}
    assert agent.get_episode(one) == agent.search_episodes("second", mode="keyword", importance=0.2)[0]


def test_of_two_writers_the_later_one_is_found(pair, monkeypatch: pytest.MonkeyPatch):
    """Though the earlier puts in what it wrote only then."""
    agent, other = pair
    catalogue = library_of(agent).catalogue

    def saves() -> None:
        agent.save_skill("s", "first", [])

    def updates() -> None:
        agent.update_skill("s", description="first")

    saves()
    for writes, happens, known in [
        (updates, lambda: other.update_skill("s", description="second"), {"second"}),
        (updates, lambda: other.delete_skill("s"), set()),
        (saves, lambda: other.save_skill("s", "third", []), {"third"}),
        (lambda: agent.delete_skill("s"), lambda: other.save_skill("s", "second", []), {"second"}),
    ]:
        between(catalogue, "take", happens, monkeypatch, before=True)
        writes()
        assert words(agent) == words(other) == known


def test_even_while_it_is_put_in_no_version_goes_over_a_later_one(pair, monkeypatch: pytest.MonkeyPatch):
    """Also where nothing changes that it is found by."""
    agent, other = pair
    episode = agent.save_episode("first", "o", True, 1.0)
    index = library_of(agent).catalogue._local
    for name, change, happens in [
        ("put", {"task_prompt": "third"}, {"task_prompt": "second"}),
        ("amend_all", {"importance": 0.1}, {"task_prompt": "third"}),
        ("amend_all", {"importance": 0.2}, {"importance": 0.9}),
    ]:
        between(index, name, partial(other.update_episode, episode.memory_id, **happens), monkeypatch, before=True)
        agent.update_episode(episode.memory_id, **change)
        now = agent.get_episode(episode.memory_id)
        assert words(agent) == words(other) == {now.task_prompt}
        assert agent.search_episodes(now.task_prompt, importance=now.importance) == [now]
    between(index, "remove", lambda: other.save_skill("s", "first", []), monkeypatch, before=True)
    agent.delete_skill("s")
    assert agent.search_skills("first", mode="keyword") == [agent.get_skill("s")] != [None]


def test_what_the_index_lost_before_it_was_put_in_is_found(pair, monkeypatch: pytest.MonkeyPatch):
    agent, other = pair
    catalogue = library_of(agent).catalogue
    told = {"type": "episodic", "memory_id": "m", "task_prompt": "first", "outcome": "o", "success": True}

    def loses() -> None:
        run(library_of(other).catalogue.remove(["memory:episodic:m"]))

    agent.load([{**told, "duration_seconds": 1.0}])
    for writes in (
        lambda: agent.update_episode("m", importance=0.9),
        lambda: agent.load([{**told, "duration_seconds": 2.0}]),
    ):
        between(catalogue, "take", loses, monkeypatch, before=True)
        writes()
        assert words(agent) == words(other) == {"first"}


def test_what_nobody_else_changes_is_not_read_again(pair, monkeypatch: pytest.MonkeyPatch):
    agent, _ = pair
    told = {"type": "episodic", "memory_id": "m", "task_prompt": "first", "outcome": "o", "success": True}
    monkeypatch.setattr(library_of(agent).follower, "_asked", None)
    for duration in (1.0, 2.0):
        agent.load([{**told, "duration_seconds": duration}])
    agent.update_episode("m", importance=0.9)
    agent.delete_skill("none")
    agent.save_skill("s", "second", [])
    agent.delete_skill("s")
    assert words(agent) == {"first"}


def test_what_was_loaded_and_changed_at_once_is_found_as_it_is(pair, monkeypatch: pytest.MonkeyPatch):
    agent, other = pair
    told = {"type": "episodic", "memory_id": "m", "task_prompt": "first", "outcome": "o", "success": True}
    for word in ("second", "third"):
        happens = partial(other.update_episode, "m", task_prompt=word)
        between(library_of(agent).catalogue, "take", happens, monkeypatch, before=True)
        assert agent.load([{**told, "duration_seconds": 1.0}]) == 1
        assert words(agent) == words(other) == {word}


def test_what_consolidation_made_and_somebody_changed_is_found_as_it_is(pair, monkeypatch: pytest.MonkeyPatch):
    agent, other = pair
    made = [agent.save_episode("first the bread", "baked", True, 1.0) for _ in range(2)]

    def happens() -> None:
        for each in made:
            other.update_episode(each.memory_id, task_prompt="second")

    between(library_of(agent).catalogue, "take", happens, monkeypatch, before=True)
    agent.consolidate_now()
    for word in ("first", "second"):
        hits = agent.search_episodes(word, mode="keyword")
        assert hits == other.search_episodes(word, mode="keyword")
        assert all(word in each.task_prompt for each in hits)
    assert agent.search_episodes("second", mode="keyword")


def test_what_the_index_lost_of_what_consolidation_made_is_found(pair, monkeypatch: pytest.MonkeyPatch):
    agent, other = pair
    made = [agent.save_episode("first the bread", "baked", True, 1.0) for _ in range(2)]

    def loses() -> None:
        run(library_of(other).catalogue.remove([f"memory:episodic:{each.memory_id}" for each in made]))

    between(library_of(agent).catalogue, "take", loses, monkeypatch, before=True)
    agent.consolidate_now()
    assert [each.outcome for each in agent.search_episodes("first", mode="keyword")] == ["baked"]


def test_loaded_twice_a_skill_is_found_as_it_was_loaded_last(pair):
    """The log has not told meanwhile what the first came to."""
    agent, other = pair
    for word in ("first", "second"):
        agent.load([{"type": "skill", "skill_name": "s", "description": word, "action_sequence": []}])
        assert words(agent) == words(other) == {word}


def test_whatever_several_do_at_once_each_finds_what_it_wrote_and_the_indexes_come_to_hold_what_the_store_has(
    make: Make, tmp_path: Path
):
    agents = [make("a"), make("b"), make("c", path=str(tmp_path / "other"))]
    missed: list[str] = []

    def change(number: int) -> None:
        agent, chance = agents[number], random.Random(number)
        for turn in range(40):
            name, word = f"s{chance.randrange(3)}", f"w{number}x{turn}"
            with suppress(Missing, Rejected):  # another was faster
                match chance.randrange(4):
                    case 0:
                        agent.delete_skill(name)
                    case 1:
                        agent.update_skill(name, description=word)
                    case 2:
                        agent.load([{"type": "skill", "skill_name": name, "description": word}])
                    case _:
                        agent.save_skill(name, word, [])
            mine = agent.save_episode(word, "o", True, 1.0).memory_id
            agent.update_episode(mine, task_prompt=f"{word}y", importance=0.9)
            old, new = (agent.search_episodes(each, mode="keyword") for each in (word, f"{word}y"))
            if old or [each.memory_id for each in new] != [mine]:
                missed.append(word)

    with ThreadPoolExecutor() as pool:
        list(pool.map(change, range(len(agents))))
    assert not missed
    keys = [f"memory:skill:{skill_id(f's{n}')}" for n in range(3)]

    def stored() -> dict[str, str]:
        readings = run(agents[0].engine.gateway.read([Fetch(key) for key in keys], fresh=True))
        return {each.value.key: each.value.etag for each in readings if each.value is not None}

    for agent in agents:
        catalogue = library_of(agent).catalogue
        assert eventually(lambda versions=catalogue.versions: run(versions(keys)) == stored())  # type: ignore[misc]
