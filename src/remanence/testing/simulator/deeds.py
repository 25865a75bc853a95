"""What a history's processes wrote, as the oracle remembers it, and the journal through which it hears of it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from remanence.model import Append, Patch, Receipt, Write
from remanence.stores.journal import Journal
from remanence.stores.rows import Draft, Lineage, Row
from remanence.wire import codec

if TYPE_CHECKING:
    from remanence.testing.simulator.invariants import Oracle
    from remanence.testing.simulator.world import Machine, Process


class Moment(NamedTuple):
    """When and where something was tried."""

    at: float
    machine: "Machine"
    boot: str
    jumps: int


class Deed:
    """A write that a journal took."""

    __slots__ = (
        "at",
        "boot",
        "jumps",
        "key",
        "lost",
        "machine",
        "n",
        "op_id",
        "path",
        "places",
        "receipt",
        "write",
    )

    def __init__(self, row: Row, path: str, place: tuple[str, int], moment: "Moment") -> None:
        self.op_id = row.op_id
        self.n = row.n
        self.key = row.write.key
        self.write: Write = row.write
        self.path = path
        self.places = [place]
        """(lineage, seq) under which it may be sent."""
        self.at = moment.at
        self.machine = moment.machine
        self.boot = moment.boot
        self.jumps = moment.jumps
        self.receipt: Receipt | None = None
        self.lost = ""
        """Why its file may have lost it, "" while it must not."""


class WatchedJournal(Journal):
    """A journal whose owner cannot tell that somebody looks on."""

    def __init__(self, oracle: "Oracle", process: "Process", *parts: Any) -> None:
        self.oracle = oracle
        self.process = process
        super().__init__(*parts)

    def draft(self, entries: Sequence[tuple[str, int, Write]], wall: float, boot: float) -> Draft:
        """See `Journal.draft`."""
        self.oracle.attempted(self.process.machine, entries)
        return super().draft(entries, wall, boot)

    def commit(self, draft: Draft) -> None:
        """See `Journal.commit`."""
        super().commit(draft)
        self.oracle.journalled(self, draft.rows)

    def free_bytes(self) -> int:
        """See `Journal.free_bytes`."""
        return 0 if self.process.machine.disk.full else 1 << 62

    def acknowledge(self, lineage: Lineage, seq: int, size: int | None = None) -> None:
        """See `Journal.acknowledge`."""
        before = lineage.acked
        super().acknowledge(lineage, seq, size)
        if seq > before:
            self.oracle.acknowledged(self, lineage.name)

    def record(self, row: Row, kind: str, reason: str, data: bytes | None = None) -> None:
        """See `Journal.record`."""
        self.oracle.recorded.add(row.op_id)  # first: a process that dies meanwhile may have done it
        super().record(row, kind, reason, data)

    def fork(self, lineage: Lineage, keep: int) -> str:
        """See `Journal.fork`."""
        successor = super().fork(lineage, keep)
        self.oracle.forked(self, lineage, keep, successor)
        return successor


def datable(deed: Deed) -> bool:
    """Whether anybody can know when a write was made: not where a clock was set before a restart."""
    return deed.machine.clock.boot_id == deed.boot or deed.machine.jumps == 0


def tokens(write: Write) -> list[str]:
    """What a write adds that nothing else adds."""
    match write:
        case Append(_, items):
            return [item.decode() for item in items]
        case Patch(_, edits):
            return [codec.decode(b'{"value":' + edits[0].args + b"}", write.key)["value"][0]]
        case _:
            return []
