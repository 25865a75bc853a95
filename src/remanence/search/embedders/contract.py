"""What the index asks of whatever turns texts into vectors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Embedder(Protocol):
    """Turns texts into vectors of one length. Equal names and dimensions mean comparable vectors."""

    @property
    def name(self) -> str:
        """What made the vectors, with its version: another name means other vectors."""

    @property
    def dimensions(self) -> int:
        """How many numbers a vector has."""

    def embed(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """One row for each text, of length 1; a row of zeros for a text of which nothing is known."""


def identity(embedder: Embedder) -> str:
    """What vectors are told apart by: those of different identities are never compared."""
    return f"{embedder.name}/{embedder.dimensions}"
