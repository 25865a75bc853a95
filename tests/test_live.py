"""Live containers: whatever is done to one, the shared document has it, and plain Python agrees."""

import copy
import json
import pickle  # noqa: TID251 - what pickling a live container gives is its own promise
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from remanence.errors import InvalidValue, Rejected, ValueTooLarge
from remanence.faces.bound import Bound
from remanence.faces.live import LiveDict, LiveList, is_same, plain, wrap
from remanence.faces.moves import Moves, inserting, nowhere, removing, replacing
from remanence.stores.edits import EditRejected, apply_edits, edit


class Doc:
    """A root in memory: the document is what an edit makes of a copy, as in a store."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.version = 1
        self.moves = Moves()
        self.sent: list[tuple[Any, ...]] = []
        self.refuse = ""
        self.lock = threading.Lock()

    def change(self, path: tuple[str | int, ...], verb: str, *args: Any) -> Any:
        self.sent.append((path, verb, *args))
        if self.refuse:
            raise EditRejected(self.refuse)
        made = edit(path, verb, *args, name="mem")
        with self.lock:
            value, result = apply_edits(copy.deepcopy(self.value), [made])
            self.put(value)
        return result

    def put(self, value: Any) -> None:
        """As another process would."""
        self.value = value
        self.version += 1

    @property
    def live(self) -> Any:
        return wrap(self, (), self.value)


def doc(value: Any) -> Any:
    return Doc(copy.deepcopy(value)).live


def content(live: Any) -> Any:
    """What C code sees in it, without asking."""
    if isinstance(live, dict):
        return {key: dict.__getitem__(live, key) for key in dict.__iter__(live)}
    return list.__getitem__(live, slice(None))


# --- the same as Python, step by step -----------------------------------------------------------

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


# --- copies, and nothing shared -----------------------------------------------------------------


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


# --- what others do -----------------------------------------------------------------------------


def test_reads_show_what_others_wrote() -> None:
    root = Doc({"a": {"b": [1]}, "n": 1})
    live = root.live
    inner = live["a"]["b"]
    root.put({"a": {"b": [1, 2]}, "n": 2})
    assert inner == [1, 2] and len(inner) == 2 and inner[-1] == 2 and 2 in inner and list(inner) == [1, 2]
    assert live["n"] == 2 and repr(live) == "{'a': {'b': [1, 2]}, 'n': 2}"
    root.put({"n": 3})
    assert list(live) == ["n"] and content(live) == {"n": 3}


def test_a_write_through_an_older_reference_is_not_dropped() -> None:
    root = Doc({"a": {"x": 1}})
    first, second = root.live["a"], root.live["a"]
    second["y"] = 2
    root.put({"a": {**root.value["a"], "theirs": 3}})
    first["z"] = 4
    assert root.value == {"a": {"x": 1, "y": 2, "theirs": 3, "z": 4}} == {"a": second}
    root.live["a"] = {"new": 1}
    first["more"] = 2
    assert root.value == {"a": {"new": 1, "more": 2}}


def test_return_values_are_those_of_the_shared_container() -> None:
    root = Doc([1, 2])
    live = root.live
    real = root.change

    def overtaken(path: Any, verb: str, *args: Any) -> Any:
        root.put([1, 2, 3])
        return real(path, verb, *args)

    root.change = overtaken  # type: ignore[method-assign]
    assert live.pop() == 3
    assert live == [1, 2]


@pytest.mark.parametrize(
    ("after", "error"),
    [
        ({}, KeyError),
        ({"a": []}, IndexError),
        ({"a": [5]}, TypeError),
        ({"a": [[]]}, TypeError),
        ({"a": 5}, TypeError),
        (None, TypeError),
    ],
)
def test_a_container_whose_place_is_gone_keeps_its_content_and_refuses_writes(after: Any, error: Any) -> None:
    root = Doc({"a": [{"x": 1}]})
    live = root.live["a"][0]
    root.put(after)
    assert live == {"x": 1} and live["x"] == 1
    for attempt in (
        lambda: _setitem(live, "x", 2),
        lambda: _delitem(live, "x"),
        lambda: live.pop("x"),
        lambda: live.pop("y", None),
        lambda: live.setdefault("x", 1),
        lambda: live.update(x=1),
        live.popitem,
        live.clear,
    ):
        with pytest.raises(error, match=r"get it again|gone"):
            attempt()
    assert not root.sent
    root.put({"a": [{"x": 5}]})
    live["y"] = 6
    assert root.value == {"a": [{"x": 5, "y": 6}]}


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        ("index out of range", IndexError),
        ("no such member", KeyError),
        ("value not in list", ValueError),
        ("items cannot be ordered", TypeError),
        ("not a list", TypeError),
        ("not a dict", TypeError),
        ("slice sizes differ", ValueError),
        ("too large", ValueTooLarge),
        ("bad arguments", EditRejected),
    ],
)
def test_a_refusal_is_pythons_own_error(reason: str, error: Any) -> None:
    root = Doc({"a": [1, 2]})
    live = root.live["a"]
    root.refuse = reason
    for attempt in (live.pop, live.sort, lambda: live.append(1), lambda: _setitem(live, slice(0, 1), [1])):
        with pytest.raises(error):
            attempt()
    assert live == [1, 2]


def test_a_path_that_goes_meanwhile() -> None:
    for value, path, error in (({"a": [1]}, ("a",), KeyError), ([[1]], (0,), IndexError)):
        root = Doc(value)
        live = wrap(root, path, value[path[0]])
        root.refuse = "path is gone"
        with pytest.raises(error):
            live.append(1)
    root = Doc([1])

    def rejected(*args: Any) -> Any:
        raise Rejected("the list is empty", "index out of range")

    root.change = rejected  # type: ignore[method-assign]
    with pytest.raises(IndexError):
        root.live.pop()


def test_a_default_for_pop_need_not_be_json_and_is_kept_here() -> None:
    root = Doc({"a": 1})
    live, missing = root.live, object()
    assert live.pop("b", missing) is missing and not root.sent
    root.refuse = "no such member"  # another process was faster
    assert live.pop("a", missing) is missing
    with pytest.raises(KeyError):
        live.pop("a")


def test_what_cannot_work_is_not_sent() -> None:
    root = Doc({"l": [1, "a"], "d": {}})
    items, members = root.live["l"], root.live["d"]
    for attempt, message in [
        (lambda: items.pop(5), "pop index out of range"),
        (lambda: items.remove(7), "list.remove\\(x\\): x not in list"),
        (lambda: _setitem(items, 5, 1), "list assignment index out of range"),
        (lambda: _delitem(items, -5), "list assignment index out of range"),
        (lambda: _setitem(items, slice(None, None, 2), []), "attempt to assign sequence of size 0"),
        (items.sort, "'<' not supported"),
        (lambda: _delitem(members, "a"), "a"),
        (members.popitem, "dictionary is empty"),
    ]:
        with pytest.raises((IndexError, ValueError, TypeError, KeyError), match=message):
            attempt()
    items.extend([])
    members.update({})
    members.setdefault("a", 1)
    members.setdefault("a", 2)
    assert [verb for _, verb, *_ in root.sent] == ["setdefault"]


def test_sorting_by_a_key_leaves_what_others_add() -> None:
    root = Doc([3, 1, 2])
    live = root.live
    live.sort(key=lambda n: -n if root.value == [3, 1, 2] else root.put([3, 1, 2, 9]))  # runs here
    assert root.sent[-1] == ((), "reorder", [3, 2, 1])
    real = root.change

    def overtaken(path: Any, verb: str, *args: Any) -> Any:
        root.put([3, 1, 2, 9])
        return real(path, verb, *args)

    root.change = overtaken  # type: ignore[method-assign]
    live.sort(key=str)
    assert root.value == [1, 2, 3, 9]


# --- assigning live values ----------------------------------------------------------------------


def test_augmented_assignment_sends_one_edit() -> None:
    root = Doc({"a": [1], "d": {"x": 1}, "l": [[1], [2]]})
    live = root.live
    live["a"] += [2]
    live["d"] |= {"y": 2}
    live["l"][0] += [9]
    live["l"][-1] *= 2
    assert root.value == {"a": [1, 2], "d": {"x": 1, "y": 2}, "l": [[1, 9], [2, 2]]}
    assert [verb for _, verb, *_ in root.sent] == ["extend", "update", "extend", "repeat"]


def test_is_same_knows_the_place_and_not_the_content() -> None:
    root = Doc({"a": [1], "b": [1]})
    live = root.live
    assert is_same(live, root, ()) and is_same(live["a"], root, ("a",))
    assert not is_same(live["a"], root, ("b",)) and not is_same([1], root, ("a",))
    assert not is_same(live["a"], Doc({"a": [1]}), ("a",)) and not is_same(None, root, ())
    gone = live["a"]
    root.put({"b": [1]})
    assert not is_same(gone, root, ("a",))
    live["a"] = gone
    assert root.value == {"b": [1], "a": [1]}


def test_a_live_value_stored_elsewhere_is_a_copy() -> None:
    live = doc({"a": {"x": 1}})
    live["a"]["x"] = 2
    live["b"] = live["a"]
    live["list"] = [live["a"], (live["b"],)]
    live["a"]["x"] = 3
    assert live == {"a": {"x": 3}, "b": {"x": 2}, "list": [{"x": 2}, [{"x": 2}]]}


def test_what_a_root_is_given_is_plain_new_and_current() -> None:
    root = Doc({"a": {"x": 1}})
    live, mine = root.live, [1]
    live["b"] = mine
    assert root.sent[-1] == ((), "setmember", "b", [1]) and root.sent[-1][-1] is not mine
    held = [live["a"]]
    root.put({"a": {"x": 2}})
    live["c"] = held
    assert root.value["c"] == [{"x": 2}] and type(root.sent[-1][-1][0]) is dict


def test_swapping_swaps() -> None:
    members = doc({"a": {"n": 1}, "b": {"n": 2}})
    members["a"], members["b"] = members["b"], members["a"]
    assert members == {"a": {"n": 2}, "b": {"n": 1}}
    items = doc([{"n": 1}, {"n": 2}, {"n": 3}])
    items[0], items[-1] = items[-1], items[0]
    assert items == [{"n": 3}, {"n": 2}, {"n": 1}]
    saved = members["a"]
    members["a"] = {}
    members["a"] = saved
    assert members["a"] == {"n": 2}


@given(st.lists(st.integers(0, 20), max_size=7), st.randoms(use_true_random=False))
def test_algorithms_written_for_lists_lose_no_item(numbers: list[int], dice: random.Random) -> None:
    live = doc([{"n": n} for n in numbers])
    dice.shuffle(live)
    assert sorted(item["n"] for item in live) == sorted(numbers)
    for place in range(1, len(live)):
        key, before = live[place], place - 1
        while before >= 0 and live[before]["n"] > key["n"]:
            live[before + 1] = live[before]
            before -= 1
        live[before + 1] = key
    assert [item["n"] for item in live] == sorted(numbers)


# --- items of lists and where they go -----------------------------------------------------------


class Following(RuleBasedStateMachine):
    """Items held from a live list stand for the same items as those held from a plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Doc([{"id": n} for n in range(4)])
        self.plain: list[Any] = copy.deepcopy(self.root.value)
        self.held: list[tuple[Any, Any]] = []
        self.count = 4

    def new(self) -> Any:
        self.count += 1
        return {"id": self.count}

    @rule(index=st.integers(-6, 6))
    def insert(self, index: int) -> None:
        item = self.new()
        self.plain.insert(index, copy.deepcopy(item))
        self.root.live.insert(index, item)

    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        if self.plain:
            place = data.draw(st.integers(-len(self.plain), len(self.plain) - 1))
            self.held.append((self.plain[place], self.root.live[place]))

    @rule()
    def hold_all(self) -> None:
        self.held += zip(self.plain, self.root.live, strict=True)

    @rule(data=st.data())
    def take_out(self, data: st.DataObject) -> None:
        if self.plain:
            place = data.draw(st.integers(-len(self.plain), len(self.plain) - 1))
            how = data.draw(st.sampled_from([_delitem, lambda t, i: t.pop(i), lambda t, i: t.remove(plain(t[i]))]))
            how(self.plain, place)
            how(self.root.live, place)

    @rule(data=st.data())
    def replace(self, data: st.DataObject) -> None:
        if self.plain:
            place = data.draw(st.integers(-len(self.plain), len(self.plain) - 1))
            item = self.new()
            self.plain[place] = copy.deepcopy(item)
            self.root.live[place] = item

    @rule(
        how=st.sampled_from([list.clear, list.reverse, lambda t: t.sort(key=repr), lambda t: _delitem(t, slice(1, 3))])
    )
    def throw_about(self, how: Any) -> None:
        self.held = [(mine, live) for mine, live in self.held if not isinstance(live, Bound)]
        how(self.plain)
        how = {list.clear: LiveList.clear, list.reverse: LiveList.reverse}.get(how, how)
        how(self.root.live)

    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        if self.held:
            mine, live = data.draw(st.sampled_from(self.held))
            value = data.draw(st.integers(0, 9))
            if any(item is mine for item in self.plain):
                mine["n"] = live["n"] = value
            else:
                with pytest.raises(IndexError):
                    live["n"] = value

    @invariant()
    def all_agree(self) -> None:
        assert self.root.value == self.plain
        for mine, live in self.held:
            assert live == mine


