"""The default embedder: one vector for each piece of a vocabulary, averaged. Nothing to download, no model to run.

The table was made by tools/make_static_table.py from the weights of all-MiniLM-L6-v2 (Apache-2.0; see the
notice beside it). It lies in the package as int8 and is mapped into memory, so that the processes of one
machine share it.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from remanence.search.embedders.wordpiece import WordPiece

FOLDER: Final = Path(__file__).with_name("table")
VERSION: Final = "static-minilm-1"
LONGEST: Final = 512
"""Pieces that are read of a text; what follows them adds nothing."""


class StaticEmbedder:
    """Sums the table's vectors of a text's pieces. About 20 µs for a sentence."""

    name = VERSION

    def __init__(self, folder: Path = FOLDER) -> None:
        """Use the table in `folder`: `vectors.npy` (int8), `scales.npy` and `pieces.txt`."""
        self._folder = folder

    @cached_property
    def _vectors(self) -> NDArray[np.int8]:
        return np.asarray(np.load(self._folder / "vectors.npy", mmap_mode="r"))

    @cached_property
    def _scales(self) -> NDArray[np.float32]:
        return np.asarray(np.load(self._folder / "scales.npy"), dtype=np.float32)

    @cached_property
    def _pieces(self) -> WordPiece:
        return WordPiece((self._folder / "pieces.txt").read_text(encoding="utf-8").split("\n")[:-1])

    @property
    def dimensions(self) -> int:
        """How many numbers a vector has."""
        return int(self._vectors.shape[1])

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row for each text, of length 1. A text without words has a row of zeros."""
        found = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for row, text in enumerate(texts):
            ids = self._pieces.ids(text, LONGEST)
            if ids:
                found[row] = self._scales[ids] @ self._vectors[ids].astype(np.float32)
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        lengths[lengths == 0] = 1
        found /= lengths
        return found
