"""Who waits for which writes, and what becomes of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from remanence.model import Receipt, Write
from remanence.protocols import Signal
from remanence.stores.rows import Settled

if TYPE_CHECKING:
    from remanence.stores.load import Load


class Ticket:
    """A caller's writes on their way: which are settled, and the signal it waits for.

    `awaited`: it is told when the store has them. `prompt`: it waits for that, until `limit`, long enough to lead.
    `load`: its writes, and others', under way.
    """

    __slots__ = (
        "awaited",
        "error",
        "first",
        "left",
        "limit",
        "load",
        "op_ids",
        "prompt",
        "receipts",
        "sending",
        "signal",
        "writes",
    )

    def __init__(self, writes: Sequence[Write], op_ids: Sequence[str]) -> None:
        self.writes = writes
        self.op_ids = op_ids
        self.awaited = True
        self.prompt = False
        self.limit = 0.0
        self.first = 0
        self.receipts: list[Receipt | None] = []
        self.left = len(op_ids)
        self.load: Load | None = None
        self.signal: Signal | None = None
        self.sending = False
        self.error: Exception | None = None


class Waiting:
    """The tickets of writes that are not settled, by row number. Not thread-safe."""

    def __init__(self) -> None:
        self._tickets: dict[int, Ticket] = {}

    def register(self, ticket: Ticket, first: int) -> None:
        """The ticket's writes are the rows of the journal from `first` on."""
        ticket.first = first
        ticket.receipts = [None] * ticket.left
        for n in range(first, first + ticket.left):
            self._tickets[n] = ticket

    def expects(self, n: int) -> bool:
        """Whether somebody waits for row `n`."""
        return n in self._tickets

    def settle(self, settled: Sequence[Settled]) -> None:
        """Hand each row's fate to whoever waits for it."""
        for n, receipt in settled:
            ticket = self._tickets.pop(n, None)
            if ticket is None:
                continue
            ticket.receipts[n - ticket.first] = receipt
            ticket.left -= 1
            if not ticket.left and ticket.signal is not None:
                ticket.signal.set()

    def receipts(self, ticket: Ticket) -> list[Receipt]:
        """A receipt for each write, in order; those not settled are journalled, and waited for no more."""
        self.drop(ticket)
        return [
            Receipt("journalled", op_id) if found is None else found
            for op_id, found in zip(ticket.op_ids, ticket.receipts, strict=True)
        ]

    def drop(self, ticket: Ticket) -> None:
        """Nobody waits for it any more."""
        for n in range(ticket.first, ticket.first + len(ticket.receipts)):
            self._tickets.pop(n, None)

    @property
    def nobody(self) -> bool:
        """Whether nobody waits for a write to be settled."""
        return self.heir() is None

    def signals(self) -> list[Signal]:
        """The signals that somebody waits for."""
        return [ticket.signal for ticket in self._tickets.values() if ticket.signal is not None]

    def heir(self) -> Signal | None:
        """The signal of one who waits, to be woken as the next leader."""
        for ticket in self._tickets.values():
            if ticket.signal is not None:
                return ticket.signal
        return None

    def fail(self, error: Exception) -> None:
        """Tell everybody who waits that it is not known what became of it."""
        tickets, self._tickets = self._tickets, {}
        for ticket in tickets.values():
            ticket.error = error
            if ticket.signal is not None:
                ticket.signal.set()
