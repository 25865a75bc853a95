"""What this process does to memories, until the log tells of it: so that nothing is read, embedded or told twice."""

import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from remanence.faces.agents.changes import Told

_KEPT: Final = 10_000
"""Operations that are remembered on either side: of older ones the log tells as of another's."""


class OwnWrites:
    """The writes that this process makes and made. Thread-safe: who writes and who hears the log are two."""

    def __init__(self) -> None:
        """Nothing is written yet."""
        self._mutex = threading.Lock()
        self._expected: dict[str, Told] = {}
        self._order: deque[str] = deque()
        self._early: dict[str, None] = {}
        self._late: list[tuple[str, Told]] = []
        self._writing: Counter[str] = Counter()

    @contextmanager
    def writing(self, keys: Iterable[str]) -> Iterator[None]:
        """While these keys are written, and put into the index: who hears of them had better wait."""
        counted = Counter(keys)
        with self._mutex:
            self._writing += counted
        try:
            yield
        finally:
            with self._mutex:
                self._writing -= counted

    def is_writing(self, keys: Iterable[str]) -> bool:
        """Whether one of these keys is being written now."""
        with self._mutex:
            return any(key in self._writing for key in keys)

    def expect(self, op_id: str, told: Told) -> None:
        """The change log will tell of this; or it has told already, before its writer knew what it is called."""
        with self._mutex:
            if op_id in self._early:
                del self._early[op_id]
                self._late.append((op_id, told))
                return
            self._order.append(op_id)
            self._expected[op_id] = told
            if len(self._order) > _KEPT:
                self._expected.pop(self._order.popleft(), None)

    def expects(self, op_id: str | None) -> bool:
        """Whether the log has yet to tell of this operation."""
        return op_id in self._expected

    def claim(self, op_ids: Iterable[str]) -> dict[str, Told]:
        """Of these operations, which the log has told of, those that this process expected until now."""
        claimed: dict[str, Told] = {}
        with self._mutex:
            for op_id in op_ids:
                if op_id in self._expected:
                    claimed[op_id] = self._expected.pop(op_id)
                else:
                    self._early[op_id] = None
            while len(self._early) > _KEPT:
                del self._early[next(iter(self._early))]
        return claimed

    def late(self) -> Sequence[tuple[str, Told]]:
        """What was expected after the log had told of it; each once."""
        with self._mutex:
            found, self._late = self._late, []
        return found


__all__ = ["OwnWrites"]
