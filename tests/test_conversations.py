"""Conversation working memory: its verbs on every backend, what is handed in, asyncio."""

import asyncio
import inspect
import math
import threading
from collections.abc import Iterator
from datetime import timedelta
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest

from remanence.aio.conversations import AsyncInMemoryManager, AsyncRedisWorkingMemoryManager
from remanence.errors import (
    InvalidArgument,
    InvalidKey,
    InvalidSetting,
    InvalidTTL,
    InvalidValue,
    Missing,
    ValueTooLarge,
)
from remanence.faces.conversation_types import ConversationMemoryType, IMemoryInput, IMemoryManager, IWorkingMemory
from remanence.faces.conversations import Conversations
from remanence.sync.conversations import InMemoryManager, RedisWorkingMemoryManager
from remanence.testing.conversing import WORKING, about, words
from remanence.testing.oracle import eventually
from remanence.testing.servers import Server, available_servers


@pytest.fixture(params=[*available_servers(), "sqlite", "memory"])
def place(request: pytest.FixtureRequest, _shared_servers: dict[str, Server], namespace: str) -> dict[str, Any]:
    """The options of a manager on each kind of server, in a file, and in the process."""
    if request.param in ("sqlite", "memory"):
        return {"backend": request.param, "namespace": namespace}
    if request.param not in _shared_servers:
        _shared_servers[request.param] = Server(request.param, unix_socket=True).start()
    return {"url": _shared_servers[request.param].url, "namespace": namespace}


@pytest.fixture
def manager(place: dict[str, Any]) -> Iterator[RedisWorkingMemoryManager]:
    with RedisWorkingMemoryManager(**place) as made:
        yield made


# --- the values -----------------------------------------------------------------------------------


def test_a_memory_type_is_its_word():
    assert [str(kind) for kind in ConversationMemoryType] == [
        "SHORT_TERM_MEMORY",
        "LONG_TERM_MEMORY",
        "WORKING_MEMORY",
    ]
    assert f"{WORKING}" == "WORKING_MEMORY" == WORKING
    assert ConversationMemoryType("LONG_TERM_MEMORY") is ConversationMemoryType.LONG_TERM_MEMORY


def test_an_input_has_the_fields_in_their_order():
    given = IMemoryInput("c")
    assert (given.memory_type, given.data, given.query) == (
        ConversationMemoryType.SHORT_TERM_MEMORY,
        None,
        None,
    )
    assert (given.memory_id, given.limit, given.filters, given.metadata) == (None, 5, None, None)
    fields = ("c", WORKING, [IWorkingMemory("x")], "q", "id", 3, {"a": 1}, {"b": 2})
    assert IMemoryInput(*fields).metadata == {"b": 2}


def test_a_working_memory_goes_through_a_dict():
    assert IWorkingMemory.from_dict(IWorkingMemory("tea").to_dict()) == IWorkingMemory("tea")
    assert IWorkingMemory(working_memory="tea").to_dict() == {"working_memory": "tea"}
    with pytest.raises(InvalidArgument):
        IWorkingMemory.from_dict({"memory": "tea"})


def test_an_initial_memory_has_four_sections():
    text = IWorkingMemory.initialize_memory().working_memory
    titles = [line for line in text.splitlines() if line.startswith("### ")]
    assert titles == [
        "### USER CONTEXT:",
        "### CONVERSATION FLOW:",
        "### CURRENT FOCUS:",
        "### INTERACTION TONE:",
    ]


def test_every_manager_is_an_imemorymanager():
    for kind in (
        RedisWorkingMemoryManager,
        InMemoryManager,
        AsyncRedisWorkingMemoryManager,
        AsyncInMemoryManager,
    ):
        assert issubclass(kind, IMemoryManager)
    assert isinstance(InMemoryManager(), IMemoryManager)


def test_blocking_and_async_managers_have_the_same_verbs():
    verbs = [n for n, each in vars(Conversations).items() if inspect.isfunction(each) and not n.startswith("_")]
    assert len(verbs) == 13
    for verb in verbs:
        blocking, awaited = (
            list(inspect.signature(getattr(kind, verb)).parameters.values())
            for kind in (RedisWorkingMemoryManager, AsyncRedisWorkingMemoryManager)
        )
        assert blocking == awaited, verb
    for one, other in (
        (RedisWorkingMemoryManager, AsyncRedisWorkingMemoryManager),
        (InMemoryManager, AsyncInMemoryManager),
    ):
        assert inspect.signature(one) == inspect.signature(other)


# --- the verbs, everywhere ------------------------------------------------------------------------


