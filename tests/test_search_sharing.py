"""One file and many users of it: processes, embedders, versions of the format."""

import subprocess
import sys

import numpy as np
import pytest

from remanence.errors import Misconfigured
from remanence.search.sqlite import SQLiteIndex
from remanence.search.types import Document, Filter
from remanence.wire.sqlite import Database, sql_text


class Counting:
    """An embedder of so many dimensions, told apart by its name; it looks at the first letters alone."""

    def __init__(self, name="counting", dimensions=8, turned=False):
        self.name = name
        self.dimensions = dimensions
        self.turned = turned
        self.asked = 0

    def embed(self, texts):
        self.asked += len(texts)
        found = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for row, text in enumerate(texts):
            if text:
                place = ord(text[0]) % self.dimensions
                found[row, -1 - place if self.turned else place] = 1
        return found


class CountingWords(Counting):
    """The same, which tells what each word is as well."""

    state_dimensions = 8

    def embed_with_states(self, texts):
        return self.embed(texts), [Counting().embed(text.split()) for text in texts]


def opened(path, embedder=None):
    return SQLiteIndex(str(path), embedder, lambda: 0.0)


def ids(hits):
    return [hit.id for hit in hits]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "search.sqlite"


# --- several users --------------------------------------------------------------------------------


def test_what_one_does_the_other_finds_at_once(path):
    one, other = opened(path, Counting()), opened(path, Counting())
    other.search("warm up")
    one.put([Document(id="a", text="boat"), Document(id="b", text="river")])
    assert ids(other.search("boat", mode="keyword")) == ["a"]
    assert ids(other.search("rain", mode="semantic", limit=1)) == ["b"]
    other.amend("a", importance=0.9)
    assert ids(one.search("boat", only=Filter(importance=0.8))) == ["a"]
    one.put([Document(id="a", text="apple")])
    assert ids(other.search("boat", mode="keyword")) == []
    assert ids(other.search("apple", mode="keyword")) == ["a"]
    other.remove(["a"])
    assert ids(one.search("apple", mode="keyword")) == []
    assert len(one) == len(other) == 1


def test_one_that_slept_too_long_reads_the_file_anew(path, monkeypatch):
    monkeypatch.setattr("remanence.search.sqlite.KEPT", 1010)
    monkeypatch.setattr("remanence.search.shelf.KEPT", 10)
    one, other = opened(path), opened(path)
    one.put([Document(id="a", text="boat")])
    assert ids(other.search("boat")) == ["a"]
    one.remove(["a"])
    for turn in range(1020):
        one.amend("nobody", uses=turn)
    assert Database(str(path)).run("SELECT count(*) FROM gone") == [(0,)]
    assert ids(other.search("boat")) == []


def test_it_lasts(path):
    one = opened(path, Counting())
    one.put([Document(id="a", text="boat", kind="skill", tags=("x",), speaker="Ann", session="s", position=3)])
    one.close()
    again = opened(path, Counting())
    (hit,) = again.search("Ann's boat", only=Filter(kinds=("skill",), tags=("x",), sessions=("s",)), explain=True)
    assert hit.id == "a"
    assert hit.parts["speaker"] > 0


CHILD = """
import sys
from remanence.search.sqlite import SQLiteIndex
from remanence.search.types import Document
path, name = sys.argv[1:]
index = SQLiteIndex(path, None, lambda: 0.0)
for number in range(40):
    index.put([Document(id=f"{name}-{number}", text=f"boat {name} number{number}")])
    assert [hit.id for hit in index.search(f"{name} number{number}", limit=1)] == [f"{name}-{number}"]
    if number % 4 == 0:
        index.remove([f"{name}-{number}"])
        index.put([Document(id="shared", text=f"boat shared by {name}")])
"""


def test_processes_write_and_search_together(path):
    names = ["anna", "boris", "clara"]
    command = [sys.executable, "-W", "error", "-c", CHILD, str(path)]
    children = [subprocess.Popen([*command, name], stderr=subprocess.PIPE, text=True) for name in names]
    for child in children:
        _, complaint = child.communicate(timeout=60)
        assert child.returncode == 0, complaint
    index = opened(path)
    assert len(index) == 3 * 30 + 1
    assert len(index.search("boat", limit=500)) == 91
    pieces, terms = Database(str(path)).run("SELECT pieces, terms FROM totals")[0]
    assert (pieces, terms) == Database(str(path)).run("SELECT count(*), sum(length) FROM pieces")[0]


