"""Words for tests of session messages: when they were said, and what was."""

from datetime import UTC, datetime, timedelta

from remanence.faces.history import Message

START = datetime(2024, 1, 15, tzinfo=UTC)


def at(minutes: float) -> datetime:
    """So many minutes after `START`."""
    return START + timedelta(minutes=minutes)


def contents(messages: list[Message]) -> list[str]:
    """What was said, without who and when."""
    return [message["content"] for message in messages]
