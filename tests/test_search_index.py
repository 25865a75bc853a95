"""The index against a model of it in plain loops, what it refuses, and that nothing leads to what is gone."""

import math
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remanence.errors import Closed, InvalidArgument
from remanence.search import fusion, late
from remanence.search.query import STOP_WORDS, names, pieces, timed
from remanence.search.query import asked as read
from remanence.search.sqlite import SQLiteIndex
from remanence.search.types import Document, Favour, Filter
from remanence.search.vectors import quantised
from remanence.wire.sqlite import Database

NOW = 1_000_000.0
VOCABULARY = "boat river march winter apple garden the when ann running 2023 bread violin cloud i my"
WORDS = VOCABULARY.split()


class Letters:
    """An embedder that can be followed by hand: how often each letter occurs."""

    name = "letters"
    dimensions = 26

    def embed(self, texts):
        found = np.zeros((len(texts), 26), dtype=np.float32)
        for row, text in enumerate(texts):
            for letter in text.lower():
                if "a" <= letter <= "z":
                    found[row, ord(letter) - 97] += 1
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        return found / np.where(lengths == 0, 1, lengths)


class Words(Letters):
    """The same, which tells what each word is as well."""

    name = "words"
    state_dimensions = 26

    def embed_with_states(self, texts):
        states = [self.embed(text.split()) for text in texts]
        return self.embed(texts), [rows[np.any(rows, axis=1)] for rows in states]


def opened(path=":memory:", embedder=None, now=NOW):
    return SQLiteIndex(str(path), embedder, lambda: now)


def ids(hits):
    return [hit.id for hit in hits]


# --- the model ------------------------------------------------------------------------------------


