"""Writes without effect, as a journal's file keeps them: looked at, bounded, handed on, and taken out.

Conflicts (kinds `CONFLICTS`) are kept for people to look at, the newest so many of them. Dead letters are
writes that can never be applied as they are: they stay until somebody retries or discards them.

What works on a `Database` alone may be done beside the process that owns the file: one statement each, and
the owner counts by asking the table.
"""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from remanence.model import CONFLICT, STALE
from remanence.stores.fates import DEAD, REJECTED
from remanence.stores.rows import Outcome, kind_of
from remanence.wire.sqlite import Database

if TYPE_CHECKING:
    from remanence.stores.journal import Journal

CONFLICTS: Final = (CONFLICT, STALE, REJECTED)
"""The base had changed; a newer write was stored; the edit did not fit."""
MERGED: Final = "merged"
"""A conflict that the user's own merge has dealt with; its reason says how."""
DEAD_LETTERS: Final = (DEAD,)

UNSURE: Final = "handed in again, and what became of that is not known; at first: "
"""How the reason begins of a dead letter whose retry was cut short."""

CHUNK_ROWS: Final = 500
CHUNK_BYTES: Final = 4 << 20
"""What is handed on at once, while writes of this process wait."""


def listed(
    database: Database, kinds: Sequence[str], limit: int, *, prefix: str = "", since: float = 0.0
) -> list[Outcome]:
    """The newest `limit` outcomes of these kinds, newest first.

    Of keys that begin with `prefix` (taken literally), and settled at wall time `since` or later.
    """
    return [
        Outcome(op_id, key, kind, reason, wall, kind_of(start))
        for op_id, key, kind, reason, wall, start in database.run(
            "SELECT op_id, key, kind, reason, wall, substr(write, 1, 16) FROM outcomes "
            "WHERE kind IN (SELECT value FROM json_each(?)) AND substr(key, 1, ?) = ? AND wall >= ? "
            "ORDER BY wall DESC, n DESC LIMIT ?",
            (json.dumps(kinds), len(prefix), prefix, since, limit),
        )
    ]


def newest(found: Iterable[Outcome], limit: int) -> list[Outcome]:
    """The newest `limit` of what several journals hold, each once: a journal and its copy hold the same."""
    once = {each.op_id: each for each in found}
    return sorted(once.values(), key=lambda each: (each.wall, each.op_id), reverse=True)[:limit]


def set_merged(database: Database, op_ids: Sequence[str], reason: str) -> None:
    """These conflicts are dealt with; those that are no longer in the log are passed over."""
    database.run(
        "UPDATE outcomes SET kind = ?, reason = ? WHERE kind IN (?, ?) AND op_id IN (SELECT value FROM json_each(?))",
        (MERGED, reason, CONFLICT, STALE, json.dumps(op_ids)),
    )


# --- dead letters -------------------------------------------------------------------------------


def data_of(database: Database, op_id: str) -> bytes | None:
    """A dead letter's write as the journal had it; None where there is no such letter."""
    found = database.run("SELECT write FROM outcomes WHERE op_id = ? AND kind = ?", (op_id, DEAD))
    return bytes(found[0][0]) if found else None


def set_reason(database: Database, op_id: str, reason: str) -> None:
    """Give a dead letter another reason, on the disk when this returns."""
    with database.synced():
        database.run("UPDATE outcomes SET reason = ? WHERE op_id = ? AND kind = ?", (reason, op_id, DEAD))


def take_out(database: Database, op_id: str) -> bool:
    """Remove a dead letter for good; False where there is none."""
    database.run("DELETE FROM outcomes WHERE op_id = ? AND kind = ?", (op_id, DEAD))
    return database.changes() > 0


# --- keeping them few ---------------------------------------------------------------------------


def bound(journal: "Journal", most: int, most_bytes: int) -> int:
    """Forget the oldest conflicts past `most` or past `most_bytes`; how many. Dead letters all stay.

    A tenth more goes than must, so that not every further conflict has them all counted and sorted again.
    """
    if not journal.outcomes_grew:
        return 0
    run = journal.database.run
    count, size = run("SELECT count(*), coalesce(sum(length(write)), 0) FROM outcomes WHERE kind <> ?", (DEAD,))[0]
    journal.outcomes_grew = False
    if count <= most and size <= most_bytes:
        return 0
    run(
        "DELETE FROM outcomes WHERE n IN (SELECT n FROM (SELECT n, row_number() OVER newest AS place, "
        "sum(length(write)) OVER newest AS size FROM outcomes WHERE kind <> ? "
        "WINDOW newest AS (ORDER BY wall DESC, n DESC)) WHERE place > ? OR size > ?)",
        (DEAD, most - most // 10, most_bytes - most_bytes // 10),
    )
    return journal.database.changes()


def hand_on(source: "Journal", target: "Journal") -> bool:
    """Let `target` keep the conflicts of a journal that is about to be deleted, some at a time; True when all are.

    Should this process end between the two files, both have some: whoever lists them tells each once.
    """
    rows = source.database.run(
        "SELECT n, length(write) FROM outcomes WHERE kind <> ? ORDER BY n LIMIT ?", (DEAD, CHUNK_ROWS)
    )
    moved = rows[: within([size for _, size in rows], CHUNK_BYTES)]
    if moved:
        numbers = [(n,) for n, _ in moved]
        _copy(source.database, target.database, moved[-1][0])
        target.outcomes_grew = True
        with source.database.transaction():
            source.database.many("DELETE FROM outcomes WHERE n = ?", numbers)
    return len(moved) == len(rows) < CHUNK_ROWS


def _copy(source: Database, target: Database, last: int) -> None:
    """Numbers below zero, for those above are of the target's own rows."""
    rows = source.run(
        "SELECT op_id, key, kind, reason, write, wall FROM outcomes WHERE kind <> ? AND n <= ? ORDER BY n", (DEAD, last)
    )
    with target.synced(), target.transaction():
        n = min(0, target.run("SELECT coalesce(min(n), 0) FROM outcomes")[0][0])
        target.many(
            "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?)", [(n - i, *row) for i, row in enumerate(rows, 1)]
        )


def within(sizes: Sequence[int], most: int) -> int:
    """How many of `sizes`, from the first, are together at most `most`; at least one, where there is one."""
    total = 0
    for i, size in enumerate(sizes):
        total += size
        if total > most and i:
            return i
    return len(sizes)