def test_let_go_closes_the_file_and_the_next_call_opens_it(path):
    opens = []

    def open_file():
        opens.append(1)
        return Database(str(path))

    index = SQLiteIndex(open_file, None, lambda: 0.0)
    index.put([Document(id="a", text="boat")])
    index.let_go()
    index.let_go()
    assert ids(index.search("boat")) == ["a"]
    assert len(opens) == 2


def test_a_write_that_fails_leaves_nothing(path):
    index = opened(path)
    index.put([Document(id="a", text="boat")])
    shelved = SQLiteIndex._shelve
    count = []

    def failing(self, *arguments):
        count.append(1)
        if len(count) == 3:
            raise OSError("the disk")
        shelved(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SQLiteIndex, "_shelve", failing)
        with pytest.raises(OSError, match="the disk"):
            index.put([Document(id=name, text="apple") for name in "abc"])
    assert ids(index.search("boat")) == ["a"]
    assert ids(index.search("apple")) == []
    assert len(index) == 1


# --- another embedder -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other", [Counting("other", 8, turned=True), Counting("counting", 16), Counting("smaller", 4)], ids=lambda e: e.name
)
def test_vectors_of_two_embedders_are_never_compared(path, other):
    one = opened(path, Counting())
    one.put([Document(id="a", text="boat"), Document(id="b", text="river")])
    index = opened(path, other)
    assert index.search("boat", mode="semantic") == []
    assert ids(index.search("boat", mode="keyword")) == ["a"]
    assert "a" in ids(index.search("boat"))
    index.put([Document(id="c", text="bread")])
    assert ids(index.search("boat", mode="semantic")) == ["c"]
    assert "c" not in ids(one.search("boat", mode="semantic"))
    assert set(ids(one.search("boat", mode="semantic"))) == {"a", "b"}


def test_reembedding_goes_on_where_it_was_stopped(path):
    held = {
        f"m{number}": Document(id=f"m{number}", text=f"{'abc'[number % 3]} text", uses=number) for number in range(10)
    }
    opened(path, Counting()).put(list(held.values()))
    other = Counting("other", 16)
    asked = []

    def source(wanted):
        asked.extend(wanted)
        return {id: held[id] for id in wanted if id in held}

    index = opened(path, other)
    progress = index.reembed(source, batch=3)
    assert next(progress) == (3, 7)
    progress.close()
    assert len(index.search("a", mode="semantic", limit=20)) == 3
    assert len(index.search("text", mode="keyword", limit=20)) == 10
    del held["m9"]
    again = opened(path, other)
    assert list(again.reembed(source, batch=4)) == [(4, 3), (7, 0)]
    assert sorted(asked) == sorted([*held, "m9"])
    assert other.asked == 9 + 1  # each document once, and the question above
    assert len(index.search("a", mode="semantic", limit=20)) == len(index) == 9
    assert list(again.reembed(source)) == []


def test_what_is_put_while_others_are_embedded_anew_stays(path):
    opened(path, Counting()).put([Document(id=name, text="boat") for name in "ab"])
    index, writer = opened(path, Counting("other", 16)), opened(path, Counting("other", 16))

    def source(wanted):
        writer.put([Document(id="a", text="apple")])  # nobody waits: the file is not locked meanwhile
        return {id: Document(id=id, text="boat") for id in wanted}

    assert list(index.reembed(source)) == [(2, 0)]
    assert ids(index.search("boat", mode="keyword")) == ["b"]
    assert ids(index.search("apple", mode="keyword")) == ["a"]
    assert len(index) == 2


def test_what_is_amended_while_it_is_embedded_anew_stays_so(path):
    opened(path, Counting()).put([Document(id=name, text="boat") for name in "ab"])
    index, writer, asked = opened(path, Counting("other", 16)), opened(path), []

    def source(wanted):
        asked.append(sorted(wanted))
        if len(asked) == 1:
            writer.amend("a", importance=0.9)
        return {id: Document(id=id, text="boat", importance=0.5 if len(asked) == 1 else 0.9) for id in wanted}

    assert list(index.reembed(source))[-1][1] == 0
    assert asked == [["a", "b"], ["a"]]
    assert ids(index.search("boat", only=Filter(importance=0.9))) == ["a"]


