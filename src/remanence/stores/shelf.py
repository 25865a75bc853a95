"""The folder of journals: which is whose, which were left behind, which are damaged.

Each process holds a lock beside its journal's file for as long as it lives. A file whose lock is free
was left by a process that ended: it is claimed whole or its writes are sent by somebody else.
"""

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from remanence import events
from remanence.errors import CorruptRecord, JournalUnusable
from remanence.protocols import Runtime
from remanence.settings import Settings
from remanence.stores.journal import Journal
from remanence.stores.mirror_file import MirrorFile
from remanence.wire.sqlite import Database, FileDamaged, usable_folder

_inherited: set[str] = set()
"""Journals that this process's parent had open when it forked. SQLite believes in the child that their locks
are held already and would take none: another process of the machine may send them, this one never."""


class Lock:
    """An exclusive advisory lock on a file, held until released or the process ends.

    `excludes`: whether it keeps others out. On some file systems anybody can have such a lock.
    """

    def __init__(self, path: Path) -> None:
        """Raises BlockingIOError when another holds it."""
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._fd).st_nlink == 0:  # deleted by its last holder while we waited
                raise BlockingIOError
            self.excludes = not self._can_be_had()
        except BaseException:  # interrupted too: the lock lasts as long as the file is open
            os.close(self._fd)
            raise

    def _can_be_had(self) -> bool:
        other = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(other)
        return True

    def release(self, *, delete: bool = False) -> None:
        """Let others have it; after `fork` this closes the child's share and leaves the parent's."""
        if delete:
            with contextlib.suppress(OSError):  # gone already: as wished
                self._path.unlink()
        os.close(self._fd)


