"""A disk in memory under the real SQLite: what was not synced may be lost or torn when the power fails.

`Disk` is one machine's folder. SQLite reaches it through the VFS `VFS`, under paths that `Disk.path`
makes. Processes open files as a `Holder`; once that is dead, its handles can read but change nothing,
as if the process had been killed at that write. There is no shared memory: open databases `exclusive`.
"""

import itertools
import random
from collections.abc import Callable
from typing import Any

import apsw

SECTOR = 512
"""What a disk writes whole or not at all."""
VFS = "remanence-simulated"
_disks: dict[str, "Disk"] = {}
_names = itertools.count(1)


class Dead(BaseException):
    """Raised out of a write by a process that has been killed."""


class Holder:
    """Who opens files: a process that can die, also in the middle of a transaction."""

    def __init__(self, died: Callable[[], None] = lambda: None) -> None:
        """`died` is called when `die_after` has counted down."""
        self.alive = True
        self._died = died
        self._left: int | None = None

    def die_after(self, writes: int) -> None:
        """Let the process be killed at its next write but `writes`."""
        self._left = writes

    def write(self) -> None:
        """Account for one write. Raises `Dead`."""
        if self._left is not None:
            self._left -= 1
            if self._left < 0 and self.alive:
                self.alive = False
                self._died()
        if not self.alive:
            raise Dead


class File:
    """What the operating system has of a file, and what of it has not reached the disk."""

    def __init__(self, inode: int, content: bytes = b"") -> None:
        self.inode = inode
        self.content = bytearray(content)
        self._synced = bytearray(content)
        self._unsynced: list[tuple[int, bytes | None]] = []

    def write(self, offset: int, data: bytes) -> None:
        """Write into the operating system's cache."""
        missing = offset - len(self.content)
        if missing > 0:
            self.content.extend(bytes(missing))
        self.content[offset : offset + len(data)] = data
        self._unsynced.append((offset, data))

    def truncate(self, size: int) -> None:
        """Cut or lengthen."""
        _resize(self.content, size)
        self._unsynced.append((size, None))

    def sync(self) -> None:
        """What was written is on the disk."""
        for offset, data in self._unsynced:
            _put(self._synced, offset, data)
        self._unsynced.clear()

    @property
    def unsynced(self) -> int:
        """How many writes would be at risk."""
        return len(self._unsynced)

    def lose_power(self, chance: random.Random, *, tail: bool) -> None:
        """Keep of each unsynced write all, a part, or nothing. With `tail`, all up to some moment."""
        keep = chance.randrange(len(self._unsynced) + 1)
        for at, (offset, data) in enumerate(self._unsynced):
            fate = ("all" if at < keep else "none") if tail else chance.choice(("all", "all", "torn", "none"))
            if data is not None and fate == "torn":
                _put(self._synced, offset, _torn(offset, data, chance))
            elif fate == "all":
                _put(self._synced, offset, data)
        self._unsynced.clear()
        self.content = bytearray(self._synced)


