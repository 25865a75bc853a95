"""What tests of faults have at hand: a feed that soon loses patience."""

import pytest

from remanence.feed import feed as feeds


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead link is given up sooner, and a server that is away tried again."""
    monkeypatch.setattr(feeds, "SLACK", 0.3)
    monkeypatch.setattr(feeds, "BACKOFF", 0.1)