TestFollowing = Following.TestCase
TestFollowing.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize(
    "move",
    [
        lambda t: t.clear(),
        lambda t: t.reverse(),
        lambda t: t.sort(key=repr),
        lambda t: _delitem(t, slice(0, 1)),
        lambda t: _setitem(t, slice(0, 1), [{"new": 1}]),
        lambda t: _imul(t, 0),
    ],
)
def test_items_that_cannot_be_followed_keep_their_content(move: Any) -> None:
    root = Doc([{"b": 1}, {"a": 1}])
    live = root.live
    held = live[0]
    move(live)
    live.extend([{"later": 1}] * 2)
    assert held == {"b": 1}
    with pytest.raises(IndexError):
        held["b"] = 2
    assert "b', 2" not in repr(root.value)


def test_removing_while_iterating_visits_every_item() -> None:
    live = doc([{"n": n} for n in range(6)])
    seen = []
    for item in live:
        seen.append(item["n"])
        if item["n"] % 2:
            live.remove(item)
        else:
            item["seen"] = True
    assert seen == list(range(6))
    assert live == [{"n": n, "seen": True} for n in (0, 2, 4)]


def test_an_item_looked_at_before_its_move_was_noted_is_still_followed() -> None:
    root = Doc([{"n": 0}, {"n": 1}, {"n": 2}])
    live, held = root.live, root.live[1]
    real = root.change

    def looked_at(path: Any, verb: str, *args: Any) -> Any:
        result = real(path, verb, *args)
        held.get("n")  # another thread, just now
        return result

    root.change = looked_at  # type: ignore[method-assign]
    live.pop(0)
    assert held == {"n": 1}
    held["mine"] = True
    assert root.value == [{"n": 1, "mine": True}, {"n": 2}]


