"""Live items: assigned, copied and moved, and followed to where they go."""

import copy
import random
from operator import delitem, imul, setitem
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from remanence.faces.bound import Bound
from remanence.faces.live import LiveList, is_same, plain
from remanence.faces.moves import Moves, inserting, nowhere, removing, replacing
from remanence.testing.live_document import Doc, doc

# --- assigning live values ------------------------------------------------------------------------


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


# --- items of lists and where they go -------------------------------------------------------------


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
            how = data.draw(st.sampled_from([delitem, lambda t, i: t.pop(i), lambda t, i: t.remove(plain(t[i]))]))
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
        how=st.sampled_from([list.clear, list.reverse, lambda t: t.sort(key=repr), lambda t: delitem(t, slice(1, 3))])
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
        lambda t: delitem(t, slice(0, 1)),
        lambda t: setitem(t, slice(0, 1), [{"new": 1}]),
        lambda t: imul(t, 0),
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
