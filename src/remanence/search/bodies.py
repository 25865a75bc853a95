"""What an index's file holds beside the index: the memories themselves as they were last seen, and how far the
change log was followed. So that a memory is found and read while its server is away.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from remanence.wire.sqlite import Database, FileDamaged

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS bodies (
    id TEXT PRIMARY KEY,
    etag TEXT NOT NULL,
    body BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS followed (
    what TEXT PRIMARY KEY,
    cursor TEXT NOT NULL
) WITHOUT ROWID;
"""


class Body(msgspec.Struct, frozen=True):
    """A memory as it was last seen; another `etag` is another version."""

    id: str
    etag: str
    body: bytes


class Bodies:
    """The rows of one connection; its owner holds the index's mutex."""

    def __init__(self, database: Database) -> None:
        """Speak to `database`."""
        self._database = database

    def prepare(self) -> None:
        """Make the tables where there are none."""
        for statement in _TABLES.split(";"):
            if statement.strip():
                self._database.run(statement)

    def put(self, found: Sequence[Body], over: Mapping[str, str]) -> set[str]:
        """Keep these where their versions here are still those of `over`, which lacks what was not here.

        Returns the ids of the others. Within one transaction: other processes put theirs in meanwhile.
        """
        changed = self._changed([each.id for each in found], over)
        rows = [(each.id, each.etag, smaller(each.body)) for each in found if each.id not in changed]
        self._database.many("REPLACE INTO bodies VALUES (?, ?, ?)", rows)
        return changed

    def _changed(self, ids: Sequence[str], over: Mapping[str, str]) -> set[str]:
        now = self.versions(ids)
        return {id for id in ids if now.get(id, "") != over.get(id, "")}

    def get(self, ids: Sequence[str]) -> dict[str, Body]:
        """Those of these ids that are here."""
        rows = self._database.run(
            "SELECT id, etag, body FROM bodies WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(ids),)
        )
        return {id: Body(id, etag, whole(body)) for id, etag, body in rows}

    def versions(self, ids: Sequence[str]) -> dict[str, str]:
        """The versions of those of these ids that are here."""
        sql = "SELECT id, etag FROM bodies WHERE id IN (SELECT value FROM json_each(?))"
        return dict(self._database.run(sql, (json.dumps(ids),)))

    def etags(self, beginning: str) -> dict[str, str]:
        """The version of each whose id begins like this."""
        return dict(self._database.run("SELECT id, etag FROM bodies WHERE id >= ? AND id < ?", _span(beginning)))

    def last(self, beginning: str, more: int) -> tuple[int, str]:
        """How many ids are this and `more` bytes, and the version of the last of them, "" where there is none."""
        wanted = "FROM bodies WHERE id >= ? AND id < ? AND length(CAST(id AS BLOB)) = ?"
        span = (*_span(beginning), len(beginning.encode()) + more)
        ((count,),) = self._database.run(f"SELECT count(*) {wanted}", span)
        rows = self._database.run(f"SELECT etag {wanted} ORDER BY id DESC LIMIT 1", span)
        return count, rows[0][0] if rows else ""

    def remove(self, ids: Sequence[str], over: Mapping[str, str] | None = None) -> set[str]:
        """Keep these no more; with `over`, as `put` does."""
        changed = set() if over is None else self._changed(ids, over)
        gone = json.dumps([id for id in ids if id not in changed])
        self._database.run("DELETE FROM bodies WHERE id IN (SELECT value FROM json_each(?))", (gone,))
        return changed

    def gone(self, limit: int) -> list[str]:
        """Some of those that the index does not know any more."""
        sql = "SELECT id FROM bodies WHERE id NOT IN (SELECT id FROM documents) LIMIT ?"
        return [id for (id,) in self._database.run(sql, (limit,))]

    def cursor(self, what: str) -> str | None:
        """How far the change log was followed, None before the first time."""
        rows = self._database.run("SELECT cursor FROM followed WHERE what = ?", (what,))
        return rows[0][0] if rows else None

    def reached(self, what: str, cursor: str) -> None:
        """Note how far it was followed."""
        self._database.run("REPLACE INTO followed VALUES (?, ?)", (what, cursor))


def _span(beginning: str) -> tuple[str, str]:
    """From which id to which (excluded) all begin like this. SQLite compares the bytes of UTF-8."""
    return beginning, beginning + chr(0x10FFFF)


_OFTEN: Final = (
    b'merged_intomerged_fromtimes_validatedsource_episodestimes_executedtimes_succeededtotal_microseconds"metadata":{'
    b'"role":"assistant","content":"role":"user","timestamp":"2026-step_numberactionobservationreasoningtool_callserror'
    b"preconditionspostconditionsaction_sequencedescriptionskill_nameskillexamplesconfidencecontextpatternsemantictrust"
    b"error_messagestools_usedoriginal_tokenscompressed_tokensstepstask_idduration_secondssuccessoutcometask_prompt"
    b"sourceexpires_atagent_idsession_idtagsimportanceaccess_countlast_accessedupdated_atcreated_atmemory_idtypeepisodic"
)
"""What most bodies hold beside their text: zlib's dictionary. Another one could not read what this one wrote."""
_DEFLATED: Final = b"d"
_AS_IS: Final = b"r"


def smaller(body: bytes) -> bytes:
    """A body as it lies in the file: compressed, where that helps."""
    stream = zlib.compressobj(level=3, zdict=_OFTEN)
    found = stream.compress(body) + stream.flush()
    return _DEFLATED + found if len(found) < len(body) else _AS_IS + body


def whole(stored: bytes) -> bytes:
    """The body again. Raises `FileDamaged`."""
    if stored[:1] == _AS_IS:
        return stored[1:]
    try:
        return zlib.decompressobj(zdict=_OFTEN).decompress(stored[1:])
    except zlib.error as error:
        raise FileDamaged("the search index is damaged: a memory in it does not decompress") from error