class Model:
    """A search as its description says it, without an index."""

    def __init__(self, documents, embedder):
        self.documents = list({document.id: document for document in documents}.values())
        self.embedder = embedder
        self.tokens = Database(":memory:").tokens

    def scores(self, query, mode, only):
        told = read(query, self.tokens)
        alive = [d for d in self.documents if admits(only, d)]
        word = {d.id: self.bm25(told, d) for d in alive}
        near = {d.id: self.cosine(query, d) for d in alive}
        candidates = [d for d in alive if word[d.id] > 0 or near[d.id] is not None]
        if mode == "keyword":
            chosen = {d.id: word[d.id] for d in alive if word[d.id] > 0}
            return scaled(chosen)
        if mode == "semantic":
            return {id: value for id, value in near.items() if value is not None}
        meant = self.meant(query)
        word = scaled({d.id: word[d.id] for d in candidates})
        near = scaled({d.id: near[d.id] or 0.0 for d in candidates})
        base = {d.id: 0.5 * word[d.id] + 0.5 * near[d.id] if meant else word[d.id] for d in candidates}
        late = self.late(query, candidates) if meant else {}
        if late:
            late = {d.id: 0.0 for d in candidates} | scaled(late)
            for d in candidates:
                weights = (0.3, 0.2, 0.5) if d.speaker and not d.role else (0.25, 0.35, 0.4)
                base[d.id] = sum(w * s[d.id] for w, s in zip(weights, (word, near, late), strict=True))
        return {d.id: base[d.id] + self.structure(told, d, candidates, base) for d in candidates}

    def structure(self, told, d, candidates, base):
        user = d.role == "user"
        score = 0.2 * (names(told, d.speaker) or (user and told.mine)) + 0.25 * user
        score += 0.1 * (told.when and timed(f"{d.text} {d.caption}"))
        if d.session:
            own = [c for c in candidates if c.session == d.session]
            near = [c for c in own if 0 < abs(c.position - d.position) <= 2]
            score += (0.05 if d.role else 0.2) * sum(base[c.id] for c in near)
            score += 0.3 * max(base[c.id] for c in own)
        return score

    def parts(self, d):
        return pieces(d.text, "" if d.role else d.speaker, d.caption, d.date)

    def bm25(self, told, d):
        every = [Counter(self.tokens(p)) for other in self.documents for p in self.parts(other)]
        average = sum(sum(p.values()) for p in every) / len(every)
        best = 0.0
        for piece in self.parts(d):
            counts = Counter(self.tokens(piece))
            score = 0.0
            for term in told.terms:
                holding = sum(term in p for p in every)
                if term in counts:
                    rarity = math.log(1 + (len(every) - holding + 0.5) / (holding + 0.5))
                    long = sum(counts.values()) / average
                    score += rarity * counts[term] * 2.2 / (counts[term] + 1.2 * (0.4 + 0.6 * long))
            best = max(best, score)
        return best

    def late(self, query, candidates):
        """How well each agrees with the question word by word; only those of which that is known."""
        if not isinstance(self.embedder, Words):
            return {}
        question = self.embedder.embed_with_states([query])[1][0].astype(np.float64)
        texts = [(d.id, self.states(piece)) for d in candidates for piece in self.parts(d)]
        near = [(id, [max(q @ word for word in words) for q in question]) for id, words in texts if len(words)]
        found: dict[str, float] = {}
        for id, own in near:
            told = []
            for n, value in enumerate(own):
                others = [values[n] for _, values in near]
                told.append((max(max(others) - sum(others) / len(others), 1e-3), max(value, 0) ** 2))
            total = sum(weight for weight, _ in told)
            score = sum(weight * value for weight, value in told) / total
            if len(told) > 6:
                stretches = [told[at : at + 6] for at in range(len(told) - 5)]
                best = max(sum(weight * value for weight, value in stretch) for stretch in stretches)
                score = (score + best / total * len(told) / 6) / 2
            found[id] = max(found.get(id, 0), score)
        return found

    def states(self, text):
        """As they are stored: in int8, compared by their directions."""
        rows = self.embedder.embed_with_states([text])[1][0]
        rows = quantised(rows).astype(np.float64) if len(rows) else rows
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def meant(self, query):
        return self.embedder is not None and bool(np.any(self.embedder.embed([query])))

    def cosine(self, query, d):
        """The nearest piece's; None for a document that cannot be found by meaning."""
        if not self.meant(query):
            return None
        rows = quantised(self.embedder.embed(self.parts(d))).astype(np.float64)
        rows = rows[np.any(rows, axis=1)]
        if not len(rows):
            return None
        question = self.embedder.embed([query])[0].astype(np.float64)
        return float(max(rows @ question / np.linalg.norm(rows, axis=1)))


def admits(only, d):
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


def scaled(scores: dict[str, float]) -> dict[str, float]:
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    alike = float(high > 1e-6)  # of more than nothing, all are the best
    return {id: (value - low) / (high - low) if high - low > 1e-6 else alike for id, value in scores.items()}


texts = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
some = st.sampled_from
numbers = some([0.0, 0.25, 0.5, 1.0])


@st.composite
def documents(draw: Any) -> Document:
    return Document(
        id=draw(some([f"m{number}" for number in range(12)])),
        text=draw(texts | st.lists(some(WORDS), min_size=150, max_size=170).map(" ".join)),
        kind=draw(some(["", "episodic", "skill"])),
        session=draw(some(["", "s1", "s2"])),
        position=draw(st.integers(0, 10**6)),
        speaker=draw(some(["", "Ann", "Bob"])),
        role=draw(some(["", "user", "assistant"])),
        caption=draw(some(["", "red boat"])),
        date=draw(some(["", "2023-05-08"])),
        tags=tuple(draw(st.lists(some(["x", "y"]), unique=True))),
        agent=draw(some(["", "a1"])),
        success=draw(some([None, True, False])),
        importance=draw(numbers),
        trust=draw(numbers),
        created=draw(some([1.0, 2.0, 3.0])),
        expires=draw(some([None, NOW - 1, NOW, NOW + 1])),
    )


