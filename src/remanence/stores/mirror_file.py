"""The file of a mirror: records and lists as the store had them, and how far the change log was followed.

What was fetched and the cursor behind it are committed together. Beyond its bounds the file lets keys go, by the
order that the settings choose; from then on a key that is not here may be in the store all the same (`whole`).
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from remanence.errors import RemanenceError
from remanence.model import Cursor, Erasure, Record
from remanence.protocols import Ask, Fetch, Told
from remanence.stores.known import Document, Entry, Knowledge, ListTail
from remanence.stores.sqlite_shelf import Shelf
from remanence.wire.sqlite import Database, FileDamaged

SCHEMA: Final = 1
OVERHEAD: Final = 150
"""About how many bytes a key takes beside what is in it."""
_OLDEST: Final = {
    "lru": "SELECT key FROM kept ORDER BY used LIMIT ?",
    "lfu": "SELECT key FROM kept ORDER BY uses, used LIMIT ?",
    "age": "SELECT key FROM kept ORDER BY changed LIMIT ?",
}
COPY: Final = "-before"
"""What the name of the file ends in that keeps what a mirror held before it was filled anew."""
COPY_SECONDS: Final = 7 * 86400.0
"""How long such a copy stays in the place of a later one with fewer records."""
_LEEWAY: Final = 0.95
"""What is left of a bound when keys were let go, so that it is not done for each write."""


class Found(msgspec.Struct, frozen=True):
    """What the store was found to have of a key.

    `items` of a list begin behind its first `start`; None for a document, or for nothing. `lifetime` in ms, -1 for
    ever. `n`: the row of this process's journal up to which own writes are in it.
    """

    key: str
    record: Record | None
    items: Sequence[bytes] | None = None
    start: int = 0
    lifetime: int = -1
    n: int = 0


class MirrorFile:
    """Not thread-safe: its owner holds a mutex around each call."""

    def __init__(self, database: Database, *, records: int, size: int, evict: str) -> None:
        """Raises `FileDamaged` for a file of another version. `records`, `size` (bytes): what is kept at most."""
        self._database = database
        self._records = records
        self._most = size
        self._oldest = _OLDEST[evict]
        self._used: dict[str, list[float]] = {}
        """When keys were last read and how often since this was written down."""
        database.script("mirror.sql")
        if self._fact("schema", SCHEMA) != SCHEMA:
            raise FileDamaged(f"{database.path} is the mirror of another version")
        self._note("schema", SCHEMA)
        self.cursor = self._read_cursor()
        self.whole = bool(self._fact("whole", 1))
        """Whether no key was let go: then what is not here is not in the store either."""
        self.count, self.size = self._database.run("SELECT count(*), coalesce(sum(size), 0) FROM kept")[0]

    @property
    def path(self) -> str:
        """The file, or ":memory:"."""
        return self._database.path

    def _fact(self, name: str, default: Any) -> Any:
        found = self._database.run("SELECT value FROM facts WHERE name = ?", (name,))
        return found[0][0] if found else default

    def _note(self, name: str, value: Any) -> None:
        self._database.run("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def _read_cursor(self) -> Cursor | None:
        position, op_id = self._fact("position", None), self._fact("op_id", "")
        return None if position is None else Cursor(str(position), str(op_id))

    # --- following ------------------------------------------------------------------------------

    def take(self, found: Sequence[Found], wall: float, journal: str, cursor: Cursor | None = None) -> None:
        """Keep what was found, and move the cursor, together.

        Raises `LogHeld` rather than fill the disk behind a reader that never ends: all of it is in the store too.
        """
        self._database.relieve()
        with self._database.transaction():
            shelf = self._shelf(wall)
            here = self._here([each.key for each in found])
            self._drop([each.key for each in found if each.key in here and each.start == 0], here)
            self._put_documents([each for each in found if each.record is not None], wall)
            grown = [self._extend(shelf, each, wall, here) for each in found if each.items or each.start]
            sizes = [(each, len(each.record.body)) for each in found if each.record is not None]
            self._keep([*sizes, *grown], here, wall, journal)
            if cursor is not None:
                self._note("position", cursor.position)
                self._note("op_id", cursor.op_id)
            self._evict()
        if cursor is not None:
            self.cursor = cursor

    def _here(self, keys: Sequence[str]) -> dict[str, int]:
        """The bytes that each of the keys takes here."""
        text = msgspec.json.encode(keys).decode()
        known = "SELECT key, size FROM kept WHERE key IN (SELECT value FROM json_each(?))"
        return dict(self._database.run(known, (text,)))

    def _put_documents(self, found: Sequence[Found], wall: float) -> None:
        rows = [
            (each.key, each.record.etag, each.record.hlc, each.record.body, _end(each, wall))
            for each in found
            if each.record is not None
        ]
        self._database.many("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?)", rows)

    def _extend(self, shelf: Shelf, found: Found, wall: float, here: dict[str, int]) -> tuple[Found, int]:
        """Add a list's items; how many bytes it has now."""
        items = found.items or ()
        if items:
            shelf.extend(found.key, items)
        self._database.run("UPDATE lists SET expires_at = ? WHERE key = ?", (_end(found, wall), found.key))
        before = max(0, here.get(found.key, 0) - OVERHEAD - len(found.key)) if found.start else 0
        return found, before + sum(len(item) + 20 for item in items)

    def _keep(self, found: Sequence[tuple[Found, int]], here: dict[str, int], wall: float, journal: str) -> None:
        rows = [(e.key, size + len(e.key) + OVERHEAD, journal, e.n, wall, wall) for e, size in found]
        self._database.many(
            "INSERT INTO kept VALUES (?, ?, ?, ?, ?, ?, 1) ON CONFLICT (key) DO UPDATE SET "
            "size = excluded.size, journal = excluded.journal, n = excluded.n, changed = excluded.changed",
            rows,
        )
        for key, size, *_ in rows:
            self.count += key not in here
            self.size += size - here.get(key, 0)

    def _drop(self, keys: Sequence[str], here: dict[str, int]) -> None:
        """Forget keys, and that they were `here`."""
        for sql in (
            "DELETE FROM items WHERE list IN (SELECT id FROM lists WHERE key = ?)",
            "DELETE FROM lists WHERE key = ?",
            "DELETE FROM documents WHERE key = ?",
            "DELETE FROM kept WHERE key = ?",
        ):
            self._database.many(sql, [(key,) for key in keys])
        for key in keys:
            self.count, self.size = self.count - 1, self.size - here.pop(key)

    def _evict(self) -> None:
        """Let keys go until the rest is within the bounds."""
        if self.count <= self._records and self.size <= self._most:
            return
        self._write_used()
        self.whole = False
        self._note("whole", 0)
        while self.count and (self.count > self._records * _LEEWAY or self.size > self._most * _LEEWAY):
            most = max(1, min(100, int(self.count - self._records * _LEEWAY)))
            oldest = [key for (key,) in self._database.run(self._oldest, (most,))]
            self._drop(oldest, self._here(oldest))

    def _write_used(self) -> None:
        used, self._used = self._used, {}
        rows = [(when, int(times), key) for key, (when, times) in used.items()]
        self._database.many("UPDATE kept SET used = ?, uses = uses + ? WHERE key = ?", rows)

    def keep_copy(self) -> None:
        """Keep what is here in a file beside this one, for `remanence restore`: the store may have lost it.

        Of two such copies the one with more records stays, for a week.
        """
        if self.path == ":memory:" or self.cursor is None or not self.count:
            return
        copy = Path(self.path + COPY)
        if copy.exists():
            recent = time.time() - copy.stat().st_mtime < COPY_SECONDS
            if recent and records_in(str(copy)) > self.count:
                return
            copy.unlink()
        self._database.run("VACUUM INTO ?", (str(copy),))
        copy.chmod(0o600)

    def begin_anew(self) -> None:
        """A snapshot begins: what is not found in it is gone."""
        self._database.run("CREATE TEMP TABLE IF NOT EXISTS seen (key TEXT PRIMARY KEY) WITHOUT ROWID")
        self._database.run("DELETE FROM seen")
        self.whole = True
        self._note("whole", 1)

    def seen(self, keys: Sequence[str]) -> None:
        """These are in the store."""
        self._database.many("INSERT OR IGNORE INTO seen VALUES (?)", [(key,) for key in keys])

    def end_anew(self, cursor: Cursor) -> None:
        """The snapshot is whole: forget what was not seen."""
        with self._database.transaction():
            gone = dict(self._database.run("SELECT key, size FROM kept WHERE key NOT IN (SELECT key FROM seen)"))
            self._drop(list(gone), gone)
            self._database.run("DELETE FROM seen")
            self._note("position", cursor.position)
            self._note("op_id", cursor.op_id)
        self.cursor = cursor

    def erase(self, erasures: Sequence[Erasure]) -> None:
        """Let go of what was erased, here and in the copy beside, so that nothing of it is left on the disk."""
        copy = Path(self.path + COPY)
        if copy.exists():
            other = MirrorFile(Database(str(copy)), records=self._records, size=self._most, evict="lru")
            other.erase(erasures)
            other.close()
        with self._database.transaction():
            for erasure in erasures:
                covered = "SELECT key, size FROM kept WHERE key = ?1 OR (?2 AND substr(key, 1, length(?1)) = ?1)"
                gone = dict(self._database.run(covered, (erasure.key, erasure.beginning)))
                self._drop(list(gone), gone)
        self._database.compact()

    # --- reading --------------------------------------------------------------------------------

    def _shelf(self, wall: float) -> Shelf:
        return Shelf(self._database, int(wall * 1000), 0)

    def told(self, ask: Ask, wall: float) -> Told | None:
        """The answer to an ask, as the store would give it; `KeyError` where only the store can tell."""
        shelf = self._shelf(wall)
        if isinstance(ask, Fetch):
            found: Told = shelf.record(ask.key)
            if found is None:
                found = shelf.told(ask)
        else:
            found = shelf.told(ask)
        if not self.whole and found in (None, [], 0, -2):
            raise KeyError(ask.key)
        used = self._used.get(ask.key)
        if used is None:
            self._used[ask.key] = [wall, 1]
        else:
            used[0], used[1] = wall, used[1] + 1
        if len(self._used) > 10_000:
            self._write_used()
        return found

    def ends(self, key: str, wall: float) -> tuple[int, bytes | None]:
        """How many items the list at `key` has here, and the last one."""
        shelf = self._shelf(wall)
        kind, _, length, _ = shelf.find(key)
        if kind != "list" or not length:
            return 0, None
        return int(length), shelf.items(key, -1)[0]

    def knowledge(self, key: str, wall: float, journal: str, otherwise: int) -> Knowledge | None:
        """What is kept of a key, for reads while the store is away.

        `otherwise`: the row up to which it counts as exact where it was fetched beside another journal.
        """
        kept = self._database.run("SELECT journal, n FROM kept WHERE key = ?", (key,))
        if not kept:
            return Knowledge(otherwise, Document(None), wall) if self.whole and self.cursor else None
        shelf = self._shelf(wall)
        kind, _, length, end = shelf.find(key)
        record = shelf.record(key) if kind == "document" else None
        entry: Entry = Document(None)
        if record is not None:
            entry = Document(record.body, record.etag, record.hlc)
        elif kind == "list":
            entry = ListTail(tuple(shelf.items(key)), int(length))
        n = kept[0][1] if kept[0][0] == journal else otherwise
        if n < 0:  # a copy of the journal wrote as well: which of ours are in it nobody knows
            return None
        return Knowledge(n, entry, wall, end / 1000 if end is not None else None)

    def keys(self, prefix: str, wall: float) -> list[str]:
        """What is here and begins with `prefix`."""
        rows = self._database.run(
            "SELECT key FROM kept WHERE key >= ? AND substr(key, 1, ?) = ?", (prefix, len(prefix), prefix)
        )
        shelf = self._shelf(wall)
        return [key for (key,) in rows if shelf.find(key)[0]]

    def close(self) -> None:
        """Write down what was used, and close the file."""
        self._write_used()
        self._database.close()


def records_in(path: str) -> int:
    """How many records a mirror's file holds; 0 for a file that is none."""
    with suppress(RemanenceError):
        database = Database(path, read_only=True)
        try:
            return int(database.run("SELECT count(*) FROM kept")[0][0])
        finally:
            database.close()
    return 0


def contents(path: str, wall: float) -> Iterator[tuple[Record | None, str, list[bytes], int]]:
    """What a mirror's file holds and has not expired: (record, key, items of a list, lifetime in ms or -1).

    Reads the file beside whoever follows into it. Raises `FileDamaged` and the like for a file that is no mirror.
    """
    database = Database(path, read_only=True)
    try:
        shelf = Shelf(database, int(wall * 1000), 0)
        for (key,) in database.run("SELECT key FROM kept ORDER BY key"):
            kind = shelf.find(key)[0]
            if kind:
                yield shelf.record(key), key, shelf.items(key) if kind == "list" else [], shelf.lifetime(key)
    finally:
        database.close()


def _end(found: Found, wall: float) -> int | None:
    """When it ends, in milliseconds of the wall clock."""
    return int(wall * 1000) + found.lifetime if found.lifetime >= 0 else None
