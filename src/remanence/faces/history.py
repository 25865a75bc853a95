"""What is read of a session: its entries as messages, looked through from the end. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from remanence.errors import CorruptRecord
from remanence.wire import codec

Message = dict[str, Any]

PAGE: Final = 256
"""Messages read at a time where a part of a session is looked for from its end."""
LATE: Final = 100
"""So many messages in a row older than `since` end the search: fewer may be late ones of an outage."""


class Search:
    """What was found so far, from the end of a session towards its beginning."""

    def __init__(self, key: str, most: int, since: datetime | None = None, before: datetime | None = None) -> None:
        self.key = key
        self.since = since
        self.before = before
        self.skipped: list[tuple[int, str]] = []
        self._most = most
        self._backwards: list[Message] = []
        self._older = 0

    @property
    def found(self) -> list[Message]:
        """The messages, oldest first."""
        return self._backwards[::-1]

    @property
    def complete(self) -> bool:
        """Whether nothing further back is wanted."""
        return len(self._backwards) >= self._most or self._older >= LATE

    def take(self, items: Sequence[bytes], start: int) -> None:
        """Look at the items from position `start`, last first, until nothing more is wanted."""
        for position in range(len(items) - 1, -1, -1):
            if self.complete:
                break
            try:
                message = _parsed(items[position], self.key)
            except CorruptRecord as error:
                self.skipped.append((start + position, str(error)))
            else:
                self._judge(message)

    def _judge(self, message: Message) -> None:
        if self.since is None and self.before is None:
            self._backwards.append(message)
            return
        made = _made(message)
        if made is None:
            return
        if self.since is not None and made < self.since:
            self._older += 1
            return
        self._older = 0
        if self.before is None or made < self.before:
            self._backwards.append(message)


def _parsed(item: bytes, key: str) -> Message:
    """An entry as a message; raises `CorruptRecord` for anything else."""
    try:
        message = codec.decode(item, key)
    except CorruptRecord:
        raise CorruptRecord("it is not JSON text") from None
    if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
        raise CorruptRecord("it is no message with a role and a content")
    return message


def _made(message: Message) -> datetime | None:
    """When a message was made, None where it does not say. Without a zone: UTC."""
    try:
        made = datetime.fromisoformat(message["timestamp"])
        return (made if made.tzinfo else made.replace(tzinfo=UTC)).astimezone(UTC)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