def test_what_is_stored_is_retrieved(manager: RedisWorkingMemoryManager):
    assert manager.store(about("conv_123", "Likes tea")) == "memory:WORKING_MEMORY:conv_123"
    assert manager.retrieve(about()) == [IWorkingMemory("Likes tea")]
    assert manager.key_of(about()) == "memory:WORKING_MEMORY:conv_123"


def test_a_missing_memory_is_no_memories(manager: RedisWorkingMemoryManager):
    assert manager.retrieve(about("nobody")) == []


def test_storing_again_replaces(manager: RedisWorkingMemoryManager):
    manager.store(about("c", "one", "two", metadata={"a": 1}))
    manager.store(about("c", "three"))
    assert words(manager.retrieve(about("c"))) == ["three"]
    assert manager.retrieve(about("c", filters={"a": 1})) == []


def test_types_are_kept_apart(manager: RedisWorkingMemoryManager):
    for kind in ConversationMemoryType:
        assert manager.store(about("c", f"of {kind}", memory_type=kind)) == f"memory:{kind}:c"
    for kind in ConversationMemoryType:
        assert words(manager.retrieve(about("c", memory_type=kind))) == [f"of {kind}"]


def test_several_items_are_all_kept_in_order(manager: RedisWorkingMemoryManager):
    told = [f"fact {n}" for n in range(12)]
    manager.store(about("c", *told))
    assert words(manager.retrieve(about("c", limit=None))) == told
    assert words(manager.retrieve(about("c"))) == told[:5], "five is the default limit"
    assert words(manager.retrieve(about("c", limit=7))) == told[:7]


def test_a_query_is_found_in_any_case(manager: RedisWorkingMemoryManager):
    manager.store(about("c", "Die STRASSE ist lang", "nothing", "a straße again"))
    assert words(manager.retrieve(about("c", query="straße"))) == ["Die STRASSE ist lang", "a straße again"]
    assert words(manager.retrieve(about("c", query="Straße", limit=1))) == ["Die STRASSE ist lang"]
    assert manager.retrieve(about("c", query="tea")) == []


def test_filters_compare_metadata(manager: RedisWorkingMemoryManager):
    manager.store(about("c", "x", metadata={"source": "web", "n": 1, "deep": {"a": [1]}}))
    for filters in ({}, {"source": "web"}, {"n": 1, "deep": {"a": [1]}}):
        assert manager.retrieve(about("c", filters=filters)), filters
    for filters in ({"source": "mail"}, {"n": True}, {"other": None}, {"source": "web", "n": 2}):
        assert manager.retrieve(about("c", filters=filters)) == [], filters


def test_a_memory_id_names_one_item(manager: RedisWorkingMemoryManager):
    key = manager.store(about("c", "one", "two", "three"))
    assert words(manager.retrieve(about("c", memory_id=key))) == ["one", "two", "three"]
    assert words(manager.retrieve(about("c", memory_id=f"{key}#1"))) == ["two"]
    for unknown in (f"{key}#3", f"{key}#-1", f"{key}#", f"{key}1", "memory:WORKING_MEMORY:d#0", "1", "#1"):
        assert manager.retrieve(about("c", memory_id=unknown)) == [], unknown


def test_update_replaces_data_and_keeps_the_rest(manager: RedisWorkingMemoryManager):
    manager.store(about("c", "email", "tea", metadata={"source": "web"}))
    assert manager.update(about("c", "sms")) is None
    assert words(manager.retrieve(about("c", filters={"source": "web"}))) == ["sms"]
    manager.update(about("c", "post", "fax", metadata={"by": "me"}))
    assert words(manager.retrieve(about("c", filters={"by": "me"}))) == ["post", "fax"]
    assert manager.retrieve(about("c", filters={"source": "web"})) == []


def test_updating_a_missing_memory_is_missing(manager: RedisWorkingMemoryManager):
    with pytest.raises(Missing, match="memory:WORKING_MEMORY:nobody") as caught:
        manager.update(about("nobody", "x"))
    assert isinstance(caught.value, KeyError)
    assert manager.retrieve(about("nobody")) == []
    with pytest.raises(Missing):
        manager.update(about("nobody", "x", memory_id="memory:WORKING_MEMORY:nobody#0"))


