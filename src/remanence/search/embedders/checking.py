"""What foreign code or a server gave as vectors, checked before anything believes it."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from remanence.errors import Misconfigured

MOST_DIMENSIONS: Final = 65_536


def vectors(given: Any, count: int, dimensions: int | None, who: str) -> NDArray[np.float32]:
    """The rows as floats of length 1; a row of zeros stays one. `dimensions` None: any.

    Raises `Misconfigured`, naming `who`, for what is no matrix of finite numbers with `count` rows.
    """
    try:
        rows = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise Misconfigured(f"{who} gave no rows of numbers, all of one length, for its texts") from error
    if rows.ndim != 2 or len(rows) != count or not 0 < rows.shape[1] <= MOST_DIMENSIONS:
        raise Misconfigured(f"{who} gave an array of shape {rows.shape}, not one row for each of {count} texts")
    if dimensions is not None and rows.shape[1] != dimensions:
        raise Misconfigured(
            f"{who} gave {rows.shape[1]} numbers for a text, and {dimensions} before: if it is another model now, "
            "name it so, and its vectors will be made anew"
        )
    if not np.all(np.isfinite(rows)):
        raise Misconfigured(f"{who} gave a number that is not finite")
    rows /= np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-300)  # else squares of tiny or huge ones are lost
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    return np.asarray(rows / lengths, dtype=np.float32)