filters = st.builds(
    Filter,
    kinds=some([(), ("skill",), ("skill", "")]),
    tags=some([(), ("x",), ("x", "y"), ("z",)]),
    agents=some([(), ("a1",), ("nobody",)]),
    sessions=some([(), ("s1",)]),
    success=some([None, None, True, False]),
    since=some([None, None, 2.0]),
    until=some([None, None, 2.0]),
    importance=some([None, None, 0.5]),
    trust=some([None, None, 0.5]),
)


@settings(max_examples=40)
@given(
    held=st.lists(documents(), max_size=14),
    more=st.lists(documents(), max_size=4),
    removed=st.lists(some([f"m{number}" for number in range(12)]), max_size=4),
    query=texts,
    mode=some(["fused", "keyword", "semantic"]),
    only=st.just(Filter()) | filters,
    embedder=some([None, Letters(), Words()]),
)
def test_a_search_is_what_the_model_says(held, more, removed, query, mode, only, embedder):
    placed = [msgspec.structs.replace(d, position=n % 7) for n, d in enumerate(held + more)]
    # Two turns at one place of a session would have no order: the model asks for none.
    placed = [
        d if (d.session, d.position) not in seen(placed[:n]) else msgspec.structs.replace(d, session="")
        for n, d in enumerate(placed)
    ]
    index = opened(embedder=embedder)
    index.put(placed[: len(held)])
    index.search(query)  # has it in memory, so that what follows is folded in
    index.put(placed[len(held) :])
    gone = index.remove(removed)
    left = {d.id: d for d in placed}
    assert gone == len(set(removed) & set(left))
    model = Model([d for d in left.values() if d.id not in removed], embedder)
    expected = model.scores(query, mode, only)
    found = index.search(query, mode=mode, only=only, limit=50, explain=True)
    assert {hit.id: hit.score for hit in found} == pytest.approx(expected, abs=1e-5)
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
    assert all(sum(hit.parts.values()) == pytest.approx(hit.score) for hit in found)
    best = index.search(query, mode=mode, only=only, limit=3)
    assert ids(best) == ids(found[:3])


@settings(max_examples=40)
@given(
    held=st.lists(documents(), min_size=2, max_size=12, unique_by=lambda document: document.id),
    query=st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join),
)
def test_a_search_word_by_word_is_what_the_model_says(held, query):
    placed = [msgspec.structs.replace(d, position=n) for n, d in enumerate(held)]
    index = opened(embedder=Words())
    index.put(placed)
    expected = Model(placed, Words()).scores(query, "fused", Filter())
    found = index.search(query, limit=50, explain=True)
    assert {hit.id: hit.score for hit in found} == pytest.approx(expected, abs=1e-5)


def seen(documents):
    return {(d.session, d.position) for d in documents if d.session}


def test_what_differs_by_rounding_alone_is_equal():
    assert fusion.scaled(np.array([0.3, 0.3 + 1e-8, 0.3 - 1e-8])).tolist() == [1, 1, 1]
    assert fusion.scaled(np.array([1e-8, 0.0])).tolist() == [0, 0]
    assert fusion.scaled(np.array([0.3, 0.31, 0.305])).tolist() == pytest.approx([0, 1, 0.5])


def test_the_model_speaks_of_the_constants_in_use():
    assert (fusion.PLAIN, fusion.SESSION, fusion.REACH) == ((0.5, 0.5, 0), 0.3, 2)
    assert (fusion.WRITTEN, fusion.SAID, late.STRETCH) == ((0.25, 0.35, 0.4), (0.3, 0.2, 0.5), 6)
    assert (fusion.SPEAKER, fusion.USER, fusion.WHEN) == (0.2, 0.25, 0.1)
    assert (fusion.NEIGHBOUR, fusion.NEIGHBOUR_OF_ROLES) == (0.2, 0.05)


# --- what leads where -----------------------------------------------------------------------------


def test_what_is_put_again_is_found_by_its_new_words_alone():
    index = opened(embedder=Letters())
    index.put([Document(id="a", text="a boat on the river")])
    index.put([Document(id="a", text="an apple in the garden")])
    assert ids(index.search("boat", mode="keyword")) == []
    assert ids(index.search("apple", mode="keyword")) == ["a"]
    assert ids(index.search("boat", mode="semantic")) == ["a"]
    assert len(index) == 1


