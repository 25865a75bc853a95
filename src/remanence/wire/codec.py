"""What bytes a value becomes, and which bytes are refused on the way back.

JSON for what people read with `redis-cli`; a flag byte and msgpack, zlib where it helps, for agent
memories. Every value is checked first (`wire.checks`). Nothing here loads a pickle, and no message contains
a value.
"""

import hashlib
import json
import re
import zlib
from typing import Any, Final

import msgspec

from remanence.errors import CorruptRecord, InvalidArgument, InvalidValue, UsageError, ValueTooLarge
from remanence.wire.checks import DEPTH, MOST_BYTES, check, inspect, ordinary, plain

MOST_DEPTH: Final = 512
"""No stored value nests deeper: the same on every Python, whatever its stack allows."""
RAW: Final = 0x00
ZLIB: Final = 0x01

_LEVEL: Final = 3  # measured on 10 kB of prose: 143 µs, against 229 µs at 6 for 3 % less
_BIG_INT: Final = 1  # msgpack extension: the decimal text of an int past 64 bits
_STAMP: Final = re.compile(rb"([A-Za-z0-9_-]{22})([0-9]{16})")
_DOCUMENT: Final = re.compile(rb'\{[ \t\r\n]*"')
_OPENING: Final = b'{"stamp":"'
_DIGITS: Final = re.compile(rb"-?[0-9]{1,4300}")


# --- JSON ---------------------------------------------------------------------------------------


def encode(value: Any, *, limit: int = MOST_BYTES, depth: int = DEPTH, path: str = "value") -> bytes:
    """Compact UTF-8 JSON of `value`, which `decode` gives back equal.

    Raises what `check` raises, and `ValueTooLarge` past `limit` bytes.
    """
    try:
        if ordinary(value, depth, limit):
            data = msgspec.json.encode(value)
        else:
            data = msgspec.json.encode(plain(value) if inspect(value, depth, path, limit) else value)
    except ValueError:  # sys.set_int_max_str_digits() below its default
        inspect(value, depth, path, limit)  # or a text that is none, in what looked ordinary
        raise ValueTooLarge(f"{path} holds a number of more digits than this Python writes") from None
    except RecursionError:
        raise ValueTooLarge(f"{path} is nested deeper than the stack has room for: flatten it") from None
    except RuntimeError:
        raise InvalidValue(f"{path} changed while it was read: store a copy that no thread changes") from None
    _fits(len(data), limit, path)
    return data


def _fits(size: int, limit: int, path: str) -> None:
    if size > limit:
        raise ValueTooLarge(f"{path} takes {size} bytes, over the limit of {limit}: split it or raise value_bytes")


def decode(data: bytes, key: str) -> Any:
    """The value of JSON text; of members named twice the last one wins, as everywhere.

    Raises `CorruptRecord`, which names `key` and never the value, for anything else: truncated or
    foreign bytes, invalid UTF-8, lone surrogates, NaN, numbers out of range, nesting past 512.
    """
    try:
        value = msgspec.json.decode(data)
    except RecursionError:
        raise _too_deep(key) from None
    except (msgspec.DecodeError, ValueError):
        return _decode_leniently(data, key)
    deep = len(data) > 2 * MOST_DEPTH and data.count(b"[") + data.count(b"{") > MOST_DEPTH
    if deep and _deeper(value, MOST_DEPTH):
        raise _too_deep(key)
    return value


def _decode_leniently(data: bytes, key: str) -> Any:
    """What Python's json reads and msgspec does not, if it is a value we could have stored.

    That leaves a byte order mark, UTF-16 and UTF-32. NaN, infinities and lone surrogates do not pass.
    """
    try:
        value = json.loads(data)
        check(value, depth=MOST_DEPTH)
    except RecursionError:
        raise _too_deep(key) from None
    except (ValueError, UsageError):  # no cause: a JSONDecodeError carries the whole document
        raise CorruptRecord(f"{key!r} does not hold JSON text: repair or delete it") from None
    return value


def _deeper(value: Any, depth: int) -> bool:
    """Whether containers nest deeper than `depth`, level by level and without recursion."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(depth):
        items = (item for holder in level for item in (holder.values() if type(holder) is dict else holder))
        level = [item for item in items if type(item) is dict or type(item) is list]
        if not level:
            return False
    return True


def _too_deep(key: str) -> CorruptRecord:
    return CorruptRecord(f"{key!r} is nested too deeply to be read: repair or delete it")


def state_body(value_json: bytes, modified_ns: int) -> bytes:
    """The document of one attribute: its value, already JSON, and when it was set in nanoseconds."""
    return b'{"value":%b,"last_modified":%d}' % (value_json, modified_ns)


def is_state(document: Any) -> bool:
    """Whether a document is one attribute's value in its envelope, as `state_body` writes it."""
    if not isinstance(document, dict) or "value" not in document:
        return False
    return len(document) == 1 or (len(document) == 2 and "last_modified" in document)


# --- stamps -------------------------------------------------------------------------------------


def stamped(body: bytes, op_id: str, hlc: int) -> bytes:
    """`body` with its stamp at the fixed place where `split` and the server's script look for it.

    `body` is a JSON object with at least one member, or begins with a flag byte. Raises
    `InvalidArgument` for another body, or an `op_id` or `hlc` that do not make a stamp.
    """
    stamp = b"%b%016d" % (op_id.encode(), hlc)
    if not _STAMP.fullmatch(stamp):
        raise InvalidArgument("a stamp is an op_id of 22 base64url characters and an hlc of 16 digits")
    if is_packed(body):
        return body[:1] + stamp + body[1:]
    if not _DOCUMENT.match(body):
        raise InvalidArgument("only a JSON object with members or a flagged body can carry a stamp")
    return b'%b%b",%b' % (_OPENING, stamp, body[1:])


