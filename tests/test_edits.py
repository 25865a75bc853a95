"""What a patch does: what Python's own list and dict do, or a rejection that says why."""

import copy
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remanence.errors import InvalidArgument, InvalidValue, ValueTooLarge
from remanence.model import Edit
from remanence.stores import edits
from remanence.stores.edits import EditRejected, apply_edits, edit
from remanence.wire.codec import encode

SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, 1.5, -2.0]) | st.text("ab", max_size=2)
VALUES = st.recursive(
    SCALARS,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text("ab", max_size=2), v, max_size=3),
    max_leaves=8,
)
LISTS = st.lists(VALUES, max_size=6)
DICTS = st.dictionaries(st.text("abc", max_size=1), VALUES, max_size=4)
KEYS = st.text("abc", max_size=1)
INDEX = st.integers(-8, 8)
BOUND = st.none() | st.integers(-8, 8)


def run(document: Any, verb: str, *args: Any, path: tuple[str | int, ...] = ()) -> tuple[Any, Any]:
    return apply_edits(copy.deepcopy(document), [edit(path, verb, *args)])


def held_equal(document: Any, verb: str, args: tuple[Any, ...], theirs: Any) -> None:
    """The edit, at the top and further down, does and returns what `theirs` does to a plain copy."""
    plain = copy.deepcopy(document)
    try:
        expected = theirs(plain, *copy.deepcopy(args))
    except (IndexError, KeyError, ValueError, TypeError):
        for inside, path in ((document, ()), ({"x": [0, document]}, ("x", 1))):
            with pytest.raises(EditRejected):
                run(inside, verb, *args, path=path)
        return
    assert repr(run(document, verb, *args)) == repr((plain, expected))
    deep, result = run({"x": [0, document]}, verb, *args, path=("x", 1))
    assert repr((deep, result)) == repr(({"x": [0, plain]}, expected))


def _setitem(target: Any, key: Any, value: Any) -> None:
    target[key] = value


def _delitem(target: Any, key: Any) -> None:
    del target[key]


def _setslice(target: Any, start: Any, stop: Any, step: Any, values: Any) -> None:
    target[start:stop:step] = values


def _delslice(target: Any, start: Any, stop: Any, step: Any) -> None:
    del target[start:stop:step]


def _repeat(target: Any, times: int) -> None:
    target *= times


LIST_VERBS: dict[str, tuple[Any, list[Any]]] = {
    "append": (list.append, [VALUES]),
    "extend": (list.extend, [LISTS]),
    "insert": (list.insert, [INDEX, VALUES]),
    "pop": (list.pop, [INDEX]),
    "remove": (list.remove, [VALUES]),
    "clear": (list.clear, []),
    "reverse": (list.reverse, []),
    "setitem": (_setitem, [INDEX, VALUES]),
    "setslice": (_setslice, [BOUND, BOUND, BOUND, LISTS]),
    "delitem": (_delitem, [INDEX]),
    "delslice": (_delslice, [BOUND, BOUND, BOUND]),
    "repeat": (_repeat, [st.integers(-2, 3)]),
    "sort": (lambda target, reverse: target.sort(reverse=reverse), [st.booleans()]),
}
DICT_VERBS: dict[str, tuple[Any, list[Any]]] = {
    "setmember": (_setitem, [KEYS, VALUES]),
    "delmember": (_delitem, [KEYS]),
    "pop_member": (dict.pop, [KEYS]),
    "popitem": (lambda target: list(target.popitem()), []),
    "setdefault": (dict.setdefault, [KEYS, VALUES]),
    "update": (dict.update, [DICTS]),
    "clear": (dict.clear, []),
}


