"""The store's time as this process knows it: what orders writes of machines whose clocks disagree.

A write is stamped when it is journalled. Where the store has been heard by then, the stamp is in the
store's time already; where it has not, the stamp is this machine's belief, and is put right when it is sent.
"""

from remanence.protocols import Runtime
from remanence.stores.rows import Row

AS_BELIEVED = 1000
"""Microseconds within which a stamp is this machine's own wall clock, uncorrected."""

DRIFT = 1e-3
"""Seconds that two clocks may part in a second: ten times what a bad quartz does."""


class StoreClock:
    """Follows the store's wall clock between two times it was heard. Microseconds."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._heard = self._last = 0
        self._wall = self._boot = self._error = 0.0

    def hear(self, told: int, before: float) -> None:
        """The store said `told` in answer to a question asked at `before` on this machine's boot clock.

        An answer that took longer says less: it counts only where it contradicts what was known better.
        """
        boot = self._runtime.boottime()
        middle, error = (before + boot) / 2, (boot - before) / 2
        known = self._error + DRIFT * (middle - self._boot)
        expected = self._heard + (middle - self._boot) * 1e6
        if self._heard and known < error and abs(told - expected) <= (known + error) * 1e6:
            return
        if not self._heard:
            self._last = 0  # what this machine believed until now must not lead the store's time
        self._boot, self._error = middle, error
        self._wall = self._runtime.wall() - (boot - middle)
        self._heard = told

    @property
    def error(self) -> int:
        """By how much the store's time may be another, as it was heard last."""
        return int(self._error * 1e6)

    def now(self, wall: float, boot: float) -> int:
        """The store's time at a moment of this machine's clocks; its belief until the store was heard.

        From then on setting our clock changes nothing.
        """
        return self._heard + int((boot - self._boot) * 1e6) if self._heard else int(wall * 1e6)

    def tick(self, highest: int, wall: float, boot: float) -> int:
        """A stamp for a write made then: behind the last one, and behind `highest`, which the store has seen."""
        now = self.now(wall, boot)
        if self._heard:
            least = (self._last if self._last > highest else highest) + 1
            self._last = now if now > least else least
        else:  # behind the last one only where that is the same moment: our clock may have been set back
            self._last = max(now, self._last + 1) if abs(now - self._last) < AS_BELIEVED else now
        return self._last

    def dated(self, row: Row, *, same_start: bool) -> int:
        """The stamp of a row in the store's time. `same_start`: of this machine, since it started."""
        believed = int(row.wall * 1e6)
        if not self._heard or abs(row.hlc - believed) > AS_BELIEVED:
            return row.hlc
        if same_start:  # exact, even where the wall clock was set meanwhile
            return row.hlc + self._heard - int((self._boot - row.boot) * 1e6) - believed
        # where the wall clock was set before a restart nobody knows; but not later than now
        return min(row.hlc + self._heard - int(self._wall * 1e6), self.now(0.0, self._runtime.boottime()))
