"""The export format: JSON lines that hold exactly what is stored, readable by people and by any language.

The first line is `{"remanence":"export","version":1}`, the last `{"remanence":"end","records":n}`. Between
them each line is one record:

    {"key":"memory:x","kind":"document","value":{…},"encoding":"json","ttl":null}
    {"key":"session:s","kind":"list","from":0,"value":[{…},{…}],"encoding":"json","ttl":3599.5}

`encoding` says what values (of a list: each item) are: "json" as they are, byte for byte; "text", a JSON
string with the text; "base64", a JSON string with the bytes. `ttl` is seconds left, null for ever. A long
list goes on in further lines, `from` being the number of items before; so a line is never very long.
Stamps are left out: an import is a new write.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from remanence.errors import CorruptRecord, InvalidArgument, RemanenceError
from remanence.faces.access import MOST_TTL
from remanence.model import NEVER
from remanence.settings import Settings
from remanence.wire import codec
from remanence.wire.keys import final

VERSION: Final = 1
Encoding = Literal["json", "text", "base64"]
ENVELOPE: Final = 1024
"""Bytes that a face may add around a value of the largest size."""
_TRIAL: Final = "A" * 22


class NotAnExport(CorruptRecord):
    """The file, or a line of it, is not what an export holds. The message names the line."""


class Entry(msgspec.Struct, frozen=True):
    """A record or a part of a list: `items` are bytes as stored (of a document one), `ttl` ms, 0 for ever."""

    key: str
    kind: Literal["document", "list"]
    items: tuple[bytes, ...]
    ttl: int = NEVER
    start: int = 0


class _Head(msgspec.Struct):
    remanence: Literal["export"]
    version: int


class _End(msgspec.Struct):
    remanence: Literal["end"]
    records: int


class _Document(msgspec.Struct, tag_field="kind", tag="document", forbid_unknown_fields=True):
    key: str
    value: msgspec.Raw
    encoding: Encoding
    ttl: float | None


class _List(msgspec.Struct, tag_field="kind", tag="list", forbid_unknown_fields=True):
    key: str
    value: list[msgspec.Raw]
    encoding: Encoding
    ttl: float | None
    start: int = msgspec.field(name="from", default=0)


_read_line: Final = msgspec.json.Decoder(_Document | _List).decode
_read_text: Final = msgspec.json.Decoder(str).decode
_is_json: Final = msgspec.json.Decoder(msgspec.Raw).decode


# --- writing ------------------------------------------------------------------------------------


def head() -> bytes:
    """The first line."""
    return b'{"remanence":"export","version":%d}\n' % VERSION


def end(records: int) -> bytes:
    """The last line."""
    return b'{"remanence":"end","records":%d}\n' % records


def line_of(entry: Entry) -> bytes:
    """An entry's line."""
    encoding = encoding_of(entry.items)
    values = [_written(item, encoding) for item in entry.items]
    ttl = b"%.3f" % (entry.ttl / 1000) if entry.ttl > 0 else b"null"
    tail = b',"encoding":"%b","ttl":%b}\n' % (encoding.encode(), ttl)
    key = json.dumps(entry.key, ensure_ascii=False).encode()
    if entry.kind == "document":
        return b'{"key":%b,"kind":"document","value":%b%b' % (key, values[0], tail)
    return b'{"key":%b,"kind":"list","from":%d,"value":[%b]%b' % (key, entry.start, b",".join(values), tail)


def encoding_of(items: Sequence[bytes]) -> Encoding:
    """The most readable encoding that keeps every item byte for byte."""
    if all(map(_embeds, items)):
        return "json"
    try:
        for item in items:
            item.decode()
    except UnicodeDecodeError:
        return "base64"
    return "text"


def _embeds(item: bytes) -> bool:
    """Whether these bytes are JSON of one line that comes back as the very same bytes."""
    if b"\n" in item or b"\r" in item or item.strip(b" \t") != item:
        return False
    try:
        item.decode()
        _is_json(item)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _written(item: bytes, encoding: Encoding) -> bytes:
    if encoding == "json":
        return item
    text = item.decode() if encoding == "text" else base64.b64encode(item).decode()
    return json.dumps(text, ensure_ascii=False).encode()


# --- reading ------------------------------------------------------------------------------------


def check_head(line: bytes, name: str) -> None:
    """Raise `NotAnExport` unless `line` begins an export that this version can read."""
    try:
        found = msgspec.json.decode(line, type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise NotAnExport(f"{name} is not an export of Remanence: its first line does not say so") from None
    if found.version != VERSION:
        raise NotAnExport(
            f"{name} has the export format {found.version}, this version knows {VERSION}: upgrade remanence"
        )


def ending(line: bytes) -> int | None:
    """How many records the export had, where `line` is its last one."""
    if not line.startswith(b'{"remanence":'):
        return None
    try:
        return msgspec.json.decode(line, type=_End).records
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def entry_of(line: bytes, settings: Settings) -> Entry:
    """The entry of a line, wholly checked. Raises a `RemanenceError` that says what is wrong with it."""
    try:
        found = _read_line(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotAnExport(f"it is not a record: {_reason(error)}") from None
    key = final(found.key, "the key", limit=settings.key_bytes)
    raw = [found.value] if isinstance(found, _Document) else found.value
    items = tuple(_stored(bytes(each), found.encoding) for each in raw)
    for item in items:
        if len(item) > settings.value_bytes + ENVELOPE:
            raise NotAnExport(f"a value has {len(item)} bytes, more than the limit (REMANENCE_VALUE_BYTES)")
    if isinstance(found, _Document):
        codec.stamped(items[0], _TRIAL, 1)
        return Entry(key, "document", items, _ttl(found.ttl))
    if not items or found.start < 0:
        raise NotAnExport("a list needs at least one item, and a from of 0 or more")
    return Entry(key, "list", items, _ttl(found.ttl), found.start)


def _stored(raw: bytes, encoding: Encoding) -> bytes:
    if encoding == "json":
        return raw
    text = _text(raw)
    if encoding == "text":
        return text.encode()
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NotAnExport("a value is not base64 as its encoding says") from None


def _text(raw: bytes) -> str:
    try:
        return _read_text(raw)
    except msgspec.DecodeError:
        raise NotAnExport("a value is not text as its encoding says") from None


def _ttl(seconds: float | None) -> int:
    if seconds is None:
        return NEVER
    if not 0 < seconds <= MOST_TTL:
        raise NotAnExport("ttl must be null or a positive number of seconds up to ten years")
    return max(1, round(seconds * 1000))


def _reason(error: Exception) -> str:
    """What msgspec says of the structure; it names fields and positions, never a value."""
    if isinstance(error, msgspec.ValidationError):
        return str(error)
    return "it is not one JSON object" if isinstance(error, msgspec.DecodeError) else "its text cannot be read"


def at_line(number: int, name: str, error: RemanenceError) -> NotAnExport:
    """`error`, said of a line."""
    return NotAnExport(f"{name}, line {number}: {error}")


def can_be_stamped(body: bytes) -> bool:
    """Whether a stored document is one of ours, or could be: what other programs keep is left out."""
    try:
        codec.stamped(body, _TRIAL, 1)
    except InvalidArgument:
        return False
    return True