def test_without_an_embedder_there_is_nothing_to_embed_anew(path):
    opened(path, Counting()).put([Document(id="a", text="boat")])
    assert list(opened(path).reembed(lambda wanted: {})) == []
    assert ids(opened(path).search("boat")) == ["a"]


@pytest.mark.parametrize("begun", ["BEGIN", "BEGIN IMMEDIATE"])
def test_what_an_interrupt_left_open_harms_nobody(path, begun):
    index, other = opened(path, Counting()), opened(path, Counting("other", 16))
    index.put([Document(id=name, text="boat") for name in "ab"])
    held = {name: Document(id=name, text="boat") for name in "abc"}
    for use in (
        lambda: index.search("boat"),
        lambda: index.put([held["c"]]),
        lambda: index.amend("a", importance=0.9),
        lambda: index.remove(["b"]),
        lambda: index.list(),
        lambda: index.counts(),
        lambda: index.sweep(),
        lambda: len(index),
        lambda: index.beside(lambda database: database.run("SELECT 1")),
        lambda: list(index.reembed(lambda ids: held)),
    ):
        index._connected().run(begun)
        if begun == "BEGIN":
            index._connected().run("SELECT count(*) FROM documents")
        use()
        other.put([Document(id="other", text="bread")])
    assert ids(index.search("boat", mode="keyword")) == ["a", "c"]


# --- the states of words ----------------------------------------------------------------------------


def parts(index, query):
    return {hit.id: hit.parts for hit in index.search(query, explain=True)}


def test_words_are_compared_whoever_wrote_them(path):
    one, other = opened(path, CountingWords()), opened(path, CountingWords())
    one.search("warm up")
    other.put([Document(id="a", text="boat apple"), Document(id="b", text="boat cherry")])
    assert parts(one, "apple boat")["a"]["words"] == parts(other, "apple boat")["a"]["words"] > 0
    one.put([Document(id="a", text="apple")])
    one.remove(["b"])
    assert Database(str(path)).run("SELECT count(*) FROM states") == [(1,)]


def test_states_of_another_embedder_are_never_compared(path):
    held = {"a": Document(id="a", text="boat river"), "b": Document(id="b", text="rain")}
    opened(path, CountingWords()).put(list(held.values()))
    for embedder in (Counting(), CountingWords("other")):
        assert "words" not in parts(opened(path, embedder), "river boat")["a"]
    index = opened(path, CountingWords("other"))
    assert list(index.reembed(lambda ids: held)) == [(2, 0)]
    assert "words" in parts(index, "river boat")["a"]
    assert Database(str(path)).run("SELECT embedder, count(*) FROM states GROUP BY 1") == [(3, 2)]


def test_what_was_embedded_without_states_is_embedded_anew(path):
    held = {"a": Document(id="a", text="boat river"), "b": Document(id="b", text="rain")}
    opened(path, Counting()).put(list(held.values()))
    index = opened(path, CountingWords())
    index.put([Document(id="c", text="boat")])
    first = index.search("boat", explain=True)
    assert {hit.id for hit in first} == {"a", "c"}
    assert all("words" in hit.parts for hit in first)
    assert list(index.reembed(lambda ids: held)) == [(2, 0)]
    assert len(index.search("boat", mode="semantic")) == 3


# --- another version ------------------------------------------------------------------------------


def test_a_file_of_a_later_version_is_refused(path):
    opened(path).put([Document(id="a", text="boat")])
    Database(str(path)).run("UPDATE about SET value = '99' WHERE name = 'schema'")
    with pytest.raises(Misconfigured, match="later version"):
        opened(path).search("boat")


def test_a_file_of_an_earlier_version_is_brought_up(path):
    database = Database(str(path))
    database.run(sql_text("search.sql"))
    assert database.run("SELECT value FROM about WHERE name = 'schema'") == [("1",)]
    database.close()
    for _ in range(2):
        index = opened(path, CountingWords())
        index.put([Document(id="a", text="boat river")])
        assert "words" in parts(index, "boat")["a"]
    assert Database(str(path)).run("SELECT value FROM about WHERE name = 'schema'") == [("2",)]