class Shelf:
    """One deployment's folder of journals. Not thread-safe."""

    def __init__(self, folder: Path | None, runtime: Runtime, settings: Settings, tell: events.Events) -> None:
        """`folder` None: journals live in memory alone."""
        self._folder = folder
        self._runtime = runtime
        self._settings = settings
        self._tell = tell
        self._locks: dict[str, Lock] = {}
        self._mirror_lock: Lock | None = None
        self._mirror_path = ""

    def own(self) -> Journal:
        """A journal to write to: one that was left behind, or a new one.

        Raises `JournalUnusable` saying what is wrong with the folder, unless volatile running is allowed.
        """
        if self._folder is None:
            return self._volatile()
        try:
            usable_folder(self._folder)
            return self._claim(self._folder) or self._new(self._folder)
        except JournalUnusable:
            if not self._settings.allow_volatile:
                raise
            self._folder = None
            return self._volatile()

    def mirror(self) -> MirrorFile:
        """A mirror that was left behind, or a new one; a damaged one is deleted, for it can be filled again."""
        if self._folder is None:
            return self._mirror_at(":memory:")
        number, path = 0, self._folder
        while self._mirror_lock is None:
            path = self._folder / f"{number}.mirror"
            number += 1
            if str(path) not in _inherited:
                with contextlib.suppress(BlockingIOError):  # another process follows into that one
                    self._mirror_lock = Lock(path.with_suffix(".mirror-lock"))
        self._mirror_path = str(path)
        try:
            return self._mirror_at(str(path))
        except FileDamaged:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            return self._mirror_at(str(path))

    def _mirror_at(self, path: str) -> MirrorFile:
        settings = self._settings
        return MirrorFile(
            Database(path), records=settings.mirror_records, size=settings.mirror_bytes, evict=settings.mirror_evict
        )

    def release_mirror(self) -> None:
        """Let others have the mirror's file, which is closed."""
        if self._mirror_lock is not None:
            self._mirror_lock.release()
            self._mirror_lock = None

    def orphans(self) -> Iterator[Journal]:
        """Journals that ended processes left, each this process's when it is given: one that fails loses no other."""
        while self._folder is not None and (journal := self._claim(self._folder)):
            yield journal

    def _volatile(self) -> Journal:
        return Journal(Database(":memory:"), self._runtime, self._runtime.boot_id())

    def _claim(self, folder: Path) -> Journal | None:
        for path in sorted(folder.glob("*.journal")):
            if str(path) in self._locks or str(path) in _inherited:
                continue
            try:
                lock = Lock(path.with_suffix(".lock"))
            except OSError:  # somebody's, or not ours to read
                continue
            if not path.exists():
                lock.release(delete=True)
                continue
            journal = self._opened(path, lock)
            if journal is not None:
                return journal
        return None

    def _new(self, folder: Path) -> Journal:
        path = folder / f"{int(time.time()):x}-{secrets.token_hex(6)}.journal"
        try:
            lock = Lock(path.with_suffix(".lock"))
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError as error:
            raise JournalUnusable(
                f"no file can be made in {folder} ({(error.strerror or 'no reason given').lower()}): "
                "free some space, or set REMANENCE_PATH to a folder that can be written"
            ) from error
        journal = self._opened(path, lock)
        if journal is None:
            raise JournalUnusable(f"a new journal in {folder} cannot be read back: check the disk")
        return journal

    def _opened(self, path: Path, lock: Lock) -> Journal | None:
        """The journal in `path`; a damaged one is set aside and None returned."""
        try:
            journal = self._checked(path)
        except FileDamaged as error:
            if self._settings.on_corrupt == "raise":
                lock.release()
                raise CorruptRecord(f"{error}. Move it away, or set REMANENCE_ON_CORRUPT=set_aside") from error
            self.set_aside(path, str(error))
            lock.release(delete=True)
            return None
        except BaseException:
            lock.release()
            raise
        journal.shared = not lock.excludes
        self._locks[str(path)] = lock
        return journal

    def _checked(self, path: Path) -> Journal:
        database = Database(str(path), full=self._settings.durability == "full")
        try:
            journal = Journal(database, self._runtime, fingerprint(path, self._runtime.boot_id()))
            complaint = "" if journal.clean else database.healthy()
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one that matters
                database.close()
            raise
        if complaint:
            database.close()
            raise FileDamaged(f"{path} is damaged: {complaint}")
        return journal

    def set_aside(self, path: Path, reason: str) -> None:
        """Rename a damaged journal so that nothing reads it as one, and say so."""
        kept = path.with_name(f"{path.name}.damaged-{int(self._runtime.wall())}-{secrets.token_hex(3)}")
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{path}{suffix}", f"{kept}{suffix}")
        self._tell.tell(events.JournalSetAside(str(path), str(kept), reason))

    def retire(self, journal: Journal, reason: str) -> None:
        """Set a journal aside that turned out damaged in use."""
        with contextlib.suppress(Exception):  # damaged: closing may fail as well
            journal.database.close()
        if self._folder is not None:
            self.set_aside(Path(journal.path), reason)
            self._unlock(journal, delete=True)

    def replace(self, journal: Journal, reason: str) -> Journal:
        """Set a journal aside that turned out damaged in use, and return a new one."""
        self.retire(journal, reason)
        return self._volatile() if self._folder is None else self._new(self._folder)

    def release(self, journal: Journal, *, discard: bool = False) -> None:
        """Close a journal and let others have it; `discard` deletes it."""
        journal.close()
        if discard and journal.path in self._locks:
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{journal.path}{suffix}")
        self._unlock(journal, delete=discard)

    def _unlock(self, journal: Journal, *, delete: bool) -> None:
        lock = self._locks.pop(journal.path, None)
        if lock is not None:
            lock.release(delete=delete)

    def after_fork(self) -> None:
        """In a child: let go of the parent's locks without touching its files."""
        _inherited.update([*self._locks, self._mirror_path])
        for lock in self._locks.values():
            lock.release()
        self._locks.clear()
        self.release_mirror()


def fingerprint(path: Path, boot_id: str) -> str:
    """What changes when a journal was copied, restored, or may have lost its tail with the power."""
    try:
        machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except OSError:
        machine = ""
    status = path.stat()
    return f"{machine} {boot_id} {status.st_dev} {status.st_ino}"
