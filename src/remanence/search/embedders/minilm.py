"""all-MiniLM-L6-v2 on NumPy alone: the transformer spelled out, its weights read from a safetensors file."""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from remanence.search.embedders.static import FOLDER as TABLE
from remanence.search.embedders.weights import found
from remanence.search.embedders.wordpiece import WordPiece
from remanence.search.query import STOP_WORDS

Floats = NDArray[np.float32]

LAYERS: Final = 6
HEADS: Final = 12
WIDTH: Final = 384
LONGEST: Final = 256
"""Pieces that are read of a text, the marks of begin and end included."""
BEGIN: Final = 101
END: Final = 102
EPSILON: Final = 1e-12
_BATCH: Final = 4096
"""Pieces that go through the layers at once: more only costs memory."""


class MiniLMEmbedder:
    """Means by the model itself: better than the static table and some hundred times slower. 90 MB of memory.

    Fetch the weights with `remanence model fetch minilm`. It tells the states of words too, reduced to 96 numbers
    by a table that tools/make_state_basis.py makes: those of stop words and punctuation are left out.
    """

    name = "all-MiniLM-L6-v2"
    dimensions = WIDTH
    state_dimensions = 96

    def __init__(self, folder: Path) -> None:
        """Use the weights in `folder`, loaded when first needed. Raises `Misconfigured` where they are missing."""
        self._folder = found(folder)

    @cached_property
    def _model(self) -> "MiniLM":
        return MiniLM(self._folder)

    @cached_property
    def _basis(self) -> Floats:
        return np.asarray(np.load(TABLE / "states.npy"), dtype=np.float32)

    def embed(self, texts: Sequence[str]) -> Floats:
        """One row for each text, of length 1. A text without words has a row of zeros."""
        sequences = [self._model.tokens.ids(text, LONGEST - 2) for text in texts]
        vectors = self._model.pooled(sequences)
        vectors[[not ids for ids in sequences]] = 0
        return vectors

    def embed_with_states(self, texts: Sequence[str]) -> tuple[Floats, list[Floats]]:
        """The same, and the states of each text's words: all of them where it has only stop words."""
        sequences = [self._model.tokens.ids(text, LONGEST - 2) for text in texts]
        vectors = np.zeros((len(texts), WIDTH), dtype=np.float32)
        reduced: list[Floats] = [np.zeros((0, self.state_dimensions), dtype=np.float32)] * len(texts)
        for rows, states in self._model.in_batches(sequences):
            for row, state in zip(rows, states, strict=True):
                if sequences[row]:
                    vectors[row] = state.mean(axis=0)
                    kept = self._model.telling(sequences[row])
                    reduced[row] = normalised(normalised(state[1:-1][kept]) @ self._basis)
        return normalised(vectors), reduced