@pytest.mark.parametrize("verb", LIST_VERBS)
@given(data=st.data())
def test_a_list_verb_is_pythons_own(verb: str, data: st.DataObject) -> None:
    theirs, kinds = LIST_VERBS[verb]
    document = data.draw(LISTS | st.lists(st.integers(-3, 3)) | st.lists(st.text("ab", max_size=2)))
    args = tuple(data.draw(kind) for kind in kinds)
    if verb == "remove" and document and data.draw(st.booleans()):
        args = (data.draw(st.sampled_from(document)),)
    held_equal(document, verb, args, theirs)


@pytest.mark.parametrize("verb", DICT_VERBS)
@given(data=st.data())
def test_a_dict_verb_is_pythons_own(verb: str, data: st.DataObject) -> None:
    theirs, kinds = DICT_VERBS[verb]
    held_equal(data.draw(DICTS), verb, tuple(data.draw(kind) for kind in kinds), theirs)


def test_every_verb_is_under_test() -> None:
    assert set(edits.VERBS) == {*LIST_VERBS, *DICT_VERBS, "set", "add", "reorder", "prolong"}


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("2026-05-01T00:00:00Z", "2026-05-02T00:00:00+00:00", None),
        ("2026-05-02T01:00:00+01:00", "2026-05-02T00:00:00+00:00", edits.NOT_LATER),
        ("2026-05-03T00:00:00Z", "2026-05-02T00:00:00+00:00", edits.NOT_LATER),
        (None, "2026-05-02T00:00:00+00:00", edits.NOT_LATER),
        ("soon", "2026-05-02T00:00:00+00:00", edits.BAD_ARGUMENTS),
        (7, "2026-05-02T00:00:00+00:00", edits.BAD_ARGUMENTS),
        ("2026-05-01", "2026-05-02T00:00:00+00:00", edits.BAD_ARGUMENTS),
    ],
)
def test_a_time_is_prolonged_and_never_cut(before: Any, after: str, reason: str | None) -> None:
    change = edits.edit(("until",), "prolong", after)
    if reason is None:
        assert edits.apply_edits({"until": before}, [change])[0] == {"until": after}
        return
    with pytest.raises(edits.EditRejected) as refused:
        edits.apply_edits({"until": before}, [change])
    assert refused.value.reason == reason


def test_what_has_no_end_is_not_given_one() -> None:
    with pytest.raises(edits.EditRejected, match=edits.NOT_LATER):
        edits.apply_edits({}, [edits.edit(("until",), "prolong", "2026-05-02T00:00:00+00:00")])


@given(DICTS, KEYS, VALUES)
def test_pop_member_with_a_default(document: Any, key: str, default: Any) -> None:
    held_equal(document, "pop_member", (key, default), dict.pop)


# --- reorder ------------------------------------------------------------------------------------

NAMES = st.lists(st.sampled_from([0, 1, True, 1.0, "a", None, [1], {"a": 1, "b": 2}, {"b": 2, "a": 1}]), max_size=8)


def canonical(items: list[Any]) -> Counter[str]:
    return Counter(repr(sorted(item.items()) if isinstance(item, dict) else item) for item in items)


@given(NAMES, NAMES)
def test_reorder_keeps_exactly_what_is_there(current: list[Any], order: list[Any]) -> None:
    result, _ = run(current, "reorder", order)
    assert canonical(result) == canonical(current)
    known = canonical(current) & canonical(order)
    head = result[: known.total()]
    assert canonical(head) == known
    left = Counter(known)
    expected = []
    for item in order:
        name = next(iter(canonical([item])))
        if left[name]:
            left[name] -= 1
            expected.append(name)
    assert [next(iter(canonical([item]))) for item in head] == expected


@given(st.lists(st.integers(0, 9)), st.lists(st.integers(10, 19)), st.lists(st.integers(0, 9)))
def test_reorder_leaves_what_others_did(mine: list[int], added: list[int], gone: list[int]) -> None:
    shared = [item for item in mine if item not in gone] + added
    result, _ = run(shared, "reorder", sorted(mine))
    assert result == sorted(item for item in mine if item not in gone) + added


# --- set and add --------------------------------------------------------------------------------


