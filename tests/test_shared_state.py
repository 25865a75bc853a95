"""Shared state on every backend: what is set is what others see, and nothing is lost when they meet."""

import asyncio
import inspect
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from remanence import MISSING, AsyncConversationMemory, AsyncMemory, ConversationMemory, Memory
from remanence.errors import (
    CorruptRecord,
    InvalidArgument,
    InvalidKey,
    InvalidTTL,
    InvalidValue,
    Rejected,
    Unavailable,
    WrongKind,
)
from remanence.model import Reading, Receipt
from remanence.testing.oracle import QUICK, Child, child, eventually
from remanence.testing.servers import Server, available_servers
from remanence.wire.keys import Keyspace


@dataclass(frozen=True)
class Place:
    """Where memories live: the options of one process's, and of another's with connections of its own."""

    kind: str
    options: dict[str, Any]
    elsewhere: dict[str, Any]


@pytest.fixture(params=["memory", "sqlite", *available_servers()])
def place(request: pytest.FixtureRequest, _shared_servers: dict[str, Server], namespace: str) -> Place:
    """Each backend in turn, empty."""
    kind = str(request.param)
    options: dict[str, Any] = {"backend": kind, "namespace": namespace}
    if kind not in ("memory", "sqlite"):
        if kind not in _shared_servers:
            _shared_servers[kind] = Server(kind, unix_socket=True).start()
        options = {"url": _shared_servers[kind].url, "namespace": namespace, **QUICK, "deadline": 5.0}
    # one more setting makes another engine; what is in the process has but one
    return Place(kind, options, options if kind == "memory" else {**options, "pool": 5})


@pytest.fixture
def memory(place: Place) -> Iterator[Any]:
    with Memory(**place.options) as made:
        yield made


@pytest.fixture
def other(place: Place, memory: Any) -> Iterator[Any]:
    """What another process sees, for it shares nothing with `memory` but the store."""
    with Memory(**place.elsewhere) as made:
        assert (made.engine is memory.engine) == (place.kind == "memory")
        yield made


def together(work: Sequence[Callable[[], Any]]) -> list[Any]:
    """Do all at once, each in a thread; what they returned. Raises what the first of them raised."""
    start = threading.Barrier(len(work))

    def one(task: Callable[[], Any]) -> Any:
        start.wait(10)
        return task()

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(one, work))


# --- values ---------------------------------------------------------------------------------------

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 1.0, -0.0, 0.1, 1e308, 5e-324, 2**53 + 1, 2**64, -(10**40), "", "text", "None",
    "é🧠\u2028", "\0\x1f\x7f", '"\\/', [], {}, [[]], {"": {}}, [None, True, 1, 1.5, "x", [], {}],
    {"a": [{"b": None}], "é": "\n", "b c": [1, [2, [3]]]}, {"value": 1}, {"value": 1, "last_modified": 2},
    {"stamp": "x"}, {"last_modified": 3}, "{\"value\":1}",
]  # fmt: skip

READING = """
import json, sys
from remanence import Memory
with Memory(**json.loads(sys.argv[1])) as memory:
    for name in sorted(memory, key=int):
        print(ascii(memory.get(name)))
"""


def test_every_json_type_is_seen_exactly_by_others(place: Place, memory: Any, other: Any):
    for number, value in enumerate(VALUES):
        memory.set(str(number), value)
    assert [ascii(other.get(name)) for name in sorted(other, key=int)] == [ascii(value) for value in VALUES]
    if place.kind != "memory":
        assert child(READING, json.dumps(place.options)).splitlines() == [ascii(value) for value in VALUES]


def test_the_attribute_of_one_is_the_attribute_of_another(memory: Any, other: Any):
    memory.plan = {"steps": ["a"]}
    other.plan["steps"].append("b")
    assert memory.plan == {"steps": ["a", "b"]}
    memory.plan = None
    assert other.plan is None and "plan" in other
    del other.plan
    assert not hasattr(memory, "plan")


