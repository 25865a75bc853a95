"""Who wins, how long it lives, and how a batch is followed: the decisions of `wire/lua/apply.lua` in Python.

`judge`, `prolonged`, `admitted` and `span` are pure. `follow` walks a batch over a `Shelf`, the few verbs
that a place for records must have, and is the same for every store but Redis, whose script the
differential test holds equal to it.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from remanence.errors import RemanenceError, UsageError
from remanence.model import (
    ABSENT,
    CONFLICT,
    EXPIRED,
    FAULT,
    KEEP_TTL,
    NEVER,
    OK,
    PASSED,
    REFUSED,
    STALE,
    WRONG_KIND,
    Append,
    Batch,
    Blank,
    Delete,
    Erasure,
    Kept,
    Op,
    Outcome,
    Put,
    Seen,
    Touch,
    Watermark,
)
from remanence.wire.codec import split

Stamp = tuple[str, int]
"""The etag and the hlc of what is stored or was deleted."""
NOTHING: Final[Stamp] = (ABSENT, 0)
LEAD: Final = 5_000_000
"""Microseconds that a writer's clock may run ahead of the store's."""
MOVED: Final = "moved"
"""What `judge` calls a merge whose base has moved on. Never a result: the batch ends before it."""


RELAY: Final = "relay-"
"""What the lineages of relays begin with: they have no journal that could bring anything back, and no erasure ends
their sessions."""


class Mark(msgspec.Struct, frozen=True):
    """How far a store has followed a lineage, and which session may write it."""

    nonce: str = ""
    seq: int = 0
    op_id: str = ""
    results_from: int = 0
    results: tuple[str, ...] = ()
    highest: int = 0

    def opened(self, nonce: str) -> "Mark":
        """The mark when the session `nonce` has begun."""
        return msgspec.structs.replace(self, nonce=nonce)

    def forwarded(self, seq: int, op_id: str) -> "Mark":
        """The mark past ops that are lost for good; it never goes back."""
        if seq <= self.seq:
            return self
        return msgspec.structs.replace(self, seq=seq, op_id=op_id, results_from=0, results=())

    def watermark(self, clock: int) -> Watermark:
        """What the session is told; `clock` is the store's own, in microseconds."""
        return Watermark(self.seq, self.op_id, self.results_from, self.results, self.highest, clock)


def admitted(batch: Batch, mark: Mark | None, before: int) -> Outcome | None:
    """Why `batch` may not be applied at all, or None. `before` is the stored seq of the preceding lineage."""
    if not batch.lineage:
        return None
    if mark is None or mark.nonce != batch.nonce:
        return Outcome("fenced", mark.seq if mark else 0)
    if batch.first != mark.seq + 1 or (mark.seq == 0 and batch.prev is not None and before < batch.prev[1]):
        return Outcome("gap", mark.seq)
    return None


def judge(op: Op, base: str, found: Stamp | None, dead: Stamp | None, latest: int) -> tuple[str, int]:
    """Whether a put or delete happens: ("", its effective hlc), or (why not, 0).

    `base` is the etag it requires ("" for none), `found` the stamp at its key (`NOTHING`; None for a
    list), `dead` the tombstone there, `latest` the furthest hlc that the store's clock allows. Live ops
    and those with a base win over whatever is stored; a replayed one only over what is older, etags
    deciding between equal times by their bytes.
    """
    if base and base != (found[0] if found else "?"):
        return MOVED if op.merge else CONFLICT, 0
    etag, hlc = found or ("", 0)
    if etag == ABSENT and dead:
        etag, hlc = dead
    mine = min(op.hlc, latest)
    if op.live or base:
        return "", max(mine, hlc + 1)
    if etag != op.op_id and (hlc, etag) > (mine, op.op_id):
        return STALE, 0
    return "", mine


def prolonged(ttl: int, live: bool, created: bool, left: int) -> int:
    """The lifetime to set after an append or a touch: milliseconds, NEVER, or KEEP_TTL to leave it.

    `left` is what remains (-1: for ever). A live op sets its ttl; a replayed one only lengthens, because
    somebody may have set a later end meanwhile.
    """
    if ttl == NEVER:
        return KEEP_TTL if created else NEVER
    if ttl > 0 and 0 <= (0 if live or created else left) < ttl:
        return ttl
    return KEEP_TTL


