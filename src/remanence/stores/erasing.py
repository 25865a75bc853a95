"""Erasure: what somebody wants forgotten goes from the store, and from everything that any process keeps of it.

A `Forget` is a write: journalled, sent in its turn, sent again to a server that forgot it. When its turn comes the
store notes it in a list, ends every session, and erases (`Store.forget`). Whoever begins a session asks that list
before it sends anything (`Erasing.learn`), lets go of what was written before, and says so: a writer that was away,
or the copy of a journal, cannot bring back what was erased. The receipt tells which journals have said so.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from remanence.errors import JournalFull, WorldError
from remanence.model import ABSENT, Blank, Erasure, Forget, Seen
from remanence.protocols import Runtime, Store
from remanence.stores.journal import Journal
from remanence.stores.known import Document, Knowledge, Known
from remanence.stores.resolve import Intent
from remanence.stores.rows import Lineage, Row, encode, kind_of

FORGET_SECONDS: Final = 60.0
"""How long an erasure may take in one go: the store looks through all its keys."""
Older = Callable[[Lineage, Row], bool]
"""Whether a row was made before an erasure."""


class Erasing:
    """What one journal has to do with erasures. Its owner sees to it that only one caller at a time is inside."""

    def __init__(
        self,
        journal: Journal,
        known: Known,
        store: Store,
        runtime: Runtime,
        mutex: AbstractContextManager[Any],
        earliest: Callable[[Lineage, Row], int],
        let_go: Callable[[Sequence[Erasure]], None],
    ) -> None:
        """`earliest`: the store's time when a row was made, at the earliest. `let_go` rids all else that is here of
        what was erased, under the mutex.
        """
        self._journal = journal
        self._known = known
        self._store = store
        self._runtime = runtime
        self._mutex = mutex
        self._earliest = earliest
        self._let_go = let_go
        self.holder = holder_of(journal)
        self._noted = False
        """Whether the store knows that what is to be erased may be here as well."""

    async def learn(self, deadline: float) -> None:
        """Ask what was erased, let go of it here, and say so."""
        while True:
            with self._mutex:
                seen = seen_by(self._journal)
            erasures, upto = await self._store.erasures(self.holder, seen, deadline)
            self._noted = True
            if upto == seen:
                return
            try:
                with self._mutex:
                    if erasures:  # else the store forgot its list
                        self._let_go_of(erasures)
                    note_seen(self._journal, upto)
            except (JournalFull, WorldError):  # of our disk: writes go on, and the next session tries again
                return

    async def note(self, deadline: float) -> None:
        """Before what was read here goes to disk: have the store know of it, once."""
        if not self._noted:
            with suppress(WorldError):  # it is away: whoever opens this journal next tells it before anything else
                await self.learn(deadline)

    async def part(self, deadline: float) -> None:
        """The journal's file is gone: nobody is to wait for it."""
        with suppress(WorldError):  # it is away: there the journal is listed until it has been silent for long
            await self._store.erasures(self.holder, None, deadline)

    async def carry_out(self, intent: Intent, write: Forget) -> None:
        """Have the store erase, and let go of it here."""
        erasure = Erasure(intent.op_id, intent.hlc, write.key, write.beginning)
        with self._mutex:
            own = [lineage.name for lineage in self._journal.lineages]
        deadline = self._runtime.monotonic() + FORGET_SECONDS
        await self._store.forget(erasure, own, deadline, live=intent.live)
        await self.learn(deadline)

    def ahead(self, erasure: Erasure) -> None:
        """Let go of what is here, before the store was reached; under the mutex."""
        own = self._row_of(erasure)
        self._purge(erasure, partial(_is_before, self._journal.active.end if own is None else own))
        self._let_go([erasure])
        self._journal.database.compact()

    def _let_go_of(self, erasures: Sequence[Erasure]) -> None:
        for erasure in erasures:
            own = self._row_of(erasure)
            self._purge(erasure, partial(self._is_older, erasure.hlc) if own is None else partial(_is_before, own))
        self._let_go(erasures)
        self._journal.database.compact()

    def _is_older(self, hlc: int, lineage: Lineage, row: Row) -> bool:
        return self._earliest(lineage, row) <= hlc

    def _row_of(self, erasure: Erasure) -> int | None:
        """The number of the row that asked for it, where it was this journal's: what comes behind it stays."""
        found = self._journal.database.run("SELECT n FROM rows WHERE op_id = ?", (erasure.op_id,))
        return found[0][0] if found else None

    def _purge(self, erasure: Erasure, older: Older) -> None:
        """Empty the rows of before, and drop what is known and what had no effect."""
        journal, database = self._journal, self._journal.database
        covered = (erasure.key, erasure.beginning)
        rows = database.run(
            "SELECT n, hlc, key, substr(write, 1, 16), wall, boot FROM rows "
            "WHERE key = ?1 OR (?2 AND substr(key, 1, length(?1)) = ?1)",
            covered,
        )
        emptied = []
        for n, hlc, key, start, wall, boot in rows:
            row = Row(n, "", hlc, Blank(key), wall, boot, 0)
            if kind_of(start) != "forget" and older(journal.lineage_of(n), row):
                emptied.append((encode(Blank(key)), n))
        with database.transaction():
            database.many("UPDATE rows SET write = ?, blind = 0 WHERE n = ?", emptied)
            database.run(
                "DELETE FROM outcomes WHERE key = ?1 OR (?2 AND substr(key, 1, length(?1)) = ?1)",
                covered,
            )
        journal.emptied()
        self._unknow(erasure)

    def _unknow(self, erasure: Erasure) -> None:
        """What was known to be there is known not to be."""
        keys = self._known.keys(erasure.key) if erasure.beginning else [erasure.key]
        wall, n = self._runtime.wall(), self._journal.active.end
        self._known.forget(keys)
        for key in keys:
            self._known.put(key, Knowledge(n, Document(None, ABSENT), wall))


def _is_before(n: int, lineage: Lineage, row: Row) -> bool:
    return row.n < n


# --- what a journal notes of it ---------------------------------------------------------------------


def holder_of(journal: Journal) -> str:
    """A name for a journal's file that its copy does not share, and that says nothing about its machine."""
    path = Path(journal.path)
    if not path.exists():
        return journal.active.name
    named = f"{path.stem} {path.stat().st_dev} {path.stat().st_ino}"
    return hashlib.blake2b(named.encode(), digest_size=8).hexdigest()


def seen_by(journal: Journal) -> Seen:
    """How far a journal has let go of what was erased."""
    found = journal.database.run("SELECT value FROM meta WHERE name = 'erased'")
    number, _, op_id = found[0][0].partition(" ") if found else ("0", "", "")
    return Seen(int(number), op_id)


def note_seen(journal: Journal, seen: Seen) -> None:
    """Write that down."""
    journal.database.run("INSERT OR REPLACE INTO meta VALUES ('erased', ?)", (f"{seen.number} {seen.op_id}",))


def before_erasure(rows: list[Row]) -> list[Row]:
    """The rows up to the first `Forget`; that one alone where it is the first: it is carried out by itself."""
    for at, row in enumerate(rows):
        if type(row.write) is Forget:
            return rows[: max(1, at)]
    return rows