def test_moves() -> None:
    moves = Moves()
    assert moves.follow(("a", 1), 0) == (("a", 1), False)
    moves.shifted(("a",), removing(0))
    first = moves.last
    moves.shifted(("a",), inserting(0))
    moves.shifted(("a",), inserting(0))
    assert moves.follow(("a", 1, "b"), 0) == (("a", 2, "b"), False)
    assert moves.follow(("a", 1), first) == (("a", 3), False)
    assert moves.follow(("b", 1), 0) == (("b", 1), False) and moves.follow(("a",), 0) == (("a",), False)
    moves.replaced((), ("a",))
    assert moves.follow(("a", 0), 0) == (None, False) and moves.follow(("a", 1), 0) == (("a", 2), True)
    assert replacing(1)(1) is None and replacing(1)(2) == 2 and nowhere(5) is None
    for _ in range(1000):
        moves.shifted(("x",), nowhere)
    assert moves.follow(("a", 1), 0) == (("a", 1), False)


# --- threads ------------------------------------------------------------------------------------


def test_threads_lose_nothing_and_see_whole_documents() -> None:
    root = Doc({"log": [], "pair": {"a": 0, "b": 0}})
    shared_log, shared_pair = root.live["log"], root.live["pair"]
    torn: list[Any] = []

    def write(number: int) -> None:
        for n in range(60):
            shared_log.append([number, n])
            shared_pair.update(a=n, b=n)

    def read() -> None:
        for _ in range(300):
            shown = dict(shared_pair.items())
            if shown["a"] != shown["b"] or set(content(shared_pair)) - {"a", "b"}:
                torn.append(shown)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    threads += [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not torn
    assert sorted(plain(shared_log)) == [[number, n] for number in range(4) for n in range(60)]
    assert content(shared_log) == root.value["log"]


def test_two_threads_refreshing_do_not_mix_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Doc({"start": 1})
    live, entered = root.live, threading.Event()

    def slow(self: Any, value: Any) -> None:
        dict.clear(self)
        entered.set()
        time.sleep(0.05)
        dict.update(self, value)

    monkeypatch.setattr(LiveDict, "_mirror", slow)
    root.put({"a": 1})
    first = threading.Thread(target=live.get, args=("a",))
    first.start()
    assert entered.wait(10)
    root.put({"b": 1})
    assert live.get("b") == 1
    first.join()
    assert content(live) == {"b": 1}