def span(start: int, stop: int, length: int) -> tuple[int, int]:
    """The half-open range of places that `Tail` asks for in a list of `length`; empty as (0, 0)."""
    first = max(start + length if start < 0 else start, 0)
    end = min(stop + length if stop < 0 else stop, length - 1) + 1
    return (first, end) if first < end else (0, 0)


class Shelf(Protocol):
    """Where `follow` puts things, at one moment of the store's clock. Nothing expired is ever found."""

    def stamp(self, key: str) -> Stamp | None:
        """The stamp of the document at `key`: `NOTHING` where there is nothing, None for a list."""

    def tombstone(self, key: str) -> Stamp | None:
        """The stamp of the delete remembered for `key`."""

    def raw(self, key: str) -> bytes | None:
        """The stored document with its stamp; None for nothing or a list."""

    def put(self, key: str, body: bytes, stamp: Stamp, ttl: int) -> None:
        """Store a document, with its lifetime kept for KEEP_TTL."""

    def remove(self, key: str) -> None:
        """Remove what is at `key`, document or list."""

    def bury(self, key: str, stamp: Stamp) -> None:
        """Remember a delete."""

    def extend(self, key: str, items: Sequence[bytes]) -> bool | None:
        """Add to the list at `key`, making it where there is nothing: whether made. None: a document."""

    def lifetime(self, key: str) -> int:
        """Milliseconds left of `key`; -1 for ever; -2 for nothing."""

    def expire(self, key: str, ttl: int) -> None:
        """Give what is at `key` a lifetime from now on, NEVER for none."""

    def announce(self, lineage: str, seq: int, op: Op, result: str) -> None:
        """Add an entry to the change log."""

    def archive(self, key: str, versions: Sequence[Kept], most: int) -> None:
        """Put these, newest first, before the earlier versions of a record, and keep the newest `most` of all."""

    def age(self, key: str) -> None:
        """Let the earlier versions live as long as what is at `key`, or where nothing is, as a tombstone."""


def erase(shelf: Shelf, key: str, erasure: Erasure, *, live: bool) -> None:
    """Remove what an erasure covers, and tell of it as of a delete. See `Store.forget` for `live`."""
    shelf.archive(key, (), 0)
    shelf.age(key)
    stamp = shelf.stamp(key)
    hlc = stamp[1] if stamp else 0
    if stamp == NOTHING or (hlc > erasure.hlc and not live):
        return
    shelf.remove(key)
    shelf.bury(key, (erasure.op_id, max(hlc, erasure.hlc)))
    shelf.announce("", 0, Op(erasure.op_id, erasure.hlc, Delete(key)), OK)


def behind(erasures: Sequence[Erasure], seen: Seen) -> tuple[list[Erasure], Seen]:
    """Those behind a place in the list of all, and the place behind them."""
    number = len(erasures)
    known = 0 < seen.number <= number and erasures[seen.number - 1].op_id == seen.op_id
    return list(erasures[seen.number if known else 0 :]), Seen(number, erasures[-1].op_id) if number else Seen()


def follow(batch: Batch, mark: Mark, shelf: Shelf, latest: int, history: int = 0) -> tuple[Outcome, Mark]:
    """Apply an admitted batch: what to answer, and the mark to store beside the data.

    `history`: how many earlier versions of each record are kept.
    """
    walk = _Walk(shelf, latest, mark.highest, history)
    seq = batch.first - 1
    results: list[str] = []
    stopped: Op | None = None
    for number, op in enumerate(batch.ops, batch.first):
        result = walk.perform(op)
        if result == MOVED:
            stopped = op
            break
        shelf.announce(batch.lineage, number, op, result)
        results.append(result)
        seq = number
    told = tuple(results)
    if results:
        mark = Mark(mark.nonce, seq, batch.ops[seq - batch.first].op_id, batch.first, told, walk.highest)
    current = shelf.raw(stopped.write.key) if stopped else None
    return Outcome("ok", seq, walk.highest, told, stopped is not None, current), mark


