"""Where the memories of a test live, as two processes name it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Place:
    """Where memories live: the options of one process's, and of another's with connections of its own."""

    kind: str
    options: dict[str, Any]
    elsewhere: dict[str, Any]