@pytest.mark.parametrize("value", [float("nan"), [float("-inf")], {1}, b"x", object(), "\ud800", 1j, {"a": {2: 3}}])
def test_what_json_cannot_hold_is_refused_and_nothing_is_stored(value: Any):
    with Memory(backend="memory") as memory:
        memory.old = before = {"a": [1]}
        nested = {"a": [1, 2, 3, value]}
        for name in ("new", "old"):
            for call in (
                lambda name=name: memory.set(name, nested),
                lambda name=name: setattr(memory, name, nested),
                lambda name=name: memory.compare_and_set(name, before, nested),
                lambda name=name: memory.compare_and_set(name, MISSING, nested),
                lambda name=name: memory.update(name, lambda _: nested, None),
            ):
                with pytest.raises(TypeError) as caught:
                    call()
                assert str(caught.value).startswith(f'{name}["a"][3]')
            with pytest.raises(TypeError, match=name):
                memory.edit(name, "a").append(value)
            with pytest.raises((InvalidValue, Rejected)):
                memory.increment(name, value)
        assert list(memory) == ["old"] and memory.old == before


# --- every method of every class ------------------------------------------------------------------

ABOUT_A_MINUTE = pytest.approx(45, abs=15)
A_MINUTE = timedelta(minutes=1)


def doubled(value: Any) -> Any:
    return value * 2


METHODS: list[tuple[Any, ...]] = [
    # method, arguments, named ones, what it returns or raises
    ("get", ("n",), {}, AttributeError),
    ("get", ("n", None), {}, None),
    ("get", ("n", 7), {}, 7),
    ("read", ("n",), {}, AttributeError),
    ("ttl", ("n",), {}, AttributeError),
    ("delete", ("n",), {}, AttributeError),
    ("update", ("n", doubled), {}, AttributeError),
    ("compare_and_set", ("n", None, 1), {}, False),
    ("increment", ("n",), {"path": ("a",)}, Rejected),
    ("keys", (), {}, []),
    ("set", ("n", None), {}, "applied"),
    ("get", ("n", 7), {}, None),
    ("increment", ("n",), {}, Rejected),
    ("compare_and_set", ("n", MISSING, 1), {}, False),
    ("compare_and_set", ("n", 0, 1), {}, False),
    ("get", ("n",), {}, None),
    ("compare_and_set", ("n", None, 1), {}, True),
    ("read", ("n",), {}, 1),
    ("increment", ("n",), {}, 2),
    ("increment", ("n", 1.5), {}, 3.5),
    ("increment", ("n", -4), {}, -0.5),
    ("increment", ("fresh", 10**30), {}, 10**30),
    ("update", ("n", doubled), {}, -1.0),
    ("update", ("new", doubled, 2), {}, 4),
    ("update", ("new", doubled, 2), {}, 8),
    ("keys", (), {}, ["fresh", "n", "new"]),
    ("keys", ("ne",), {}, ["new"]),
    ("keys", (5,), {}, InvalidArgument),
    ("ttl", ("n",), {}, None),
    ("expire", ("n", A_MINUTE), {}, None),
    ("ttl", ("n",), {}, ABOUT_A_MINUTE),
    ("increment", ("n",), {}, 0.0),
    ("update", ("n", doubled), {}, 0.0),
    ("ttl", ("n",), {}, ABOUT_A_MINUTE),  # neither changes how long it lives
    ("set", ("n", [1, {"a": 1}]), {}, "applied"),
    ("ttl", ("n",), {}, None),  # while a new value is for ever
    ("increment", ("n", 4), {"path": (1, "a")}, 5),
    ("increment", ("n", 4), {"path": (5,)}, Rejected),
    ("compare_and_set", ("n", [1, {"a": 1}], 0), {}, False),
    ("compare_and_set", ("n", [1, {"a": 5}], "x"), {"ttl": 60}, True),
    ("ttl", ("n",), {}, ABOUT_A_MINUTE),
    ("expire", ("n", None), {}, None),
    ("ttl", ("n",), {}, None),
    ("set", ("n", "x"), {"ttl": 60.0}, "applied"),
    ("ttl", ("n",), {}, ABOUT_A_MINUTE),
    ("sync", ("n",), {}, None),
    ("contains", ("n",), {}, True),
    ("delete", ("n",), {}, None),
    ("contains", ("n",), {}, False),
    ("get", ("n",), {}, AttributeError),
    ("compare_and_set", ("n", MISSING, None), {}, True),
    ("get", ("n", 7), {}, None),
]

