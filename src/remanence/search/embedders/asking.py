"""What embedders share that have to be asked: their dimensions are found at first use, and held to."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from remanence.search.embedders.checking import vectors

LONGEST: Final = 8_000
"""Characters of a text that are sent. Longer ones are refused by many models, and no piece of a memory needs more."""
_PROBE: Final = "memory"


class AskingEmbedder(ABC):
    """Texts go out in batches; those without letters are not sent, and have a row of zeros."""

    def __init__(self, name: str, dimensions: int | None, batch: int) -> None:
        """`dimensions` None: found by asking. `batch` is the most texts that are asked for at once."""
        self.name = name
        self.known_dimensions = dimensions
        self._batch = batch

    @property
    def dimensions(self) -> int:
        """How many numbers a vector has; asks for the vector of a word if that is not known yet."""
        if self.known_dimensions is None:
            self._rows([_PROBE])
        assert self.known_dimensions is not None
        return self.known_dimensions

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row for each text, of length 1. Raises `Unavailable` or `Misconfigured`."""
        sent = [row for row, text in enumerate(texts) if text.strip()]
        found = [self._rows([texts[row][:LONGEST] for row in sent[at : at + self._batch]]) for at in self._begins(sent)]
        rows = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        if found:
            rows[sent] = np.concatenate(found)
        return rows

    def _begins(self, sent: Sequence[int]) -> range:
        return range(0, len(sent), self._batch)

    def _rows(self, texts: list[str]) -> NDArray[np.float32]:
        rows = vectors(self._asked(texts), len(texts), self.known_dimensions, self.name)
        self.known_dimensions = rows.shape[1]
        return rows

    @abstractmethod
    def _asked(self, texts: list[str]) -> Any:
        """What is given for these texts, unchecked. Raises `Unavailable` or `Misconfigured`."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"
