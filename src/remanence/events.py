"""What happened inside, as frozen values in the past tense, and who hears it.

One value serves every observer: logging, metrics, the command line, a test. Events carry counts,
ages, key names and reasons, never a stored value or a secret.
"""

from collections.abc import Callable
from typing import ClassVar

import msgspec


class Event(msgspec.Struct, frozen=True):
    """Something that happened. `level` is a `logging` level name; `text` says it in one line."""

    level: ClassVar[str] = "DEBUG"
    text: ClassVar[str] = ""

    def __str__(self) -> str:
        return self.text.format(**{name: getattr(self, name) for name in self.__struct_fields__})


class Journalled(Event, frozen=True):
    """Writes reached the journal."""

    text = "{count} write(s) journalled, {pending} pending"
    count: int
    pending: int


class Applied(Event, frozen=True):
    """The server applied a batch."""

    text = "{count} write(s) applied in {seconds:.4f} s, {pending} pending"
    count: int
    seconds: float
    pending: int


class Replayed(Event, frozen=True):
    """A backlog that had waited for the server reached it."""

    level = "INFO"
    text = "{count} waiting write(s) replayed in {seconds:.2f} s"
    count: int
    seconds: float


class Rewound(Event, frozen=True):
    """The server had forgotten acknowledged writes; they are being sent again."""

    level = "WARNING"
    text = "the server forgot {count} acknowledged write(s) of journal {lineage}: sending them again"
    lineage: str
    count: int


class DataLost(Event, frozen=True):
    """The server forgot writes that this journal no longer keeps."""

    level = "ERROR"
    text = "the server lost writes {first} to {last} of journal {lineage}, older than the journal keeps"
    lineage: str
    first: int
    last: int


class Forked(Event, frozen=True):
    """Two copies of one journal wrote; the rows only this copy has go on under a new name."""

    level = "WARNING"
    text = "journal {lineage} was written by two copies: {count} write(s) continue as {successor}"
    lineage: str
    successor: str
    count: int


class WriteRejected(Event, frozen=True):
    """A write had no effect: its base had changed, or its edit no longer fits the record."""

    level = "WARNING"
    text = "write to {key} rejected: {reason}"
    key: str
    op_id: str
    reason: str


class WriteStale(Event, frozen=True):
    """A replayed write was older than what another process stored meanwhile."""

    level = "WARNING"
    text = "late write to {key} not applied: a newer one is stored"
    key: str
    op_id: str


class Merged(Event, frozen=True):
    """The user's own merge dealt with writes that had lost; the newest is named."""

    level = "INFO"
    text = "late write to {key} merged with what had won"
    key: str
    op_id: str
    count: int


class MergeFailed(Event, frozen=True):
    """The user's own merge raised, or others were faster each time: the conflict stays in the log."""

    level = "ERROR"
    text = "late write to {key} could not be merged ({error}): it stays in the conflict log"
    key: str
    op_id: str
    error: str


class DeadLettered(Event, frozen=True):
    """A write that can never be applied was set aside with its reason."""

    level = "ERROR"
    text = "write to {key} set aside: {reason}"
    key: str
    op_id: str
    reason: str


class BecameUnavailable(Event, frozen=True):
    """The server stopped answering; writes wait in the journal."""

    level = "WARNING"
    text = "server unavailable ({reason}): writes wait in the journal"
    reason: str


class BecameAvailable(Event, frozen=True):
    """The server answers again."""

    level = "INFO"
    text = "server available after {seconds:.1f} s, {pending} write(s) to send"
    seconds: float
    pending: int


class ConfigurationRefused(Event, frozen=True):
    """The server refuses us until somebody changes a setting."""

    level = "ERROR"
    text = "server refuses: {reason}. {advice}"
    reason: str
    advice: str


class JournalFilling(Event, frozen=True):
    """The journal passed four fifths of its limit."""

    level = "WARNING"
    text = "journal holds {pending} pending write(s), {percent} % of its limit"
    pending: int
    percent: int


class JournalSetAside(Event, frozen=True):
    """A damaged journal file was renamed and a new one begun."""

    level = "ERROR"
    text = "journal {path} is damaged ({reason}); kept as {kept}, a new one was begun"
    path: str
    kept: str
    reason: str


class OrphanAdopted(Event, frozen=True):
    """The journal of a process that ended is being sent by this one."""

    level = "INFO"
    text = "journal {path} of an ended process adopted: {pending} write(s) to send"
    path: str
    pending: int


