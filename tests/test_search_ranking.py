"""The parts of a search by themselves: vectors in memory, BM25, neighbours, and the benchmark's measures."""

import json
import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remanence.search import bm25, fusion
from remanence.search.bm25 import Words, packed
from remanence.search.sqlite import SQLiteIndex
from remanence.search.vectors import EXACT, Vectors, best, quantised
from remanence.testing.bench import retrieval

RANDOM = np.random.default_rng(7)


def clustered(count, dimensions=64):
    """Rows as embeddings are: many around few topics."""
    topics = RANDOM.standard_normal((40, dimensions))
    rows = topics[RANDOM.integers(0, 40, count)] + 0.7 * RANDOM.standard_normal((count, dimensions))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


# --- vectors --------------------------------------------------------------------------------------


def test_few_rows_are_compared_in_full():
    rows = clustered(500)
    vectors = Vectors(64)
    for begin in range(0, 500, 70):
        vectors.add(quantised(rows[begin : begin + 70]))
    for question in rows[:20]:
        expected = np.argsort(-(quantised(rows) / np.linalg.norm(quantised(rows), axis=1)[:, None] @ question))[:10]
        assert vectors.nearest(question, 10, None).tolist() == expected.tolist()


@pytest.mark.parametrize("total", [3 * EXACT, 6 * EXACT])
def test_of_many_rows_hardly_one_is_missed(total):
    rows = clustered(total)
    begin = EXACT + 1000
    vectors = Vectors(64)
    vectors.add(quantised(rows[:begin]))
    vectors.nearest(rows[0], 10, None)
    vectors.add(quantised(rows[begin:]))  # what comes later is glanced at too, and anew when it is much more
    kept = 0
    for question in [*rows[:25], *rows[-25:]]:
        expected = np.argsort(-(rows @ question))[:10]
        kept += len(set(vectors.nearest(question, 10, None).tolist()) & set(expected.tolist()))
    assert kept >= 0.95 * 500


@pytest.mark.parametrize("count", [200, 5 * EXACT])
def test_rows_that_are_not_admitted_or_empty_are_never_near(count):
    rows = quantised(clustered(count))
    rows[::3] = 0
    question = rows[1].astype(np.float32)
    vectors = Vectors(64)
    vectors.add(rows)
    admitted = np.arange(count) % 2 == 0
    found = vectors.nearest(question, 50, admitted)
    allowed = [place for place in range(0, count, 2) if place % 3]
    cosines = vectors.cosines(question, np.array(allowed))
    expected = [allowed[place] for place in np.argsort(-cosines, kind="stable")[:50]]
    assert set(found.tolist()) <= set(allowed)
    assert len(set(found.tolist()) & set(expected)) >= 48
    assert set(vectors.nearest(question, 10, None).tolist()).isdisjoint(range(0, count, 3))
    assert vectors.nearest(question, count, admitted).shape == (len(allowed),)


def test_int8_keeps_the_direction():
    rows = clustered(100)
    again = quantised(rows).astype(np.float32)
    again /= np.linalg.norm(again, axis=1, keepdims=True)
    assert (rows * again).sum(axis=1).min() > 0.999


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 40))
def test_the_best_are_the_first_of_a_stable_sort(scores, count):
    found = best(np.array(scores, dtype=np.float64), count)
    assert [scores[place] for place in found] == sorted(scores, reverse=True)[:count]
    assert len(set(found.tolist())) == len(found)


# --- words ----------------------------------------------------------------------------------------

terms = st.lists(st.sampled_from([f"t{number}" for number in range(8)]), max_size=10)


@given(batches=st.lists(st.lists(terms, max_size=5), max_size=5), asked=st.sets(st.sampled_from(["t1", "t2", "t9"])))
@pytest.mark.parametrize("late", [0, 7, 10_000])
def test_scores_are_the_formulas_whether_sorted_or_not(late, batches, asked):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bm25, "_LATE", late)
        words = Words()
        for batch in batches:
            words.add([packed(piece) for piece in batch], [len(piece) for piece in batch])
            words.postings(["t1"], None)
        every = [Counter(piece) for batch in batches for piece in batch]
        dead = {place for place in range(len(every)) if place % 5 == 4}
        living = [piece for place, piece in enumerate(every) if place not in dead]
        average = sum(sum(piece.values()) for piece in living) / max(1, len(living))
        alive = np.array([place not in dead for place in range(len(every))], dtype=np.bool_)
        found = words.scores(words.postings(sorted(asked), alive).values(), len(living), average)
    expected = [0.0 if place in dead else formula(piece, living, asked, average) for place, piece in enumerate(every)]
    assert found.tolist() == pytest.approx(expected)


