"""The public surface: names sorted and complete, and the same in both colours."""

import inspect

import pytest

import remanence
from remanence.options import Options
from remanence.settings import Settings
from remanence.wire import keys

TWINS = [
    (remanence.Memory, remanence.AsyncMemory),
    (remanence.ConversationMemory, remanence.AsyncConversationMemory),
    (remanence.MemoryClient, remanence.AsyncMemoryClient),
    (remanence.RedisWorkingMemoryManager, remanence.AsyncRedisWorkingMemoryManager),
    (remanence.InMemoryManager, remanence.AsyncInMemoryManager),
]


def public(cls):
    """Its methods; what the seed keeps as plain attributes of an instance has its own tests."""
    return {name for name in dir(cls) if not name.startswith("_") and callable(getattr(cls, name))}


def test_the_names_are_sorted_and_there():
    assert remanence.__all__ == sorted(remanence.__all__, key=lambda name: (not name.isupper(), name))
    for name in remanence.__all__:
        assert getattr(remanence, name).__doc__ or name == "MISSING", f"{name} says nothing of itself"


@pytest.mark.parametrize(("blocking", "asynchronous"), TWINS, ids=lambda cls: cls.__name__)
def test_twins_have_the_same_methods(blocking, asynchronous):
    # attributes are the blocking memory's own way; an asyncio loop has `async for` and `aclose` instead
    only_async = {"aclose", "contains", "change", "names"}
    assert public(asynchronous) - only_async <= public(blocking) | {"names"}
    assert public(blocking) <= public(asynchronous)


@pytest.mark.parametrize(("blocking", "asynchronous"), TWINS, ids=lambda cls: cls.__name__)
def test_twins_take_the_same_arguments(blocking, asynchronous):
    for name in public(blocking) & public(asynchronous) - {"get", "edit", "engine"}:
        ours, theirs = getattr(blocking, name), getattr(asynchronous, name)
        if callable(ours):
            assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters), name


def test_every_option_is_a_setting():
    assert set(Options.__annotations__) <= set(Settings.__dataclass_fields__)


def test_all_public_methods_say_what_they_promise():
    for pair in TWINS:
        for cls in pair:
            for name in public(cls):
                assert inspect.getdoc(getattr(cls, name)), f"{cls.__name__}.{name} says nothing of itself"


@pytest.mark.parametrize("first", ["a", "a:b", "a%3Ab", "{a}", "*", "a b", "é", "WORKING_MEMORY", "%", "::"])
def test_components_come_back_and_never_meet(first):
    assert keys.original(keys.component(first, "id")) == first
    others = {"a", "a:b", "a%3Ab", "{a}", "*", "a b", "é", "WORKING_MEMORY", "%", "::"} - {first}
    assert keys.component(first, "id") not in {keys.component(other, "id") for other in others}
    assert ":" not in keys.component(first, "id")
