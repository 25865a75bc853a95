"""The statements of the search index: what is written and read within one transaction."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from remanence.search.types import Document
from remanence.wire.sqlite import Database

KEPT: Final = 100_000
"""Versions for which it is remembered what was removed. Who slept longer reads the file anew."""
PAGE: Final = 5_000
"""Documents that are read at once."""

_FIELDS = (
    "id, kind, session, position, speaker, role, timed, agent, tags, success, importance, trust, created, expires, uses"
)
_PUT = f"INSERT INTO documents ({_FIELDS}, version) VALUES ({', '.join('?' * 16)}) RETURNING number"
_PUT_PIECE = "INSERT INTO pieces (document, length, terms, embedder, vector) VALUES (?, ?, ?, ?, ?)"
_PUT_STATES = "INSERT INTO states (piece, embedder, states) VALUES (last_insert_rowid(), ?, ?)"
_LIST = "(SELECT value FROM json_each(?))"


class Piece(msgspec.Struct, frozen=True):
    """A part of a text as it is stored."""

    length: int
    terms: bytes
    vector: bytes | None
    states: bytes | None = None


class StoredPiece(NamedTuple):
    """A part of a text as it is read: what it is found by."""

    document: int
    number: int
    length: int
    terms: bytes
    vector: bytes | None


class Row(NamedTuple):
    """A document as it is read. The names are those of the table."""

    number: int
    id: str
    kind: str
    session: str
    position: int
    speaker: str
    role: str
    timed: bool
    agent: str
    tags: str
    success: bool | None
    importance: float
    trust: float
    created: float
    expires: float | None
    uses: int


class Shelf:
    """The rows of one transaction."""

    def __init__(self, database: Database) -> None:
        """Speak to `database`, in whose transaction everything happens."""
        self.run = database.run
        self._change = database.change

    # --- writing

    def put(self, document: Document, timed: bool, pieces: Sequence[Piece], embedder: int | None, version: int) -> None:
        """Insert a document that is not there."""
        told = (
            document.id,
            document.kind,
            document.session,
            document.position,
            document.speaker,
            document.role,
            timed,
            document.agent,
            json.dumps(document.tags),
            document.success,
            document.importance,
            document.trust,
            document.created,
            document.expires,
            document.uses,
            version,
        )
        ((number,),) = self.run(_PUT, told)
        for piece in pieces:
            row = (number, piece.length, piece.terms, None if piece.vector is None else embedder, piece.vector)
            self._change(_PUT_PIECE, row)
            if piece.states is not None:
                self._change(_PUT_STATES, (embedder, piece.states))
        self._count(len(pieces), sum(piece.length for piece in pieces))

    def remove(self, id: str, version: int) -> bool:
        """Delete a document and all that leads to it; False where there is none."""
        for (number,) in self.run("SELECT number FROM documents WHERE id = ?", (id,)):
            self.remove_number(number, version)
            return True
        return False

    def remove_number(self, number: int, version: int) -> bool:
        """The same for a document of this number."""
        if not self.run("DELETE FROM documents WHERE number = ? RETURNING 1", (number,)):
            return False
        self._change("DELETE FROM states WHERE piece IN (SELECT number FROM pieces WHERE document = ?)", (number,))
        lengths = self.run("DELETE FROM pieces WHERE document = ? RETURNING length", (number,))
        self._change("INSERT INTO gone (number, version) VALUES (?, ?)", (number, version))
        self._count(-len(lengths), -sum(length for (length,) in lengths))
        return True

    def amend(self, id: str, changes: Mapping[str, Any], version: int) -> bool:
        """Change some columns of a document; False where there is none. The names are the caller's own."""
        assignments = ", ".join(f"{name} = ?" for name in changes)
        sql = f"UPDATE documents SET {assignments}, version = ? WHERE id = ? RETURNING 1"
        return bool(self.run(sql, (*changes.values(), version, id)))

    def next_version(self) -> int:
        """Begin a transaction that others shall notice."""
        ((version,),) = self.run("UPDATE totals SET version = version + 1 RETURNING version")
        if version % 1000 == 0:
            self._change("DELETE FROM gone WHERE version <= ?", (version - KEPT,))
        return int(version)

    def expired(self, now: float, limit: int) -> list[int]:
        """The numbers of documents whose time is over."""
        sql = "SELECT number FROM documents WHERE expires <= ? ORDER BY expires LIMIT ?"
        return [number for (number,) in self.run(sql, (now, limit))]

    def embedder(self, identity: str) -> int:
        """The number of an embedder, which is given one if it has none."""
        for (number,) in self.run("SELECT number FROM embedders WHERE identity = ?", (identity,)):
            return int(number)
        ((number,),) = self.run("INSERT INTO embedders (identity) VALUES (?) RETURNING number", (identity,))
        return int(number)

    def _count(self, pieces: int, terms: int) -> None:
        self._change("UPDATE totals SET pieces = pieces + ?, terms = terms + ?", (pieces, terms))

    # --- reading

    def totals(self) -> tuple[int, int, int]:
        """The version, how many pieces there are, and how many terms they have in all."""
        ((version, pieces, terms),) = self.run("SELECT version, pieces, terms FROM totals")
        return version, pieces, terms

    def pages(self) -> Iterator[list[Row]]:
        """All documents, a page at a time."""
        last = 0
        while page := self.run(
            f"SELECT number, {_FIELDS} FROM documents WHERE number > ? ORDER BY number LIMIT {PAGE}", (last,)
        ):
            yield [Row(*row) for row in page]
            last = page[-1][0]

    def news(self, version: int) -> list[Row]:
        """Documents that were put or amended since."""
        # Left to itself, SQLite reads all documents in their order rather than sort the few that are new.
        table = "documents INDEXED BY documents_version"
        rows = self.run(f"SELECT number, {_FIELDS} FROM {table} WHERE version > ? ORDER BY number", (version,))
        return [Row(*row) for row in rows]

    def losses(self, version: int) -> list[int]:
        """The numbers of documents that were removed since."""
        return [number for (number,) in self.run("SELECT number FROM gone WHERE version > ?", (version,))]

    def pieces_of(self, documents: Sequence[int], embedder: int | None) -> list[StoredPiece]:
        """The pieces of these documents by their numbers, with their vectors where `embedder` made them."""
        sql = (
            "SELECT document, number, length, terms, CASE WHEN embedder = ? THEN vector END FROM pieces "
            f"WHERE document IN {_LIST} ORDER BY number"
        )
        return [StoredPiece(*row) for row in self.run(sql, (embedder, json.dumps(documents)))]

    def states_of(self, pieces: Sequence[int], embedder: int | None) -> dict[int, bytes]:
        """The states of the words of these pieces by their numbers, as far as `embedder` made them."""
        sql = f"SELECT piece, states FROM states WHERE piece IN {_LIST} AND embedder = ?"
        return dict(self.run(sql, (json.dumps(pieces), embedder)))

    def outdated(self, embedder: int, limit: int) -> list[tuple[int, str, int]]:
        """Documents with a piece that another embedder, or none, made the vector of: number, id and version."""
        sql = (
            "SELECT DISTINCT d.number, d.id, d.version FROM pieces p JOIN documents d ON d.number = p.document "
            "WHERE p.embedder IS NOT ? LIMIT ?"
        )
        return self.run(sql, (embedder, limit))

    def unchanged(self, documents: Sequence[tuple[int, str, int]]) -> list[tuple[int, str]]:
        """The numbers and ids of those that are there in the version that is told of them."""
        sql = f"SELECT number, version FROM documents WHERE number IN {_LIST}"
        now = dict(self.run(sql, (json.dumps([number for number, _, _ in documents]),)))
        return [(number, id) for number, id, version in documents if now.get(number) == version]

    def outdated_count(self, embedder: int) -> int:
        """How many pieces another embedder, or none, made the vector of."""
        ((count,),) = self.run("SELECT count(*) FROM pieces WHERE embedder IS NOT ?", (embedder,))
        return int(count)
