"""Names and owners of shared state: what makes a key, what is refused, and that nobody sees another's."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from remanence import MISSING, AsyncConversationMemory, AsyncMemory, ConversationMemory, Memory
from remanence.errors import InvalidKey, InvalidValue
from remanence.testing.places import Place
from remanence.testing.simple import doubled

# --- names ----------------------------------------------------------------------------------------

REFUSED = ["", "a" * 600, "🧠" * 130, "\ud800", "a\udfff"]
NO_TEXT = [None, 5, b"x", ("x",)]
TAKEN = ["a", "a*", "ab", "a?", "[a-z]", "a:b", ":", "{a}", "\\", "%", "%3A", "a\0b", "\r\n", "\x7f", " ", "é", "🧠",
         "\ufeff", "../a", "WORKING_MEMORY", "stamp", "keys", "__class__", "a" * 400]  # fmt: skip


@pytest.mark.parametrize("name", [*REFUSED, *NO_TEXT], ids=lambda name: ascii(name)[:12])
def test_a_name_that_makes_no_key_is_refused(name: Any):
    with Memory(backend="memory") as memory:
        calls: list[Callable[[Any], Any]] = [
            memory.get, memory.read, memory.delete, memory.ttl, memory.sync, memory.key_of,
            lambda name: memory.get(name, None), lambda name: memory.set(name, 1), lambda name: memory.expire(name, 1),
            lambda name: memory.compare_and_set(name, MISSING, 1), lambda name: memory.update(name, doubled, 1),
        ]  # fmt: skip
        calls += [memory.increment, lambda name: memory.edit(name).append(1)]
        for call in calls:
            with pytest.raises(InvalidKey) as caught:
                call(name)
            assert len(str(caught.value)) < 200
        assert list(memory) == []


@pytest.mark.parametrize("conversation", [*REFUSED, *NO_TEXT], ids=lambda name: ascii(name)[:12])
def test_an_id_that_makes_no_key_is_refused(conversation: Any):
    for made in (ConversationMemory, AsyncConversationMemory):
        with pytest.raises(InvalidKey, match="conversation_id"):
            made(conversation, backend="memory")


def test_an_id_must_leave_room_for_names():
    with pytest.raises(InvalidKey, match="no room"):
        ConversationMemory("x" * 511, backend="memory")
    with pytest.raises(InvalidKey, match="escaped"):
        ConversationMemory(":" * 300, backend="memory")


def test_errors_name_the_place_as_it_is_seen():
    with Memory(backend="memory", namespace="places") as memory:
        memory.settings = {"a": [1]}
        with pytest.raises(InvalidValue, match=r'^settings\["a"\] is of type set'):
            memory.settings["a"].append({1})
        with pytest.raises(AttributeError, match="_own"):
            del memory._own


def test_odd_names_are_told_apart(place: Place, memory: Any, other: Any):
    with ConversationMemory("a*", **place.options) as talk:
        for number, name in enumerate(TAKEN):
            memory.set(name, number)
            talk.set(name, -number)
        for found in (memory, other, talk):
            assert sorted(found) == sorted(TAKEN) == sorted(found.keys())
        assert [other.get(name) for name in TAKEN] == list(range(len(TAKEN)))
        assert [talk.get(name) for name in TAKEN] == [-number for number in range(len(TAKEN))]
        for prefix in ("a", "a*", "[", "\\", "%", "nothing"):
            wanted = sorted(name for name in TAKEN if name.startswith(prefix))
            assert sorted(memory.keys(prefix)) == sorted(talk.keys(prefix)) == wanted
        for name in TAKEN:
            memory.delete(name)
            assert name not in other and name in talk
        assert not list(other) and len(talk.keys()) == len(TAKEN)


def test_attributes_of_the_class_are_not_names():
    with Memory(backend="memory") as memory:
        with pytest.raises(InvalidKey, match="set\\('keys', …\\)"):
            memory.keys = 1  # type: ignore[method-assign, assignment]
        memory._local = 1
        assert memory._local == 1 and not list(memory)
        del memory._local
        for gone in ("_local", "local"):
            with pytest.raises(AttributeError, match=gone):
                getattr(memory, gone)
        with pytest.raises(AttributeError, match="local"):
            del memory.local
        assert 5 not in memory


# --- whose it is ----------------------------------------------------------------------------------


def test_no_two_owners_see_each_other(place: Place):
    """Namespaces, conversations and prefixes, also those whose ids look like parts of the others' keys."""
    foreign = {**place.options, "namespace": place.options["namespace"] + "x"}
    with ExitStack() as stack:
        owners: list[Any] = [
            stack.enter_context(made)
            for made in (
                Memory(**place.options),
                Memory(**foreign),
                Memory(redis_prefix="m*", **place.options),
                Memory(redis_prefix="mm", **place.options),
                Memory(redis_prefix="other:", **place.options),
                ConversationMemory("c", **place.options),
                ConversationMemory("c", **foreign),
                ConversationMemory("c", redis_prefix="other:", **place.options),
                ConversationMemory("c:c", **place.options),
                ConversationMemory("WORKING_MEMORY", **place.options),
            )
        ]
        for number, owner in enumerate(owners):
            for name in ("c", "c:c", "c:c:c"):
                assert owner.compare_and_set(name, MISSING, [number, name])
        for number, owner in enumerate(owners):
            assert {name: owner.get(name) for name in owner} == {n: [number, n] for n in ("c", "c:c", "c:c:c")}
        owners[0].delete("c")
        assert all("c" in owner for owner in owners[1:])


def test_the_prefix_comes_from_the_argument_or_the_environment(place: Place, monkeypatch: pytest.MonkeyPatch):
    with Memory(**place.options) as memory:
        memory.x = "memory:"
    monkeypatch.setenv("REDIS_PREFIX", "app:")
    for made, key in (
        (Memory(**place.options), "app:x"),
        (ConversationMemory("c", **place.options), "app:c:x"),
        (Memory(redis_prefix="mine:", **place.options), "mine:x"),
        (AsyncMemory(**place.options), "app:x"),
        (AsyncMemory(redis_prefix="mine:", **place.options), "mine:x"),
        (AsyncConversationMemory("c", redis_prefix="mine:", **place.options), "mine:c:x"),
    ):
        assert made.key_of("x") == key
        if isinstance(made, Memory):
            with made:
                assert not hasattr(made, "x")
                made.x = key
        else:
            asyncio.run(made.close())