CLASSES: dict[str, Callable[..., Any]] = {
    "Memory": Memory,
    "ConversationMemory": lambda **options: ConversationMemory("talk", **options),
    "AsyncMemory": AsyncMemory,
    "AsyncConversationMemory": lambda **options: AsyncConversationMemory("talk", **options),
}


@pytest.mark.parametrize("name", CLASSES)
def test_every_method_does_what_it_promises(place: Place, name: str):
    with asyncio.Runner() as loop:

        def outcome(made: Any) -> Any:
            made = loop.run(made) if inspect.isawaitable(made) else made
            if isinstance(made, list):
                return sorted(made)
            return made.value if isinstance(made, Reading) else made.state if isinstance(made, Receipt) else made

        made = CLASSES[name](**place.options)
        try:
            for method, arguments, named, expected in METHODS:
                step = f"{method}{arguments} {named}"
                if method == "contains" and isinstance(made, Memory):
                    assert (arguments[0] in made) is expected, step
                elif inspect.isclass(expected):
                    with pytest.raises(expected):
                        outcome(getattr(made, method)(*arguments, **named))
                else:
                    found = outcome(getattr(made, method)(*arguments, **named))
                    assert found == expected and (expected is None) == (found is None), step
        finally:
            outcome(made.close())


@pytest.mark.parametrize("place", ["sqlite", *available_servers()], indirect=True)
def test_blocking_and_async_memories_share_one_store(place: Place):
    async def others() -> Any:
        async with AsyncMemory(**place.options) as memory, AsyncConversationMemory("c", **place.options) as talk:
            await memory.edit("log").append("async")
            counts = await asyncio.gather(*(memory.increment("n") for _ in range(20)))
            won = await asyncio.gather(*(memory.compare_and_set("leader", MISSING, i) for i in range(5)))
            return sorted(counts), won, await memory.keys(), await talk.get("mine")

    with Memory(**place.options) as memory, ConversationMemory("c", **place.options) as talk:
        memory.log, memory.n, talk.mine = ["blocking"], 0, 1
        counts, won, names, mine = asyncio.run(others())
        assert (counts, sorted(names), mine) == (list(range(1, 21)), ["leader", "log", "n"], 1)
        assert won.count(True) == 1 and memory.leader == won.index(True)
        assert memory.log == ["blocking", "async"] and memory.n == 20


# --- lifetimes ------------------------------------------------------------------------------------


def test_a_value_lives_as_long_as_it_is_given(memory: Any, other: Any):
    memory.kept = 1
    for ttl in (0.05, timedelta(milliseconds=50)):
        memory.set("brief", "x", ttl=ttl)
        assert eventually(lambda: "brief" not in other and "brief" not in memory, 5)
        assert memory.get("brief", "gone") == other.get("brief", "gone") == "gone"
        assert memory.keys() == list(other) == ["kept"]
    memory.set("long", "x", ttl=600)
    assert 500 < other.ttl("long") <= 600
    other.expire("long", 0.05)
    assert eventually(lambda: not hasattr(memory, "long"), 5)
    assert memory.increment("long") == 1 and memory.ttl("long") is None, "what expired left something behind"


@pytest.mark.parametrize("ttl", [0, -1, 0.0001, True, "1", float("nan"), float("inf"), 1e12, timedelta(0)])
def test_a_lifetime_is_a_positive_number_of_seconds(ttl: Any):
    with Memory(backend="memory") as memory:
        memory.old = 1
        for call in (
            lambda: memory.set("new", 2, ttl=ttl),
            lambda: memory.set("old", 2, ttl=ttl),
            lambda: memory.compare_and_set("old", 1, 2, ttl=ttl),
            lambda: memory.expire("old", ttl),
        ):
            with pytest.raises(InvalidTTL):
                call()
        assert list(memory) == ["old"] and memory.old == 1 and memory.ttl("old") is None


# --- several at once ------------------------------------------------------------------------------


