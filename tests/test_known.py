"""What a process knows of the server's records: the same whatever lies in memory and what on disk."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remanence import Memory
from remanence.stores import keeper
from remanence.stores.known import LEAST, TAIL_ITEMS, Document, Entry, Knowledge, Known, ListTail
from remanence.testing.oracle import QUICK, eventually
from remanence.testing.servers import Server
from remanence.wire.sqlite import Database

KEYS = ("a", "b", "c")
ENTRIES = st.one_of(
    st.builds(Document, st.one_of(st.none(), st.binary(max_size=40))),
    st.builds(ListTail, st.lists(st.binary(max_size=5), max_size=4).map(tuple), st.integers(-1, 9)),
)
STEPS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(KEYS), ENTRIES),
    st.tuples(st.just("extend"), st.sampled_from(KEYS), st.integers(1, TAIL_ITEMS + 3)),
    st.tuples(st.just("forget"), st.sampled_from(KEYS), st.none()),
    st.tuples(st.just("save"), st.sampled_from(KEYS), st.none()),
)


@pytest.fixture
def known() -> Iterator[Known]:
    yield from opened(budget=8 << 20)


def opened(budget: int) -> Iterator[Known]:
    database = Database(":memory:")
    database.script("journal.sql")
    yield Known(database, records=100, budget=budget)
    database.close()


def extended(before: Entry | None, items: tuple[bytes, ...]) -> ListTail:
    """What a list's end is after items were added, said plainly."""
    if isinstance(before, ListTail):
        old, length = before.items, before.length
    else:
        old, length = (), 0 if before is not None and before.body is None else -1
    return ListTail((*old, *items)[-TAIL_ITEMS:], length + len(items) if length >= 0 else -1)


@given(steps=st.lists(STEPS, max_size=30), budget=st.sampled_from([1, 1000, 20_000, 8 << 20]))
def test_it_answers_as_if_everything_was_kept(steps: list[tuple[str, str, object]], budget: int):
    model: dict[str, Entry] = {}
    for known in opened(budget):
        for n, (step, key, argument) in enumerate(steps, 1):
            if step == "put":
                assert isinstance(argument, Document | ListTail)
                model[key] = argument
                known.put(key, Knowledge(n, argument, float(n), None))
            elif step == "extend":
                assert isinstance(argument, int)
                items = tuple(b"%d.%d" % (n, i) for i in range(argument))
                model[key] = extended(model.get(key), items)
                known.extend(key, n, items, float(n), n + 0.5)
            elif step == "forget":
                model.pop(key, None)
                known.forget([key])
            else:
                known.save([key])
            found = known.get(key)
            assert (found.entry if found else None) == model.get(key)
            if found and step == "extend":
                assert (found.n, found.wall, found.expires) == (n, float(n), n + 0.5)
        assert {key: told.entry for key in KEYS if (told := known.get(key))} == model
        known.save(known.dirty(100))
        database = known._database
        assert {key: told.entry for key in KEYS if (told := Known(database, records=9).get(key))} == model, (
            "what is on disk differs"
        )


def test_what_was_told_does_not_grow_with_the_list(known: Known):
    known.extend("a", 1, (b"1",), 1.0, None)
    before = known.get("a")
    known.extend("a", 2, (b"2",), 2.0, None)
    assert before == Knowledge(1, ListTail((b"1",), -1), 1.0, None)


@given(counts=st.lists(st.integers(1, 700), max_size=12))
def test_what_it_holds_is_counted(counts: list[int]):
    for known in opened(8 << 20):
        for n, count in enumerate(counts, 1):
            known.extend("a", n, (b"x" * 10,) * count, 0.0, None)
            known.put("b", Knowledge(n, Document(b"y" * count), 0.0))
            known.get("b")  # files what was put
        if counts:
            items = known._entries["a"].entry.items  # type: ignore[union-attr]
            assert len(items) == min(TAIL_ITEMS, sum(counts))
            assert known._size == LEAST + 50 * len(items) + LEAST + counts[-1]
        known.forget(["a", "b"])
        assert known._size == 0


def test_a_row_that_is_sent_again_is_not_remembered_twice(known: Known):
    known.put("a", Knowledge(3, ListTail((b"1",), 1), 5.0, 9.0))
    known.extend("a", 3, (b"1",), 6.0, None)
    assert known.get("a") == Knowledge(3, ListTail((b"1",), 1), 5.0, 9.0)
    for _ in range(2):
        known.extend("a", 4, (b"2",), 6.0, None)
        assert known.get("a") == Knowledge(4, ListTail((b"1", b"2"), 2), 6.0, None)


def test_nothing_is_kept_where_nothing_may_be():
    database = Database(":memory:")
    database.script("journal.sql")
    known = Known(database, records=0)
    known.extend("a", 1, (b"1",), 1.0, None)
    known.put("b", Knowledge(1, Document(b"1"), 0.0))
    assert known.get("a") is None
    assert known.get("b") is None
    database.close()


def test_of_more_than_is_kept_on_disk_the_last_are_saved(known: Known):
    for n in range(250):
        known.put(f"k{n}", Knowledge(n + 1, Document(b"1"), float(n)))
    assert known.dirty(1 << 30) == [f"k{n}" for n in range(150, 250)]
    known.save(known.dirty(1 << 30))
    known.save([f"k{n}" for n in range(90)])
    assert [known.trim(40), known.trim(40), known.trim(40)] == [True, True, False]
    assert known.keys("k") == sorted(f"k{n}" for n in range(150, 250)), "the oldest went"


def test_an_entry_that_cannot_be_read_is_not_known(known: Known):
    known.put("a", Knowledge(1, Document(b"{}", "e", 1), 1.0, None))
    known.put("b", Knowledge(2, Document(b"{}", "e", 1), 1.0, None))
    known.save(known.dirty(10))
    known._database.run("UPDATE known SET entry = ? WHERE key = 'a'", (b"\x94\xa1d\xc3\xc3\xc3",))
    fresh = Known(known._database, records=100)
    assert fresh.get("a") is None
    assert fresh.keys("") == ["b"]


def test_what_was_read_goes_to_disk_in_parts_that_hold_nobody_up(
    server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(keeper, "REMEMBER_TOGETHER", 10)
    with Memory(url=server.url, namespace=namespace, local_records=40, **QUICK) as memory:
        store = memory.engine.gateway
        for n in range(60):
            setattr(memory, f"k{n}", n)
        held: list[int] = []
        saved, trimmed = store.drain.known.save, store.drain.known.trim
        assert memory.engine.flush(5)
        monkeypatch.setattr(store.drain.known, "save", lambda keys: (held.append(len(keys)), saved(keys)))
        monkeypatch.setattr(store.drain.known, "trim", lambda most=1 << 30: (held.append(most), trimmed(most))[1])
        for n in range(60):
            assert getattr(memory, f"k{n}") == n
        assert eventually(lambda: not store.drain.known.dirty(1), 15)
        assert held and max(held) <= 10
        assert eventually(lambda: store.journal._database.run("SELECT count(*) FROM known") == [(40,)])