class MiniLM:
    """The encoder. `states` gives a vector for each piece of each text, `pooled` their mean, of length 1."""

    def __init__(self, folder: Path) -> None:
        """Load `model.safetensors` and `vocab.txt` from `folder`."""
        pieces = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        self.tokens = WordPiece(pieces)
        self._tells = np.array([piece not in STOP_WORDS and piece.strip("#").isalnum() for piece in pieces])
        weights = tensors(folder / "model.safetensors")
        self._words = weights["embeddings.word_embeddings.weight"]
        self._places = (
            weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
        )
        self._norm = (weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"])
        self._layers = [_Layer(weights, f"encoder.layer.{number}.") for number in range(LAYERS)]

    def telling(self, ids: Sequence[int]) -> NDArray[np.intp]:
        """The places of the pieces that are neither stop words nor punctuation; all where there are none."""
        places = np.flatnonzero(self._tells[list(ids)])
        return places if len(places) else np.arange(len(ids))

    def pooled(self, sequences: Sequence[Sequence[int]]) -> Floats:
        """One vector of length 1 for each sequence of piece ids (without begin and end)."""
        means = np.empty((len(sequences), WIDTH), dtype=np.float32)
        for rows, states in self.in_batches(sequences):
            means[rows] = states.mean(axis=1)
        return normalised(means)

    def states(self, sequences: Sequence[Sequence[int]]) -> list[Floats]:
        """The last layer's vectors of each sequence, begin and end included."""
        told: list[Floats] = [np.empty((0, WIDTH), dtype=np.float32)] * len(sequences)
        for rows, states in self.in_batches(sequences):
            for row, state in zip(rows, states, strict=True):
                told[row] = state
        return told

    def in_batches(self, sequences: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Floats]]:
        """The states of texts of one length together: then nothing has to be padded or masked."""
        by_length: dict[int, list[int]] = {}
        for row, ids in enumerate(sequences):
            by_length.setdefault(min(len(ids), LONGEST - 2), []).append(row)
        for length, rows in sorted(by_length.items()):
            most = max(1, _BATCH // (length + 2))
            for begin in range(0, len(rows), most):
                chosen = rows[begin : begin + most]
                framed = np.full((len(chosen), length + 2), END, dtype=np.intp)
                framed[:, 0] = BEGIN
                for place, row in enumerate(chosen):
                    framed[place, 1:-1] = sequences[row][:length]
                yield chosen, self._run(framed)

    def _run(self, ids: NDArray[np.intp]) -> Floats:
        hidden = layer_norm(self._words[ids] + self._places[: ids.shape[1]], *self._norm)
        for layer in self._layers:
            hidden = layer.run(hidden)
        return hidden


class _Layer:
    def __init__(self, weights: dict[str, Floats], prefix: str) -> None:
        def pair(name: str) -> tuple[Floats, Floats]:
            return np.ascontiguousarray(weights[f"{prefix}{name}.weight"].T), weights[f"{prefix}{name}.bias"]

        parts = [pair(f"attention.self.{name}") for name in ("query", "key", "value")]
        self._asked = np.concatenate([matrix for matrix, _ in parts], axis=1)
        self._asked_bias = np.concatenate([bias for _, bias in parts])
        self._joined, self._joined_bias = pair("attention.output.dense")
        self._wide, self._wide_bias = pair("intermediate.dense")
        self._narrow, self._narrow_bias = pair("output.dense")
        self._first = tuple(weights[f"{prefix}attention.output.LayerNorm.{n}"] for n in ("weight", "bias"))
        self._second = tuple(weights[f"{prefix}output.LayerNorm.{n}"] for n in ("weight", "bias"))

    def run(self, hidden: Floats) -> Floats:
        texts, length, width = hidden.shape
        flat = hidden.reshape(-1, width)
        asked = (flat @ self._asked + self._asked_bias).reshape(texts, length, 3, HEADS, width // HEADS)
        query, key, value = asked.transpose(2, 0, 3, 1, 4)
        scores = (query @ key.transpose(0, 1, 3, 2)) * np.float32((width // HEADS) ** -0.5)
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        seen = (scores @ value).transpose(0, 2, 1, 3).reshape(-1, width)
        middle = layer_norm(seen @ self._joined + self._joined_bias + flat, *self._first)
        wide = gelu(middle @ self._wide + self._wide_bias)
        return layer_norm(wide @ self._narrow + self._narrow_bias + middle, *self._second).reshape(hidden.shape)


def gelu(x: Floats) -> Floats:
    """The gate, by tanh: within 0.0005 of the exact one, which NumPy has no function for."""
    inner = x * x
    inner *= np.float32(0.044715)
    inner += np.float32(1)
    inner *= x
    inner *= np.float32(0.7978845608)
    np.tanh(inner, out=inner)
    inner += np.float32(1)
    inner *= x
    inner *= np.float32(0.5)
    return inner


def layer_norm(x: Floats, weight: Floats, bias: Floats) -> Floats:
    """Mean 0 and deviation 1 along the last axis, then scaled."""
    x = x - x.mean(axis=-1, keepdims=True)
    x /= np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(EPSILON))
    x *= weight
    x += bias
    return x


def normalised(matrix: Floats) -> Floats:
    """Each row at length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    return np.asarray(matrix / lengths, dtype=np.float32)


def tensors(path: Path) -> dict[str, Floats]:
    """The float32 tensors of a safetensors file: a length, a JSON header, then the numbers."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        body = file.read()
    read = {}
    for name, told in header.items():
        if name != "__metadata__" and told["dtype"] == "F32":
            begin, end = told["data_offsets"]
            read[name] = np.frombuffer(body[begin:end], dtype="<f4").reshape(told["shape"])
    return read
