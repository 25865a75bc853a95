"""What the cases store: a state and a message of about 300 bytes of JSON each."""

from itertools import cycle
from typing import Any

import msgspec

STATE: dict[str, Any] = {
    "task": "summarise the quarterly report and list the open questions for the board",
    "step": 7,
    "plan": ["read the tables", "compare with last year", "write three paragraphs", "list what is unclear"],
    "confidence": 0.82,
    "budget": {"tokens": 12000, "seconds": 90, "calls": 14},
    "tags": ["finance", "board", "draft"],
    "done": False,
}
CONTENT = (
    "I compared the revenue of the three regions with last year's figures. The north grew by four percent, "
    "the south stayed where it was, and the west lost two large customers in May; the notes do not say why."
)

STATE_TEXT = msgspec.json.encode(STATE)
"""The state as the naive side sends it: its encoding is not even charged to it."""
MESSAGE_TEXT = msgspec.json.encode(
    {
        "role": "assistant",
        "content": CONTENT,
        "timestamp": "2026-01-05T10:20:30.405060+00:00",
        "metadata": {"model": "m-1", "tokens": 57},
    }
)
METADATA: dict[str, Any] = {"model": "m-1", "tokens": 57}


class Names:
    """`count` names that take turns, so that no measurement is of one hot key."""

    def __init__(self, prefix: str, count: int = 64) -> None:
        self._names = cycle([f"{prefix}{number}" for number in range(count)])

    def __call__(self) -> str:
        """The next one."""
        return next(self._names)