def test_update_of_one_item_leaves_the_others(manager: RedisWorkingMemoryManager):
    key = manager.store(about("c", "one", "two", "three", metadata={"a": 1}))
    manager.update(about("c", "TWO", memory_id=f"{key}#1"))
    assert words(manager.retrieve(about("c", filters={"a": 1}))) == ["one", "TWO", "three"]
    manager.update(about("c", "ONE", memory_id=f"{key}#0", metadata={"a": 2}))
    assert words(manager.retrieve(about("c", filters={"a": 2}))) == ["ONE", "TWO", "three"]
    for unknown in (f"{key}#3", "elsewhere"):
        with pytest.raises(Missing):
            manager.update(about("c", "x", memory_id=unknown))
    with pytest.raises(InvalidArgument, match="one item"):
        manager.update(about("c", "x", "y", memory_id=f"{key}#0"))


def test_delete_removes_and_a_missing_one_is_fine(manager: RedisWorkingMemoryManager):
    manager.store(about("c", "x"))
    for _ in range(2):
        assert manager.delete(about("c")) is None
        assert manager.retrieve(about("c")) == []


def test_delete_of_one_item_leaves_the_others(manager: RedisWorkingMemoryManager):
    key = manager.store(about("c", "one", "two", "three"))
    manager.delete(about("c", memory_id=f"{key}#1"))
    manager.delete(about("c", memory_id=f"{key}#7"))
    manager.delete(about("c", memory_id="elsewhere"))
    assert words(manager.retrieve(about("c"))) == ["one", "three"]
    for _ in range(3):
        manager.delete(about("c", memory_id=f"{key}#0"))
    assert manager.retrieve(about("c")) == []
    with pytest.raises(Missing):
        manager.update(about("c", "x"))


def test_store_many_stores_all_in_one_write(manager: RedisWorkingMemoryManager):
    keys = manager.store_many(about(f"conv_{n}", f"fact {n}") for n in range(300))
    assert keys == [f"memory:WORKING_MEMORY:conv_{n}" for n in range(300)]
    assert words(manager.retrieve(about("conv_299"))) == ["fact 299"]
    assert manager.store_many([]) == []


def test_store_many_stores_none_where_one_cannot_be(manager: RedisWorkingMemoryManager):
    with pytest.raises(InvalidArgument):
        manager.store_many([about("a", "x"), about("b")])
    assert manager.retrieve(about("a")) == []


def test_cleanup_takes_an_id_or_a_pattern(manager: RedisWorkingMemoryManager):
    manager.store_many(about(f"conv_{n}", "x") for n in range(20))
    manager.store(about("conv_1", "long", memory_type="LONG_TERM_MEMORY"))
    manager.store(about("a[1]", "x"))
    assert manager.cleanup("conv_7") == 1
    assert manager.cleanup("conv_1", "LONG_TERM_MEMORY") == 1
    assert manager.retrieve(about("conv_1")), "only the other type was meant"
    assert manager.cleanup("CONV_*") == 0, "case counts"
    assert manager.cleanup("conv_1?") == 10
    assert manager.cleanup("a[1]") == 1, "an id is taken literally, too"
    assert manager.cleanup("memory:*:conv_2") == 1, "a pattern over keys"
    assert manager.cleanup("m*") == 0, "a pattern over ids does not meet the keys' first part"
    assert manager.cleanup("*") == 8
    assert manager.cleanup("*") == 0


def test_cleanup_deletes_more_than_fit_one_write(manager: RedisWorkingMemoryManager):
    manager.store_many(about(f"c{n}", "x") for n in range(1203))
    assert manager.cleanup("memory:*") == 1203


def test_reading_says_where_the_answer_came_from(manager: RedisWorkingMemoryManager):
    manager.store(about("c", "x"))
    reading = manager.read(about("c"))
    assert reading.value == [IWorkingMemory("x")]
    assert (reading.source, reading.stale) == ("store", False)


def test_statistics_have_the_three_figures(manager: RedisWorkingMemoryManager):
    before = manager.statistics()["total_keys"]
    manager.store(about("c", "x"))
    found = manager.statistics()
    assert list(found) == ["used_memory", "used_memory_peak", "total_keys"]
    assert found["total_keys"] > before
    assert float(found["used_memory"][:-1]) > 0
    assert found["used_memory"][-1] in "BKMG"


