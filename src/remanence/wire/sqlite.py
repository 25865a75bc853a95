"""The SQLite seam: how local files are opened, and what their errors mean. The only user of apsw.

WAL mode: `synchronous=NORMAL` keeps a commit through the death of the process, `FULL` through the
loss of power (SQLite documentation, "Write-Ahead Logging"). apsw brings its own SQLite, free of the
WAL-reset fault that versions before 3.51.3 have.
"""

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw

from remanence.errors import (
    CorruptRecord,
    DeadlineExceeded,
    JournalFull,
    JournalUnusable,
    RemanenceError,
    Unavailable,
)
from remanence.wire.texts import text_of

NETWORK_FILESYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs"})
"""WAL needs memory shared between processes of one host; these may span several."""

TOKENIZER = ("porter", "unicode61", "remove_diacritics", "2")
"""How FTS5 cuts text into words. Another way would find nothing in files that exist."""

LOG_KEPT = 16 << 20
"""Bytes of the write-ahead log that stay on the disk when it begins anew."""

LOG_HELD = 64 << 20
"""Bytes that it has only where somebody has been reading one old view of the file for long: what was written behind
that view cannot leave the log before the reader ends (SQLite documentation, "Write-Ahead Logging")."""

MOST_ATTEMPTS = 100
"""How often a new file is tried to be switched to WAL mode, 10 ms apart."""


class FileDamaged(CorruptRecord):
    """A local file is not a database, or its pages contradict each other."""


class Database:
    """One connection to one file. Not thread-safe: its owner holds a mutex around each use."""

    def __init__(
        self,
        path: str,
        *,
        full: bool = False,
        busy_timeout: float = 1.0,
        vfs: str | None = None,
        checkpoint_pages: int = 2000,
        read_only: bool = False,
        exclusive: bool = False,
    ) -> None:
        """Open or create `path` (":memory:" for none). `full` waits for the disk at each commit.

        With `read_only` nothing is made or changed; a missing file is an error. `exclusive` keeps everybody
        else out, and needs no memory shared between processes: for a `vfs` that has none.
        """
        self.path = path
        self._tokenizer: apsw.FTS5Tokenizer | None = None
        flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        with errors(path):
            self._connection = apsw.Connection(path, flags=flags, vfs=vfs)
            self._connection.set_busy_timeout(int(busy_timeout * 1000))
            if exclusive:
                self._connection.pragma("locking_mode", "exclusive")  # before WAL mode, or it asks for shared memory
            if not read_only:
                self._configure(full, checkpoint_pages)
            self._cursor = self._connection.cursor()

    def _configure(self, full: bool, checkpoint_pages: int) -> None:
        pragma = self._connection.pragma
        self._write_ahead()
        pragma("synchronous", "full" if full else "normal")
        pragma("wal_autocheckpoint", checkpoint_pages)
        pragma("journal_size_limit", LOG_KEPT)
        pragma("foreign_keys", 0)
        pragma("trusted_schema", 0)
        pragma("temp_store", 2)

    def _write_ahead(self) -> None:
        """Switch to WAL mode. SQLite itself does not wait where several processes do so at once."""
        for attempt in range(MOST_ATTEMPTS):
            try:
                self._connection.pragma("journal_mode", "wal")
                return
            except apsw.BusyError:
                if attempt == MOST_ATTEMPTS - 1:
                    raise
                time.sleep(0.01)

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Execute one statement and return its rows."""
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except apsw.Error as error:
            raise translated(error, self.path) from error
        except UnicodeDecodeError as error:
            raise FileDamaged(f"{self.path} is damaged: it holds text that is none") from error

    def change(self, sql: str, parameters: Sequence[Any]) -> None:
        """Execute one statement that returns no rows."""
        try:
            self._cursor.execute(sql, parameters)
        except apsw.Error as error:
            raise translated(error, self.path) from error

    def script(self, name: str) -> None:
        """Execute the statements of `wire/sql/<name>`."""
        with errors(self.path):
            self._connection.execute(sql_text(name))

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Execute one statement for each row of parameters."""
        with errors(self.path):
            self._connection.executemany(sql, rows)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """BEGIN IMMEDIATE … COMMIT; rolled back whole when anything is raised."""
        try:
            self.run("BEGIN IMMEDIATE")  # in here: it may have begun, and then been interrupted
            yield
            self.run("COMMIT")
        except BaseException:
            self.roll_back()
            raise

    def roll_back(self) -> None:
        """Undo what is under way, if anything is."""
        with suppress(apsw.ConnectionClosedError):  # which has undone it
            if self._connection.in_transaction:
                self.run("ROLLBACK")

    @contextmanager
    def synced(self) -> Iterator[None]:
        """Have the disk hold what is committed inside, whatever the file was opened with."""
        before = self._connection.pragma("synchronous")
        self._connection.pragma("synchronous", "full")
        try:
            yield
        finally:
            self._connection.pragma("synchronous", before)

    def tokens(self, text: str) -> list[str]:
        """The words of a text as the search index keeps them: lower case, without accents, stemmed (Porter)."""
        if self._tokenizer is None:
            self._tokenizer = self._connection.fts5_tokenizer(TOKENIZER[0], list(TOKENIZER[1:]))
        with errors(self.path):
            found = self._tokenizer(
                text.encode("utf-8", "replace"),
                apsw.FTS5_TOKENIZE_DOCUMENT,
                None,
                include_offsets=False,
                include_colocated=False,
            )
        return [str(word) for word in found]

    def changes(self) -> int:
        """How many rows the last statement changed."""
        return self._connection.changes()

    def healthy(self) -> str:
        """What `PRAGMA quick_check` complains of, "" for nothing."""
        try:
            row = self.run("PRAGMA quick_check(1)")
        except FileDamaged as error:
            return str(error)
        return "" if row and row[0][0] == "ok" else str(row[0][0]) if row else "no answer"

    def compact(self) -> None:
        """Write the file anew, without what was deleted, and empty the write-ahead log. Takes as long as a copy."""
        self.run("VACUUM")
        self.checkpoint()

    def checkpoint(self) -> None:
        """Move what the write-ahead log holds into the file and empty it, if no reader is in the way."""
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.Error:
            return  # only tidying; a later commit or the next opening does it

    def relieve(self) -> None:
        """Empty a write-ahead log that has grown long. Raises `LogHeld` where a reader is in the way."""
        if log_bytes(self.path) <= LOG_HELD:
            return
        with errors(self.path):
            frames, moved = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        if frames == moved:  # else emptying it would only wait for the reader
            self.checkpoint()
        if (size := log_bytes(self.path)) > LOG_HELD:
            raise LogHeld(
                f"somebody has been reading an old view of {self.path} for long, and its write-ahead log has grown "
                f"to {size >> 20} MB: end whoever has the file open"
            )

    def close(self) -> None:
        """Close the connection; the last one to close tidies the write-ahead log away."""
        self._connection.close(True)