def test_what_is_removed_is_not_found():
    index = opened(embedder=Letters())
    index.put([Document(id="a", text="boat"), Document(id="b", text="boat")])
    assert index.remove(["a", "a", "nobody"]) == 1
    for mode in ("fused", "keyword", "semantic"):
        assert ids(index.search("boat", mode=mode)) == ["b"]
    assert index.remove(["a"]) == 0


def test_what_has_expired_is_not_found_and_is_swept():
    now = [NOW]
    index = SQLiteIndex(":memory:", Letters(), lambda: now[0])
    index.put([Document(id="a", text="boat", expires=NOW + 5), Document(id="b", text="boat")])
    assert set(ids(index.search("boat"))) == {"a", "b"}
    now[0] = NOW + 5
    assert ids(index.search("boat")) == ["b"]
    assert len(index) == 2
    assert index.sweep() == 1
    assert len(index) == 1
    assert index.sweep() == 0


def test_a_lifetime_that_is_extended_counts():
    now = [NOW]
    index = SQLiteIndex(":memory:", None, lambda: now[0])
    index.put([Document(id="a", text="boat", expires=NOW + 5)])
    now[0] = NOW + 6
    assert ids(index.search("boat")) == []
    assert index.amend("a", expires=NOW + 60)
    assert ids(index.search("boat")) == ["a"]


def test_what_is_amended_counts_at_once():
    index = opened()
    index.put([Document(id="a", text="boat", importance=0.1)])
    index.search("boat")
    assert index.amend("a", importance=0.9, success=True, uses=4)
    assert ids(index.search("boat", only=Filter(importance=0.8, success=True))) == ["a"]
    assert not index.amend("b", importance=0.9)


def test_many_are_amended_or_none():
    index = opened()
    index.put([Document(id=id, text="boat", importance=0.1) for id in "abc"])
    with pytest.raises(InvalidArgument):
        index.amend_all({"a": {"importance": 0.9}, "b": {"text": "ship"}})
    assert index.search("boat", only=Filter(importance=0.2)) == []
    assert index.amend_all({id: {"importance": 0.9} for id in "abx"}) == 2
    assert sorted(ids(index.search("boat", only=Filter(importance=0.2)))) == ["a", "b"]


def test_many_changes_are_forgotten_in_memory_too(monkeypatch):
    monkeypatch.setattr("remanence.search.columns._MANY", 10)
    index = opened(embedder=Letters())
    for turn in range(40):
        index.put([Document(id="a", text=f"boat {turn}")])
        assert ids(index.search("boat")) == ["a"]
    assert len(index._columns.ids) < 20


# --- order ----------------------------------------------------------------------------------------


def test_equal_matches_are_ordered_by_newness_importance_and_use():
    index = opened()
    index.put(
        [
            Document(id="old", text="boat", created=1.0, importance=0.9),
            Document(id="plain", text="boat", created=2.0, importance=0.5, uses=1),
            Document(id="used", text="boat", created=2.0, importance=0.5, uses=2),
            Document(id="important", text="boat", created=2.0, importance=0.6),
        ]
    )
    assert ids(index.search("boat")) == ["important", "used", "plain", "old"]


def test_newness_counts_more_only_when_asked_for():
    index = opened()
    index.put(
        [Document(id="old", text="boat river", created=NOW - 10**8), Document(id="new", text="boat", created=NOW)]
    )
    assert ids(index.search("boat river")) == ["old", "new"]
    (first, second) = index.search("boat river", favour=Favour(recency=2.0), explain=True)
    assert (first.id, second.id) == ("new", "old")
    assert first.parts["recency"] == pytest.approx(2.0)
    assert second.parts["recency"] == pytest.approx(0.0, abs=1e-6)


