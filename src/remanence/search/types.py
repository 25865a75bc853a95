"""What is put into an index, what it is asked, and what it answers: frozen values."""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

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
