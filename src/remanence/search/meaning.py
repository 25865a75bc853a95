"""The embedder as the index uses it: what it makes of texts, and what happens while it is away."""

import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from remanence.errors import Misconfigured, Unavailable, WorldError
from remanence.search.embedders import Embedder, identity, tells_words
from remanence.search.query import MOST_READ, parted
from remanence.search.vectors import quantised

Floats = NDArray[np.float32]

FIRST_PAUSE: Final = 5.0
LONGEST_PAUSE: Final = 60.0


class Made(NamedTuple):
    """What a piece of a text means, in int8. `vector` None: it is owed, or there is no embedder."""

    vector: bytes | None = None
    states: bytes | None = None


class Sought(NamedTuple):
    """What a question means. `states` None: it is not compared word by word."""

    vector: Floats
    states: Floats | None


class Meaning:
    """Asks an embedder, and leaves it alone for a while where it is away: 5 s, then longer, up to a minute.

    So that a search waits for its deadline once and not each time.
    """

    def __init__(self, embedder: Embedder | None, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells seconds that never go back."""
        self._embedder = embedder
        self._words = embedder if tells_words(embedder) else None
        self._clock = clock
        self._identity: str | None = None
        self._pause = FIRST_PAUSE
        self._until = 0.0
        self.away: WorldError | None = None
        """Why the embedder could not be used the last time; None when it could."""

    def __bool__(self) -> bool:
        return self._embedder is not None

    @property
    def dimensions(self) -> int:
        """How many numbers a vector has; 0 as long as it is not known."""
        return self._embedder.dimensions if self._embedder is not None and self._identity is not None else 0

    @property
    def paused(self) -> bool:
        """Whether the embedder was away a moment ago, and is not asked again yet."""
        return self.away is not None and self._clock() < self._until

    def known(self) -> str | None:
        """What its vectors are told apart by, if that is known without asking a server."""
        if getattr(self._embedder, "known_dimensions", 0) is None:
            return self._identity
        return self.identity()

    def identity(self) -> str | None:
        """What its vectors are told apart by; None without an embedder, and while it cannot be asked for it."""
        if self._identity is None and self._embedder is not None and not self.paused:
            try:
                self._identity = identity(self._embedder)
            except (Unavailable, Misconfigured) as error:
                self._gone(error)
        return self._identity

    def ask(self) -> None:
        """Make sure that it is known what the vectors are told apart by; the embedder's error is the caller's."""
        if self._embedder is not None:
            self._identity = identity(self._embedder)

    def of_texts(self, texts: Sequence[str]) -> list[Made]:
        """What each text means; nothing of any while the embedder is away: it is owed."""
        if self.identity() is None or self.paused:
            return [Made()] * len(texts)
        try:
            return self.surely(texts)
        except (Unavailable, Misconfigured):
            return [Made()] * len(texts)

    def surely(self, texts: Sequence[str]) -> list[Made]:
        """The same, where the embedder's error is the caller's."""
        assert self._embedder is not None
        if not texts:
            return []
        words = [parted(text) for text in texts]
        try:
            self.ask()
            if self._words is None:
                made = [Made(row.tobytes()) for row in quantised(self._embedder.embed(words))]
            else:
                rows, states = self._words.embed_with_states(words)
                packed = [quantised(state).tobytes() or None for state in states]
                made = [Made(row.tobytes(), state) for row, state in zip(quantised(rows), packed, strict=True)]
        except (Unavailable, Misconfigured) as error:
            self._gone(error)
            raise
        self._back()
        return made

    def of_question(self, query: str) -> Sought | None:
        """What a question means; None for one without known words, and while the embedder is away."""
        if self._embedder is None or self.identity() is None or self.paused:
            return None
        words = [parted(query[:MOST_READ])]
        try:
            if self._words is None:
                (vector,), states = self._embedder.embed(words), None
            else:
                (vector,), (states,) = self._words.embed_with_states(words)
        except (Unavailable, Misconfigured) as error:
            self._gone(error)
            return None
        self._back()
        return Sought(vector, states if states is not None and len(states) else None) if np.any(vector) else None

    def _gone(self, error: WorldError) -> None:
        self._pause = FIRST_PAUSE if self.away is None else min(2 * self._pause, LONGEST_PAUSE)
        self._until = self._clock() + self._pause
        self.away = error

    def _back(self) -> None:
        self.away = None