def formula(piece, living, asked, average):
    score = 0.0
    for term in asked & set(piece):
        holding = sum(term in other for other in living)
        rarity = math.log(1 + (len(living) - holding + 0.5) / (holding + 0.5))
        long = 0.4 + 0.6 * sum(piece.values()) / average
        score += rarity * piece[term] * 2.2 / (piece[term] + 1.2 * long)
    return score


def test_a_term_of_every_piece_still_counts():
    assert bm25.rarity(100, 100) > 0


# --- structure ------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(-1, 2), st.integers(-3, 3)), max_size=12, unique_by=lambda t: t[1:])
)
def test_neighbours_are_those_within_two_turns_of_the_session(rows):
    base, session, position = (np.array([row[n] for row in rows]) for n in range(3))
    session, position = session.astype(np.int64), position.astype(np.int64)
    expected = [sum(b for b, s, p in rows if s == own and s >= 0 and 0 < abs(p - place) <= 2) for _, own, place in rows]
    assert fusion.neighbours(base.astype(np.float64), session, position).tolist() == pytest.approx(expected)


def test_sessions_far_apart_in_number_are_no_neighbours():
    base = np.ones(2)
    session = np.array([0, 1], dtype=np.int64)
    for positions in ([(1 << 33) + 5, 6], [1 << 61, -(1 << 61)], [(1 << 62) - 1, 1]):
        assert fusion.neighbours(base, session, np.array(positions, dtype=np.int64)).tolist() == [0, 0]


# --- the benchmark --------------------------------------------------------------------------------


def test_measures_are_those_of_the_books():
    found = ["x", "a", "y", "z", "u", "b"]
    recall5, recall10, ndcg, mrr = retrieval.judged(found, frozenset({"a", "b", "c", "d"}))
    assert (recall5, recall10, mrr) == (0.25, 0.5, 0.5)
    ideal = sum(1 / math.log2(rank + 1) for rank in (1, 2, 3, 4))
    assert ndcg == pytest.approx((1 / math.log2(3) + 1 / math.log2(7)) / ideal)
    assert retrieval.judged(["x"] * 10 + ["a"], frozenset({"a"})) == (0, 0, 0, 0)
    assert retrieval.judged([], frozenset()) == (0, 0, 0, 0)


def test_a_set_is_measured_by_category(tmp_path):
    case = {
        "id": "c1",
        "memories": [
            {"id": "1", "text": "I bought a boat", "speaker": "user", "date": "2023-05-08", "session": "s"},
            {"id": "2", "text": "Lovely", "speaker": "assistant", "session": "s"},
            {"id": "3", "text": "violin: plays music"},
        ],
        "questions": [
            {"id": "q1", "text": "Which boat did I buy?", "evidence": ["1"], "category": "easy"},
            {"id": "q2", "text": "play music", "evidence": ["3", "none"], "category": "hard"},
            {"id": "q3", "text": "play music", "evidence": ["none"], "category": "adversarial"},
        ],
    }
    (tmp_path / "c1.json").write_text(json.dumps(case))
    found = retrieval.measured(tmp_path, lambda: SQLiteIndex(":memory:", None, lambda: 0.0))
    assert {name: (told.questions, told.recall10) for name, told in found.items()} == {
        "": (2, 0.75),
        "easy": (1, 1.0),
        "hard": (1, 0.5),
        "adversarial": (1, 0.0),
    }
    lines = list(retrieval.table("a set", found))
    assert lines[1].split() == ["all", "2", "75.0", "75.0", "80.7", "100.0"]
    assert json.loads(retrieval.as_json(found))["hard"]["recall10"] == 0.5
    roles = [document.role for document in retrieval.documents(next(retrieval.cases(tmp_path)))]
    assert roles == ["user", "assistant", ""]


def test_a_first_search_loads_no_module():
    """It would take as long as ten searches, and an interrupt in the midst of it leaves half a module."""
    code = (
        "import sys; from remanence.search.embedders import embedder_from; from remanence.search.sqlite import *\n"
        "index = SQLiteIndex(':memory:', embedder_from('static'), lambda: 0.0)\n"
        "index.put([Document(id=f'{n}', text=f'Ann wrote {n}', kind='k', speaker='Ann') for n in range(99)])\n"
        "before = set(sys.modules)\n"
        "assert index.search('what did Ann write?', only=Filter(kinds=('k',)))\n"
        "print(sorted(set(sys.modules) - before))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"