def test_increments_of_threads_are_exact(memory: Any, other: Any):
    def count(each: Any) -> list[int]:
        return [each.increment("n") for _ in range(25)]

    told = together([lambda each=each: count(each) for each in (memory, other, memory, other)])
    assert all(sums == sorted(sums) for sums in told)
    assert sorted(total for sums in told for total in sums) == list(range(1, 101))
    assert memory.n == other.n == 100


def test_of_two_racers_one_wins(memory: Any, other: Any):
    before: Any = MISSING
    for turn in range(8):
        racers = [
            lambda each=each, mark=mark, before=before: each.compare_and_set("leader", before, mark)
            for each, mark in ((memory, [turn, "memory"]), (other, [turn, "other"]))
        ]
        won = together(racers)
        assert sorted(won) == [False, True]
        before = [turn, "memory" if won[0] else "other"]
        assert memory.leader == other.leader == before


@pytest.mark.parametrize(
    ("stored", "expected", "same"),
    [(True, 1, False), (0, False, False), ([1, 2], (1, 2), True), (1, 1.0, True), ({"a": [True]}, {"a": [1]}, False)],
)
def test_values_are_compared_as_json(stored: Any, expected: Any, same: bool):
    with Memory(backend="memory", namespace="compared") as memory:
        memory.value = stored
        assert memory.compare_and_set("value", expected, "won") is same


def test_nobody_wins_while_the_server_is_away(fresh_server: Callable[..., Server], namespace: str):
    server = fresh_server()
    with Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        assert memory.compare_and_set("leader", MISSING, "first")
        server.kill()
        memory.other = 1
        with pytest.raises(Unavailable, match="needs the server"):
            memory.compare_and_set("leader", "first", "second")
        assert memory.leader == "first" and memory.engine.status().pending == 1
        server.restart()
        assert memory.engine.flush(5.0)


def test_updates_of_threads_lose_nothing(memory: Any, other: Any):
    calls: list[str] = []

    def with_one_more(seen: dict[str, bool], name: str) -> dict[str, bool]:
        calls.append(name)
        return {**seen, name: True}

    def add(each: Any, number: int) -> None:
        for turn in range(8):
            each.update("seen", lambda seen, name=f"{number}:{turn}": with_one_more(seen, name), {})

    together([lambda each=each, i=i: add(each, i) for i, each in enumerate((memory, other, memory, other))])
    assert sorted(memory.seen) == sorted(f"{number}:{turn}" for number in range(4) for turn in range(8))
    assert len(calls) >= 32


def test_an_update_that_fails_changes_nothing(memory: Any, other: Any):
    memory.log = [1]

    def spoil(value: Any) -> Any:
        value.append(2)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        memory.update("log", spoil)
    assert memory.log == other.log == [1]


COUNTING = """
import json, sys
from remanence import Memory
with Memory(backend="sqlite") as memory:
    memory.increment("started")
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps([memory.increment("n") for _ in range(100)]))
"""


def test_processes_that_count_in_one_file_are_exact():
    with ExitStack() as stack, Memory(backend="sqlite") as memory:
        counters = [stack.enter_context(Child(COUNTING)) for _ in range(3)]
        for counter in counters:
            assert counter.line() == "ready"
        for counter in counters:
            counter.say()
        told = [counter.end() for counter in counters]
        assert [code for code, _, _ in told] == [0, 0, 0], told
        sums = [total for _, out, _ in told for total in json.loads(out)]
        assert sorted(sums) == list(range(1, 301))
        assert (memory.n, memory.started) == (300, 3)


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


# --- what others put there ------------------------------------------------------------------------

FOREIGN: list[tuple[bytes, Any]] = [
    (b"5", 5),
    (b'"text"', "text"),
    (b"null", None),
    (b" [1, 2 ]\n", [1, 2]),
    (b'{"a": 1}', {"a": 1}),
    (b"{}", {}),
    (b'{"value": 1, "unit": "m"}', {"value": 1, "unit": "m"}),
    (b'{"value": {"theme": "dark"}, "last_modified": 1700000000000000000}', {"theme": "dark"}),
    (b'{"last_modified":1,"value":[1]}', [1]),
    (b'{"value": null}', None),
    (b'"\\u00e9\\ud83e\\udde0"', "é🧠"),
    ('"é"'.encode("utf-8-sig"), "é"),
]
CORRUPT = [b"", b"text", b'{"value": ', b"\xff", b"[1,]", b"{'a': 1}", b"NaN", b"\x80\x04K\x01."]


