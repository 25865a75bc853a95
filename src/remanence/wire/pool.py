"""A few links shared by many callers."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from remanence.errors import PoolExhausted
from remanence.protocols import Runtime, Signal
from remanence.wire.redis import Connect, Link

T = TypeVar("T")


class Slot:
    """A place in a pool, and the link in it once there is one."""

    link: Link | None = None


class LinkPool:
    """At most `size` links, lent one caller at a time; who waits is served in order.

    A caller may be interrupted at any point: its slot is given back by what `_lent` holds, never by count.
    """

    def __init__(self, connect: Connect, runtime: Runtime, size: int) -> None:
        self._connect = connect
        self._runtime = runtime
        self._size = size
        self._idle: list[Link] = []
        self._lent: set[Slot] = set()
        self._waiting: deque[Signal] = deque()
        self._mutex = runtime.mutex()
        self._closed = False

    async def use(self, deadline: float, work: Callable[[Link], Awaitable[T]]) -> T:
        """Lend a link to `work`. After an error the link, and the idle ones beside it, are closed."""
        slot = Slot()
        try:
            result = await work(await self._borrow(slot, deadline))
            self.give_back(slot)
        except BaseException:
            self.lose(slot)
            raise
        return result

    def take_idle(self, slot: Slot) -> Link | None:
        """Have a link without waiting for one, until `give_back` or `lose`; None where none is idle."""
        with self._mutex:
            if self._idle and len(self._lent) < self._size:
                self._lent.add(slot)
                slot.link = self._idle.pop()
        return slot.link

    async def _borrow(self, slot: Slot, deadline: float) -> Link:
        while not self._take(slot):
            turn = self._runtime.signal()
            with self._mutex:
                if len(self._lent) < self._size:
                    continue
                self._waiting.append(turn)
            if not await self._await_turn(turn, deadline):
                raise PoolExhausted("all connections were busy up to the deadline (REMANENCE_POOL)")
        if slot.link is None:
            slot.link = await self._connect(deadline)
        return slot.link

    def _take(self, slot: Slot) -> bool:
        """Have an idle link, or room for a new one."""
        with self._mutex:
            if len(self._lent) >= self._size:
                return False
            self._lent.add(slot)
            if self._idle:
                slot.link = self._idle.pop()
            return True

    async def _await_turn(self, turn: Signal, deadline: float) -> bool:
        try:
            woken = await turn.wait(max(0.0, deadline - self._runtime.monotonic()))
        except BaseException:
            self._leave_queue(turn)
            raise
        if not woken:
            self._leave_queue(turn)
        return woken

    def _leave_queue(self, turn: Signal) -> None:
        """Stop waiting; a wake-up that came too late goes to the next in the queue."""
        with self._mutex:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif self._waiting:
                self._waiting.popleft().set()

    def give_back(self, slot: Slot) -> None:
        """Let the next caller have the link."""
        with self._mutex:
            closed = self._closed
            if slot.link is not None and not closed:
                self._idle.append(slot.link)
            self._lent.discard(slot)
            if self._waiting:
                self._waiting.popleft().set()
        if slot.link is not None and closed:
            slot.link.close()

    def lose(self, slot: Slot) -> None:
        """Give the slot back without its link, which may be in any state, and without those beside it."""
        with self._mutex:
            if slot not in self._lent:
                return
            self._lent.discard(slot)
            if self._waiting:
                self._waiting.popleft().set()
        if slot.link is not None:
            slot.link.close()
        self._forget_idle()

    def _forget_idle(self) -> None:
        with self._mutex:
            idle, self._idle = self._idle, []
        for link in idle:
            link.close()

    def close(self) -> None:
        """Close the idle links, and each that is lent when it is given back."""
        self._closed = True
        self._forget_idle()

    def cut(self) -> None:
        """Close those that are lent as well: who waits on one hears that it is gone."""
        self._closed = True
        with self._mutex:
            lent = [slot.link for slot in self._lent if slot.link is not None]
        for link in lent:
            link.close()
        self._forget_idle()
