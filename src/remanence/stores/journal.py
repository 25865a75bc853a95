"""The journal: one SQLite file with what this process wrote, in order, until the server has it.

A *lineage* names one unbroken history of the file; its writes are numbered 1, 2, 3 … without a gap.
A file that was copied, restored from a backup, or cut short by a loss of power gets a new lineage
before its first append (`fingerprint`), so that a number is never used twice for different writes.
Applied rows stay for a while: a server that forgets is told again.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

from remanence.errors import JournalFull, RemanenceError
from remanence.model import Blank, Forget, Write
from remanence.protocols import Runtime
from remanence.stores.outcomes import listed
from remanence.stores.rows import Draft, Lineage, Outcome, Row, encode, forked_name, is_blind, read_row
from remanence.wire.sqlite import AlreadyThere, Database, FileDamaged, free_bytes

SCHEMA = 1
INSERT = "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


class Journal:
    """Not thread-safe: its owner holds a mutex around each call. Nothing here waits for a server."""

    def __init__(self, database: Database, runtime: Runtime, fingerprint: str) -> None:
        """Open the file's tables and make sure that a lineage of this fingerprint is active.

        Raises `FileDamaged` for a file that is no journal or one of a newer version.
        """
        self._database = database
        self._runtime = runtime
        self._boot_id = runtime.boot_id()
        database.script("journal.sql")
        self._check_version()
        self.clean = self._swap_clean(False)
        self.shared = False
        """Whether another process may write to this very file: then nothing leaves before it is committed."""
        self.lineages = self._load()
        if not self.lineages or self.active.print != fingerprint:
            self._begin(fingerprint)
        self._indexed = self._value("indexed", 0)
        self.outcomes_grew = True
        """Whether there may be more writes without effect than when they were counted last."""
        self._uncounted = False
        """Whether a commit failed or was interrupted: the file may have rows that are not counted here."""
        self.unreadable: list[Row] = []
        """Rows that were found unreadable and set aside, for whoever tells of it to take."""
        self.emptied()

    @property
    def path(self) -> str:
        """The file, or ":memory:"."""
        return self._database.path

    @property
    def active(self) -> Lineage:
        """The lineage that grows."""
        return self.lineages[-1]

    @property
    def pending(self) -> int:
        """Writes the server does not have yet."""
        found = 0
        for lineage in self.lineages:  # several times for each write
            found += lineage.count - lineage.acked
        return found

    # --- opening --------------------------------------------------------------------------------

    def _check_version(self) -> None:
        found = self._value("schema", None)
        if found is None:
            self._database.run("INSERT INTO meta VALUES ('schema', ?)", (SCHEMA,))
        elif found != SCHEMA:
            raise FileDamaged(f"{self.path} was written by another version (schema {found}, this one knows {SCHEMA})")

    def _value(self, name: str, default: Any) -> Any:
        found = self._database.run("SELECT value FROM meta WHERE name = ?", (name,))
        return found[0][0] if found else default

    def _swap_clean(self, clean: bool) -> bool:
        """Note whether the file was left in order; return whether it was before."""
        before = bool(self._value("clean", 1))
        self._database.run("INSERT OR REPLACE INTO meta VALUES ('clean', ?)", (int(clean),))
        return before

    def _load(self) -> list[Lineage]:
        rows = self._database.run(
            "SELECT name, first, count, acked, pruned, pruned_id, boot_id, print FROM lineages ORDER BY first, rowid"
        )
        last = self._database.run("SELECT coalesce(max(n), 0) FROM rows")[0][0]
        found = []
        for name, first, count, acked, pruned, pruned_id, boot_id, fingerprint in rows:
            numbers = (first, 0 if count is None else count, acked, pruned)
            if not all(isinstance(each, int) for each in numbers):  # which only damage can bring about
                raise FileDamaged(f"{self.path} is damaged: a lineage without numbers")
            held = max(last - first + 1, pruned) if count is None else count
            # after a loss of power the file may have fewer writes than the server acknowledged
            found.append(Lineage(name, first, held, min(acked, held), pruned, pruned_id, boot_id, fingerprint))
        return found

    def _begin(self, fingerprint: str) -> None:
        """Close the active lineage, if any, and begin a new one behind it."""
        first = 1
        with self._database.transaction():
            if self.lineages:
                self._database.run(
                    "UPDATE lineages SET count = ? WHERE name = ?", (self.active.count, self.active.name)
                )
                first = self.active.end + 1
            name = self._runtime.random_bytes(12).hex()
            self._database.run(
                "INSERT INTO lineages (name, first, boot_id, print) VALUES (?, ?, ?, ?)",
                (name, first, self._boot_id, fingerprint),
            )
        self.lineages.append(Lineage(name, first, 0, boot_id=self._boot_id, print=fingerprint))

    def measure(self) -> int:
        """Bytes of the writes the server does not have yet."""
        return sum(
            self._database.run(
                "SELECT coalesce(sum(length(write)), 0) FROM rows WHERE n BETWEEN ? AND ?",
                (lineage.row(lineage.acked + 1), lineage.end),
            )[0][0]
            for lineage in self.lineages
            if lineage.pending  # of those that were forked or renewed there may be hundreds, and this is asked for each
        )

    # --- writing --------------------------------------------------------------------------------

    def append(self, entries: Sequence[tuple[str, int, Write]]) -> list[Row]:
        """Commit writes (operation id, hlc, write) together, all or none, and return their rows.

        Raises `JournalFull` when the disk is full; then nothing was stored.
        """
        while True:
            draft = self.draft(entries, self._runtime.wall(), self._runtime.boottime())
            try:
                self.commit(draft)
                return draft.rows
            except AlreadyThere:
                continue  # another process wrote to this very file: the next draft goes on behind it

    def draft(self, entries: Sequence[tuple[str, int, Write]], wall: float, boot: float) -> Draft:
        """The rows that the next commit would make of writes (operation id, hlc, write) made at that moment."""
        if self._uncounted:  # what the file has comes before these
            self._resume()
        active, total = self.lineages[-1], 0
        n = active.first + active.count - 1
        rows: list[Row] = []
        encoded: list[bytes] = []
        for op_id, hlc, write in entries:
            n += 1
            data = encode(write)
            size = len(data)
            total += size
            encoded.append(data)
            rows.append(Row(n, op_id, hlc, write, wall, boot, size))
        return Draft(rows, encoded, total)

    def commit(self, draft: Draft) -> None:
        """Make it so, all or none. Raises `AlreadyThere` where another process took these numbers."""
        stored = [
            (row.n, row.op_id, row.hlc, row.write.key, data, row.wall, row.boot, is_blind(row.write))
            for row, data in zip(draft.rows, draft.encoded, strict=True)
        ]
        self._uncounted = True
        if len(stored) == 1:
            self._database.change(INSERT, stored[0])
        else:
            with self._database.transaction():
                self._database.many(INSERT, stored)
        self.lineages[-1].count += len(stored)
        self.pending_bytes += draft.size
        self.retained_bytes += draft.size
        self._uncounted = False

    def _resume(self) -> None:
        try:
            last = self._database.run("SELECT coalesce(max(n), 0) FROM rows")[0][0]
            self.active.count = max(self.active.count, last - self.active.first + 1)
            self.pending_bytes = self.measure()
        except FileDamaged:
            self._uncounted = False  # so that whoever commits next finds the damage, and goes on without this file
            raise
        self._uncounted = False

    def refresh(self) -> None:
        """Take in what another process did to this very file: rows it added, rows it forgot."""
        pruned = {
            name: (upto, op_id)
            for name, upto, op_id in self._database.run("SELECT name, pruned, pruned_id FROM lineages")
        }
        for lineage in self.lineages:
            upto, op_id = pruned.get(lineage.name, (0, ""))
            if upto > lineage.pruned:
                lineage.pruned, lineage.pruned_id, lineage.acked = upto, op_id, max(lineage.acked, upto)
        self._resume()

    # --- reading --------------------------------------------------------------------------------

    def rows(self, lineage: Lineage, after: int, most: int, size: int) -> list[Row]:
        """Writes of a lineage behind number `after`: at most `most`, and at most `size` bytes or one."""
        found: list[Row] = []
        total, start = 0, lineage.row(after + 1)
        for raw in self._database.run(
            "SELECT n, op_id, hlc, write, wall, boot FROM rows WHERE n BETWEEN ? AND ? ORDER BY n LIMIT ?",
            (start, lineage.end, most),
        ):
            row = self._read(raw)
            total += row.size
            if found and total > size:
                return found
            if row.n != start + len(found):
                break
            found.append(row)
        if len(found) < min(most, lineage.count - after):  # sent without it, all behind it would be misnumbered
            raise FileDamaged(f"{self.path} is damaged: write {start + len(found)} is missing")
        return found

    def rows_of(self, key: str, after: int) -> list[Row]:
        """Every kept row of a key behind row number `after` that was not refused, in order."""
        found = f"SELECT n FROM {self._indexed_rows()} WHERE key = ? AND n > ?"
        return [
            self._read(raw)
            for raw in self._database.run(
                "SELECT n, op_id, hlc, write, wall, boot FROM rows "
                f"WHERE n IN ({found}) AND n NOT IN (SELECT n FROM outcomes) ORDER BY n",
                (key, after),
            )
        ]

    def _read(self, raw: Sequence[Any]) -> Row:
        """A row; one that cannot be read becomes a dead letter, and its place in the order is empty."""
        try:
            return read_row(raw)
        except FileDamaged as error:
            n, op_id, hlc, data, wall, boot = raw
            key = self._database.run("SELECT key FROM rows WHERE n = ?", (n,))[0][0]
            row = Row(n, op_id, hlc, Blank(key), wall, boot, len(data))
            self.record(row, "dead", str(error), data)
            self.unreadable.append(row)
            return row

    def keys_behind(self, n: int) -> set[str]:
        """The keys of all rows behind row number `n`."""
        return {row[0] for row in self._database.run("SELECT key FROM rows WHERE n > ?", (n,))}

    def is_refused(self, n: int) -> bool:
        """Whether row `n` is known to have had no effect."""
        return bool(self._database.run("SELECT 1 FROM outcomes WHERE n = ?", (n,)))

    def is_pending(self, n: int) -> bool:
        """Whether the server does not have row `n` yet."""
        lineage = self.lineage_of(n)
        return n > lineage.row(lineage.acked)

    def settled(self) -> int:
        """The row up to which the server has everything."""
        return min((each.row(each.acked) for each in self.lineages if each.pending), default=self.active.end)

    def last_writes(self, prefix: str, behind: int = 0) -> list[Write]:
        """The last write of each key that begins with `prefix`, of rows behind this one, if it may have an effect."""
        table = "rows" if behind else self._indexed_rows()
        found = self._database.run(
            f"SELECT n, op_id, hlc, write, wall, boot FROM rows WHERE n IN (SELECT max(n) FROM {table} WHERE n > ? "
            "AND key >= ? AND substr(key, 1, ?) = ? GROUP BY key) AND n NOT IN (SELECT n FROM outcomes)",
            (behind, prefix, len(prefix), prefix),
        )
        writes = [self._read(raw).write for raw in found]
        # a blank: refused, and its outcome forgotten; and what is forgotten by its beginning is no key
        return [each for each in writes if not (type(each) is Blank or (type(each) is Forget and each.beginning))]

    def _indexed_rows(self) -> str:
        """The table to look keys up in."""
        with contextlib.suppress(JournalFull):  # no room for the index: look at every row
            self._index()
            return "by_key"
        return "rows"

    def _index(self) -> None:
        last = self.active.end
        if self._indexed >= last:
            return
        with self._database.transaction():
            self._database.run("INSERT OR IGNORE INTO by_key SELECT key, n FROM rows WHERE n > ?", (self._indexed,))
            self._database.run("INSERT OR REPLACE INTO meta VALUES ('indexed', ?)", (last,))
        self._indexed = last

    def lineage_of(self, n: int) -> Lineage:
        """The lineage that row number `n` belongs to."""
        return next(lineage for lineage in reversed(self.lineages) if lineage.first <= n)

    def op_id(self, lineage: Lineage, seq: int) -> str | None:
        """The operation id of a lineage's write, None where the file does not have it."""
        if seq == lineage.pruned:
            return lineage.pruned_id
        found = self._database.run(
            "SELECT op_id FROM rows WHERE n = ? AND n BETWEEN ? AND ?",
            (lineage.row(seq), lineage.first, lineage.end),
        )
        return found[0][0] if found else None

    def oldest_pending(self) -> float | None:
        """Wall time at which the oldest pending write was made."""
        for lineage in self.lineages:
            if lineage.pending:
                found = self._database.run("SELECT wall FROM rows WHERE n = ?", (lineage.row(lineage.acked + 1),))
                return float(found[0][0]) if found else None
        return None

    # --- what the server said -------------------------------------------------------------------

    def acknowledge(self, lineage: Lineage, seq: int, size: int | None = None) -> None:
        """The server has writes up to `seq`; in memory until `save`. `size`: bytes that are done."""
        lineage.acked = seq
        self.pending_bytes = self.measure() if size is None else max(0, self.pending_bytes - size)

    def rewind(self, lineage: Lineage, seq: int) -> None:
        """The server has fewer writes than it had: durable at once, or after a loss of power nobody would know."""
        self.acknowledge(lineage, seq)
        with self._database.synced():
            self.save()

    def save(self) -> None:
        """Write down how far the server is."""
        self._database.many(
            "UPDATE lineages SET acked = ? WHERE name = ?",
            [(lineage.acked, lineage.name) for lineage in self.lineages],
        )

    def fork(self, lineage: Lineage, keep: int) -> str:
        """Let the writes behind `keep` go on under a name derived from what they are, which is returned."""
        name = forked_name(lineage, keep, self.op_id(lineage, keep + 1) or "")
        active = lineage is self.active
        successor = Lineage(
            name, lineage.row(keep + 1), lineage.count - keep, boot_id=lineage.boot_id, print=lineage.print
        )
        with self._database.transaction():
            self._database.run("UPDATE lineages SET count = ?, acked = ? WHERE name = ?", (keep, keep, lineage.name))
            self._database.run(
                "INSERT OR REPLACE INTO lineages (name, first, count, boot_id, print) VALUES (?, ?, ?, ?, ?)",
                (name, successor.first, None if active else successor.count, successor.boot_id, successor.print),
            )
        lineage.count = lineage.acked = keep
        self.lineages.insert(self.lineages.index(lineage) + 1, successor)
        self.pending_bytes = self.measure()
        return name

    def emptied(self) -> None:
        """Rows were emptied: measure anew."""
        self.pending_bytes = self.measure()
        self.retained_bytes = int(self._database.run("SELECT coalesce(sum(length(write)), 0) FROM rows")[0][0])

    def renew(self) -> str:
        """Begin a new lineage behind the active one, whose next numbers are taken; its name."""
        self._begin(self.active.print)
        return self.active.name

    def record(self, row: Row, kind: str, reason: str, data: bytes | None = None) -> None:
        """Keep a write without effect for people to see; its place in the order is empty from now on.

        A server that forgets would otherwise be sent what its writer was told had been refused.
        """
        key, nothing = row.write.key, encode(Blank(row.write.key))
        data = encode(row.write) if data is None else data
        with self._database.transaction():
            self._database.run(
                "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?)",
                (row.n, row.op_id, key, kind, reason, data, self._runtime.wall()),
            )
            self._database.run("UPDATE rows SET write = ?, blind = 0 WHERE n = ?", (nothing, row.n))
        self.retained_bytes -= max(0, row.size - len(nothing))
        self.outcomes_grew = True

    def outcomes(self, *kinds: str, limit: int = 1000) -> list[Outcome]:
        """The newest writes without effect of these kinds, newest first."""
        return listed(self._database, kinds, limit)

    def count(self, kind: str) -> int:
        """How many writes without effect of a kind are kept."""
        return int(self._database.run("SELECT count(*) FROM outcomes WHERE kind = ?", (kind,))[0][0])

    def free_bytes(self) -> int:
        """Bytes that the file's disk has left; many where the file is in memory."""
        return free_bytes(self.path)

    def close(self) -> None:
        """Write down how far the server is, mark the file as left in order, and close it."""
        with contextlib.suppress(RemanenceError):  # on a full disk: whoever opens the file next finds out itself
            self.save()
            self._swap_clean(True)
        self._database.close()

    @property
    def database(self) -> Database:
        """The file, for the tables beside the journal's own."""
        return self._database
