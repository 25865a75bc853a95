"""What is deleted stays deleted: patterns that consolidation had learned, and episodes with those they stand for."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from remanence import MemoryArchitecture
from remanence.faces.agents.tending.consolidation import Policy, consolidate
from remanence.faces.agents.tending.patterns import SOURCE, refused
from remanence.faces.agents.tending.unwanted import note_of, noted
from remanence.faces.agents.types import SemanticMemory
from remanence.model import Delete, Put
from remanence.runtime.blocking import run
from remanence.testing.servers import Server, available_servers
from remanence.testing.tending import (
    START,
    Clock,
    Crash,
    GatewayHands,
    Stopped,
    deployments,
    learned,
    opened,
    stored,
    told,
)

Make = Callable[..., MemoryArchitecture]
SERVICES = ("billing", "search", "login", "invoice", "gallery", "parser", "mailing", "payroll")


@pytest.fixture(params=[*available_servers(), "sqlite"])
def make(request: pytest.FixtureRequest, _shared_servers: dict[str, Server], namespace: str) -> Iterator[Make]:
    """Memories of one namespace in every kind of store."""
    if request.param == "sqlite":
        place: dict[str, Any] = {"backend": "sqlite"}
    else:
        if request.param not in _shared_servers:
            _shared_servers[request.param] = Server(request.param, unix_socket=True).start()
        place = {"url": _shared_servers[request.param].url}
    made: list[MemoryArchitecture] = []

    def build(agent_id: str = "a") -> MemoryArchitecture:
        made.append(MemoryArchitecture(agent_id=agent_id, namespace=namespace, auto_consolidate=False, **place))
        return made[-1]

    yield build
    for each in made:
        each.close()


def deployed(agent: MemoryArchitecture, *services: str) -> list[str]:
    return [
        agent.save_episode(f"Deploy the {each} service to staging", "Rolled out", True, 1.0).memory_id
        for each in services
    ]


def notes(agent: MemoryArchitecture) -> int:
    return len(run(noted(agent.engine.gateway)))


@pytest.mark.parametrize("delete", ["delete_semantic", "delete"])
def test_a_pattern_that_was_deleted_stays_away_while_its_episodes_are_there(make: Make, delete: str):
    agent = make()
    episodes = deployed(agent, *SERVICES[:4])
    (pattern,) = agent.extract_patterns()
    if delete == "delete":
        agent.delete("semantic", pattern.memory_id)
    else:
        agent.delete_semantic(pattern.memory_id)
    assert agent.extract_patterns() == []
    agent.close()
    agent = make()
    episodes += deployed(agent, *SERVICES[4:])
    assert agent.extract_patterns() == [] and agent.consolidate_now().patterns_made == ()
    for each in episodes[:4]:
        agent.delete_episode(each)
    assert len(agent.extract_patterns()) == 1, "it is of other episodes altogether"
    assert notes(agent) == 0, "nothing is kept of what is gone"


def test_what_was_not_deleted_is_learned_and_grows(make: Make):
    agent = make()
    deployed(agent, *SERVICES[:3])
    (unwanted,) = agent.extract_patterns()
    agent.delete_semantic(unwanted.memory_id)
    for town in ("Rome", "Oslo", "Lima"):
        agent.save_episode(f"Book a hotel room in {town}", "Booked", True, 1.0)
    (wanted,) = agent.extract_patterns()
    assert "hotel" in wanted.pattern
    agent.save_episode("Book a hotel room in Quito", "Booked", True, 1.0)
    assert [each.memory_id for each in agent.extract_patterns()] == [wanted.memory_id]


def test_to_forget_an_agent_forgets_what_it_did_not_want(make: Make):
    agent = make()
    deployed(agent, *SERVICES[:3])
    (pattern,) = agent.extract_patterns()
    agent.delete_semantic(pattern.memory_id)
    assert notes(agent) == 1
    agent.forget(agent_id="another")
    assert notes(agent) == 1
    agent.forget(agent_id="a")
    assert notes(agent) == 0


def test_what_an_agent_wrote_itself_is_deleted_without_a_note(make: Make):
    agent = make()
    written = agent.add_semantic("Deploys need a window", source_episodes=deployed(agent, *SERVICES[:3]))
    agent.delete_semantic(written.memory_id)
    assert notes(agent) == 0 and len(agent.extract_patterns()) == 1


def test_with_an_episode_go_those_it_stands_for_and_no_other(make: Make):
    agent = make()
    first = agent.save_episode("Fix the login bug", "Done. The fix was simple", True, 3.0)
    other = agent.save_episode("fix the login bug", "done, the fix was simple", True, 3.0)
    assert len(agent.consolidate_now().merged) == 1
    (kept,) = agent.list_episodes()
    agent.delete("episodic", kept.memory_id)
    assert agent.consolidate_now().restored == () and agent.list_episodes().memories == []
    assert agent.get_episode(first.memory_id) is None and agent.get_episode(other.memory_id) is None


def test_one_that_was_taken_out_of_a_merge_half_way_is_not_deleted_with_it(make: Make):
    agent = make()
    agent.save_episode("Fix the login bug", "Done. The fix was simple", True, 3.0)
    agent.save_episode("fix the login bug", "done, the fix was simple", True, 3.0)
    report = agent.consolidate_now()
    alone = agent.get_episode(report.merged[0])
    agent.load([{"type": "episodic", **_fields(alone)}])  # it was stored anew: it stands for itself
    agent.delete_episode(report.kept[0])
    assert [each.memory_id for each in agent.list_episodes()] == [alone.memory_id]


def _fields(memory: Any) -> dict[str, Any]:
    names = ("memory_id", "task_prompt", "outcome", "success", "duration_seconds", "created_at")
    return {name: getattr(memory, name) for name in names}


# --- the notes ------------------------------------------------------------------------------------


def unwanted(hands: GatewayHands) -> SemanticMemory:
    """Learn a pattern and delete it, as a face does."""
    run(consolidate(hands))
    (pattern,) = learned(hands)
    note = note_of(pattern, 512)
    assert note is not None
    run(hands.gateway.write([note, Delete(f"memory:semantic:{pattern.memory_id}")]))
    return pattern


def test_a_pass_that_was_stopped_while_it_let_go_of_a_note_ends_the_same():
    for at in range(8):
        clock = Clock()
        hands = stored(opened(clock), *deployments(3))
        unwanted(hands)
        run(hands.gateway.write([Delete(f"memory:episodic:d{at}") for at in range(3)]))
        stored(hands, *deployments(3, first=3))
        try:
            run(consolidate(Stopped(hands.gateway, at)))
        except Crash:
            clock.move(61)
            run(consolidate(hands))
        assert run(noted(hands.gateway)) == []
        assert len(learned(hands)) == 1 and len(told(hands)) == 4


def test_a_note_that_cannot_be_read_is_none():
    hands = stored(opened(), *deployments(3))
    for at, body in enumerate((b"\xff", b"[]", b'{"source_episodes":7}', b"{}")):
        run(hands.gateway.write([Put(f"agent:tending:unwanted:x:{at}", body)]))
    assert len(run(consolidate(hands)).patterns_made) == 1


def test_a_note_holds_ids_alone():
    hands = stored(opened(), *deployments(3))
    run(consolidate(hands))
    note = note_of(learned(hands)[0], 512)
    assert note is not None and b"eploy" not in note.body + note.key.encode()


def test_only_what_was_learned_is_noted():
    fields: dict[str, Any] = {"created_at": START, "updated_at": START, "last_accessed": START, "pattern": "p"}
    one = SemanticMemory(memory_id="m", source_episodes=["a"], source=SOURCE, **fields)
    assert note_of(one, 512) is not None
    for each in (
        SemanticMemory(memory_id="m", source_episodes=["a"], **fields),
        SemanticMemory(memory_id="m", source=SOURCE, **fields),
        deployments(1)[0],
        None,
    ):
        assert note_of(each, 512) is None


@pytest.mark.parametrize(
    ("group", "before", "living", "expected"),
    [
        ("abc", "abc", "abc", True),
        ("abcdefgh", "abc", "abcdefgh", True),
        ("cdefgh", "abc", "cdefgh", True),
        ("defgh", "abc", "defgh", False),
        ("abc", "cdefgh", "abcdefgh", False),
        ("abx", "abc", "abcx", True),
    ],
)
def test_a_group_that_is_mostly_one_that_was_refused_is_refused(group: str, before: str, living: str, expected: bool):
    assert refused(list(group), [frozenset("zyx") - {"x"}, frozenset(before)], set(living)) is expected


def test_the_number_that_makes_a_pattern_does_not_bring_it_back():
    hands = stored(opened(), *deployments(4))
    unwanted(hands)
    assert run(consolidate(hands, Policy(min_episodes=2))).patterns_made == ()
