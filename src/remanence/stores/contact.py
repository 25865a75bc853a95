"""What is known of the server's health: away, refusing, or well; and when to try again."""

from collections.abc import Sequence

from remanence import events
from remanence.errors import Misconfigured, Unavailable, WorldError
from remanence.protocols import Runtime, Status
from remanence.settings import Settings
from remanence.stores.journal import Journal


class Contact:
    """The state of the way to one server, told to observers when it changes."""

    def __init__(self, runtime: Runtime, settings: Settings, tell: events.Events) -> None:
        self._runtime = runtime
        self._settings = settings
        self._tell = tell
        self.available = True
        """Whether it takes writes."""
        self.readable = True
        """Away for writes, it may still answer reads: out of memory, or a replica."""
        self.ready = False
        """Whether it ever answered."""
        self.error: WorldError | None = None
        self.last: float | None = None
        """Wall time of its last answer."""
        self.failures = 0
        self.retry_at = 0.0
        self._lost_at = 0.0

    @property
    def reason(self) -> str:
        """Why it is not available, "" when it is."""
        return "" if self.available or self.error is None else str(self.error)

    def wall(self) -> float:
        """Seconds since the epoch."""
        return self._runtime.wall()

    def reached(self) -> None:
        """It answered."""
        self.last = self._runtime.wall()
        self.ready = self.readable = True

    def recovered(self, pending: int) -> None:
        """It takes writes; `pending` wait for it."""
        self.failures = 0
        if not self.available:
            self.available, self.error = True, None
            self._tell.tell(events.BecameAvailable(self._runtime.monotonic() - self._lost_at, pending))

    def lost(self, error: WorldError) -> None:
        """It did not answer, or refused: the next attempt comes after a growing, random pause."""
        now, settings = self._runtime.monotonic(), self._settings
        self.failures += 1
        pause = min(settings.backoff_most, settings.backoff_least * 2 ** min(self.failures, 20))
        self.retry_at = now + pause * (0.5 + 0.5 * self._runtime.jitter())
        if self.available or self.reason != str(error):
            self._announce(error)
        if self.available:
            self.available, self._lost_at = False, now
        self.error, self.readable = error, error.answered

    def _announce(self, error: WorldError) -> None:
        if isinstance(error, Misconfigured):
            advice = "writes wait in the journal until it is mended"
            self._tell.tell(events.ConfigurationRefused(str(error), advice))
        elif self.available:
            self._tell.tell(events.BecameUnavailable(str(error)))

    def refusal(self, otherwise: str, rest: str) -> WorldError:
        """The error to raise for a call that needed the server: its own kind, its reason, and `rest`."""
        kind = type(self.error) if isinstance(self.error, Unavailable | Misconfigured) else Unavailable
        return kind(f"{self.reason or otherwise}{rest}")


def status(contact: Contact, journal: Journal, adopted: Sequence[Journal], tell: events.Events) -> Status:
    """How a resilient store stands, by its contact and its journals."""
    oldest = journal.oldest_pending()
    return Status(
        available=contact.available,
        ready=contact.ready,
        reason=contact.reason,
        pending=journal.pending + sum(each.pending for each in adopted),
        pending_bytes=journal.pending_bytes,
        lag=max(0.0, contact.wall() - oldest) if oldest is not None else 0.0,
        last_contact=contact.last,
        retained=sum(lineage.acked - lineage.pruned for lineage in journal.lineages),
        dead_letters=journal.count("dead"),
        conflicts=journal.count("conflict") + journal.count("stale") + journal.count("rejected"),
        journal="volatile" if journal.path == ":memory:" else journal.path,
        durable=journal.path != ":memory:",
        counters=dict(tell.counters),
    )