def test_values_of_others_are_read_and_changed(server: Server, namespace: str):
    keys = Keyspace(namespace)
    with closing(server.client()) as plain, Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        for raw, value in FOREIGN:
            plain.set(keys.data("memory:theirs"), raw)
            assert memory.theirs == value, raw
            assert memory.keys("the") == ["theirs"] and memory.ttl("theirs") is None
            assert not memory.compare_and_set("theirs", MISSING, 0)
            assert memory.update("theirs", lambda found: [found, "ours"]) == [value, "ours"]
            plain.set(keys.data("memory:theirs"), raw)
            assert memory.compare_and_set("theirs", value, "ours") and memory.theirs == "ours"
            document: Any = plain.get(keys.data("memory:theirs"))
            assert json.loads(document)["value"] == "ours"
        for raw in (b"5", b'{"value": 5, "last_modified": 1}'):
            plain.set(keys.data("memory:theirs"), raw, ex=600)
            assert memory.increment("theirs", 2) == memory.theirs == 7
            assert 500 < memory.ttl("theirs") <= 600
        for raw in (b"[1]", b'{"value": [1], "last_modified": 1}'):
            plain.set(keys.data("memory:theirs"), raw)
            memory.theirs.append(2)
            assert memory.theirs == [1, 2]


def test_what_only_looks_like_an_envelope_is_a_value_whole(server: Server, namespace: str):
    with Memory(url=server.url, namespace=namespace) as memory, server.client() as client:
        client.set(Keyspace(namespace).data(memory.key_of("length")), '{"value":1,"unit":"m"}')
        assert memory.length == {"value": 1, "unit": "m"}
        memory.length["unit"] = "km"
        assert memory.length == {"value": 1, "unit": "km"}


@pytest.mark.parametrize("raw", CORRUPT)
def test_a_corrupt_value_is_an_error_for_its_name_alone(server: Server, namespace: str, raw: bytes):
    keys = Keyspace(namespace)
    with closing(server.client()) as plain, Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        memory.good = {"a": 1}
        plain.set(keys.data("memory:bad"), raw)
        for call in (
            lambda: memory.bad,
            lambda: memory.read("bad"),
            lambda: memory.get("bad", None),
            lambda: hasattr(memory, "bad"),
            lambda: memory.update("bad", doubled, 0),
            lambda: memory.compare_and_set("bad", None, 0),
        ):
            with pytest.raises(CorruptRecord, match="memory:bad"):
                call()
        for change in (lambda: memory.increment("bad"), lambda: memory.edit("bad").append(1)):
            with pytest.raises(Rejected, match="cannot be read"):
                change()
        assert not memory.compare_and_set("bad", MISSING, 0)
        assert plain.get(keys.data("memory:bad")) == raw
        assert sorted(memory) == ["bad", "good"] and "bad" in memory and memory.good == {"a": 1}
        del memory.bad
        assert list(memory) == ["good"] and memory.increment("bad") == 1


def test_a_key_of_another_type_is_left_as_it_is(server: Server, namespace: str):
    keys = Keyspace(namespace)
    with closing(server.client()) as plain, Memory(url=server.url, namespace=namespace, **QUICK) as memory:
        memory.good = 1
        plain.rpush(keys.data("memory:list"), "item")
        for call in (
            lambda: memory.list,
            lambda: memory.set("list", 1),
            lambda: memory.increment("list"),
            lambda: memory.delete("list"),
            lambda: memory.update("list", doubled, 0),
            lambda: memory.compare_and_set("list", MISSING, 0),
        ):
            with pytest.raises(WrongKind, match="memory:list"):
                call()
        assert plain.lrange(keys.data("memory:list"), 0, -1) == [b"item"] and memory.good == 1
