"""The dead letters of a deployment's journals: taken in hand by one command at a time, beside their owners.

Also what `remanence journal export` writes: JSON lines, the first `{"remanence":"dead-letters","version":1}`,
the last `{"remanence":"end","records":n}`, and between them one letter each:

    {"op_id":"…","key":"memory:x","reason":"…","at":1760000000.0,"journal":"…","write":{"kind":"put",…}}

`write` is the whole write. `encoding` says what its `value`, `items` or `default` are: "json" as they are;
"text", a JSON string with the text; "packed", the document that packed bytes hold; "base64", the bytes.
`ttl` is seconds, null for ever, "keep" where the lifetime was to stay as it was.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from remanence.commands.journals import JournalFile
from remanence.commands.transfer import encoding_of
from remanence.errors import InvalidArgument, RemanenceError
from remanence.model import KEEP_TTL, NEVER, Append, Blank, Delete, Forget, Patch, Put, Touch, Write
from remanence.settings import Settings
from remanence.stores.outcomes import DEAD_LETTERS, UNSURE, data_of, listed, newest, set_reason, take_out
from remanence.stores.rows import Outcome, read_write
from remanence.stores.shelf import Lock
from remanence.wire import codec
from remanence.wire.sqlite import Database, FileDamaged

VERSION: Final = 1
EVERY: Final = 1 << 62
"""As a limit: none."""


class LetterBox:
    """The dead letters of some journals, oldest first. A context manager, for the files it opens."""

    def __init__(self, files: Sequence[JournalFile]) -> None:
        """Of `files` as they were surveyed: those that can be read and have dead letters."""
        self._paths = [file.path for file in files if file.dead and not file.problem and Path(file.path).exists()]
        self._stack = ExitStack()
        self._places: dict[str, list[Database]] = {}
        self.letters: list[Outcome] = []

    def __enter__(self) -> "LetterBox":
        with ExitStack() as stack:
            for path in self._paths:
                database = Database(path)
                stack.callback(database.close)
                found = listed(database, DEAD_LETTERS, EVERY)
                self.letters += found
                for letter in found:  # a journal and its copy hold the same
                    self._places.setdefault(letter.op_id, []).append(database)
            self.letters = newest(self.letters, EVERY)[::-1]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def chosen(self, op_ids: Sequence[str]) -> list[Outcome]:
        """The letters of these ids. Raises `InvalidArgument` naming the first that is none."""
        known = {letter.op_id: letter for letter in self.letters}
        for op_id in op_ids:
            if op_id not in known:
                raise InvalidArgument(f"no dead letter has the operation id {op_id}: see `remanence journal dead`")
        return [known[op_id] for op_id in dict.fromkeys(op_ids)]

    def journal_of(self, op_id: str) -> str:
        """The name of the file that has it."""
        return Path(self._places[op_id][0].path).name

    def write_of(self, op_id: str) -> Write | None:
        """What it would have written; None where that cannot be read, or it is no longer there."""
        data = data_of(self._places[op_id][0], op_id)
        try:
            return None if data is None else read_write(data)
        except FileDamaged:
            return None

    def raw(self, op_id: str) -> bytes:
        """Its write as the file has it."""
        return data_of(self._places[op_id][0], op_id) or b""

    def set_reason(self, op_id: str, reason: str) -> None:
        """Give it another reason, in every file that has it."""
        for database in self._places[op_id]:
            set_reason(database, op_id, reason)

    def take_out(self, op_id: str) -> None:
        """Remove it for good, from every file that has it."""
        for database in self._places.get(op_id, []):
            take_out(database, op_id)


def take_out_of(files: Sequence[JournalFile], op_id: str) -> None:
    """Remove a dead letter for good from whichever journal has it."""
    for file in files:
        if file.dead and not file.problem and Path(file.path).exists():
            database = Database(file.path)
            try:
                take_out(database, op_id)
            finally:
                database.close()


def is_unsure(letter: Outcome) -> bool:
    """Whether a retry of it was cut short, so that it may have been applied."""
    return letter.reason.startswith(UNSURE)


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Keep every other such command out, or two would hand in the same letter. Raises `InvalidArgument`."""
    folder = settings.folder / "journals"
    if not folder.is_dir():
        yield
        return
    try:
        lock = Lock(folder / "dead-letters.lock")
    except BlockingIOError:
        raise InvalidArgument("another command is at work on these dead letters: wait for its end") from None
    try:
        yield
    finally:
        lock.release(delete=True)


# --- export -------------------------------------------------------------------------------------


def head() -> bytes:
    """The first line."""
    return b'{"remanence":"dead-letters","version":%d}\n' % VERSION


def line_of(letter: Outcome, journal: str, write: Write | None, raw: bytes) -> bytes:
    """A letter's line; where its write cannot be read, `raw` as it is."""
    told = {
        "op_id": letter.op_id,
        "key": letter.key,
        "reason": letter.reason,
        "at": letter.wall,
        "journal": journal,
        "write": _written(write) if write is not None else {"kind": "unreadable", **_one("value", raw, packed=False)},
    }
    return msgspec.json.encode(told) + b"\n"


def _written(write: Write) -> dict[str, Any]:
    told: dict[str, Any] = {"kind": type(write).__struct_config__.tag}
    match write:
        case Put(_, body, ttl, base):
            return {**told, **_one("value", body), "ttl": _ttl(ttl), "base": base}
        case Append(_, items, ttl):
            encoding = encoding_of(items)
            return {**told, "items": [_as(item, encoding) for item in items], "encoding": encoding, "ttl": _ttl(ttl)}
        case Patch(_, edits, ttl, default):
            start = _one("default", default) if default is not None else {"default": None}
            steps = [{"path": e.path, "verb": e.verb, **_one("args", e.args, packed=False)} for e in edits]
            return {**told, "edits": steps, **start, "ttl": _ttl(ttl)}
        case Delete(_, base):
            return {**told, "base": base}
        case Touch(_, ttl):
            return {**told, "ttl": _ttl(ttl)}
        case Blank() | Forget():
            return told


def _one(name: str, data: bytes, *, packed: bool = True) -> dict[str, Any]:
    encoding = encoding_of([data])
    if encoding != "json" and packed:
        try:
            text = json.dumps(codec.unpack(data, name), ensure_ascii=False, allow_nan=False)
            return {name: msgspec.Raw(text.encode()), "encoding": "packed"}
        except (RemanenceError, TypeError, ValueError):  # bytes of another kind: as they are
            pass
    return {name: _as(data, encoding), "encoding": encoding}


def _as(data: bytes, encoding: str) -> Any:
    if encoding == "json":
        return msgspec.Raw(data)
    return data.decode() if encoding == "text" else base64.b64encode(data).decode()


def _ttl(ttl: int) -> float | str | None:
    return "keep" if ttl == KEEP_TTL else None if ttl == NEVER else ttl / 1000
