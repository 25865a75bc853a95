"""Keeping a journal small: what may be forgotten, and what later writes made pointless."""

import contextlib
import math

from remanence.errors import JournalFull
from remanence.model import Blank
from remanence.stores.journal import Journal
from remanence.stores.rows import Lineage, encode


def prune(journal: Journal, before: float, most_bytes: int, chunk: int = 2000) -> int:
    """Forget applied rows made before wall time `before`, or the oldest past `most_bytes`; how many.

    Only what the server has is forgotten, oldest first, at most `chunk` rows a call.
    """
    removed = 0
    for lineage in list(journal.lineages):
        upto = _prunable(journal, lineage, before, most_bytes, chunk)
        if upto > lineage.pruned:
            removed += _remove(journal, lineage, upto)
        if lineage.pruned < lineage.count:
            break  # rows go oldest first
        if lineage is not journal.active and (not lineage.count or _outlived(journal, lineage)):
            journal.database.run("DELETE FROM lineages WHERE name = ?", (lineage.name,))
            journal.lineages.remove(lineage)
    return removed


def _outlived(journal: Journal, lineage: Lineage) -> bool:
    """Whether a server that forgets this lineage must forget writes of a later one that are not kept either.

    Until then its watermark alone can tell that they were lost.
    """
    return any(later.pruned for later in journal.lineages[journal.lineages.index(lineage) + 1 :])


def _prunable(journal: Journal, lineage: Lineage, before: float, most_bytes: int, chunk: int) -> int:
    """The last write of a lineage that may be forgotten now."""
    upto, held = lineage.pruned, journal.retained_bytes - journal.pending_bytes
    for n, wall, size in journal.database.run(
        "SELECT n, wall, length(write) FROM rows WHERE n BETWEEN ? AND ? ORDER BY n LIMIT ?",
        (lineage.row(lineage.pruned + 1), lineage.row(lineage.acked), chunk),
    ):
        if wall >= before and held <= most_bytes:
            break
        held -= size
        upto = n - lineage.first + 1
    return upto


def _remove(journal: Journal, lineage: Lineage, upto: int) -> int:
    op_id = journal.op_id(lineage, upto) or ""
    start, end = lineage.row(lineage.pruned + 1), lineage.row(upto)
    between = "WHERE n BETWEEN ? AND ?"
    with journal.database.transaction():
        size = journal.database.run(f"SELECT coalesce(sum(length(write)), 0) FROM rows {between}", (start, end))[0][0]
        journal.database.run(f"DELETE FROM by_key WHERE (key, n) IN (SELECT key, n FROM rows {between})", (start, end))
        journal.database.run(f"DELETE FROM rows {between}", (start, end))
        journal.database.run(
            "UPDATE lineages SET acked = ?, pruned = ?, pruned_id = ? WHERE name = ?",
            (lineage.acked, upto, op_id, lineage.name),
        )
    removed = upto - lineage.pruned
    lineage.pruned, lineage.pruned_id = upto, op_id
    journal.retained_bytes -= size
    return removed


def make_room(journal: Journal) -> None:
    """The disk is full: give up what is only kept against a server that forgets."""
    with contextlib.suppress(JournalFull):
        journal.database.checkpoint()  # first, for even deleting needs room in the write-ahead log
        while prune(journal, math.inf, 0, chunk=100):
            journal.database.checkpoint()


def coalesce(journal: Journal, window: int = 20_000) -> int:
    """Empty pending puts that the next write of the same key replaces; how many.

    The row stays in its place, for the numbers must have no gap. Looks at the newest `window` rows.
    """
    pending = [lineage for lineage in journal.lineages if lineage.pending]
    if not pending:
        return 0
    start = max(pending[0].row(pending[0].acked + 1), journal.active.end - window)
    replaced = journal.database.run(
        "SELECT n, key FROM (SELECT n, key, blind, lead(blind) OVER (PARTITION BY key ORDER BY n) AS next "
        "FROM rows WHERE n >= ?) WHERE blind AND next",
        (start,),
    )
    with journal.database.transaction():
        journal.database.many(
            "UPDATE rows SET write = ?, blind = 0 WHERE n = ?",
            [(encode(Blank(key)), n) for n, key in replaced],
        )
    journal.pending_bytes = journal.measure()
    return len(replaced)
