"""Who waits for which writes, and what becomes of them."""

from collections.abc import Sequence

import msgspec

from remanence.model import Receipt, Write
from remanence.protocols import Signal
from remanence.stores.rows import Settled


class Ticket:
    """A caller's writes on their way: which are settled, and the signal it waits for."""

    __slots__ = ("error", "left", "op_ids", "receipts", "rows", "sending", "signal", "writes")

    def __init__(self, writes: Sequence[Write], op_ids: Sequence[str]) -> None:
        self.writes = writes
        self.op_ids = op_ids
        self.rows: Sequence[int] = ()
        self.receipts: dict[int, Receipt] = {}
        self.left = len(op_ids)
        self.signal: Signal | None = None
        self.sending = False
        self.error: Exception | None = None


class Waiting:
    """The tickets of writes that are not settled, by row number. Not thread-safe."""

    def __init__(self) -> None:
        self._tickets: dict[int, Ticket] = {}

    def register(self, ticket: Ticket, rows: Sequence[int]) -> None:
        """The ticket's writes are these rows of the journal."""
        ticket.rows = rows
        for n in rows:
            self._tickets[n] = ticket

    def settle(self, settled: Sequence[Settled]) -> None:
        """Hand each row's fate to whoever waits for it."""
        for each in settled:
            ticket = self._tickets.pop(each.n, None)
            if ticket is None:
                continue
            ticket.receipts[each.n] = Receipt(each.state, "", each.result, each.reason)
            ticket.left -= 1
            if not ticket.left and ticket.signal is not None:
                ticket.signal.set()

    def receipts(self, ticket: Ticket) -> list[Receipt]:
        """A receipt for each write, in order; those not settled are journalled, and waited for no more."""
        for n in ticket.rows if ticket.left else ():
            if self._tickets.pop(n, None) is not None:
                ticket.receipts[n] = Receipt("journalled", "")
        return [
            msgspec.structs.replace(ticket.receipts[n], op_id=each)
            for n, each in zip(ticket.rows, ticket.op_ids, strict=True)
        ]

    def drop(self, ticket: Ticket) -> None:
        """Nobody waits for it any more."""
        for n in ticket.rows:
            self._tickets.pop(n, None)

    def signals(self) -> list[Signal]:
        """The signals that somebody waits for."""
        return [ticket.signal for ticket in self._tickets.values() if ticket.signal is not None]

    def heir(self) -> Signal | None:
        """The signal of one who waits, to be woken as the next leader."""
        return next((ticket.signal for ticket in self._tickets.values() if ticket.signal is not None), None)

    def fail(self, error: Exception) -> None:
        """Tell everybody who waits that it is not known what became of it."""
        tickets, self._tickets = self._tickets, {}
        for ticket in tickets.values():
            ticket.error = error
            if ticket.signal is not None:
                ticket.signal.set()
