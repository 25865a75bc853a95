"""What a watcher of shared state hears, and how long that may take: for tests of listening."""

from remanence.options import Options
from remanence.sync.watching import BlockingWatcher
from remanence.testing.oracle import QUICK

SWIFT: Options = {**QUICK, "staleness": 0.6}
"""With shorter waits at the log, too, where it is not about how long they are."""
LONG = 8.0
"""Seconds that a change may take to be heard on a busy machine."""
SHORT = 0.08
"""Seconds in which a change would have been heard."""


def taken(watcher: BlockingWatcher, count: int, timeout: float = LONG) -> list[tuple[str, str]]:
    """The next changes as (name, kind), and that there are no more of them."""
    found: list[tuple[str, str]] = []
    for _ in range(count):
        changed = watcher.next(timeout)
        assert changed is not None, f"after {found} nothing more came"
        found.append((changed.name, changed.kind))
    assert watcher.next(SHORT) is None
    return found


def rest(watcher: BlockingWatcher, timeout: float = 0.5) -> list[tuple[str, str]]:
    """All that still comes."""
    found: list[tuple[str, str]] = []
    while (changed := watcher.next(timeout)) is not None:
        found.append((changed.name, changed.kind))
    return found


def names(*numbers: int) -> list[tuple[str, str]]:
    """What is heard when `x1`, `x2` … were set."""
    return [(f"x{n}", "set") for n in numbers]