class _Walk:
    """One batch on its way: each op finds out whether it can be applied before it changes anything."""

    def __init__(self, shelf: Shelf, latest: int, highest: int, history: int) -> None:
        self.highest = highest
        self._history = history
        self._shelf = shelf
        self._latest = latest
        self._folded: dict[str, Stamp] = {}  # documents whose newest text comes with a later op

    def perform(self, op: Op) -> str:
        """Apply one op. An op that cannot be carried out must not hold up those behind it."""
        try:
            return self._perform(op)
        except RemanenceError as error:
            if isinstance(error, UsageError):
                return FAULT
            raise
        except (ValueError, TypeError, OverflowError):
            return FAULT

    def _perform(self, op: Op) -> str:
        match op.write:
            case Put():
                return self._put(op, op.write)
            case Delete():
                return self._delete(op, op.write)
            case Append():
                return self._append(op, op.write)
            case Touch():
                return self._touch(op, op.write)
            case Blank():
                return self._blank(op.write)

    def _put(self, op: Op, write: Put) -> str:
        found = self._found(write.key)
        if found is None:
            return WRONG_KIND
        refusal, hlc = self._judged(op, write.base, found)
        if refusal:
            return refusal
        self._folded.pop(write.key, None)
        if write.ttl == PASSED:
            self._shelf.remove(write.key)
            if self._history:
                self._shelf.archive(write.key, (), 0)
            return EXPIRED
        self.highest = max(self.highest, hlc)
        if op.folded:
            self._folded[write.key] = op.op_id, hlc
        else:
            if self._history:  # a write that comes again replaces itself
                replaced = self._kept(write.key) if found[0] != op.op_id else []
                self._shelf.archive(write.key, replaced, self._history)
            self._shelf.put(write.key, write.body, (op.op_id, hlc), write.ttl)
            if self._history:
                self._shelf.age(write.key)
        return OK

    def _kept(self, key: str) -> list[Kept]:
        """What is stored at `key`, as an earlier version; of a list, and of nothing, none."""
        raw = self._shelf.raw(key)
        if raw is None:
            return []
        body, etag, hlc = split(raw)
        return [Kept(etag, hlc, body)]

    def _delete(self, op: Op, write: Delete) -> str:
        refusal, hlc = self._judged(op, write.base, self._found(write.key))
        if refusal:
            return refusal
        self._folded.pop(write.key, None)
        replaced = self._kept(write.key) if self._history else []
        self._shelf.remove(write.key)
        if replaced:
            self._shelf.archive(write.key, [Kept(op.op_id, hlc, None), *replaced], self._history + 1)
            self._shelf.age(write.key)
        self._shelf.bury(write.key, (op.op_id, hlc))
        self.highest = max(self.highest, hlc)
        return OK

    def _append(self, op: Op, write: Append) -> str:
        dead = None if op.live else self._shelf.tombstone(write.key)
        if dead and dead[1] > op.hlc:
            return STALE
        if write.ttl == PASSED and self._shelf.lifetime(write.key) == -2:
            return EXPIRED
        created = self._shelf.extend(write.key, write.items) if write.items else False
        if created is None:
            return WRONG_KIND
        self._lengthen(op, write.key, write.ttl, created)
        return OK

    def _touch(self, op: Op, write: Touch) -> str:
        if write.ttl == PASSED or self._shelf.lifetime(write.key) == -2:
            return EXPIRED
        self._lengthen(op, write.key, write.ttl, False)
        if self._history and self._shelf.stamp(write.key):
            self._shelf.age(write.key)
        return OK

    def _blank(self, write: Blank) -> str:
        if not write.base:
            return OK
        found = self._found(write.key)
        if found is None:
            return WRONG_KIND
        return REFUSED if found[0] == write.base else MOVED

    def _lengthen(self, op: Op, key: str, ttl: int, created: bool) -> None:
        given = prolonged(ttl, op.live, created, self._shelf.lifetime(key) if ttl > 0 else -1)
        if given != KEEP_TTL:
            self._shelf.expire(key, given)

    def _found(self, key: str) -> Stamp | None:
        return self._folded.get(key) or self._shelf.stamp(key)

    def _judged(self, op: Op, base: str | None, found: Stamp | None) -> tuple[str, int]:
        absent = found is not None and found[0] == ABSENT
        dead = self._shelf.tombstone(op.write.key) if absent else None
        return judge(op, base or "", found, dead, self._latest)
