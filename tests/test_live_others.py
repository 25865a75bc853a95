"""Live containers whose document others change, from other processes and from other threads."""

import threading
import time
from operator import delitem, setitem
from typing import Any

import pytest

from remanence.errors import Rejected, ValueTooLarge
from remanence.faces.live import LiveDict, plain, wrap
from remanence.stores.edits import EditRejected
from remanence.testing.live_document import Doc, content

# --- what others do -------------------------------------------------------------------------------


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
        lambda: setitem(live, "x", 2),
        lambda: delitem(live, "x"),
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
    for attempt in (live.pop, live.sort, lambda: live.append(1), lambda: setitem(live, slice(0, 1), [1])):
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
        (lambda: setitem(items, 5, 1), "list assignment index out of range"),
        (lambda: delitem(items, -5), "list assignment index out of range"),
        (lambda: setitem(items, slice(None, None, 2), []), "attempt to assign sequence of size 0"),
        (items.sort, "'<' not supported"),
        (lambda: delitem(members, "a"), "a"),
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


# --- threads --------------------------------------------------------------------------------------


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
