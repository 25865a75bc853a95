"""Whether a journal has room for more, and what is said when it is filling."""

from contextlib import AbstractContextManager
from typing import Any

from remanence import events
from remanence.errors import JournalFull
from remanence.settings import Settings
from remanence.stores.journal import Journal
from remanence.stores.pruning import coalesce

HIGH_WATER = 0.8
"""From here on observers are told, and writes that later ones made pointless are emptied."""
AMPLE = 64 << 20
"""Free bytes on the disk at which nobody need fear that a commit fails."""
TOLD_EVERY = 10_000
"""Pending writes between two such moments."""


class Room:
    """The limits of a journal, in writes and bytes that the server does not have."""

    def __init__(self, settings: Settings, mutex: AbstractContextManager[Any], tell: events.Events) -> None:
        self._settings = settings
        self._asked_at, self._on_disk = -1.0, False
        self._mutex = mutex
        self._tell = tell
        self._told_at = 0

    def lacking(self, journal: Journal, more: int) -> bool:
        """Whether `more` writes would be past a limit."""
        settings, pending = self._settings, journal.pending
        rows, size = (pending + more) / settings.journal_rows, journal.pending_bytes / settings.journal_bytes
        used = rows if rows > size else size
        if used < HIGH_WATER:
            self._told_at = 0
            return False
        if pending >= self._told_at:
            self._told_at = pending + TOLD_EVERY
            with self._mutex:
                coalesce(journal)
            self._tell.tell(events.JournalFilling(pending, int(used * 100)))
        return pending + more > settings.journal_rows or journal.pending_bytes >= settings.journal_bytes

    def on_disk(self, journal: Journal, now: float) -> bool:
        """Whether the disk surely takes the next writes. Asked once a second, for it is a system call."""
        if now >= self._asked_at + 1.0 or now < self._asked_at:
            self._asked_at, self._on_disk = now, journal.free_bytes() >= AMPLE
        return self._on_disk

    def refusal(self, journal: Journal) -> JournalFull:
        """What is raised then."""
        return JournalFull(
            f"the journal holds {journal.pending} writes the server does not have yet, its limit "
            "(REMANENCE_JOURNAL_ROWS, REMANENCE_JOURNAL_BYTES): bring the server back or raise the limit"
        )
