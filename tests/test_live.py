"""Live containers: whatever is done to one, the shared document has it, and plain Python agrees."""

import copy
import json
import pickle  # noqa: TID251 - what pickling a live container gives is its own promise
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remanence.errors import InvalidValue
from remanence.faces.bound import Bound
from remanence.faces.live import LiveDict, LiveList, plain, wrap
from remanence.testing.live_document import Doc, content, doc

# --- the same as Python, step by step -------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2)
VALUES = st.recursive(
    SCALARS,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text("ab", max_size=1), v, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from("abc")
INDEX = st.integers(-5, 5)
SLICES = st.builds(slice, st.none() | INDEX, st.none() | INDEX, st.none() | st.integers(-2, 2).filter(bool))


def _iadd(target: Any, values: Any) -> None:
    target += values


def _imul(target: Any, times: Any) -> None:
    target *= times


def _ior(target: Any, values: Any) -> None:
    target |= values


def _setitem(target: Any, key: Any, value: Any) -> None:
    target[key] = value


def _delitem(target: Any, key: Any) -> None:
    del target[key]


def _by_text(target: Any, reverse: bool) -> None:
    target.sort(key=repr, reverse=reverse)


LIST_STEPS: list[tuple[Callable[..., Any], list[Any]]] = [
    (lambda t, v: t.append(v), [VALUES]),
    (lambda t, v: t.extend(iter(v)), [st.lists(VALUES, max_size=3)]),
    (_iadd, [st.lists(VALUES, max_size=3)]),
    (_imul, [st.integers(-1, 2)]),
    (lambda t, i, v: t.insert(i, v), [INDEX, VALUES]),
    (lambda t: t.pop(), []),
    (lambda t, i: t.pop(i), [INDEX]),
    (lambda t, v: t.remove(v), [VALUES]),
    (lambda t: t.clear(), []),
    (lambda t: t.reverse(), []),
    (lambda t, r: t.sort(reverse=r), [st.booleans()]),
    (_by_text, [st.booleans()]),
    (_setitem, [INDEX, VALUES]),
    (_setitem, [SLICES, st.lists(VALUES, max_size=3)]),
    (_delitem, [INDEX]),
    (_delitem, [SLICES]),
    (lambda t, i: t[i], [INDEX]),
    (lambda t, s: t[s], [SLICES]),
    (lambda t, v: (t.index(v), t.count(v), v in t), [VALUES]),
    (lambda t, v: (t + v, v + t, t == v, t != v), [st.lists(VALUES, max_size=2)]),
    (lambda t, n: (t * n, n * t), [st.integers(-1, 2)]),
    (lambda t: (list(t), list(reversed(t)), len(t), bool(t), repr(t), str(t)), []),
    (lambda t, v: (t < v, t <= v, t > v, t >= v), [st.lists(st.integers(-3, 3), max_size=2)]),
    (lambda t, k: t["x"], [KEYS]),
    (lambda t: t.extend(5), []),
    (lambda t: _setitem(t, slice(None), 5), []),
    (lambda t: t.insert("a", 1), []),
    (lambda t: _imul(t, "a"), []),
    (lambda t: t.sort(key=len), []),
]
DICT_STEPS: list[tuple[Callable[..., Any], list[Any]]] = [
    (_setitem, [KEYS, VALUES]),
    (_delitem, [KEYS]),
    (lambda t, k: t.pop(k), [KEYS]),
    (lambda t, k, d: t.pop(k, d), [KEYS, VALUES]),
    (lambda t, k: t.pop(k, 1, 2), [KEYS]),
    (lambda t: t.popitem(), []),
    (lambda t, k, v: t.setdefault(k, v), [KEYS, VALUES]),
    (lambda t, k: t.setdefault(k), [KEYS]),
    (lambda t, m: t.update(m), [st.dictionaries(KEYS, VALUES)]),
    (lambda t, m: t.update(list(m.items())), [st.dictionaries(KEYS, VALUES)]),
    (lambda t, m: t.update(**m), [st.dictionaries(KEYS, VALUES)]),
    (lambda t, m: t.update(m, a=1), [st.dictionaries(KEYS, VALUES)]),
    (lambda t: t.update({}, {}), []),
    (lambda t: t.update(5), []),
    (_ior, [st.dictionaries(KEYS, VALUES)]),
    (lambda t, m: _ior(t, list(m.items())), [st.dictionaries(KEYS, VALUES)]),
    (lambda t: t.clear(), []),
    (lambda t, k: t[k], [KEYS]),
    (lambda t, k, v: (t.get(k), t.get(k, v), k in t), [KEYS, VALUES]),
    (lambda t: (list(t), list(t.keys()), list(t.values()), list(t.items()), list(reversed(t))), []),
    (lambda t: (len(t), bool(t), repr(t), str(t), dict(t), {**t}, t.copy()), []),
    (lambda t, m: (t | m, m | t, t == m, t != m), [st.dictionaries(KEYS, VALUES)]),
    (lambda t: t | [("a", 1)], []),
]


def outcome(step: Callable[..., Any], target: Any, args: Any) -> tuple[str, Any]:
    try:
        return "returned", plain(step(target, *args))
    except Exception as error:
        return "raised", type(error)


@pytest.mark.parametrize("path", [(), ("x", 1)])
@pytest.mark.parametrize(
    ("start", "steps"),
    [(st.lists(VALUES, max_size=5), LIST_STEPS), (st.dictionaries(KEYS, VALUES), DICT_STEPS)],
)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_method_does_and_returns_what_pythons_own_does(
    path: tuple[Any, ...], start: Any, steps: Any, data: st.DataObject
) -> None:
    expected = data.draw(start)
    root = Doc({"x": [0, copy.deepcopy(expected)]} if path else copy.deepcopy(expected))
    live = wrap(root, path, root.value["x"][1] if path else root.value)
    for _ in range(data.draw(st.integers(1, 4))):
        step, kinds = data.draw(st.sampled_from(steps))
        args = [data.draw(kind) for kind in kinds]
        before = copy.deepcopy(expected)
        theirs = outcome(step, expected, plain(copy.deepcopy(args)))
        if theirs[0] == "raised":
            expected = before  # a sort that fails leaves a list half sorted, and ours as it was
        ours = outcome(step, live, args)
        assert repr(ours) == repr(theirs)
        stored = root.value["x"][1] if path else root.value
        assert repr(stored) == repr(expected) == repr(live) == repr(content(live))


def test_no_method_of_list_or_dict_is_left_as_it_is() -> None:
    """One that Python adds later would work on the mirror alone."""
    harmless = {
        "__class_getitem__", "__doc__", "__getattribute__", "__init__", "__new__", "__sizeof__",
        "__iter__", "__reversed__",
    }  # fmt: skip
    for live, base in ((LiveDict, dict), (LiveList, list)):
        own = set(vars(live)) | set(vars(Bound))
        missing = {name for name in vars(base) if name not in own} - harmless
        assert missing <= ({"__lt__", "__le__", "__gt__", "__ge__"} if base is dict else set())
        assert {"__iter__", "__reversed__"} <= set(vars(live))


# --- copies, and nothing shared -------------------------------------------------------------------


def test_the_callers_object_is_neither_touched_nor_referred_to() -> None:
    mine = {"a": [1]}
    live = doc({})
    live["x"] = mine
    live.update(y=mine)
    live.setdefault("z", mine)["a"].append(2)
    live["x"]["a"].append(3)
    mine["a"].append(9)
    assert mine == {"a": [1, 9]}
    assert live == {"x": {"a": [1, 3]}, "y": {"a": [1]}, "z": {"a": [1, 2]}}
    items = doc([])
    items.append(mine)
    items += [mine]
    items.insert(0, mine)
    items[0:1] = [mine]
    mine["a"].clear()
    assert items == [{"a": [1, 9]}] * 3


@pytest.mark.parametrize(
    "taken",
    [
        copy.copy,
        copy.deepcopy,
        lambda v: v.copy(),
        lambda v: pickle.loads(pickle.dumps(v)),
        plain,
        lambda v: v[:] if isinstance(v, list) else v | {},
        lambda v: v + [0][1:] if isinstance(v, list) else {} | v,
        lambda v: [0][1:] + v if isinstance(v, list) else v | {},
        lambda v: v * 1 if isinstance(v, list) else v | v,
        lambda v: 1 * v if isinstance(v, list) else v.copy(),
    ],
)
@pytest.mark.parametrize("value", [{"a": {"b": [1]}, "c": 1}, [{"b": [1]}, [2]]])
def test_copies_are_plain_at_every_depth(taken: Any, value: Any) -> None:
    root = Doc(copy.deepcopy(value))
    taken_out = taken(root.live)
    assert taken_out == value and type(taken_out) in (dict, list)
    inner = taken_out["a"] if isinstance(taken_out, dict) else taken_out[0]
    assert type(inner) is dict and type(inner["b"]) is list
    inner["b"].append(9)
    assert root.value == value and not root.sent


def test_what_encoders_see() -> None:
    live = doc({"a": {"b": [1, {"c": 2}]}, "d": 1})
    for shown in (json.dumps(live), json.dumps(live, indent=1), msgspec.json.encode(live)):
        assert json.loads(shown) == {"a": {"b": [1, {"c": 2}]}, "d": 1}
    live["a"]["b"].append(3)
    assert json.loads(json.dumps(live["a"]["b"])) == [1, {"c": 2}, 3]
    log = live["a"]["b"]
    log.append(4)
    assert msgspec.json.encode(log) == b'[1,{"c":2},3,4]'
    assert isinstance(live, dict) and isinstance(log, list)


def test_neither_is_hashable_nor_takes_attributes() -> None:
    for live in (doc({}), doc([])):
        with pytest.raises(TypeError):
            hash(live)
        with pytest.raises(AttributeError):
            live.colour = 1
    assert LiveDict.fromkeys("ab", 1) == {"a": 1, "b": 1} and type(LiveDict.fromkeys("a")) is dict


def test_a_value_json_cannot_hold_is_named_and_nothing_changes() -> None:
    live = doc({"a": [1]})
    cycle: list[Any] = []
    cycle.append(cycle)
    for attempt, place in [
        (lambda: live["a"].append({1}), 'mem["a"] '),
        (lambda: live["a"].append([b""]), 'mem["a"][0] '),
        (lambda: _setitem(live, "b", {"c": object()}), 'mem["b"]["c"] '),
        (lambda: _setitem(live, 1, 2), "mem has a key of type int"),
        (lambda: live.update({1: 2}), "mem has a key of type int"),
        (lambda: _setitem(live, "b", cycle), 'mem["b"] contains itself'),
    ]:
        with pytest.raises(InvalidValue) as caught:
            attempt()
        assert str(caught.value).startswith(place)
    assert live == {"a": [1]}