def split(raw: bytes) -> tuple[bytes, str, int]:
    """(body without stamp, etag, hlc) of a stored document.

    What others wrote carries no stamp: it is the body itself, its etag 22 hex digits of its SHA-1,
    its hlc 0. Never raises: the server's script tells stamps by the very same bytes.
    """
    if raw[:10] == _OPENING and raw[48:50] == b'",' and (found := _STAMP.fullmatch(raw, 10, 48)):
        return b"{" + raw[50:], found[1].decode(), int(found[2])
    if raw[:1] in (b"\x00", b"\x01") and (found := _STAMP.fullmatch(raw, 1, 39)):
        return raw[:1] + raw[39:], found[1].decode(), int(found[2])
    return raw, hashlib.sha1(raw, usedforsecurity=False).hexdigest()[:22], 0


# --- the binary form of agent memories ----------------------------------------------------------


def pack(
    document: Any, *, threshold: int = 1024, limit: int = MOST_BYTES, depth: int = DEPTH, path: str = "value"
) -> bytes:
    """`document` as a flag byte and msgpack, compressed past `threshold` bytes where that is smaller.

    Raises what `check` raises, and `ValueTooLarge` past `limit` bytes before compression.
    """
    exact = plain(document) if inspect(document, depth, path, limit) else document
    try:
        payload = msgspec.msgpack.encode(exact)
    except OverflowError:
        payload = msgspec.msgpack.encode(_boxed(exact))
    _fits(len(payload), limit, path)
    if len(payload) > threshold:
        smaller = zlib.compress(payload, _LEVEL)
        if len(smaller) < len(payload):
            return bytes((ZLIB,)) + smaller
    return bytes((RAW,)) + payload


def is_packed(body: bytes) -> bool:
    """Whether a body begins with a flag byte, as those that `pack` makes do."""
    return body[:1] in (b"\x00", b"\x01")


def _boxed(value: Any) -> Any:
    """A copy of plain `value` with the ints that msgpack has no room for as their decimal text."""
    if isinstance(value, dict):
        return {key: _boxed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_boxed(item) for item in value]
    if type(value) is int and not -(1 << 63) <= value < 1 << 64:
        return msgspec.msgpack.Ext(_BIG_INT, str(value).encode())
    return value


def unboxed(code: int, data: memoryview) -> int:
    """The int in an extension that `pack` made; raises ValueError for another one."""
    text = bytes(data)
    if code != _BIG_INT or not _DIGITS.fullmatch(text):
        raise ValueError("unknown extension")
    return int(text)


def unpack(body: bytes, key: str, limit: int = MOST_BYTES) -> Any:
    """The document that `pack` made `body` of.

    Raises `CorruptRecord` naming `key` for bytes of another format, cut short, or growing past
    `limit` bytes, which is noticed while they grow.
    """
    document = unpack_as(_ANYTHING, body, key, limit)
    vouch(document, key)
    return document


def unpack_as(decoder: "msgspec.msgpack.Decoder[Any]", body: bytes, key: str, limit: int = MOST_BYTES) -> Any:
    """As `unpack`, as a type; of what may be anything in it, `vouch` is still to say that it can be."""
    if not body or body[0] not in (RAW, ZLIB):
        flag = f"flag byte 0x{body[0]:02x}" if body else "no flag byte"
        raise CorruptRecord(f"{key!r} has {flag}, which is no known format; {_NO_PICKLE}")
    payload = body[1:] if body[0] == RAW else _inflated(body[1:], key, limit)
    if len(payload) > limit:
        raise CorruptRecord(f"{key!r} is larger than the limit of {limit} bytes")
    try:
        return decoder.decode(payload)
    except RecursionError:
        raise _too_deep(key) from None
    except (msgspec.DecodeError, ValueError):
        # 0x80 opens a pickle, but is a whole (empty) msgpack document: it cannot go on
        why = _NO_PICKLE if payload[:1] == b"\x80" else "the bytes are damaged or of another system"
        raise CorruptRecord(f"{key!r} does not hold a packed document: {why}") from None


def vouch(document: Any, key: str) -> None:
    """Raises `CorruptRecord` naming `key` where a decoded document has something that we could not have stored."""
    try:
        check(document, depth=MOST_DEPTH)
    except RecursionError:
        raise _too_deep(key) from None
    except UsageError:
        raise CorruptRecord(f"{key!r} does not hold a packed document: it has values that none can have") from None


_ANYTHING: Final = msgspec.msgpack.Decoder(ext_hook=unboxed)
_NO_PICKLE: Final = "pickled data of other systems is never loaded, because loading it can run any code"


def _inflated(data: bytes, key: str, limit: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        payload = stream.decompress(data, limit + 1)
    except zlib.error:
        raise CorruptRecord(f"{key!r} does not decompress: the bytes are damaged") from None
    if len(payload) > limit:
        raise CorruptRecord(f"{key!r} grows past the limit of {limit} bytes when decompressed")
    if not stream.eof or stream.unused_data:
        raise CorruptRecord(f"{key!r} is cut short, or something follows its end")
    return payload
