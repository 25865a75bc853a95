"""When a row was made, as the store is to be told: its stamp, its remaining lifetime, whether it is made now.

All of it is decided when the row is sent, because only then is the store's clock known for sure.
"""

from collections.abc import Sequence

from remanence.model import PASSED, Op
from remanence.protocols import Runtime
from remanence.stores.clock import StoreClock
from remanence.stores.resolve import Intent, lifetime, remaining
from remanence.stores.rows import Lineage, Row

LIVE_SECONDS = 2.0
"""A first attempt this soon after journalling counts as made now: the writer's clock has no say in it."""


class Dating:
    """The stamps given in one journal so far, and which of its rows were sent before. Not thread-safe."""

    def __init__(self, clock: StoreClock, runtime: Runtime) -> None:
        self._clock = clock
        self._runtime = runtime
        self._given: dict[str, tuple[int, int]] = {}
        """By lineage: the last seq that was dated, and its stamp."""
        self._sent_to: dict[str, int] = {}

    def sent(self, lineage: Lineage, upto: int) -> None:
        """Writes up to seq `upto` leave."""
        if upto > self._sent_to.get(lineage.name, 0):
            self._sent_to[lineage.name] = upto

    def unsent(self, lineage: Lineage, after: int) -> None:
        """Those behind seq `after` did not, or other writes have their numbers now."""
        self._sent_to[lineage.name] = after

    def fresh(self, lineage: Lineage, rows: Sequence[Row]) -> list[Op]:
        """Ops of rows made this moment, no patches among them, when the store's clock is known."""
        at = self._given.get(lineage.name, (0, 0))[1]
        ops = []
        for row in rows:
            at = row.hlc if row.hlc > at else at + 1
            ops.append(Op(row.op_id, at, row.write))  # type: ignore[arg-type] # no patches
        self._given[lineage.name] = rows[-1].n - lineage.first + 1, at
        return ops

    def intents(self, lineage: Lineage, rows: Sequence[Row]) -> list[Intent]:
        """The same for any rows."""
        same_start = self._same_start(lineage)
        now = self._runtime.boottime() if same_start else self._runtime.wall()
        sent_to = self._sent_to.get(lineage.name, 0)
        before, at = self._given.get(lineage.name, (0, 0))
        intents = []
        for row in rows:
            seq = row.n - lineage.first + 1
            age = max(0.0, now - (row.boot if same_start else row.wall))
            # of an earlier start the wall clock alone tells the age, and it may have been set back since
            live = same_start and age < LIVE_SECONDS and seq > sent_to
            hlc = self._clock.dated(row, same_start=same_start)
            if before < seq and hlc <= at:  # however our clock was put right: what was written later stays later
                hlc = at + 1
            before, at = seq, hlc
            ttl = lifetime(row.write)
            if ttl > 0:
                left = remaining(ttl, age)
                # what was made just now lives as long as was asked for, unless it was seen to have passed here
                ttl = left if age >= LIVE_SECONDS or left == PASSED else ttl
            intents.append(Intent(row.op_id, hlc, row.write, live, ttl))
        self._given[lineage.name] = before, at
        return intents

    def earliest(self, lineage: Lineage, row: Row) -> int:
        """The store's time when a row was made, at the earliest."""
        return self._clock.dated(row, same_start=self._same_start(lineage)) - self._clock.error

    def age(self, lineage: Lineage, row: Row) -> float:
        """Seconds since a row was made: by the boot clock within one start, else by the wall clock."""
        if self._same_start(lineage):
            return max(0.0, self._runtime.boottime() - row.boot)
        return max(0.0, self._runtime.wall() - row.wall)

    def _same_start(self, lineage: Lineage) -> bool:
        return bool(lineage.boot_id) and lineage.boot_id == self._runtime.boot_id()
