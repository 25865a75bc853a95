"""Late interaction: a question compared with a text word by word. Pure.

Each word of the question finds the word of the text that is nearest to it in its place. A word that finds a near
one in every text tells little, so words weigh by how far their best match stands out; squares let one word that
is met weigh more than two that are half met. A long question asks several things, and a text answers one of
them: half of the score is that of the question's best stretch of `STRETCH` words.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

STRETCH: Final = 6
LONGEST: Final = 64
"""Words of a question that are compared."""
_LEAST: Final = np.float32(1e-3)


def nearest(question: Floats, texts: Sequence[bytes]) -> Floats:
    """How near the nearest word of each text is to each word of the question: words by texts, from -1 to 1.

    `question` has rows of length 1; a text is its words' states in int8, at least one.
    """
    width = question.shape[1]
    rows = np.frombuffer(b"".join(texts), dtype=np.int8).reshape(-1, width).astype(np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    likeness = question[:LONGEST] @ rows.T
    likeness /= np.maximum(lengths, 1)
    counts = np.array([len(text) // width for text in texts])
    return np.asarray(np.maximum.reduceat(likeness, np.cumsum(counts) - counts, axis=1))


def agreement(near: Floats) -> NDArray[np.float64]:
    """How well each text answers the question, by what `nearest` gives; above 0, and compared in one answer only."""
    weights = np.maximum(near.max(axis=1) - near.mean(axis=1), _LEAST)
    met = np.square(np.maximum(near, 0)) * weights[:, None]
    whole = met.sum(axis=0) / weights.sum()
    if len(near) > STRETCH:
        sums = np.cumsum(np.vstack([np.zeros((1, near.shape[1]), dtype=np.float32), met]), axis=0)
        stretch = (sums[STRETCH:] - sums[:-STRETCH]).max(axis=0) / weights.sum()
        whole = (whole + stretch * (len(near) / STRETCH)) / 2
    return np.asarray(whole, dtype=np.float64)
