"""What every index promises, on the one in a file and on vector sets of Redis 8; and what the latter cannot do."""

import contextlib
import math
import random
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remanence.errors import Closed, InvalidArgument, Misconfigured, Unavailable
from remanence.runtime.blocking import BlockingRuntime
from remanence.search.entries import expression
from remanence.search.redis import VectorSetIndex
from remanence.search.sqlite import SQLiteIndex
from remanence.search.types import Document, Filter, Index
from remanence.search.vectors import quantised
from remanence.search.vectorsets import Part
from remanence.testing.servers import Server, available_servers
from remanence.wire.address import Address
from remanence.wire.keys import Keyspace, partition_of
from remanence.wire.redis import blocking_connect

NOW = 1_000_000.0
NO_REDIS_8 = "no Redis 8 here: put one on PATH, or name its binary in REMANENCE_TEST_REDIS8"


class Letters:
    """An embedder that can be followed by hand: how often each letter occurs."""

    dimensions = 26

    def __init__(self, name: str = "letters", first: str = "a") -> None:
        self.name = name
        self.away = False
        self._first = ord(first)

    def embed(self, texts):
        if self.away:
            raise Unavailable("the embedder is away")
        found = np.zeros((len(texts), 26), dtype=np.float32)
        for row, text in enumerate(texts):
            for letter in text.lower():
                if "a" <= letter <= "z":
                    found[row, (ord(letter) - self._first) % 26] += 1
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        return found / np.where(lengths == 0, 1, lengths)


class Clock(BlockingRuntime):
    """Stands where it was put."""

    time = NOW

    def wall(self) -> float:
        return self.time


@pytest.fixture(scope="module")
def redis8() -> Iterator[Server]:
    if "redis8" not in available_servers():
        pytest.skip(NO_REDIS_8)
    with Server("redis8") as server:
        yield server


class Makes:
    """Makes indexes; those with equal names hold the same documents."""

    def __init__(self, kind: str, server: Server | None, folder: Any) -> None:
        self.kind = kind
        self._server = server
        self._folder = folder
        self._opened: list[Index] = []

    def __call__(self, name: str = "", embedder: Any = None, clock: Any = None, partitions: int = 1) -> Index:
        name, embedder, clock = name or uuid.uuid4().hex, embedder or Letters(), clock or Clock()
        made: Index
        if self._server is None:
            made = SQLiteIndex(str(self._folder / name), embedder, clock.wall)
        else:
            connect = blocking_connect(Address(self._server.url, connect_timeout=1.0, tls={}))
            places = [(Keyspace(name, at), connect) for at in range(partitions)]
            made = VectorSetIndex(places, embedder, clock, deadline=20.0)
        self._opened.append(made)
        return made

    def close(self) -> None:
        for each in self._opened:
            each.close()