@given(VALUES, VALUES)
def test_set_replaces_and_creates_the_last_member(document: Any, value: Any) -> None:
    assert run(document, "set", value) == (value, None)
    assert run({"a": document}, "set", value, path=("a",)) == ({"a": value}, None)
    assert run({"a": document}, "set", value, path=("b",)) == ({"a": document, "b": value}, None)
    assert run([document], "set", value, path=(0,)) == ([value], None)


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({}, ("a", "b")),
        ([], (0,)),
        ([1], (1,)),
        ([1], (-1,)),
        ([1], ("a",)),
        ({"a": 1}, (0,)),
        (5, ("a",)),
        ("ab", (0,)),
    ],
)
def test_a_path_that_is_gone_is_said_to_be(document: Any, path: tuple[str | int, ...]) -> None:
    for verb, args in (("set", (1,)), ("append", (1,)), ("clear", ())):
        with pytest.raises(EditRejected) as caught:
            run(document, verb, *args, path=path)
        assert caught.value.reason == "path is gone"


NUMBERS = st.integers(-(10**30), 10**30) | st.floats(-1e9, 1e9)


@given(NUMBERS, NUMBERS)
def test_add_is_pythons_own_and_returns_the_sum(number: Any, amount: Any) -> None:
    total = number + amount
    assert repr(run({"a": number}, "add", amount, path=("a",))) == repr(({"a": total}, total))
    assert repr(run([number], "add", amount, path=(0,))) == repr(([total], total))
    assert repr(run(number, "add", amount)) == repr((total, total))
    assert repr(run({}, "add", amount, path=("a",))) == repr(({"a": 0 + amount}, 0 + amount))


@pytest.mark.parametrize(
    ("document", "amount", "reason"),
    [
        (True, 1, "not a number"),
        (1, True, "not a number"),
        ("1", 1, "not a number"),
        (1, "1", "not a number"),
        (None, 1, "not a number"),
        (1e308, 1e308, "number out of range"),
        (10**400, 1.5, "number out of range"),
        (10**4300 - 1, 1, "number out of range"),
        (-(10**4300) + 1, -1, "number out of range"),
    ],
)
def test_what_cannot_be_added(document: Any, amount: Any, reason: str) -> None:
    with pytest.raises(EditRejected, match=reason):
        run({"a": document}, "add", amount, path=("a",))
    with pytest.raises(EditRejected, match="path is gone"):
        run([1], "add", 1, path=(1,))


