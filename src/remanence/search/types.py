"""What is put into an index, what it is asked, and what it answers: frozen values; and what every index does."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, Protocol

import msgspec

from remanence.errors import WorldError

Mode = Literal["fused", "keyword", "semantic"]
MODES: Final = ("fused", "keyword", "semantic")


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A memory as the index sees it. Times are seconds since the epoch.

    Equal `session` and consecutive `position` make memories neighbours; a position below 0 is in no sequence, and
    such a memory is judged by itself. `speaker` is a name that a question may
    name; `role` is "user" or "assistant" where one of those spoke. `caption` describes what came with the text,
    `date` is written as `2023-05-08` or longer: both are found as words.
    """

    id: str
    text: str
    kind: str = ""
    session: str = ""
    position: int = 0
    speaker: str = ""
    role: str = ""
    caption: str = ""
    date: str = ""
    tags: tuple[str, ...] = ()
    agent: str = ""
    success: bool | None = None
    importance: float = 0.5
    trust: float = 1.0
    created: float = 0.0
    expires: float | None = None
    uses: int = 0


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which memories may be found. What is left out admits everything; several fields must all admit.

    `kinds`, `agents`, `sessions`: one of them. `tags`: all of them. `since` and `until` bound `created`, both
    included. `success`: exactly this outcome.
    """

    kinds: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    success: bool | None = None
    since: float | None = None
    until: float | None = None
    importance: float | None = None
    """At least this."""
    trust: float | None = None
    """At least this."""


EVERYTHING: Final = Filter()


class Favour(msgspec.Struct, frozen=True, kw_only=True):
    """What may raise a memory above better matches, each by at most its number, of the scale of a match from 0 to 1.

    Measured, recency costs recall: ask for it where the question does ("latest"). It halves every `half_life` seconds.
    """

    recency: float = 0.0
    importance: float = 0.0
    use: float = 0.0
    half_life: float = 30 * 86400.0


NOTHING: Final = Favour()


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A memory that was found, and why. Scores compare within one answer only."""

    id: str
    kind: str
    score: float
    parts: Mapping[str, float] | None = None
    """With `explain`: what each reason gave, which together are the score."""


Source = Callable[[Sequence[str]], Mapping[str, Document]]
"""Gives the documents of these ids, as far as they exist."""


class Index(Protocol):
    """Documents of one namespace, found by what is asked. It names ids; the documents themselves are elsewhere.

    A change is found, by whoever shares the index, as soon as the call that made it returns. What was removed, or
    whose time is over, is never found. Methods raise `InvalidArgument` for what cannot be, and the `WorldError`
    family where the index's place cannot be reached.
    """

    def put(self, documents: Sequence[Document]) -> None:
        """Add documents; one that is there already is replaced, each at once and as a whole."""

    def remove(self, ids: Sequence[str]) -> int:
        """Remove documents; returns how many there were."""

    def amend(self, id: str, **changes: Any) -> bool:
        """Change `success`, `importance`, `trust`, `expires` or `uses` of a document; False where there is none."""

    def sweep(self) -> int:
        """Remove some of the documents whose time is over; returns how many. They are not found in any case."""

    def reembed(self, source: Source, batch: int = 200) -> Iterator[tuple[int, int]]:
        """Embed what another embedder embedded, and what this one owes; yields (done, left) after each batch."""

    def search(
        self,
        query: str,
        *,
        limit: int = 10,
        mode: Mode = "fused",
        only: Filter = EVERYTHING,
        favour: Favour = NOTHING,
        explain: bool = False,
    ) -> list[Hit]:
        """The best `limit` documents that `only` admits, best first."""

    def counts(self) -> dict[str, int]:
        """How many documents of each kind there are."""

    @property
    def away(self) -> WorldError | None:
        """Why the embedder could not be used the last time that it was needed; None when it could."""

    def __len__(self) -> int:
        """How many documents are held."""

    def let_go(self) -> None:
        """Hold nothing open until the next call: before a fork."""

    def close(self) -> None:
        """Hold nothing open any more."""

    def list(self, only: Filter = EVERYTHING, limit: int = 100, after: str = "") -> tuple[list[str], str]:
        """The ids of what `only` admits, newest first, and where to go on with `after`, "" at the end."""
