"""The tables of a shared SQLite file, as the verbs by which batches are followed and asks answered."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from remanence.errors import WrongKind
from remanence.model import KEEP_TTL, NEVER, NOWHERE, Change, Erasure, Kept, Op, Reached, Record, Seen
from remanence.protocols import Ask, Fetch, Length, Lifetime, Told, Versions
from remanence.stores.rules import NOTHING, RELAY, Mark, Stamp, span
from remanence.stores.versions import once
from remanence.wire.codec import stamped
from remanence.wire.sqlite import Database

_CHUNK: Final = 256  # rows deleted at a time, so that tidying never holds the file for long

_FIND: Final = """
SELECT 'document', etag, hlc, expires_at FROM documents WHERE key = ?1
UNION ALL SELECT 'list', id, last - first + 1, expires_at FROM lists WHERE key = ?1
"""
_PUT: Final = """
INSERT INTO documents (key, etag, hlc, body, expires_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET etag = excluded.etag, hlc = excluded.hlc, body = excluded.body
"""
_PUT_ANEW: Final = f"{_PUT.rstrip()}, expires_at = excluded.expires_at"
PAGE: Final = """
SELECT key FROM documents WHERE key > ?1 AND key >= ?2 AND (expires_at IS NULL OR expires_at > ?3)
UNION ALL
SELECT key FROM lists WHERE key > ?1 AND key >= ?2 AND (expires_at IS NULL OR expires_at > ?3)
ORDER BY key LIMIT ?4
"""
KEYS_EVER: Final = """
SELECT key FROM documents WHERE key >= ?1 UNION SELECT key FROM lists WHERE key >= ?1
UNION SELECT key FROM versions WHERE key >= ?1 ORDER BY key
"""
"""With those that have expired, or of which only earlier versions are left."""
COUNT: Final = """
SELECT (SELECT count(*) FROM documents WHERE expires_at IS NULL OR expires_at > ?1)
+ (SELECT count(key) FROM lists WHERE expires_at IS NULL OR expires_at > ?1)
"""
_FETCH: Final = "SELECT body, etag, hlc FROM documents WHERE key = ? AND (expires_at IS NULL OR expires_at > ?)"
_VERSIONS: Final = """
SELECT etag, hlc, body FROM versions WHERE key = ? AND (expires_at IS NULL OR expires_at > ?) ORDER BY id DESC
"""
_OUTDATED: Final = """
DELETE FROM versions WHERE key = ?1
AND (expires_at <= ?2 OR id NOT IN (SELECT id FROM versions WHERE key = ?1 ORDER BY id DESC LIMIT ?3))
"""
_MARK: Final = """
SELECT nonce, seq, op_id, results_from, results, highest FROM watermarks WHERE lineage = ? AND expires_at > ?
"""
_KEEP: Final = """
UPDATE watermarks SET nonce = ?, seq = ?, op_id = ?, results_from = ?, results = ?, highest = ?
WHERE lineage = ?
"""
_SWEEP: Final = (
    "DELETE FROM documents WHERE key IN (SELECT key FROM documents WHERE expires_at <= ? LIMIT ?)",
    "DELETE FROM tombstones WHERE key IN (SELECT key FROM tombstones WHERE expires_at <= ? LIMIT ?)",
    "DELETE FROM watermarks WHERE lineage IN (SELECT lineage FROM watermarks WHERE expires_at <= ? LIMIT ?)",
    "DELETE FROM versions WHERE id IN (SELECT id FROM versions WHERE expires_at <= ? LIMIT ?)",
)
_SWEEP_ITEMS: Final = """
DELETE FROM items WHERE list = ?1 AND position IN (SELECT position FROM items WHERE list = ?1 LIMIT ?2)
"""


class Shelf:
    """The file inside a transaction, at the moment `now`. See `rules.Shelf` for what the verbs promise."""

    def __init__(self, database: Database, now: int, tombstone_ms: int) -> None:
        self.run = database.run
        self.now = now
        self._database = database
        self._tombstone_ms = tombstone_ms

    def find(self, key: str) -> tuple[Any, ...]:
        """("document", etag, hlc, end), ("list", id, length, end), or ("", …) where nothing lives."""
        for row in self.run(_FIND, (key,)):
            if row[3] is None or row[3] > self.now:
                return tuple(row)
        return "", 0, 0, None

    def stamp(self, key: str) -> Stamp | None:
        """See `rules.Shelf`."""
        kind, etag, hlc, _ = self.find(key)
        if kind == "list":
            return None
        return (etag, hlc) if kind else NOTHING

    def tombstone(self, key: str) -> Stamp | None:
        """See `rules.Shelf`."""
        rows = self.run("SELECT etag, hlc FROM tombstones WHERE key = ? AND expires_at > ?", (key, self.now))
        return (rows[0][0], rows[0][1]) if rows else None

    def raw(self, key: str) -> bytes | None:
        """See `rules.Shelf`."""
        record = self.record(key)
        return stamped(record.body, record.etag, record.hlc) if record else None

    def record(self, key: str) -> Record | None:
        """The document at `key`."""
        rows = self.run(_FETCH, (key, self.now))
        return Record(key, *rows[0]) if rows else None

    def put(self, key: str, body: bytes, stamp: Stamp, ttl: int) -> None:
        """See `rules.Shelf`."""
        stamped(body, *stamp)  # what cannot be read back must not be stored
        if not self.find(key)[0]:
            self.remove(key)  # something expired may lie there
        end = self.now + ttl if ttl > 0 else None
        self.run(_PUT if ttl == KEEP_TTL else _PUT_ANEW, (key, *stamp, body, end))

    def remove(self, key: str) -> None:
        """See `rules.Shelf`."""
        self.run("DELETE FROM documents WHERE key = ?", (key,))
        self.run("UPDATE lists SET key = NULL, expires_at = 0 WHERE key = ?", (key,))

    def bury(self, key: str, stamp: Stamp) -> None:
        """See `rules.Shelf`."""
        self.run("REPLACE INTO tombstones VALUES (?, ?, ?, ?)", (key, *stamp, self.now + self._tombstone_ms))

    def extend(self, key: str, items: Sequence[bytes]) -> bool | None:
        """See `rules.Shelf`."""
        kind = self.find(key)[0]
        if kind == "document":
            return None
        if not kind:
            self.remove(key)
            self.run("INSERT INTO lists (key, first, last) VALUES (?, 1, 0)", (key,))
        grown = "UPDATE lists SET last = last + ? WHERE key = ? RETURNING id, last"
        number, last = self.run(grown, (len(items), key))[0]
        places = range(last - len(items) + 1, last + 1)
        rows = [(number, place, item) for place, item in zip(places, items, strict=True)]
        self._database.many("INSERT INTO items VALUES (?, ?, ?)", rows)
        return not kind

    def lifetime(self, key: str) -> int:
        """See `rules.Shelf`."""
        kind, _, _, end = self.find(key)
        if not kind:
            return -2
        return -1 if end is None else int(end - self.now)

    def expire(self, key: str, ttl: int) -> None:
        """See `rules.Shelf`."""
        end = None if ttl == NEVER else self.now + ttl
        self.run("UPDATE documents SET expires_at = ? WHERE key = ?", (end, key))
        self.run("UPDATE lists SET expires_at = ? WHERE key = ?", (end, key))

    def announce(self, lineage: str, seq: int, op: Op, result: str) -> None:
        """See `rules.Shelf`."""
        kind = type(op.write).__name__.lower()
        sql = "INSERT INTO changes (lineage, seq, op_id, key, kind, result) VALUES (?, ?, ?, ?, ?, ?)"
        self.run(sql, (lineage, seq, op.op_id, op.write.key, kind, result))

    def archive(self, key: str, versions: Sequence[Kept], most: int) -> None:
        """See `rules.Shelf`."""
        rows = [(key, each.etag, each.hlc, each.body) for each in reversed(versions)]
        self._database.many("INSERT INTO versions (key, etag, hlc, body) VALUES (?, ?, ?, ?)", rows)
        self.run(_OUTDATED, (key, self.now, most))

    def age(self, key: str) -> None:
        """See `rules.Shelf`."""
        kind, _, _, end = self.find(key)
        end = end if kind else self.now + self._tombstone_ms
        self.run("UPDATE versions SET expires_at = ? WHERE key = ?", (end, key))

    def changes(self, after: int, count: int) -> list[Change]:
        """Entries of the change log behind number `after`."""
        some = "SELECT id, op_id, lineage, seq, kind, result, key FROM changes WHERE id > ? ORDER BY id LIMIT ?"
        return [Change(str(position), *rest) for position, *rest in self.run(some, (after, count))]

    def op_at(self, position: int) -> str:
        """The op that an entry of the change log tells of; "" where it is gone."""
        rows = self.run("SELECT op_id FROM changes WHERE id = ?", (position,))
        return str(rows[0][0]) if rows else ""

    def mark(self, lineage: str) -> Mark | None:
        """How far a lineage was followed; None where no session has opened it."""
        for nonce, seq, op_id, first, joined, highest in self.run(_MARK, (lineage, self.now)):
            told = ("ok",) * (seq - first + 1) if first else ()
            return Mark(nonce, seq, op_id, first, tuple(joined.split(",")) if joined else told, highest)
        return None

    def keep(self, lineage: str, mark: Mark, end: int | None = None) -> None:
        """Store a mark, with a new end of its life where one is given."""
        joined = "" if all(result == "ok" for result in mark.results) else ",".join(mark.results)
        row = (mark.nonce, mark.seq, mark.op_id, mark.results_from, joined, mark.highest)
        if end is not None:
            self.run("REPLACE INTO watermarks VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (lineage, *row, end))
        else:
            self.run(_KEEP, (*row, lineage))

    def reached(self, lineage: str) -> Reached:
        """How far a lineage was followed, and by which op."""
        mark = self.mark(lineage)
        return Reached(mark.seq, mark.op_id) if mark else NOWHERE

    def told(self, ask: Ask) -> Told:
        """The answer to an ask; a key of the other kind is that answer's error alone."""
        if isinstance(ask, Fetch) and (record := self.record(ask.key)):
            return record
        if isinstance(ask, Lifetime):
            return self.lifetime(ask.key)
        if isinstance(ask, Versions):
            return once(Kept(*row) for row in self.run(_VERSIONS, (ask.key, self.now)))
        kind, _, length, _ = self.find(ask.key)
        if isinstance(ask, Fetch):
            return self._wrong(ask.key) if kind == "list" else None
        if kind == "document":
            return self._wrong(ask.key)
        return int(length) if isinstance(ask, Length) else self.items(ask.key, ask.start, ask.stop)

    @staticmethod
    def _wrong(key: str) -> WrongKind:
        return WrongKind(f"{key!r} holds another type of value than was asked for")

    def items(self, key: str, start: int = 0, stop: int = -1) -> list[bytes]:
        """Items of the list at `key`, counted as `Tail` counts them. Reads no others."""
        kind, number, length, _ = self.find(key)
        first, end = span(start, stop, length if kind == "list" else 0)
        places = "SELECT item FROM items WHERE list = ? AND position > ? AND position <= ? ORDER BY position"
        return [item for (item,) in self.run(places, (number, first, end))] if end else []

    def note_erasure(self, erasure: Erasure) -> None:
        """Put it at the end of the list, unless it is there."""
        row = (erasure.op_id, erasure.hlc, erasure.key, erasure.beginning)
        self.run("INSERT OR IGNORE INTO erasures (op_id, hlc, key, beginning) VALUES (?, ?, ?, ?)", row)

    def erasures(self) -> list[Erasure]:
        """All of them, in order."""
        rows = self.run("SELECT op_id, hlc, key, beginning FROM erasures ORDER BY number")
        return [Erasure(op_id, hlc, key, bool(beginning)) for op_id, hlc, key, beginning in rows]

    def end_sessions(self, lineages: Sequence[str]) -> None:
        """Have every lineage but these begin a session anew before it writes."""
        self.run(
            "UPDATE watermarks SET nonce = '' "
            "WHERE lineage NOT IN (SELECT value FROM json_each(?1)) AND substr(lineage, 1, length(?2)) <> ?2",
            (msgspec.json.encode(lineages).decode(), RELAY),
        )

    def note_holder(self, holder: str, seen: Seen, end: int) -> None:
        """A journal has let go of what was erased up to there."""
        self.run("REPLACE INTO holders VALUES (?, ?, ?, ?)", (holder, *seen, end))

    def drop_holder(self, holder: str) -> None:
        """A journal does not exist any more."""
        self.run("DELETE FROM holders WHERE holder = ?", (holder,))

    def holders(self) -> dict[str, Seen]:
        """How far each journal has come."""
        rows = self.run("SELECT holder, number, op_id FROM holders WHERE expires_at > ?", (self.now,))
        return {holder: Seen(number, op_id) for holder, number, op_id in rows}

    def empty_removed(self) -> None:
        """Delete the items of removed lists at once, not some at a time."""
        self.run("DELETE FROM items WHERE list IN (SELECT id FROM lists WHERE key IS NULL)")
        self.run("DELETE FROM lists WHERE key IS NULL")

    def trim(self, length: int, added: int) -> None:
        """Delete the oldest entries of the change log past `length`, a chunk of them at a time."""
        last = self.run("SELECT max(id) FROM changes")[0][0] or 0
        if last % _CHUNK < added:
            self.run("DELETE FROM changes WHERE id <= ?", (last - length,))

    def sweep(self) -> bool:
        """Delete some of what has expired; whether there may be more."""
        full = False
        for delete in _SWEEP:
            self.run(delete, (self.now, _CHUNK))
            full |= self._database.changes() == _CHUNK
        for (number,) in self.run("SELECT id FROM lists WHERE expires_at <= ? LIMIT 1", (self.now,)):
            self.run(_SWEEP_ITEMS, (number, _CHUNK))
            if self._database.changes() < _CHUNK:
                self.run("DELETE FROM lists WHERE id = ?", (number,))
            full = True
        return full
