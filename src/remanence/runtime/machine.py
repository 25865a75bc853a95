"""What every real runtime takes from the machine: its clocks and its randomness."""

import os
import random
import time
from functools import cache
from pathlib import Path
from typing import Final

_BOOTTIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


class Machine:
    """Wall clock, boot clock and unpredictable bytes of this machine."""

    _system = random.SystemRandom()

    def wall(self) -> float:
        """`time.time`."""
        return time.time()

    def boottime(self) -> float:
        """CLOCK_BOOTTIME where there is one: it counts the time the machine slept."""
        return time.clock_gettime(_BOOTTIME) if _BOOTTIME is not None else time.monotonic()

    def boot_id(self) -> str:
        """The kernel's name of this start, "" where it has none."""
        return _boot_id()

    def random_bytes(self, count: int) -> bytes:
        """The kernel's: copies of a machine do not share them."""
        return os.urandom(count)

    def jitter(self) -> float:
        """Uniform between 0 and 1."""
        return self._system.random()


@cache
def _boot_id() -> str:
    """Read once: no process outlives the start of its machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
