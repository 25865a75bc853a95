"""Whatever is put, asked, amended and removed in whatever order: what is found is alive, and nothing raises."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remanence.search.query import parted
from remanence.search.sqlite import SQLiteIndex
from remanence.search.types import MODES, Document, Filter
from remanence.search.vectors import quantised

NAMES = [f"m{number}" for number in range(5)]


class Bytes:
    """An embedder of any text: how often each byte occurs, modulo 16; and the same of each word."""

    name = "bytes"
    dimensions = 16
    state_dimensions = 16

    def embed(self, texts):
        rows = np.zeros((len(texts), 16), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            row += np.bincount(np.frombuffer(text.encode("utf-8", "replace"), np.uint8) % 16, minlength=16)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return (rows / np.where(lengths == 0, 1, lengths)).astype(np.float32)

    def embed_with_states(self, texts):
        return self.embed(texts), [self.embed(text.split()) for text in texts]


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


steps = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(NAMES), st.sampled_from([None, 1, 4])),
    st.tuples(st.just("remove"), st.sampled_from(NAMES), st.none()),
    st.tuples(st.just("amend"), st.sampled_from(NAMES), st.sampled_from([None, 1, 4])),
    st.tuples(st.just("wait"), st.just(""), st.sampled_from([1, 4])),
    st.tuples(st.just("sweep"), st.just(""), st.none()),
)


@settings(max_examples=100)
@given(st.lists(steps, max_size=20), st.booleans())
def test_exactly_what_lives_is_found(taken, fresh):
    """`fresh`: by an index that was told of nothing and reads the file each time."""
    clock = Clock()
    index = SQLiteIndex(":memory:", Bytes(), clock)
    living: dict[str, float] = {}  # with when their time is over
    for kind, name, number in taken:
        ends = math.inf if number is None else clock.now + number
        if kind == "put":
            index.put([Document(id=name, text=f"boat {name}", expires=None if number is None else ends)])
            living[name] = ends
        elif kind == "remove":
            assert index.remove([name]) == (name in living)
            living.pop(name, None)
        elif kind == "amend":
            assert index.amend(name, expires=None if number is None else ends) == (name in living)
            living |= {name: ends} if name in living else {}
        elif kind == "wait":
            clock.now += number
        else:
            gone = [known for known, end in living.items() if end <= clock.now]
            assert index.sweep() == len(gone)
            for known in gone:
                del living[known]
        if fresh:
            index._columns = None
        expected = {known for known, end in living.items() if end > clock.now}
        for mode in MODES:
            assert {hit.id for hit in index.search("boat", mode=mode)} == expected
        for known in NAMES:
            first = index.search(known, mode="keyword")
            assert [hit.id for hit in first] == ([known] if known in expected else [])


@settings(max_examples=60)
@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=10), st.sampled_from(MODES))
def test_any_text_is_kept_and_asked(text, query, name, mode):
    index = SQLiteIndex(":memory:", Bytes(), lambda: 0.0)
    index.put([Document(id="a", text=text, speaker=name, caption=name), Document(id="b", text="boat")])
    hits = index.search(query, mode=mode, only=Filter(tags=(), kinds=()), explain=True)
    assert {hit.id for hit in hits} <= {"a", "b"}
    assert all(math.isfinite(hit.score) for hit in hits)
    assert index.search(query, mode=mode, only=Filter(tags=(query,))) == []


@settings(max_examples=40)
@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=20), st.text(min_size=1, max_size=30))
def test_meaning_alone_is_the_order_of_cosines(held, query):
    index = SQLiteIndex(":memory:", Bytes(), lambda: 0.0)
    index.put([Document(id=str(number), text=text) for number, text in enumerate(held)])
    embedder = Bytes()
    rows = quantised(embedder.embed([parted(" ".join(text.split())) for text in held])).astype(np.float64)
    question = embedder.embed([parted(query)])[0].astype(np.float64)
    expected = rows @ question / np.maximum(np.linalg.norm(rows, axis=1), 1e-9)
    found = {hit.id: hit.score for hit in index.search(query, mode="semantic", limit=50)}
    kept = {str(number): value for number, value in enumerate(expected) if np.any(rows[number])}
    assert found == pytest.approx(kept, abs=1e-5)
    scores = list(found.values())
    assert scores == sorted(scores, reverse=True)


HUGE = ["é" * 100_000, "東京" * 50_000, "שלום " * 20_000, '" OR * ^ ( ' * 10_000, "🎉" * 25_000, "aB" * 50_000]


@pytest.mark.parametrize("text", HUGE, ids=range(len(HUGE)))
def test_a_hundred_thousand_letters_are_asked_in_a_moment(text):
    index = SQLiteIndex(":memory:", Bytes(), lambda: 0.0)
    index.put([Document(id="a", text=text), Document(id="b", text="boat")])
    for mode in MODES:
        assert {hit.id for hit in index.search(text, mode=mode)} <= {"a", "b"}
    assert "b" in [hit.id for hit in index.search("boat", mode="keyword")]