def test_every_item_is_kept_by_concurrent_updates(manager: RedisWorkingMemoryManager):
    """Eight threads each replace their own item of one memory: none undoes another's."""
    key = manager.store(about("c", *["0"] * 8))

    def count(place: int) -> None:
        for n in range(1, 6):
            manager.update(about("c", str(n), memory_id=f"{key}#{place}"))

    threads = [threading.Thread(target=count, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert words(manager.retrieve(about("c", limit=None))) == ["5"] * 8


# --- what is handed in ----------------------------------------------------------------------------


def test_a_dict_is_taken_and_means_working_memory(manager: RedisWorkingMemoryManager):
    key = manager.store({"conversation_id": "c", "working_memory": "tea", "metadata": {"a": 1}})
    assert key == "memory:WORKING_MEMORY:c"
    assert words(manager.retrieve({"conversation_id": "c", "filters": {"a": 1}})) == ["tea"]
    manager.update({"conversation_id": "c", "data": [{"working_memory": "one"}, IWorkingMemory("two")]})
    assert words(manager.retrieve({"conversation_id": "c", "limit": None})) == ["one", "two"]
    manager.delete({"conversation_id": "c", "memory_type": "WORKING_MEMORY"})
    assert manager.retrieve({"conversation_id": "c"}) == []


def test_an_object_with_the_attributes_is_taken(manager: RedisWorkingMemoryManager):
    class Kind(str, Enum):  # noqa: UP042 - made as the other package makes its own
        LONG = "LONG_TERM_MEMORY"

    item = SimpleNamespace(working_memory="tea")
    asked = SimpleNamespace(conversation_id="c", memory_type=Kind.LONG, data=(item,))
    assert manager.store(asked) == "memory:LONG_TERM_MEMORY:c"
    assert words(manager.retrieve(asked)) == ["tea"]
    assert manager.key_of(SimpleNamespace(conversation_id="c")) == "memory:WORKING_MEMORY:c"


def test_blocking_results_can_be_awaited(manager: RedisWorkingMemoryManager):
    async def agent() -> tuple[Any, Any]:
        key = await manager.store(about("c", "tea"))
        return key, await manager.retrieve(about("c"))

    key, memories = asyncio.run(agent())
    assert (key, type(key)) == ("memory:WORKING_MEMORY:c", str)
    assert (memories, type(memories)) == ([IWorkingMemory("tea")], list)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        (None, InvalidArgument, "IMemoryInput"),
        ("conv_1", InvalidArgument, "IMemoryInput"),
        ({"working_memory": "x"}, InvalidArgument, "conversation_id"),
        ({"conversation_id": "c", "working_memory": "x", "limt": 1}, InvalidArgument, "limt"),
        (
            {"conversation_id": "c", "working_memory": "x", "data": [IWorkingMemory("x")]},
            InvalidArgument,
            "not both",
        ),
        (about("", "x"), InvalidKey, "conversation_id"),
        (about(123, "x"), InvalidKey, "conversation_id"),  # type: ignore[arg-type]
        (about("x" * 600, "x"), InvalidKey, "conversation_id"),
        (about("\ud800", "x"), InvalidKey, "conversation_id"),
        (about("c", "x", memory_type="EPISODIC"), InvalidArgument, "SHORT_TERM_MEMORY"),
        (about("c", "x", memory_type=3), InvalidArgument, "memory_type"),
        (about("c"), InvalidArgument, "no data to store"),
        (about("c", data=[]), InvalidArgument, "no data to store"),
        (about("c", data=()), InvalidArgument, "no data to store"),
        (about("c", data=IWorkingMemory("x")), InvalidArgument, "data must be a list"),
        (about("c", data="x"), InvalidArgument, "data must be a list"),
        (about("c", data=["x"]), InvalidValue, r"data\[0\] must be an IWorkingMemory"),
        (about("c", data=[IWorkingMemory("x"), IWorkingMemory(5)]), InvalidValue, r"data\[1\]"),  # type: ignore[arg-type]
        (about("c", data=[{"memory": "x"}]), InvalidValue, r"data\[0\]"),
        (about("c", "half \ud800"), InvalidValue, "surrogate"),
        (about("c", "x" * (1 << 20)), ValueTooLarge, "memory"),
        (about("c", "x", metadata=["a"]), InvalidValue, "metadata"),
        (about("c", "x", metadata={"a": {"b": {1, 2}}}), InvalidValue, r'metadata\["a"\]\["b"\]'),
        (about("c", "x", metadata={1: "a"}), InvalidValue, "metadata"),
        (about("c", "x", metadata={"a": math.nan}), InvalidValue, r'metadata\["a"\]'),
    ],
)
def test_bad_input_is_refused_and_nothing_is_stored(asked: Any, error: type[Exception], message: str):
    manager = InMemoryManager()
    with pytest.raises(error, match=message) as caught:
        manager.store(asked)
    assert "x" * 20 not in str(caught.value), "no message holds a value"
    assert manager.statistics()["total_keys"] == 0
    if not isinstance(caught.value, InvalidKey):
        manager.store(about("c", "before"))
        with pytest.raises(error):
            manager.update(asked)
        assert manager.retrieve(about("c")) == [IWorkingMemory("before")]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": -1}, "limit"),
        ({"limit": True}, "limit"),
        ({"limit": 2.0}, "limit"),
        ({"limit": "5"}, "limit"),
        ({"query": ""}, "query"),
        ({"query": 5}, "query"),
        ({"filters": ["a"]}, "filters"),
        ({"memory_id": 5}, "memory_id"),
        ({"memory_id": ""}, "memory_id"),
    ],
)
def test_bad_questions_are_refused(fields: dict[str, Any], message: str):
    manager = InMemoryManager()
    for conversation in ("there", "missing"):
        manager.store(about("there", "x"))
        with pytest.raises(InvalidArgument, match=message) as caught:
            manager.retrieve(about(conversation, **fields))
        assert isinstance(caught.value, ValueError)