@contextmanager
def errors(path: str) -> Iterator[None]:
    """Translate apsw's errors of the passage inside."""
    try:
        yield
    except apsw.Error as error:
        raise translated(error, path) from error


def translated(error: apsw.Error, path: str) -> RemanenceError:
    """The error of ours that an apsw error means, with what to do."""
    if isinstance(error, apsw.FullError):
        return JournalFull(f"no room left on the disk for {path}: free some space; nothing was stored")
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return FileDamaged(f"{path} is damaged: {error}")
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return DeadlineExceeded(f"{path} is busy: another process held it past the deadline")
    if isinstance(error, apsw.CantOpenError | apsw.ReadOnlyError | apsw.PermissionsError | apsw.AuthError):
        return JournalUnusable(
            f"{path} cannot be opened for writing: {error}. Set REMANENCE_PATH to a folder that can be"
        )
    if isinstance(error, apsw.IOError):
        return Unavailable(f"the disk failed under {path}: {error}")
    if isinstance(error, apsw.ConstraintError):
        return AlreadyThere(str(error))
    return FileDamaged(f"{path} does not hold what is expected: {error}")


class AlreadyThere(RemanenceError):
    """A row of this number exists: another connection wrote to the same file."""


class LogHeld(RemanenceError):
    """A reader keeps the write-ahead log of a file from being emptied, and it has grown long."""


def log_bytes(path: str) -> int:
    """Bytes of the write-ahead log of the file at `path`; 0 where there is none."""
    try:
        return os.stat(f"{path}-wal").st_size
    except OSError:
        return 0


def sql_text(name: str) -> str:
    """The text of `wire/sql/<name>`."""
    return text_of(f"sql/{name}")


def version() -> str:
    """The version of SQLite in use."""
    return apsw.sqlite_lib_version()


def free_bytes(path: str) -> int:
    """Bytes that the disk of a file has left for us; many for ":memory:" and where the platform does not tell."""
    try:
        found = os.statvfs(path)
    except (OSError, AttributeError):
        return 1 << 62
    return found.f_bavail * found.f_frsize


def filesystem(path: Path) -> str:
    """The kind of file system that holds `path`, "" where the platform does not tell."""
    try:
        table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    best, kind = "", ""
    where = os.path.realpath(path)
    for line in table.splitlines():
        left, _, right = line.partition(" - ")
        mount = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), left.split(" ")[4])
        inside = where == mount or where.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, right.split(" ")[0]
    return kind


def refuse_network(path: Path) -> None:
    """Raise `JournalUnusable` where `path` lies on a file system that may span hosts."""
    kind = filesystem(path)
    if kind in NETWORK_FILESYSTEMS or kind.startswith("fuse."):
        raise JournalUnusable(
            f"{path} is on {kind}, where files may be shared between hosts and a journal would not be safe: "
            "set REMANENCE_PATH to a folder on a local disk or block volume"
        )


def usable_folder(folder: Path) -> None:
    """Make `folder` if need be, for this user alone. Raises `JournalUnusable` saying what is wrong with it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise JournalUnusable(
            f"the folder {folder} cannot be made ({(error.strerror or 'no reason given').lower()}): "
            "set REMANENCE_PATH to one that can be written"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise JournalUnusable(f"the folder {folder} cannot be written: set REMANENCE_PATH to one that can")
    refuse_network(folder)