class Resynced(Event, frozen=True):
    """The change log is not the one that was followed: what was heard of some keys may not hold."""

    level = "WARNING"
    text = "the change log was cut off or changed its past: listeners told to read again ({keys} key(s), -1: all)"
    keys: int


class ListenerFailed(Event, frozen=True):
    """A listener's callback raised; it is called again with the next change."""

    level = "ERROR"
    text = "a listener failed ({error}): it hears the next change all the same"
    error: str


class FeedFailed(Event, frozen=True):
    """The change log could not be read for a reason of ours or of the data's."""

    level = "ERROR"
    text = "the change log cannot be read: {reason}"
    reason: str


class MirrorFailed(Event, frozen=True):
    """The copy on this machine's disk could not be kept; reads go to the server, and it is tried again."""

    level = "ERROR"
    text = "mirror {path} cannot follow: {reason}"
    path: str
    reason: str


class IndexFailed(Event, frozen=True):
    """Memories could not be put into the index on this machine's disk; they are stored, and it is tried again."""

    level = "ERROR"
    text = "the search index cannot follow: {reason}"
    reason: str


class Reembedded(Event, frozen=True):
    """Memories were embedded anew, because the embedder is another than it was, or had been away."""

    level = "INFO"
    text = "{done} memories embedded anew, {left} parts left"
    done: int
    left: int


class MemoriesConsolidated(Event, frozen=True):
    """A pass over agents' memories in the background ended."""

    level = "INFO"
    text = "memories consolidated: {merged} merged, {learned} patterns learned, {forgotten} forgotten"
    merged: int
    learned: int
    forgotten: int


class ConsolidationFailed(Event, frozen=True):
    """A pass over agents' memories in the background could not be made; it is tried again."""

    level = "ERROR"
    text = "memories could not be consolidated: {reason}"
    reason: str


class MemoryHeard(Event, frozen=True):
    """Another agent saved, changed or deleted a memory: `action` is add, update or delete."""

    level = "DEBUG"
    text = "Received memory update: {action} {kind} {memory_id} from {agent_id}"
    action: str
    kind: str
    memory_id: str
    agent_id: str


class RecordSkipped(Event, frozen=True):
    """A stored entry that cannot be read was left out of an answer."""

    level = "WARNING"
    text = "entry {position} of {key} cannot be read and was skipped: {reason}"
    key: str
    position: int
    reason: str


class ServerAdvised(Event, frozen=True):
    """The server's settings endanger what is stored: `policy` is its maxmemory-policy."""

    level = "WARNING"
    text = "the server deletes memories when it is full ({policy}): CONFIG SET maxmemory-policy noeviction"
    policy: str


Observer = Callable[[Event], None]
Wants = Callable[[type[Event]], bool]
"""Whether an observer wants events of a kind now. Asked before one is built, so it must be quick."""


class Events:
    """Counts what happens and tells observers. One that raises is told no more, and nobody else notices."""

    def __init__(self) -> None:
        self._observers: tuple[tuple[Observer, Wants | None], ...] = ()
        self.counters: dict[str, int] = {}
        """How often each kind happened: of writes, how many."""

    def observe(self, observer: Observer, wants: Wants | None = None) -> Callable[[], None]:
        """Have `observer` called with each event, on the thread it happens; returns its removal.

        With `wants` it hears only the kinds that this says yes to, and the rest costs it almost nothing.
        """
        self._observers = (*self._observers, (observer, wants))
        return lambda: self._remove(observer)

    def counted(self, kind: type[Event], count: int = 1) -> bool:
        """Count `kind`, and say whether anybody wants to hear it: only then build it, and `spread` it."""
        name = kind.__name__
        self.counters[name] = self.counters.get(name, 0) + count
        for _, wants in self._observers:  # noqa: SIM110 - every write passes here: `any` takes 0.25 µs more
            if wants is None or wants(kind):
                return True
        return False

    def spread(self, event: Event) -> None:
        """Hand the event to each observer that wants it."""
        for observer, wants in self._observers:
            if wants is None or wants(type(event)):
                try:
                    observer(event)
                except Exception:  # an observer's fault must never reach a write
                    self._remove(observer)

    def tell(self, event: Event, count: int = 1) -> None:
        """Count the event and hand it to each observer."""
        if self.counted(type(event), count):
            self.spread(event)

    def _remove(self, observer: Observer) -> None:
        self._observers = tuple(each for each in self._observers if each[0] is not observer)