def test_a_pattern_must_be_text():
    for pattern in ("", None, 5):
        with pytest.raises(InvalidArgument, match="pattern"):
            InMemoryManager().cleanup(pattern)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="memory_type"):
        InMemoryManager().cleanup("*", "EPISODIC")


@pytest.mark.parametrize("ttl", [0, -1, 0.0, 1e-9, True, False, math.nan, math.inf, "60", timedelta(0), 1e12])
def test_a_lifetime_is_validated(ttl: Any):
    for kind in (
        RedisWorkingMemoryManager,
        AsyncRedisWorkingMemoryManager,
        InMemoryManager,
        AsyncInMemoryManager,
    ):
        with pytest.raises(InvalidTTL):
            kind(ttl=ttl)
    manager = InMemoryManager()
    manager.ttl = ttl
    with pytest.raises(InvalidTTL):
        manager.store(about("c", "x"))


@pytest.mark.parametrize("conversation", ["a:b", "*", "a b", "{tag}", "%41", "WORKING_MEMORY", "x#0", "日本", "a\nb"])
def test_conversation_ids_are_kept_as_they_are(conversation: str):
    manager = InMemoryManager()
    assert manager.store(about(conversation, "x")) == f"memory:WORKING_MEMORY:{conversation}"
    assert manager.retrieve(about(conversation)) == [IWorkingMemory("x")]
    assert manager.cleanup(conversation) == 1


def test_memories_in_the_process_are_each_managers_own():
    one, other = InMemoryManager(), InMemoryManager()
    one.store(about("c", "x"))
    assert other.retrieve(about("c")) == []
    with pytest.raises(InvalidSetting):
        InMemoryManager(backend="redis")
    with pytest.raises(InvalidSetting):
        InMemoryManager(url="redis://localhost:6379/0")


def test_memories_in_the_process_end_with_their_lifetime():
    manager = InMemoryManager(ttl=0.05)
    manager.store(about("c", "x"))
    assert manager.retrieve(about("c"))
    assert eventually(lambda: not manager.retrieve(about("c")))


# --- asyncio --------------------------------------------------------------------------------------


async def use_every_verb(manager: AsyncRedisWorkingMemoryManager | AsyncInMemoryManager) -> None:
    key = await manager.store(about("c", "one", "two", metadata={"a": 1}))
    assert key == manager.key_of(about("c"))
    assert words(await manager.retrieve(about("c", filters={"a": 1}))) == ["one", "two"]
    await manager.update(about("c", "TWO", memory_id=f"{key}#1"))
    assert words(await manager.retrieve_safe(about("c"))) == ["one", "TWO"]
    await manager.update(about("c", "three"))
    assert words((await manager.read(about("c"))).value) == ["three"]
    with pytest.raises(Missing):
        await manager.update(about("nobody", "x"))
    await manager.delete(about("c"))
    assert await manager.retrieve(about("c")) == []
    await asyncio.gather(*(manager.store(about(f"c{n}", "x")) for n in range(20)))
    assert len(await manager.store_many([about("d1", "x"), about("d2", "x")])) == 2
    assert (await manager.statistics())["total_keys"] >= 22
    assert await manager.cleanup("c*") == 20
    assert await manager.cleanup("*") == 2
    with pytest.raises(InvalidArgument):
        await manager.store(about("c"))


def test_the_async_manager_does_the_same(place: dict[str, Any]):
    async def main() -> None:
        async with AsyncRedisWorkingMemoryManager(**place) as manager:
            await use_every_verb(manager)

    asyncio.run(main())


def test_the_async_manager_in_the_process_does_the_same():
    async def main() -> None:
        async with AsyncInMemoryManager() as manager, AsyncInMemoryManager() as other:
            await use_every_verb(manager)
            await manager.store(about("c", "x"))
            assert await other.retrieve(about("c")) == []

    asyncio.run(main())
