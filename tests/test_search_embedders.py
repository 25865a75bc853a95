"""Texts as pieces and as vectors, with the table in the package."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remanence.errors import InvalidArgument
from remanence.search.embedders import embedder_from, identity
from remanence.search.embedders.static import FOLDER, LONGEST, StaticEmbedder
from remanence.search.embedders.wordpiece import WordPiece

TABLE = StaticEmbedder()
PIECES = (FOLDER / "pieces.txt").read_text(encoding="utf-8").split("\n")[:-1]


# --- pieces ---------------------------------------------------------------------------------------

# Made by the tokenizer that belongs to the vocabulary (`tokenizers` 0.22, tokenizer.json of the model).
EXPECTED = {
    "Hello, world!": "hello , world !",
    "unaffable embeddings": "una ##ffa ##ble em ##bed ##ding ##s",
    "Ünïcödé naïve café": "unicode naive cafe",
    "東京 tower": "東 京 tower",
    "under_score a.b-c": "under _ score a . b - c",
    "don't": "don ' t",
    "2023-05-08": "202 ##3 - 05 - 08",
}


@pytest.mark.parametrize("text", EXPECTED)
def test_a_text_is_cut_as_the_model_was_taught(text):
    assert " ".join(PIECES[number] for number in WordPiece(PIECES).ids(text)) == EXPECTED[text]


@given(st.text())
def test_any_text_has_pieces(text):
    ids = WordPiece(PIECES).ids(text)
    assert all(0 <= number < len(PIECES) for number in ids)


def test_no_more_pieces_than_asked_for():
    assert len(WordPiece(PIECES).ids("boat " * 1000, 7)) == 7


def test_words_are_remembered_within_bounds(monkeypatch):
    monkeypatch.setattr("remanence.search.embedders.wordpiece._REMEMBERED", 5)
    pieces = WordPiece(PIECES)
    for number in range(50):
        pieces.ids(f"boat{number}")
    assert len(pieces._known) <= 5


def test_an_endless_word_is_unknown():
    assert WordPiece(PIECES).ids("a" * 101) == [PIECES.index("[UNK]")]


# --- the table ------------------------------------------------------------------------------------


def test_a_vector_has_length_one_and_the_same_every_time():
    texts = ["A boat on the river", "x", "機械"]
    found = TABLE.embed(texts)
    assert found.shape == (3, TABLE.dimensions) == (3, 256)
    assert found.dtype == np.float32
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert np.array_equal(found, StaticEmbedder().embed(texts))
    assert np.allclose(found[1], TABLE.embed(["x"])[0])


def test_a_text_without_words_has_no_vector():
    assert not np.any(TABLE.embed(["", "  "]))
    assert TABLE.embed([]).shape == (0, 256)


def test_what_means_the_same_is_nearer():
    question, *others = TABLE.embed(
        ["How do I repair my bicycle?", "fixing a bike at home", "the stock market crashed", "a recipe for soup"]
    )
    near, *far = (float(question @ other) for other in others)
    assert near > max(far) + 0.2


def test_only_the_beginning_of_a_long_text_is_read():
    assert np.allclose(*TABLE.embed(["boat " * LONGEST + "apple " * 5000, "boat " * LONGEST]), atol=1e-5)


def test_vectors_are_told_apart_by_what_made_them():
    assert identity(TABLE) == "static-minilm-1/256"


def test_another_table_needs_another_name():
    """Who makes the table anew gives it a new VERSION: files hold vectors of the old one."""
    told = hashlib.sha256((FOLDER / "vectors.npy").read_bytes()).hexdigest()
    assert (identity(TABLE), told[:16]) == ("static-minilm-1/256", "24757fceb4f704d9")


def test_the_table_carries_its_licence():
    assert "Apache License" in (FOLDER / "LICENSE").read_text()
    assert "all-MiniLM-L6-v2" in (FOLDER / "NOTICE").read_text()


def test_numpy_is_imported_by_the_search_alone():
    code = "import sys, remanence, remanence.cli; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_a_name_nobody_has_is_told_in_short():
    with pytest.raises(InvalidArgument, match="no embedder named 'xxx") as refusal:
        embedder_from("x" * 1_000_000)
    assert len(str(refusal.value)) < 400