def test_a_speaker_who_is_named_comes_first():
    index = opened()
    said = "I went sailing on a boat"
    index.put([Document(id="a", text=said, speaker="Ann"), Document(id="b", text=said, speaker="Bob")])
    (first, *_) = index.search("Where did Bob go sailing?", explain=True)
    assert first.id == "b"
    assert first.parts["speaker"] == fusion.SPEAKER


def test_without_explain_there_are_no_parts():
    index = opened()
    index.put([Document(id="a", text="boat", kind="skill")])
    (hit,) = index.search("boat")
    assert hit.parts is None
    assert hit.kind == "skill"


# --- hostile --------------------------------------------------------------------------------------

HOSTILE = [
    "",
    '"',
    "boat AND",
    "boat OR NOT NEAR(river, 2) text:x* ^y -z {q} (",
    "'; DROP TABLE documents; --",
    "nul \x00 inside",
    "\ud800 boat \udfff",
    "🎉 боат ボート שלום",
    "boat " * 20_000,
    " ".join(f"w{number}" for number in range(20_000)),
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_any_text_can_be_put_and_asked(text):
    index = opened(embedder=Letters())
    index.put([Document(id="a", text=text, caption=text, date=text[:50]), Document(id="b", text="boat")])
    for mode in ("fused", "keyword", "semantic"):
        index.search(text, mode=mode)
    assert "b" in ids(index.search("boat"))
    assert len(index) == 2


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_filter_is_not_escaped_by_its_input(text):
    index = opened()
    index.put([Document(id="a", text="boat", kind="skill", agent="me", session="s", tags=("x",))])
    for only in (
        Filter(kinds=(text or "?",)),
        Filter(tags=(text,)),
        Filter(agents=(text or "?",)),
        Filter(sessions=(text or "?",)),
    ):
        assert index.search("boat", only=only) == []


def test_a_question_that_means_nothing_goes_by_words_alone():
    index = opened(embedder=Letters())
    index.put([Document(id="a", text="boat 2023"), Document(id="b", text="boat 1999")])
    assert ids(index.search("2023")) == ["a"]
    for mode in ("fused", "keyword", "semantic"):
        assert index.search("", mode=mode) == []
        assert index.search("777", mode=mode) == []


def test_an_empty_index_answers():
    for embedder in (None, Letters()):
        assert opened(embedder=embedder).search("boat") == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": 0},
        {"limit": -1},
        {"limit": "5"},
        {"mode": "psychic"},
        {"only": Filter(since="yesterday")},
        {"only": Filter(tags=(1,))},
        {"only": {"kinds": "skill"}},
        {"favour": Favour(recency="much")},
    ],
)
def test_a_wrong_argument_is_told(wrong):
    with pytest.raises(InvalidArgument):
        opened().search("boat", **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": ""},
        {"id": "\ud800"},
        {"tags": ("\udfff",)},
        {"importance": math.nan},
        {"created": math.inf},
        {"position": 1 << 70},
        {"text": 5},
    ],
)
def test_a_wrong_document_is_refused_whole(wrong):
    index = opened()
    with pytest.raises(InvalidArgument) as told:
        index.put([Document(id="fine", text="boat"), Document(**{"id": "a", "text": "boat"} | wrong)])
    assert "boat" not in str(told.value)
    assert len(index) == 0


@pytest.mark.parametrize("wrong", [{}, {"text": "other"}, {"importance": math.nan}, {"number": 5}])
def test_what_cannot_be_amended_is_told(wrong):
    index = opened()
    index.put([Document(id="a", text="boat")])
    with pytest.raises(InvalidArgument):
        index.amend("a", **wrong)


def test_a_closed_index_says_so():
    index = opened()
    index.close()
    with pytest.raises(Closed):
        index.search("boat")


def test_stop_words_alone_are_still_searched():
    index = opened()
    index.put([Document(id="a", text="who are you"), Document(id="b", text="boat")])
    assert {"who", "are", "you"} <= STOP_WORDS
    assert ids(index.search("Who are you?")) == ["a"]
