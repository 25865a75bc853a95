"""What the index asks of whatever turns texts into vectors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeGuard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Embedder(Protocol):
    """Turns texts into vectors of one length. Equal names and dimensions mean comparable vectors.

    Several threads may call it at once. One that asks a server raises `Unavailable` where that is away and
    `Misconfigured` where it refuses: memories are then kept and found by their words, and embedded later. If it has
    to ask for its `dimensions` too, it has a `known_dimensions`, which is None until it has.
    """

    @property
    def name(self) -> str:
        """What made the vectors, with its version: another name means other vectors."""

    @property
    def dimensions(self) -> int:
        """How many numbers a vector has."""

    def embed(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """One row for each text, of length 1; a row of zeros for a text of which nothing is known."""


class TokenEmbedder(Embedder, Protocol):
    """An embedder that also tells what each word means where it stands: its state.

    A question is then compared word by word with the best memories (late interaction), which finds short texts
    much better than one vector for each.
    """

    @property
    def state_dimensions(self) -> int:
        """How many numbers a state has."""

    def embed_with_states(self, texts: Sequence[str]) -> "tuple[NDArray[np.float32], list[NDArray[np.float32]]]":
        """What `embed` gives, and for each text the states of its words that tell something, one row each."""


def tells_words(embedder: Embedder | None) -> TypeGuard[TokenEmbedder]:
    """Whether an embedder tells the states of words too."""
    return hasattr(embedder, "embed_with_states")


def identity(embedder: Embedder) -> str:
    """What vectors are told apart by: those of different identities are never compared."""
    states = f"+{embedder.state_dimensions}" if tells_words(embedder) else ""
    return f"{embedder.name}/{embedder.dimensions}{states}"
