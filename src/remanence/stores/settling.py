"""What becomes of rows once the store has answered: for their callers, for people, and for later reads."""

from collections.abc import Callable, Sequence

from remanence import events
from remanence.model import (
    CONFLICT,
    DUPLICATE,
    OK,
    PASSED,
    REFUSED,
    STALE,
    Append,
    Delete,
    Op,
    Put,
    Receipt,
    Record,
)
from remanence.protocols import Runtime, Told
from remanence.stores.fates import APPLIED, DEAD, REJECTED, UNKNOWN, fate
from remanence.stores.folding import Late, entry_of, fold, view_of
from remanence.stores.journal import Journal
from remanence.stores.known import Document, Knowledge, Known, of_record
from remanence.stores.resolve import NOTHING, Resolution, needless
from remanence.stores.rows import Lineage, Row, Settled
from remanence.wire import codec

MOST_DOCUMENTS = 256
MOST_BYTES = 65536
"""Documents at hand, and how long one may be: the records that patches are made to again and again."""


class Settling:
    """Of one journal. Not thread-safe: its owner holds a mutex around each call."""

    def __init__(
        self,
        journal: Journal,
        known: Known,
        runtime: Runtime,
        tell: events.Events,
        settled: Callable[[Sequence[Settled]], None],
        lost: Callable[[Journal, Row], None],
    ) -> None:
        """`settled` is called with what became of rows, in order, once each; before, `lost` with each that has no
        effect because somebody else had been there first.
        """
        self.documents: dict[str, Document] = {}
        """What the store has of some records, told within this session: what the next patch of them is tried on.

        No longer, for a server that forgot may hold other content under the same etag: a patch made anew.
        """
        self._journal = journal
        self._known = known
        self._runtime = runtime
        self._tell = tell
        self._settled = settled
        self._lost = lost

    # --- documents ------------------------------------------------------------------------------

    def fetched(self, key: str, told: Told) -> None:
        """The store was asked for a record."""
        if told is None:
            self.documents[key] = NOTHING
        elif isinstance(told, Record):
            self.documents[key] = of_record(told)
        else:  # of another kind: the store will say so
            self.documents[key] = Document(None, "?")

    def moved(self, key: str, current: bytes | None) -> None:
        """The store met another version of a record than the one a patch was made on."""
        self.documents[key] = NOTHING
        if current is not None:
            body, etag, hlc = codec.split(current)
            self.documents[key] = Document(body, etag, hlc)

    def _keep(self, key: str, document: Document) -> None:
        documents = self.documents
        if len(document.body or b"") > MOST_BYTES:
            documents.pop(key, None)
            return
        if len(documents) >= MOST_DOCUMENTS and key not in documents:
            documents.clear()
        documents[key] = document

    # --- fates ----------------------------------------------------------------------------------

    def settle(
        self,
        lineage: Lineage,
        rows: Sequence[Row],
        codes: Sequence[str],
        resolutions: Sequence[Resolution | None],
        ops: Sequence[Op] = (),
        tick: int = -1,
    ) -> None:
        """The next rows of a lineage have these results.

        `resolutions` says what they were sent as, where this process knows it; or, where there are no patches
        among them, `ops` does. `tick`: see `Knowledge.tick`.
        """
        settled: list[Settled] = []
        wall, size = self._runtime.wall(), 0
        for i, row in enumerate(rows):
            told = resolutions[i] if resolutions else None
            sent = told is not None or bool(ops)
            after = told.after if told is not None else left_by(ops[i]) if ops else None
            if codes[i] == OK and sent and not (told and told.rejection):
                receipt = Receipt("applied", row.op_id, told.result if told is not None else None)
            else:
                receipt = self._judge(row, codes[i], told.rejection if told is not None else "")
            settled.append((row.n, receipt))
            self._remember(row, codes[i], after, wall, tick, sent=sent)
            size += row.size
        self._journal.acknowledge(lineage, lineage.acked + len(rows), size)
        self._settled(settled)

    def refused(self, row: Row, code: str) -> None:
        """A row that was settled before had no effect after all."""
        self._judge(row, code, "")
        self._known.forget([row.write.key])

    def _judge(self, row: Row, code: str, rejection: str) -> Receipt:
        kind, reason = fate(code, rejection)
        if kind == APPLIED or (kind == REJECTED and needless(row.write, rejection)):
            return Receipt("applied", row.op_id)
        if kind == UNKNOWN:
            return Receipt("journalled", row.op_id)
        key, op_id = row.write.key, row.op_id
        if kind == DEAD:
            self._tell.tell(events.DeadLettered(key, op_id, reason))
        else:
            stale = kind == STALE
            self._tell.tell(events.WriteStale(key, op_id) if stale else events.WriteRejected(key, op_id, reason))
        self._journal.record(row, kind, reason)
        if kind in (CONFLICT, STALE):
            self._lost(self._journal, row)
        return Receipt("rejected", op_id, reason=kind if kind in (CONFLICT, STALE) else reason)

    def _remember(self, row: Row, code: str, after: Document | None, wall: float, tick: int, *, sent: bool) -> None:
        """Keep what the store now holds of the key, as far as the reply tells."""
        write, known = row.write, self._known
        key, ttl = write.key, getattr(write, "ttl", 0)
        expires = row.wall + ttl / 1000 if ttl > 0 else None
        if code == OK and after is not None:
            self._keep(key, after)
            known.put(key, Knowledge(row.n, after, wall, expires, tick))
            return
        if code in (OK, DUPLICATE) and isinstance(write, Append):
            known.extend(key, row.n, write.items, wall, expires)
            return
        if code in (OK, DUPLICATE):  # a lifetime, or a write whose answer was lost
            self._go_on(row, wall)
        if code not in (OK, REFUSED) or (code == OK and not sent):
            self.documents.pop(key, None)
        if code not in (OK, DUPLICATE, REFUSED) and not isinstance(write, Append):
            known.forget([key])

    def _go_on(self, row: Row, wall: float) -> None:
        """Have what is known include a row, as a reader would: before the row is pruned."""
        key = row.write.key
        before = self._known.get(key)
        if before is not None and before.n < row.n:
            late = Late(row.op_id, row.hlc, row.write, max(0.0, wall - row.wall))
            view = fold(view_of(key, before, wall), [late])
            expires = None if view.left < 0 else wall + view.left / 1000
            self._known.put(key, Knowledge(row.n, entry_of(view, before.entry), before.wall, expires))


def left_by(op: Op) -> Document | None:
    """The record as an op leaves it; None for what is no record."""
    write = op.write
    if type(write) is Put:
        return NOTHING if write.ttl == PASSED else Document(write.body, op.op_id, op.hlc)
    return NOTHING if type(write) is Delete else None
