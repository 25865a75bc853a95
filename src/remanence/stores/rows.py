"""What a journal consists of: rows, lineages, and writes without effect."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import msgspec

from remanence.model import Put, Receipt, Write
from remanence.wire.sqlite import FileDamaged

encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Write).decode
TAGS = frozenset(str(kind.__struct_config__.tag) for kind in get_args(Write))


class Row(msgspec.Struct, frozen=True):
    """A journalled write: its row number, identity, and when it was made."""

    n: int
    op_id: str
    hlc: int
    write: Write
    wall: float
    boot: float
    size: int


@dataclass
class Lineage:
    """One history in the file, as it stands now."""

    name: str
    first: int
    count: int
    acked: int = 0
    pruned: int = 0
    pruned_id: str = ""
    boot_id: str = ""
    print: str = ""

    @property
    def pending(self) -> int:
        """Writes the server does not have yet."""
        return self.count - self.acked

    @property
    def kept(self) -> int:
        """Writes that are still in the file, applied or not."""
        return self.count - self.pruned

    def row(self, seq: int) -> int:
        """The row number of write `seq`."""
        return self.first + seq - 1

    @property
    def end(self) -> int:
        """The row number of the last write."""
        return self.first + self.count - 1


class Outcome(msgspec.Struct, frozen=True):
    """A write without effect, kept for people; never what it would have stored.

    `kind` is conflict, stale, rejected, merged or dead, `wall` the time in seconds since the epoch at which that became
    known, `write` what was tried: put, patch, delete, append or touch; "unreadable" where the journal's row is.
    """

    op_id: str
    key: str
    kind: str
    reason: str
    wall: float
    write: str


Settled = tuple[int, Receipt]
"""What became of a row."""


class Draft(msgspec.Struct, frozen=True):
    """Rows about to be committed, and their writes as the file will have them."""

    rows: list[Row]
    encoded: list[bytes]
    size: int


def forked_name(lineage: Lineage, keep: int, op_id: str) -> str:
    """What the writes of a lineage behind `keep` are called, the first of which is `op_id`.

    Two copies that lose the same race derive the same name, so that the server takes their common writes once.
    """
    return hashlib.blake2b(f"{lineage.name} {keep} {op_id}".encode(), digest_size=12).hexdigest()


def is_blind(write: Write) -> bool:
    """Whether a write replaces a whole record whatever it was."""
    return type(write) is Put and write.base is None


def read_row(raw: Sequence[Any]) -> Row:
    """A row as the file has it. Raises `FileDamaged` where its write cannot be read."""
    n, op_id, hlc, data, wall, boot = raw
    return Row(n, op_id, hlc, read_write(data), wall, boot, len(data))


def kind_of(data: bytes) -> str:
    """What kind of write this is, by its first 16 bytes as the file has them: an array that begins with its tag."""
    if len(data) > 1 and data[0] & 0xF0 == 0x90 and data[1] & 0xE0 == 0xA0:
        tag = data[2 : 2 + (data[1] & 0x1F)].decode("ascii", "replace")
        if tag in TAGS:
            return tag
    return "unreadable"


def read_write(data: bytes) -> Write:
    """A write as the file has it. Raises `FileDamaged` where it cannot be read."""
    try:
        write: Write = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FileDamaged("a row of the journal cannot be read") from error
    return write