# --- rejections ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "verb", "args", "reason"),
    [
        ([], "pop", (), "index out of range"),
        ([1], "insert", (10**30, 1), "index out of range"),
        ([1], "setitem", (1, 2), "index out of range"),
        ([1], "delitem", (1,), "index out of range"),
        ([1], "remove", (2,), "value not in list"),
        ([1, "a"], "sort", (False,), "items cannot be ordered"),
        ([1], "setslice", (None, None, 2, [1, 2]), "slice sizes differ"),
        ([1], "setslice", (None, None, 0, [1]), "slice step is zero"),
        ([1], "delslice", (None, None, 0), "slice step is zero"),
        ([1], "repeat", (10**12,), "too large"),
        ({}, "delmember", ("a",), "no such member"),
        ({}, "pop_member", ("a",), "no such member"),
        ({}, "popitem", (), "no such member"),
        ({}, "append", (1,), "not a list"),
        ("ab", "append", (1,), "not a list"),
        ([], "setmember", ("a", 1), "not a dict"),
        (5, "clear", (), "not a list or dict"),
    ],
)
def test_reasons(document: Any, verb: str, args: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(EditRejected) as caught:
        run(document, verb, *args)
    assert caught.value.reason == str(caught.value) == reason


@pytest.mark.parametrize(
    ("document", "verb", "args"),
    [
        ([1], "append", b"[]"),
        ([1], "append", b"[1,2]"),
        ([1], "append", b"{}"),
        ([1], "append", b"["),
        ([1], "extend", b'["ab"]'),
        ([1], "insert", b'["a",1]'),
        ([1], "pop", b'["a"]'),
        ([1], "setitem", b'["a",1]'),
        ([1], "setslice", b'[null,null,null,"ab"]'),
        ([1], "delitem", b"[null]"),
        ([1], "repeat", b"[1.5]"),
        ([1], "reorder", b"[5]"),
        ({}, "setmember", b"[1,2]"),
        ({}, "update", b"[[]]"),
        ({}, "setdefault", b"[[],1]"),
        ({}, "pop_member", b"[{}]"),
    ],
)
def test_arguments_that_no_version_of_us_sent(document: Any, verb: str, args: bytes) -> None:
    with pytest.raises(EditRejected) as caught:
        apply_edits(document, [Edit((), verb, args)])
    assert caught.value.reason == "bad arguments"
    with pytest.raises(EditRejected, match="unknown verb"):
        apply_edits(document, [Edit((), "explode")])


@given(st.sampled_from(sorted(edits.VERBS)), VALUES, st.lists(VALUES, max_size=4))
def test_nothing_but_a_rejection_ever_comes_out(verb: str, document: Any, args: list[Any]) -> None:
    try:
        result = apply_edits(document, [Edit((), verb, encode(args))])
    except EditRejected:
        return
    encode(list(result))


# --- several edits, and sharing -----------------------------------------------------------------


def test_edits_follow_each_other_and_the_first_gives_the_result() -> None:
    document = {"value": {"log": [1]}, "last_modified": 1}
    both = [edit(("value", "log"), "pop"), edit(("last_modified",), "set", 2)]
    assert apply_edits(document, both) == ({"value": {"log": []}, "last_modified": 2}, 1)
    assert apply_edits([1], []) == ([1], None)


def test_no_part_of_the_outcome_is_in_two_places() -> None:
    document, _ = run([{"n": 0}, [1]], "repeat", 3)
    document, _ = apply_edits(document, [edit((0, "n"), "add", 1)])
    assert document == [{"n": 1}, [1], {"n": 0}, [1], {"n": 0}, [1]]
    document, result = run({}, "setdefault", "a", [1])
    result.append(2)
    assert document == {"a": [1]}


# --- edit ---------------------------------------------------------------------------------------


def test_an_edit_is_a_value_of_its_own() -> None:
    given_list = [1]
    made = edit(("a", 0), "append", given_list)
    given_list.append(2)
    assert made == Edit(("a", 0), "append", b"[[1]]")
    assert edit([], "pop") == Edit((), "pop", b"[]")


@pytest.mark.parametrize(
    ("verb", "args", "place"),
    [
        ("append", ({1},), 'settings["a"] '),
        ("append", ([{1}],), 'settings["a"][0] '),
        ("setmember", ("b", [math.nan]), 'settings["a"]["b"][0] '),
        ("setmember", (1, 2), 'settings["a"] has a key of type int'),
        ("setdefault", (None, 2), 'settings["a"] has a key of type NoneType'),
        ("setitem", (3, object()), 'settings["a"][3] '),
        ("update", ({"b": b""},), 'settings["a"]["b"] '),
        ("update", ({1: 1},), 'settings["a"] has a key'),
    ],
)
def test_an_argument_json_cannot_hold_is_named_by_its_place(verb: str, args: tuple[Any, ...], place: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        edit(("a",), verb, *args, name="settings")
    assert str(caught.value).startswith(place)


def test_limits_of_an_edit() -> None:
    with pytest.raises(ValueTooLarge, match='settings\\["a"\\]'):
        edit(("a",), "append", "x" * 100, name="settings", limit=50)
    with pytest.raises(ValueTooLarge, match="deep"):
        edit((), "append", [[[]]], depth=2)
    with pytest.raises(InvalidArgument, match="unknown verb"):
        edit((), "explode")
