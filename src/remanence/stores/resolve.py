"""Turning writes into what a store takes. Pure.

A patch becomes a put of the whole document on the version it was computed from. If the record moved on
meanwhile, the store says so and the patch is resolved again on what it is now: the change is never
lost, and never overwrites another's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from remanence.errors import CorruptRecord
from remanence.model import (
    ABSENT,
    KEEP_TTL,
    NEVER,
    PASSED,
    Append,
    Blank,
    Delete,
    Forget,
    Op,
    Patch,
    Put,
    Touch,
    Write,
)
from remanence.stores.edits import NO_RECORD, NOT_LATER, EditRejected, apply_edits
from remanence.stores.known import Document
from remanence.wire import codec

NOTHING = Document(None, ABSENT)


class Intent(msgspec.Struct, frozen=True):
    """A write about to be sent: its identity, its clock, its remaining lifetime (ms or a `ttl` code)."""

    op_id: str
    hlc: int
    write: Write
    live: bool
    ttl: int


class Resolution(msgspec.Struct, frozen=True):
    """What an intent became: the op, what its first edit returned, why it cannot be (""), what it leaves.

    `after` is the record as it will be if the op succeeds, None for writes of lists.
    """

    op: Op
    result: Any = None
    rejection: str = ""
    after: Document | None = None


def lifetime(write: Write) -> int:
    """The `ttl` a write was made with."""
    return NEVER if isinstance(write, Delete | Blank | Forget) else write.ttl


def remaining(ttl: int, elapsed: float) -> int:
    """What is left of `ttl` after `elapsed` seconds: milliseconds, or the code it was."""
    if ttl <= 0:
        return ttl
    left = ttl - int(elapsed * 1000)
    return left if left > 0 else PASSED


def needed(writes: Sequence[Write]) -> list[str]:
    """Keys whose present document must be known before the writes can be resolved."""
    settled: set[str] = set()
    wanted: dict[str, None] = {}
    for write in writes:
        if isinstance(write, Patch) and write.key not in settled:
            wanted[write.key] = None
        if isinstance(write, Put | Delete):
            settled.add(write.key)
    return list(wanted)


def resolve(
    intents: Sequence[Intent], documents: Mapping[str, Document], limit: int, *, room: int = 0
) -> list[Resolution]:
    """Ops for `intents` in order; `documents` holds the present state of the keys `needed` named.

    A patch that would make a document longer than `limit` bytes is rejected. Where all texts together have
    no more than `room` bytes, each is sent: what the next op replaces at once is to be kept as a version, too.
    """
    present: dict[str, Document] = {}
    found, merges = [], False
    for intent in intents:
        write = intent.write
        if type(write) is Patch:
            resolution = _patched(intent, write, present.get(write.key) or documents.get(write.key, NOTHING), limit)
            merges = True
        else:
            resolution = _resolve(intent, write)
        if resolution.after is not None:
            present[write.key] = resolution.after
        found.append(resolution)
    if not merges or len(found) < 2 or (room and sum(map(_size, found)) <= room):
        return found
    return _folded(found)


def _size(resolution: Resolution) -> int:
    return len(getattr(resolution.op.write, "body", b""))


def _resolve(intent: Intent, write: Any) -> Resolution:
    ttl, after = intent.ttl, None
    match write:
        case Put():
            after = NOTHING if ttl == PASSED else Document(write.body, intent.op_id, intent.hlc)
            if ttl != write.ttl:
                write = Put(write.key, write.body, ttl, write.base)
        case Append():
            if ttl != write.ttl:
                write = Append(write.key, write.items, ttl)
        case Delete():
            after = NOTHING
        case Touch():
            write = Touch(write.key, ttl)
        case Forget():  # which was carried out by now: its place in the order is left
            write = Blank(write.key)
    return Resolution(Op(intent.op_id, intent.hlc, write, intent.live), None, "", after)


def _patched(intent: Intent, write: Patch, before: Document, limit: int) -> Resolution:
    base = before.etag
    try:
        body, result = patched(write, before.body)
        if len(body) > limit:
            raise EditRejected("the record would grow past its size limit (REMANENCE_VALUE_BYTES)")
    except EditRejected as error:
        return Resolution(_merge(intent, Blank(write.key, base)), rejection=error.reason)
    after = NOTHING if intent.ttl == PASSED else Document(body, intent.op_id, intent.hlc)
    return Resolution(_merge(intent, Put(write.key, body, intent.ttl, base)), result, "", after)


def patched(write: Patch, body: bytes | None) -> tuple[bytes, Any]:
    """The document after a patch, and what its first edit returned. Raises `EditRejected`."""
    start = write.default if body is None else body
    if start is None:
        raise EditRejected(NO_RECORD)
    try:
        document = codec.unpack(start, write.key) if codec.is_packed(start) else codec.decode(start, write.key)
    except CorruptRecord:
        raise EditRejected("the stored value cannot be read") from None
    if write.edits[0].path[:1] == ("value",) and not codec.is_state(document):
        document = {"value": document}  # stored by others, without the envelope of shared state
    document, result = apply_edits(document, write.edits)
    return codec.pack(document) if codec.is_packed(start) else msgspec.json.encode(document), result


def needless(write: Write, rejection: str) -> bool:
    """Whether a write that was refused had nothing to do. Why it was is "" where this process cannot know."""
    return type(write) is Patch and write.optional and rejection in ("", NO_RECORD, NOT_LATER)


def _merge(intent: Intent, write: Put | Blank) -> Op:
    return Op(intent.op_id, intent.hlc, write, intent.live, merge=True)


def _folded(found: list[Resolution]) -> list[Resolution]:
    """Of several patches of one document in a row, let the last alone carry the text.

    Not past an op at which the store may stop the batch, because its record moved on: what lies behind
    that is not applied with what lies before, and the text would be missing.
    """
    stops = _stops(found)
    later: set[str] = set()
    for i in range(len(found) - 1, -1, -1):
        op = found[i].op
        write = op.write
        if isinstance(write, Put) and op.merge:
            if write.key in later and write.ttl == KEEP_TTL:
                light = msgspec.structs.replace(write, body=b"{")
                found[i] = msgspec.structs.replace(found[i], op=msgspec.structs.replace(op, write=light, folded=True))
            later.add(write.key)
        elif not (isinstance(write, Blank) and op.merge):
            later.discard(write.key)
        if stops[i]:
            later.clear()
    return found


def _stops(found: Sequence[Resolution]) -> list[bool]:
    """For each op, whether the store may find that its record moved on: not where this batch made it."""
    made: set[str] = set()
    stops = []
    for each in found:
        op = each.op
        stops.append(op.merge and getattr(op.write, "base", None) not in made)
        if op.merge and isinstance(op.write, Put):
            made.add(op.op_id)
    return stops