@pytest.fixture(scope="module", params=["local", "redis"])
def makes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Makes]:
    server = request.getfixturevalue("redis8") if request.param == "redis" else None
    found = Makes(request.param, server, tmp_path_factory.mktemp("indexes"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def shared(redis8: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., VectorSetIndex]]:
    found = Makes("redis", redis8, tmp_path_factory.mktemp("indexes"))
    yield found
    found.close()


def ids(hits):
    return [hit.id for hit in hits]


def document(id, text="boat", **facts):
    return Document(id=id, text=text, **facts)


def admits(only: Filter, d: Document) -> bool:
    """The description of a filter, in plain words."""
    return (
        (d.expires is None or d.expires > NOW)
        and (not only.kinds or d.kind in only.kinds)
        and (not only.agents or d.agent in only.agents)
        and (not only.sessions or d.session in only.sessions)
        and set(only.tags) <= set(d.tags)
        and (only.success is None or d.success is only.success)
        and (only.since is None or d.created >= only.since)
        and (only.until is None or d.created <= only.until)
        and (only.importance is None or d.importance >= only.importance)
        and (only.trust is None or d.trust >= only.trust)
    )


# --- what every index promises --------------------------------------------------------------------

NAMES = ("", "a1", 'a"1', "a'1", "a\\", '" or 1 == 1 or "', "] or 1 or [", "é\n🙂", "x\x00y")
NUMBERS = (0.0, 1e-7, 1 / 3, 2 / 3, 0.5, 1.0)
TIMES = (-1.5, 0.0, 1.7e9 + 1 / 3, 1.7e9 + 1e-6, NOW, 1e300)
some = st.sampled_from
WORDS = ["boat", "river", "apple", "garden", "winter", "violin"]


@st.composite
def documents(draw: Any) -> Document:
    return Document(
        id=draw(some([*(f"m{n}" for n in range(10)), "1:m1", "é:\n"])),
        text=draw(st.lists(some(WORDS), min_size=1, max_size=6).map(" ".join)),
        kind=draw(some(["", "episodic", "skill"])),
        session=draw(some(NAMES)),
        position=-1,
        tags=tuple(draw(st.lists(some(NAMES), unique=True, max_size=3))),
        agent=draw(some(NAMES)),
        success=draw(some([None, True, False])),
        importance=draw(some(NUMBERS)),
        trust=draw(some(NUMBERS)),
        created=draw(some(TIMES)),
        expires=draw(some([None, None, NOW - 1, NOW, NOW + 1e-3, 1e300])),
    )


filters = st.builds(
    Filter,
    kinds=some([(), (), ("skill",), ("skill", ""), ("none",)]),
    tags=st.lists(some(NAMES), max_size=2).map(tuple),
    agents=st.lists(some(NAMES), max_size=2).map(tuple),
    sessions=st.lists(some(NAMES), max_size=1).map(tuple),
    success=some([None, None, None, True, False]),
    since=some([None, None, *TIMES, math.nan, math.inf]),
    until=some([None, None, *TIMES]),
    importance=some([None, None, None, *NUMBERS]),
    trust=some([None, None, None, *NUMBERS]),
)


@settings(max_examples=60)
@given(held=st.lists(documents(), max_size=12), only=st.just(Filter()) | filters, query=some(["boat", "wild river"]))
def test_a_search_by_meaning_is_exactly_what_the_filter_admits(makes, held, only, query):
    index = makes()
    index.put(held)
    latest = {d.id: d for d in held}
    (asked,) = Letters().embed([query]).astype(np.float64)
    expected = {}
    for d in latest.values():
        if admits(only, d):
            row = quantised(Letters().embed([d.text]))[0].astype(np.float64)
            expected[d.id] = float(row @ asked / np.linalg.norm(row))
    found = index.search(query, mode="semantic", only=only, limit=50)
    assert {hit.id: hit.score for hit in found} == pytest.approx(expected, abs=0.02)
    assert all(hit.kind == latest[hit.id].kind for hit in found)
    assert set(ids(index.search(query, only=only, limit=50))) == set(expected)


@settings(max_examples=30)
@given(held=st.lists(documents(), max_size=12), only=st.just(Filter()) | filters, limit=st.integers(1, 4))
def test_a_list_has_all_that_the_filter_admits_newest_first(makes, held, only, limit):
    index = makes()
    index.put(held)
    expected = sorted((d for d in {d.id: d for d in held}.values() if admits(only, d)), key=lambda d: (d.created, d.id))
    found: list[str] = []
    after = ""
    while True:
        page, after = index.list(only, limit, after)
        assert len(page) <= limit
        found += page
        if not after:
            break
    assert found == [d.id for d in reversed(expected)]


def test_of_one_moment_there_are_many_pages(makes):
    index = makes()
    index.put([document(f"m{n:02}", created=1.0) for n in range(25)])
    first, after = index.list(limit=10)
    index.remove(["m03"])
    index.put([document("new", created=2.0)])
    second, after = index.list(limit=10, after=after)
    third, after = index.list(limit=10, after=after)
    assert first + second + third == [f"m{n:02}" for n in range(24, -1, -1) if n != 3]
    assert after == ""
    with pytest.raises(InvalidArgument):
        index.list(after="what")


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_filter_means_the_name_and_nothing_else(makes, name):
    index = makes()
    index.put([document("it", agent=name, session=name, tags=(name,)), document("other", agent="b", tags=("b",))])
    for only in (Filter(agents=(name,)), Filter(sessions=(name,)), Filter(tags=(name,))):
        assert ids(index.search("boat", only=only)) == ["it"]
        assert index.list(only) == (["it"], "")


def test_what_is_put_again_is_as_it_was_put_last(makes):
    index = makes()
    index.put([document("m", "boat " * 300, kind="a", tags=("x",)), document("n", "zzz")])
    index.put([document("m", "violin", kind="b", tags=("y",))])
    assert ids(index.search("violin", mode="semantic", only=Filter(kinds=("b",), tags=("y",)))) == ["m"]
    assert index.search("violin", only=Filter(kinds=("a",))) == []
    assert index.search("violin", only=Filter(tags=("x",))) == []
    assert index.search("violin", mode="semantic", only=Filter(kinds=("b",)))[0].score > 0.98
    assert index.counts() == {"": 1, "b": 1}
    assert len(index) == 2


def test_what_is_removed_is_gone(makes):
    index = makes()
    index.put([document(f"m{n}", "boat " * 250) for n in range(5)])
    assert index.remove(["m1", "m3", "m3", "never"]) == 2
    assert set(ids(index.search("boat"))) == {"m0", "m2", "m4"}
    assert index.list()[0] == ["m4", "m2", "m0"]
    assert index.remove(["m1"]) == 0
    assert index.counts() == {"": 3}


def test_what_is_over_is_not_found_and_swept(makes):
    clock = Clock()
    index = makes(clock=clock)
    index.put([document("soon", expires=NOW + 10), document("later", expires=NOW + 20), document("never")])
    assert index.sweep() == 0
    clock.time = NOW + 10
    assert set(ids(index.search("boat"))) == set(index.list()[0]) == {"later", "never"}
    assert index.counts() == {"": 2}
    assert index.amend("later", expires=None)
    clock.time = NOW + 30
    assert index.sweep() == 1
    assert index.sweep() == 0
    assert set(ids(index.search("boat"))) == {"later", "never"}
    assert len(index) == 2


def test_what_is_amended_is_judged_anew(makes):
    index = makes()
    index.put([document("m", "boat " * 250, importance=0.1, success=False), document("n")])
    assert index.amend("m", importance=0.9, success=True, uses=3)
    assert ids(index.search("boat", only=Filter(importance=0.8, success=True))) == ["m"]
    assert index.search("boat", only=Filter(success=False)) == []
    assert not index.amend("never", uses=1)
    with pytest.raises(InvalidArgument):
        index.amend("m", text="other")
    assert index.amend("m", expires=NOW - 1)
    assert ids(index.search("boat")) == ["n"]


def test_words_decide_between_equals_in_meaning(makes):
    index = makes()
    index.put([document("word", "boat river", position=-1), document("other", "taob river", position=-1)])
    index.put([document(f"m{n}", "river", position=-1) for n in range(5)])
    assert ids(index.search("boat", explain=True))[0] == "word"
    explained = index.search("boat", explain=True)[0]
    assert explained.score == pytest.approx(sum(explained.parts.values()))


def test_a_rare_name_is_found_among_many(makes):
    index = makes()
    rows = [document(f"m{n}", "boat", agent="others") for n in range(2500)]
    rows[700] = document("it", "zzz", agent="me", tags=("t",))
    index.put(rows)
    assert ids(index.search("boat", only=Filter(agents=("me",), tags=("t",)))) == ["it"]
    assert len(index.search("boat", limit=400)) == 400


def test_what_is_over_takes_no_place(makes):
    index = makes()
    over = [document(f"m{n}", "boat", expires=NOW - 1) for n in range(2500)]
    living = [document(text, text) for text in ("violin", "zzz", "qqq", "xxx", "uuu")]
    index.put([*over[:700], *living, *over[700:]])  # in the midst, so that a graph loses the ways to them
    assert set(ids(index.search("boat"))) == {"violin", "zzz", "qqq", "xxx", "uuu"}
    assert index.list(limit=1) == (["zzz"], "0x0.0p+0 zzz")


def test_long_texts_leave_room_for_others(makes):
    index = makes()
    index.put([document(f"long{n}", "boat " * 110 * 40) for n in range(20)])
    index.put([document("short", "boats")])
    assert len(index.search("boat", limit=21)) == 21


def test_an_embedder_that_is_away_owes_what_was_put(makes):
    embedder = Letters()
    index = makes(embedder=embedder)
    index.put([document("before")])
    embedder.away = True
    held = {"m": document("m")}
    index.put(list(held.values()))
    assert set(index.list()[0]) == {"before", "m"}
    with pytest.raises(Unavailable):
        index.search("boat", mode="semantic")
    embedder.away = False
    assert list(index.reembed(lambda wanted: {id: held[id] for id in wanted}))[-1] == (1, 0)
    assert index.away is None
    assert set(ids(index.search("boat", mode="semantic"))) == {"before", "m"}


def test_vectors_of_two_embedders_never_meet(makes):
    one = makes("twins" + makes.kind, Letters("one"))
    texts = {"m": document("m", "aaaa"), "n": document("n", "bbbb"), "gone": document("gone", "cccc")}
    one.put(list(texts.values()))
    two = makes("twins" + makes.kind, Letters("two", first="b"))  # to which b is what a is to the other
    assert two.search("aaaa", mode="semantic") == []
    del texts["gone"]
    steps = list(two.reembed(lambda wanted: {id: texts[id] for id in wanted if id in texts}))
    assert steps[-1][1] == 0
    assert two.search("aaaa", mode="semantic")[0].id == "m"
    assert two.search("aaaa", mode="semantic")[0].score > 0.98
    assert set(two.list()[0]) == {"m", "n"}


def test_a_closed_index_says_so(makes):
    index = makes()
    index.put([document("m")])
    index.let_go()
    assert ids(index.search("boat")) == ["m"]
    index.close()
    with pytest.raises(Closed):
        index.search("boat")
    with pytest.raises(Closed):
        index.put([document("m")])


@pytest.mark.parametrize("wrong", [{"id": ""}, {"id": "\ud800"}, {"importance": math.inf}, {"agent": 5}])
def test_what_cannot_be_a_document_changes_nothing(makes, wrong):
    index = makes()
    with pytest.raises(InvalidArgument):
        index.put([document("good"), msgspec.structs.replace(document("bad"), **wrong)])
    assert len(index) == 0


# --- what vector sets are alone in ----------------------------------------------------------------


def keys_of(server: Server, name: str) -> dict[str, str]:
    client = server.client(decode_responses=True)
    beginning = Keyspace(name).index("")
    found = {key.removeprefix(beginning): client.type(key) for key in client.scan_iter(f"{beginning}*")}
    client.close()
    return found


def test_nothing_is_left_of_what_is_removed(redis8, shared):
    index = shared("clean")
    index.put([document(f"m{n}", "boat river " * 200, kind="k", expires=NOW + 9, tags=("secret",)) for n in range(3)])
    index.put([document("m0", "apple", kind="k")])
    index.remove(["m0", "m1", "m2"])
    assert set(keys_of(redis8, "clean")) == {"kinds", "makers", "totals"}
    client = redis8.client(decode_responses=True)
    totals = client.hgetall(Keyspace("clean").index("totals"))
    client.close()
    assert {name: value for name, value in totals.items() if name in "pt"} == {}


def test_no_text_reaches_the_server(redis8, shared):
    index = shared("quiet")
    index.put([document("m", "walrus", tags=("narwhal",), agent="beluga")])
    client = redis8.client()
    name = next(key for key in client.scan_iter(f"{Keyspace('quiet').index('vectors')}*"))
    told = client.execute_command("VGETATTR", name, "0:m")
    assert b"walrus" not in client.hget(Keyspace("quiet").index("entries"), "m")
    client.close()
    assert b"narwhal" not in told
    assert b"beluga" not in told


def test_many_who_change_the_same_document_leave_it_whole(redis8, shared):
    def change(seed: int) -> None:
        index, chance = shared("contended"), random.Random(seed)
        for _ in range(15):
            match chance.randrange(3):
                case 0:
                    index.remove(["m"])
                case 1:
                    index.put([document("m", "boat river apple " * chance.randrange(1, 90), kind=chance.choice("ab"))])
                case _:
                    index.amend("m", uses=chance.randrange(9), expires=chance.choice([None, NOW + 5]))

    threads = [threading.Thread(target=change, args=(seed,)) for seed in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    index = shared("contended")
    index.put([document("m", "boat", kind="a")])
    client = redis8.client(decode_responses=True)
    names = Keyspace("contended")
    assert (
        client.hgetall(names.index("rarity")).values() == {"x": "1"}.values() or client.hlen(names.index("rarity")) == 1
    )
    totals = client.hgetall(names.index("totals"))
    assert (totals["p"], totals["t"]) == ("1", "1")
    kept = [key for key in keys_of(redis8, "contended") if key.startswith(("vectors", "ages", "ends"))]
    client.close()
    assert sorted(key.rpartition(":")[2] for key in kept) == ["a", "a"]


def test_what_one_embedder_saves_the_other_owes(shared):
    one, two = shared("owing", Letters("one")), shared("owing", Letters("two"))
    two.put([document("m", "aaaa")])
    one.put([document("m", "zzzz"), document("n", "zzzz")])
    assert two.search("aaaa", mode="semantic") == []  # not by what it said before
    assert sorted(two.owed(10)[0]) == ["m", "n"]
    texts = {"m": document("m", "zzzz"), "n": document("n", "zzzz")}
    list(two.reembed(lambda wanted: {id: texts[id] for id in wanted}))
    assert set(ids(two.search("zzzz", mode="semantic"))) == {"m", "n"}
    assert two.owed(10) == ([], 0)
    assert one.owed(10) == ([], 0)  # its own are still right, or the two would undo each other's for ever
    assert set(ids(one.search("zzzz", mode="semantic"))) == {"m", "n"}
    one.put([document("m", "zzzz", agent="me")])
    assert ids(two.search("zzzz", mode="semantic", only=Filter(agents=("me",)))) == ["m"]


def test_what_is_owed_of_nothing_is_owed_no_more(redis8, shared):
    index = shared("nothing")
    assert index.owed(10) == ([], 0)
    (name,) = [Part(Keyspace("nothing"), None, Clock(), 1, 1.0).names.owed(index._maker)]
    with contextlib.closing(redis8.client()) as client:
        client.sadd(name, "removed")  # by who joined, and had seen it before
    assert list(index.reembed(lambda wanted: {})) == [(1, 0)]


def test_two_embedders_of_a_server_that_forgot_all_owe_each_other_again(redis8, shared):
    one, two = shared("forgot", Letters("one")), shared("forgot", Letters("two"))
    for each in (one, two):
        each.put([document("before")])
    with contextlib.closing(redis8.client()) as client:
        client.delete(*client.scan_iter(f"{Keyspace('forgot').index('')}*"))
    one.put([document("m")])
    two.put([document("n")])
    assert two.owed(10) == (["m"], 1)
    assert one.owed(10) == (["n"], 1)


def test_a_very_long_text_is_put_in_within_a_short_deadline(redis8):
    connect = blocking_connect(Address(redis8.url, connect_timeout=1.0, tls={}))
    index = VectorSetIndex([(Keyspace("long"), connect)], Letters(), Clock(), deadline=0.05)
    index.put([document("m", " ".join(f"boat{n}" for n in range(110 * 400)))])
    assert ids(index.search("boat")) == ["m"]
    client = redis8.client(decode_responses=True)
    assert client.hget(Keyspace("long").index("totals"), "p") == "200"
    client.close()
    assert index.remove(["m"]) == 1
    index.close()


def test_what_lives_longer_meanwhile_is_not_swept(shared, monkeypatch):
    index = shared()
    index.put([document("m"), document("n", expires=NOW + 1)])

    async def ended(part, now, count):
        return ["m", "n"]  # as they were a moment before

    monkeypatch.setattr(Part, "ended", ended)
    assert index.sweep() == 0
    assert len(index) == 2


def test_a_namespace_in_partitions_is_one_index(redis8, shared):
    index = shared("divided", partitions=4)
    index.put([document(f"m{n}", "boat", created=float(n), kind="ab"[n % 2]) for n in range(40)])
    assert len(index.search("boat", limit=40)) == 40
    page, after = index.list(limit=25)
    assert page == [f"m{n}" for n in range(39, 14, -1)]
    assert index.list(limit=25, after=after) == ([f"m{n}" for n in range(14, -1, -1)], "")
    assert index.counts() == {"a": 20, "b": 20}
    with contextlib.closing(redis8.client()) as client:
        for at in range(4):
            held = client.hkeys(Keyspace("divided", at).index("entries"))
            assert {partition_of(id.decode(), 4) for id in held} == {at}
    assert index.remove([f"m{n}" for n in range(0, 40, 2)]) == 20
    assert len(index) == 20


def test_words_alone_are_not_looked_up(shared):
    with pytest.raises(Misconfigured, match="REMANENCE_INDEX=local"):
        shared().search("boat", mode="keyword")


def test_without_an_embedder_there_is_no_such_index():
    with pytest.raises(Misconfigured, match="REMANENCE_EMBEDDER"):
        VectorSetIndex([], None, BlockingRuntime())


@pytest.mark.parametrize("kind", [kind for kind in available_servers() if kind != "redis8"])
def test_a_server_without_vector_sets_is_told_of(kind):
    with Server(kind) as server:
        connect = blocking_connect(Address(server.url, connect_timeout=1.0, tls={}))
        index = VectorSetIndex([(Keyspace("x"), connect)], Letters(), BlockingRuntime())
        with pytest.raises(Misconfigured, match="Redis has from version 8 on"):
            index.open()
        index.close()


def test_who_was_told_that_a_server_is_no_primary_any_more_asks_by_another_link():
    if "redis8" not in available_servers():
        pytest.skip(NO_REDIS_8)
    with Server("redis8") as server, contextlib.closing(server.client()) as client:
        connect = blocking_connect(Address(server.url, connect_timeout=1.0, tls={}))
        index = VectorSetIndex([(Keyspace("x"), connect)], Letters(), Clock(), deadline=5.0)
        index.put([document("m")])
        before = {each["id"] for each in client.client_list()}
        client.replicaof("127.0.0.1", 1)
        with pytest.raises(Unavailable, match="READONLY"):
            index.put([document("n")])
        client.replicaof("NO", "ONE")
        index.put([document("n")])
        assert {each["id"] for each in client.client_list()} - before
        assert len(index) == 2
        index.close()


@given(only=filters)
def test_a_filter_is_spelled_of_digests_and_numbers(only):
    spelled = expression(only, NOW)
    plain = re.sub(r'"[0-9a-f]{24}"', "", spelled)
    assert re.fullmatch(r"[ .,\[\]<>=\-0-9a-z]*", plain)
