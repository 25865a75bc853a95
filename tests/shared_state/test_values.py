"""Values of shared state on every backend: what is set is what others see, and for how long, whoever put it there."""

import json
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest

from remanence import MISSING, Memory
from remanence.errors import CorruptRecord, InvalidTTL, InvalidValue, Rejected, WrongKind
from remanence.testing.oracle import QUICK, child, eventually
from remanence.testing.places import Place
from remanence.testing.servers import Server
from remanence.testing.simple import doubled
from remanence.wire.keys import Keyspace

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
