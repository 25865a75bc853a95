"""What `doctor` checks on this machine: the folder, the journals, the embedded file."""

import os
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from remanence.commands.journals import JournalFile
from remanence.commands.output import sized
from remanence.engine import BlockingEngine
from remanence.errors import RemanenceError
from remanence.runtime.blocking import run
from remanence.settings import Settings
from remanence.wire.sqlite import LOG_HELD, NETWORK_FILESYSTEMS, filesystem, log_bytes, version

State = Literal["ok", "warn", "fail"]
OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"

SAFE_SQLITE: Final = (3, 51, 3)
"""From here on resetting a write-ahead log cannot damage the file."""
ENOUGH_BYTES: Final = 1 << 30
SCARCE_BYTES: Final = 16 << 20


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at: what was found, and what to do about it."""

    name: str
    state: State
    found: str
    advice: str = ""


def folder_checks(settings: Settings) -> list[Check]:
    """Whether local files can be kept: nothing is made that is not there."""
    if settings.backend == "memory" or (settings.backend == "redis" and settings.durability == "volatile"):
        return [Check("folder", OK, "not needed: nothing is kept on disk")]
    found = [_writable(settings.folder)]
    existing = _nearest(settings.folder)
    found.append(judge_filesystem(filesystem(existing)))
    found.append(judge_space(shutil.disk_usage(existing).free, settings.journal_bytes))
    found.append(judge_sqlite(version()))
    return found


def _nearest(folder: Path) -> Path:
    """The folder, or the first one above it that exists."""
    return next((each for each in (folder, *folder.parents) if each.is_dir()), Path("/"))


def _writable(folder: Path) -> Check:
    existing = _nearest(folder)
    if not os.access(existing, os.W_OK | os.X_OK):
        return Check(
            "folder",
            FAIL,
            f"{folder} cannot be written",
            "set REMANENCE_PATH (or --path) to a folder that can be",
        )
    if existing != folder:
        return Check("folder", OK, f"{folder} will be made with the first write")
    return Check("folder", OK, f"{folder} can be written")


def judge_filesystem(kind: str) -> Check:
    """Whether SQLite is safe on a file system of this kind."""
    if kind in NETWORK_FILESYSTEMS or kind.startswith("fuse."):
        return Check(
            "file system",
            FAIL,
            f"{kind}: files may be shared between hosts",
            "set REMANENCE_PATH to a local disk",
        )
    if kind in ("tmpfs", "ramfs"):
        return Check("file system", WARN, f"{kind}: gone when the machine restarts", "set REMANENCE_PATH to a disk")
    if kind == "overlay":
        return Check(
            "file system",
            WARN,
            "overlay: gone with the container",
            "set REMANENCE_PATH to a volume that outlives it",
        )
    return Check("file system", OK, kind or "the platform does not tell its kind")


def judge_space(free: int, journal_bytes: int) -> Check:
    """Whether there is room for what may have to wait."""
    if free < SCARCE_BYTES:
        return Check("disk space", FAIL, f"{sized(free)} free", "free some: writes will fail while the server is away")
    wanted = min(ENOUGH_BYTES, journal_bytes)
    if free < wanted:
        advice = f"an outage may need up to {sized(journal_bytes)} (REMANENCE_JOURNAL_BYTES)"
        return Check("disk space", WARN, f"{sized(free)} free", advice)
    return Check("disk space", OK, f"{sized(free)} free")


def judge_sqlite(found: str) -> Check:
    """Whether SQLite is free of the fault that damages files."""
    if tuple(int(part) for part in found.split(".")[:3]) < SAFE_SQLITE:
        return Check("SQLite", FAIL, f"{found} may damage its write-ahead log", "pip install --upgrade apsw")
    return Check("SQLite", OK, found)


def place_checks(settings: Settings, engine: BlockingEngine) -> list[Check]:
    """The embedded file, or a word on memories that end with the process."""
    if settings.backend == "memory":
        return [
            Check(
                "memories",
                WARN,
                "kept in the process, and gone with it",
                "use backend sqlite or redis to keep them",
            )
        ]
    if settings.backend != "sqlite":
        return []
    if not Path(engine.place).exists():
        return [Check("memories", OK, "none yet: the file is made with the first write")]
    try:
        facts = run(engine.gateway.store.facts(time.monotonic() + settings.deadline))
    except RemanenceError as error:
        return [Check("memories", FAIL, str(error))]
    return [Check("memories", OK, f"{facts['keys']} keys in {sized(int(facts['used_memory']))}")]


def log_checks(files: Iterable[Path]) -> list[Check]:
    """The files whose write-ahead log has grown long, for somebody reads an old view of them."""
    sizes = [(path, log_bytes(str(path))) for path in sorted(files)]
    advice = "end what has the file open and does nothing (`lsof` names it); the next writes then empty the log"
    return [
        Check("reader", WARN, f"{path.name}: its write-ahead log cannot be emptied and has {sized(size)}", advice)
        for path, size in sizes
        if size > LOG_HELD
    ]


def journal_checks(journals: Sequence[JournalFile], damaged: Sequence[str]) -> list[Check]:
    """Each journal in a line, and those that were set aside."""
    checks = [_journal(each) for each in journals]
    checks += [
        Check(
            "journal",
            WARN,
            f"{path} was damaged and set aside",
            "keep it until nothing is missed, then delete it",
        )
        for path in damaged
    ]
    return checks


def _journal(journal: JournalFile) -> Check:
    name = Path(journal.path).name
    if journal.problem:
        return Check("journal", FAIL, f"{name}: {journal.problem}", f"move it out of {Path(journal.path).parent}")
    owner = "in use" if journal.in_use else "left by a process that ended"
    told = f"{name}: {journal.pending} pending{'' if journal.in_use else ' at most'}, {owner}"
    refused = f"; {journal.refused} write(s) had no effect" if journal.refused else ""
    if journal.dead:
        return Check(
            "journal",
            WARN,
            f"{told}; {journal.dead} dead letter(s){refused}",
            "`remanence journal dead` shows what can never be applied, `journal retry` or `discard` ends it",
        )
    if journal.pending and not journal.in_use:
        advice = "the next agent that opens this deployment here sends them"
        return Check("journal", WARN, told + refused, advice)
    return Check("journal", OK, told + refused, "`remanence conflicts` shows them" if refused else "")