def _resize(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


def _put(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        _resize(content, offset)
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _torn(offset: int, data: bytes, chance: random.Random) -> bytes:
    """The beginning of `data`, up to the end of some sector."""
    end = (offset + chance.randrange(len(data) + 1)) // SECTOR * SECTOR
    return data[: max(0, end - offset)]


class Disk:
    """One machine's folder of files. `close` it when done."""

    def __init__(self) -> None:
        self.name = f"disk{next(_names)}"
        self.files: dict[str, File] = {}
        self.full = False
        """Whether there is no room for what is written. Files other than logs may still grow: SQLite says
        nothing of a checkpoint that fails after a commit, but here the commit itself would seem to fail.
        """
        self._holders: dict[str, Holder] = {}
        self._inodes = itertools.count(1)
        _register()
        _disks[self.name] = self

    def close(self) -> None:
        """Forget everything."""
        _disks.pop(self.name, None)

    def path(self, name: str) -> str:
        """The path by which SQLite reaches the file `name`."""
        return f"/{self.name}/{name}"

    def create(self, name: str, content: bytes = b"") -> File:
        """Make a file with an inode of its own, replacing what had the name."""
        self.files[name] = File(next(self._inodes), content)
        return self.files[name]

    def hold(self, name: str, holder: Holder) -> None:
        """Files opened as `name`, and those SQLite keeps beside it, are `holder`'s from now on."""
        self._holders[name] = holder

    def holder(self, name: str) -> Holder:
        """Whose file it is."""
        return self._holders[name.removesuffix("-wal").removesuffix("-journal")]

    def beside(self, name: str) -> list[str]:
        """The file and those SQLite keeps beside it, as far as they exist."""
        return [each for each in (name, f"{name}-wal", f"{name}-journal") if each in self.files]

    def rename(self, name: str, to: str) -> None:
        """Rename a file and those beside it."""
        for each in self.beside(name):
            self.files[to + each.removeprefix(name)] = self.files.pop(each)

    def delete(self, name: str) -> None:
        """Delete a file and those beside it."""
        for each in self.beside(name):
            del self.files[each]

    def copy(self, name: str) -> dict[str, bytes]:
        """The content of a file and those beside it, by what they add to its name: a backup."""
        return {each.removeprefix(name): bytes(self.files[each].content) for each in self.beside(name)}

    def restore(self, name: str, backup: dict[str, bytes], *, same_inode: bool) -> None:
        """Put a backup in place, as a new file or written over the one that is there."""
        inode = self.files[name].inode if same_inode and name in self.files else next(self._inodes)
        self.delete(name)
        for suffix, content in backup.items():
            self.files[name + suffix] = File(inode if not suffix else next(self._inodes), content)

    def garble(self, name: str, chance: random.Random, times: int) -> None:
        """Change bytes at random places of a file."""
        file = self.files[name]
        for _ in range(times if file.content else 0):
            file.write(chance.randrange(len(file.content)), chance.randbytes(8))
        file.sync()

    def lose_power(self, chance: random.Random) -> None:
        """Of what was not synced, keep what chance leaves."""
        tail = chance.random() < 0.5
        for file in self.files.values():
            file.lose_power(chance, tail=tail)

    def open(self, name: str) -> "_Handle":
        """For SQLite."""
        holder = self.holder(name)
        if name not in self.files:
            self._admit(holder)
            self.create(name)
        return _Handle(self, self.files[name], holder, is_log=name.endswith("-wal"))

    def _admit(self, holder: Holder) -> None:
        holder.write()
        if self.full:
            raise apsw.FullError("disk full")


class _Handle:
    """An open file, with the methods that apsw calls."""

    def __init__(self, disk: Disk, file: File, holder: Holder, *, is_log: bool) -> None:
        self._disk = disk
        self._file = file
        self._holder = holder
        self._is_log = is_log
        self._level = 0

    def xRead(self, amount: int, offset: int) -> bytes:
        return bytes(self._file.content[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:
        self._holder.write()
        if self._disk.full and self._is_log and offset + len(data) > len(self._file.content):
            raise apsw.FullError("disk full")
        self._file.write(offset, bytes(data))

    def xTruncate(self, size: int) -> None:
        self._holder.write()
        self._file.truncate(size)

    def xSync(self, flags: int) -> None:
        self._holder.write()
        self._file.sync()

    def xFileSize(self) -> int:
        return len(self._file.content)

    def xLock(self, level: int) -> None:
        self._level = level

    def xUnlock(self, level: int) -> None:
        self._level = level

    def xCheckReservedLock(self) -> bool:
        return self._level >= apsw.SQLITE_LOCK_RESERVED

    def xFileControl(self, op: int, pointer: int) -> bool:
        return False

    def xSectorSize(self) -> int:
        return SECTOR

    def xDeviceCharacteristics(self) -> int:
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE

    def xClose(self) -> None:
        """Nothing: the file outlives its handles."""


class _DiskVFS(apsw.VFS):
    """Hands SQLite's requests to the disk that a path names."""

    def __init__(self) -> None:
        super().__init__(VFS, "")

    def xFullPathname(self, name: str) -> str:
        return name

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> Any:
        assert name is not None, "temporary files are kept in memory"
        flags[1] = flags[0]
        disk, file = _place(name if isinstance(name, str) else name.filename())
        return disk.open(file)

    def xDelete(self, name: str, sync: bool) -> None:
        disk, file = _place(name)
        disk.holder(file).write()
        disk.files.pop(file, None)  # which a connection that was never closed may find gone

    def xAccess(self, name: str, flags: int) -> bool:
        disk, file = _place(name)
        return file in disk.files


def _place(path: str) -> tuple[Disk, str]:
    _, disk, name = path.split("/", 2)
    return _disks[disk], name


def _register() -> None:
    """Make the VFS known to SQLite, once."""
    global _vfs
    if _vfs is None:
        _vfs = _DiskVFS()


_vfs: _DiskVFS | None = None
