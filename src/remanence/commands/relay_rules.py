"""What has to happen at the target so that it holds of a key what the source holds. Pure decisions.

Everything is decided by what both ends hold now, never by what a log entry said, so that whoever was killed
in the middle of it only has to look again. Documents carry their stamps with them: the newer one wins at
either end. A delete carries its tombstone. A list has no stamp: the last tombstone at its key tells which
list it is, and within one list the target's items must be the beginning of the source's.
"""

import os
from typing import Final, Literal, NamedTuple

import msgspec

from remanence.model import KEEP_TTL, NEVER, Append, Delete, Op, Put, Record, Touch
from remanence.protocols import Told
from remanence.wire.identity import op_id

Stamp = tuple[str, int]
"""The etag and the hlc of a delete."""
Kind = Literal["none", "document", "list", "other"]
"""What is at a key; "other" is what only other programs could have put there."""
SLACK: Final = 2000
"""Milliseconds that equal lifetimes may differ by, because what is left of one is read before the other."""
UNSTAMPED: Final = 1 << 20
"""What other programs wrote has no time; ours are microseconds since 1970, and far above this."""


class Held(msgspec.Struct, frozen=True):
    """What one end holds at a key. `ttl`: milliseconds left, -1 for ever; `dead`: the last delete remembered."""

    kind: Kind = "none"
    record: Record | None = None
    ttl: int = -2
    length: int = 0
    dead: Stamp | None = None


NOTHING: Final = Held()


class Plan(NamedTuple):
    """What to do at the target: `ops`, then the list's items from `start` on (None: no list).

    `refusal` says why the target is to be left as it is: "newer", "kind", "longer" or "only" there; "" for not so.
    """

    ops: tuple[Op, ...] = ()
    start: int | None = None
    refusal: str = ""


def held(told: Told, left: Told, length: Told, dead: Stamp | None, ours: bool) -> Held:
    """What answers to Fetch, Lifetime and Length say. `ours`: a document that could be one of ours."""
    ttl = left if isinstance(left, int) else -2
    if isinstance(told, Record) and ttl != -2:
        return Held("document" if ours else "other", told, ttl, 0, dead)
    if isinstance(told, Exception):
        if not isinstance(length, int):
            return Held("other", None, ttl, 0, dead)
        if length and ttl != -2:
            return Held("list", None, ttl, length, dead)
    return Held(dead=dead)


def newer(one: Stamp | None, other: Stamp | None) -> bool:
    """Whether a delete or a document came after another, as stores judge it."""
    if one is None or other is None or one[0] == other[0]:
        return one is not None and other is None
    return (one[1], one[0]) > (other[1], other[0])


def plan(key: str, source: Held, target: Held, *, removed: bool = False, replace: bool = False) -> Plan:
    """What to do about one key.

    `removed`: the source's log says that a late write removed what was there, for which there is no tombstone.
    `replace`: a list, or what is of another kind, gives way where it does not fit.
    """
    ops: list[Op] = []
    if source.dead is not None and newer(source.dead, target.dead) and not _outlives(target, source.dead):
        ops.append(Op(source.dead[0], source.dead[1], Delete(key), live=False))
        target = Held(dead=source.dead)
    if source.kind == "none":
        return _absent(key, ops, target, removed)
    if source.kind == "other":
        return Plan(tuple(ops))
    if target.kind not in ("none", source.kind):
        if not replace or target.kind == "other":
            return Plan(tuple(ops), refusal="kind")
        ops.append(_cleared(key, source))
        target = Held(dead=target.dead)
    found = _document(key, source, target) if source.kind == "document" else _list(key, source, target, replace)
    return Plan((*ops, *found.ops), found.start, found.refusal)


def _outlives(target: Held, dead: Stamp) -> bool:
    """Whether the target's document was written after the source's delete."""
    return target.record is not None and newer((target.record.etag, target.record.hlc), dead)


def _absent(key: str, ops: list[Op], target: Held, removed: bool) -> Plan:
    if target.kind == "none":
        return Plan(tuple(ops))
    if removed and target.record is not None:
        ops.append(Op(fresh_id(), target.record.hlc, Delete(key, base=target.record.etag), live=False))
        return Plan(tuple(ops))
    return Plan(tuple(ops), refusal="only")


def _document(key: str, source: Held, target: Held) -> Plan:
    record = source.record
    assert record is not None  # by its kind
    base = None
    if target.record is not None:
        if target.record.etag == record.etag:
            return Plan(() if same_lifetime(source.ttl, target.ttl) else (touch(key, source.ttl),))
        if record.hlc == 0 and target.record.hlc < UNSTAMPED:
            base = target.record.etag  # both without a time: what the source has now came later
        elif newer((target.record.etag, target.record.hlc), (record.etag, record.hlc)):
            return Plan(refusal="newer")
    elif target.dead is not None and newer(target.dead, (record.etag, record.hlc)):
        return Plan(refusal="newer")
    put = Put(key, record.body, ttl_of(source.ttl), base)
    return Plan((Op(record.etag, record.hlc, put, live=False),))


def _list(key: str, source: Held, target: Held, replace: bool) -> Plan:
    if target.length <= source.length:
        return Plan(start=target.length)
    return replaced(key, source) if replace else Plan(refusal="longer")


def replaced(key: str, source: Held) -> Plan:
    """Empty the target's list and fill it anew."""
    return Plan((_cleared(key, source),), start=0)


def _cleared(key: str, source: Held) -> Op:
    """A delete that no later one of the source is older than."""
    etag, hlc = source.dead or (fresh_id(), 1)
    return Op(etag, hlc, Delete(key), live=False)


def touch(key: str, ttl: int) -> Op:
    """Give the target the lifetime that the source has; a live op, for others only lengthen."""
    return Op(fresh_id(), 0, Touch(key, ttl_of(ttl)))


def append(key: str, items: tuple[bytes, ...], ttl: int | None) -> Op:
    """Items for the end of the target's list; with the source's lifetime, None to leave the target's."""
    return Op(fresh_id(), 0, Append(key, items, KEEP_TTL if ttl is None else ttl_of(ttl)))


def ttl_of(left: int) -> int:
    """What is left of a lifetime as the ttl of a write."""
    return NEVER if left == -1 else max(1, left)


def same_lifetime(one: int, other: int) -> bool:
    """Whether two lifetimes end at the same time, as far as two looks can tell."""
    return one == other or (one >= 0 and other >= 0 and abs(one - other) <= SLACK)


def difference(source: Held, target: Held) -> str:
    """In what both ends differ but for the items of lists of equal length; "" in nothing that shows."""
    if source.kind == "other":
        return ""
    if source.kind != target.kind:
        return "only" if source.kind == "none" else "missing" if target.kind == "none" else "kind"
    if source.record is not None and target.record is not None:
        mine, theirs = target.record, source.record
        if mine.etag != theirs.etag or mine.body != theirs.body:
            return "newer" if newer((mine.etag, mine.hlc), (theirs.etag, theirs.hlc)) else "content"
    if source.length != target.length:
        return "length" if target.length < source.length else "longer"
    return "" if same_lifetime(source.ttl, target.ttl) else "lifetime"


def caught_up(earlier: Held, target: Held) -> bool:
    """Whether the target has what the source had `earlier`, or later: it follows, only the source goes on."""
    if earlier.record is not None and target.record is not None:
        return target.record.etag == earlier.record.etag or target.record.hlc > earlier.record.hlc
    return earlier.kind == target.kind == "list" and target.length >= earlier.length


def fresh_id() -> str:
    """An operation id of the relay's own."""
    return op_id(os.urandom(16))
