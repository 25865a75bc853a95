"""Frozen values: records, the writes, and what comes back.

A write is a value. The same value is what a face intends, what the journal stores, what a store
applies and what the change log announces; nothing is translated on the way.

Two encodings are fixed here because every room relies on them. A *body* is a record's document in
bytes without its stamp. A *stamp* is who wrote it and when: a 22-character etag (the 128-bit
operation id in base64url) and a hybrid logical clock in microseconds (Kulkarni et al., "Logical
Physical Clocks", 2014, with the counter folded into the low digits).
"""

from collections.abc import Sequence
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar

import msgspec

T = TypeVar("T")

KEEP_TTL: Final = -1
"""A `ttl` (milliseconds) that leaves the record's expiry as it is."""
NEVER: Final = 0
"""A `ttl` that makes the record permanent."""
PASSED: Final = -2
"""A `ttl` of an op on its way: the lifetime has already passed."""
ABSENT: Final = "-"
"""The etag of a record that does not exist: as `base`, the write applies only if there is none."""


class Edit(msgspec.Struct, frozen=True, array_like=True):
    """One change inside a JSON document.

    `path` leads from the document to the container or value (text for members, int for items), `verb`
    is one of `remanence.stores.edits.VERBS`, `args` its arguments as the JSON text of a list.
    """

    path: tuple[str | int, ...]
    verb: str
    args: bytes = b"[]"


class Put(msgspec.Struct, frozen=True, array_like=True, tag="put"):
    """Store `body` at `key`; with `base`, only if the record's etag still is that one."""

    key: str
    body: bytes
    ttl: int = NEVER
    base: str | None = None


class Patch(msgspec.Struct, frozen=True, array_like=True, tag="patch"):
    """Apply `edits` to the document at `key`, whatever it is by then: never lost, never overwriting.

    `default` is the document to start from where there is none; without it a missing record rejects
    the patch. Edits are all applied or none.

    `optional`: where there is no record, or an edit finds nothing to do (`prolong`), there is no effect, which is
    no rejection: nobody hears of it.
    """

    key: str
    edits: tuple[Edit, ...]
    ttl: int = KEEP_TTL
    default: bytes | None = None
    optional: bool = False


class Delete(msgspec.Struct, frozen=True, array_like=True, tag="delete"):
    """Remove what is at `key`, record or list, leaving a tombstone against late replays."""

    key: str
    base: str | None = None


class Append(msgspec.Struct, frozen=True, array_like=True, tag="append"):
    """Add `items` at the end of the list at `key`; the list's lifetime starts anew with `ttl`."""

    key: str
    items: tuple[bytes, ...]
    ttl: int = NEVER


class Touch(msgspec.Struct, frozen=True, array_like=True, tag="touch"):
    """Give what is at `key` a new lifetime."""

    key: str
    ttl: int


class Blank(msgspec.Struct, frozen=True, array_like=True, tag="blank"):
    """A place in the order without an effect.

    In the journal: a write that a later one of the same process made pointless before it was sent. On
    its way, with `base`: a patch that found nothing it could do to just that version of the record.
    """

    key: str
    base: str | None = None


class Forget(msgspec.Struct, frozen=True, array_like=True, tag="forget"):
    """Erase what is at `key`, and where `beginning` all that begins like it, for good: here, in the store, and in
    every process that has any of it. What was written before and arrives later has no effect.
    """

    key: str
    beginning: bool = False


Write = Put | Patch | Delete | Append | Touch | Blank | Forget


class Op(msgspec.Struct, frozen=True, array_like=True):
    """A write with its identity, as it travels.

    `write` is never a Patch here: stores take the Put that it resolved to, with `base` set and
    `merge` true, so that a record which moved on stops the batch (`Outcome.moved`) and the patch
    is resolved again. `live` is a first attempt right after journalling (3.5 of the protocol).
    """

    op_id: str
    hlc: int
    write: Put | Delete | Append | Touch | Blank
    live: bool = True
    merge: bool = False
    folded: bool = False
    """A later op of the same batch carries this document's newer text: note the etag, write nothing."""


class Batch(msgspec.Struct, frozen=True):
    """Consecutive ops of one lineage, the first numbered `first`; `prev` is (lineage, its last seq)."""

    lineage: str
    nonce: str
    first: int
    ops: Sequence[Op]
    prev: tuple[str, int] | None = None


class Watermark(msgspec.Struct, frozen=True):
    """What a store has of a lineage: the last applied seq, its op_id, and the last batch's results."""

    seq: int
    op_id: str
    results_from: int = 0
    results: tuple[str, ...] = ()
    highest: int = 0
    """The highest hlc this lineage has written."""
    clock: int = 0
    """The store's wall clock in microseconds when it answered."""


class Reached(NamedTuple):
    """How far a store followed a lineage, and the last op that it followed."""

    seq: int
    op_id: str


NOWHERE: Final = Reached(0, "")


class Cursor(NamedTuple):
    """A place in the change log: the position of an entry and the op that it tells of, which must both be there."""

    position: str = ""
    op_id: str = ""


BEGINNING: Final = Cursor()
"""Before the first entry of the log, whichever that is by now."""


class Change(msgspec.Struct, frozen=True):
    """An entry of the change log: what an op came to. It tells which record changed, not what is in it."""

    position: str
    op_id: str
    lineage: str
    seq: int
    kind: str
    """put, delete, append, touch or blank."""
    result: str
    """One of the result codes below; only "ok" and "expired" changed anything."""
    key: str

    @property
    def cursor(self) -> Cursor:
        """From here on, what comes behind this entry."""
        return Cursor(self.position, self.op_id)


class Changes(msgspec.Struct, frozen=True):
    """Some of the change log: its entries in order, and the cursor behind them.

    `whole`: the entry of the cursor they were asked by is still in the log, so nothing is missing between.
    """

    entries: Sequence[Change]
    cursor: Cursor
    whole: bool = True


class Erasure(msgspec.Struct, frozen=True):
    """A `Forget` as a store carries it out: what was written up to `hlc` is to be nowhere any more."""

    op_id: str
    hlc: int
    key: str
    beginning: bool = False

    def covers(self, key: str) -> bool:
        """Whether a key is one of those."""
        return key.startswith(self.key) if self.beginning else key == self.key


class Seen(NamedTuple):
    """A place in a store's list of erasures: how many there were, and the op of the last."""

    number: int = 0
    op_id: str = ""


class Erased(msgspec.Struct, frozen=True):
    """What is certain about an erasure.

    `state`: "journalled" (done on this machine, the server is away), "erased" (the store has it no more). The
    journals of the deployment, by digests of their files: those `confirmed` have let go of it, with the mirrors
    beside them; those `waiting` were not opened since, and will before they send anything.
    """

    id: str
    state: Literal["journalled", "erased"]
    confirmed: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()


OK: Final = "ok"
CONFLICT: Final = "conflict"
"""The base etag did not match: nothing written."""
STALE: Final = "stale"
"""A replayed blind write older than what is stored: nothing written."""
DUPLICATE: Final = "dup"
"""Applied, but what became of it nobody knows any more."""
WRONG_KIND: Final = "wrongtype"
"""The key holds another type: nothing written."""
FAULT: Final = "error"
"""The store's own code failed on this op: nothing or part of it written, later ops unharmed."""
REFUSED: Final = "refused"
"""A blank vouched that a patch found nothing it could do: nothing written."""
EXPIRED: Final = "expired"
"""Its lifetime had passed before it could be applied."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of a batch.

    `status`: "ok", "fenced" (another session opened this lineage), "gap" (the store does not stand where the
    batch begins: begin anew). `seq` is the watermark now, `highest` the highest hlc the lineage has written. With
    `moved`, results end before the op whose `merge` base had moved on, and `current` is the stored value
    it met, stamp included (None: absent).
    """

    status: Literal["ok", "fenced", "gap"]
    seq: int = 0
    highest: int = 0
    results: Sequence[str] = ()
    moved: bool = False
    current: bytes | None = None


class Wanted(msgspec.Struct, frozen=True):
    """The keys a listener wants to hear of: some, and all that begin like one of `prefixes`."""

    keys: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()

    def matches(self, key: str) -> bool:
        """Whether a change of `key` is wanted."""
        return key in self.keys or key.startswith(self.prefixes)


RESYNC: Final = "resync"
"""The kind of a notice that what was heard may not hold: read again."""


class Notice(msgspec.Struct, frozen=True):
    """A key has changed. `kind` is put, delete, append or touch, or "resync"; a resync without a key concerns all.

    `cursor` is where the log of partition `source` stood then.
    """

    key: str
    kind: str
    cursor: Cursor
    op_id: str = ""
    source: int = 0


class Record(msgspec.Struct, frozen=True):
    """A stored document: its body, and its stamp (`etag`, `hlc`; hlc 0 for a value written by others)."""

    key: str
    body: bytes
    etag: str
    hlc: int = 0


class Kept(msgspec.Struct, frozen=True):
    """An earlier version of a record: its stamp as `Record` has it, and its body, None where it was a delete."""

    etag: str
    hlc: int
    body: bytes | None


Source = Literal["store", "near", "mirror", "local"]


class Reading(msgspec.Struct, Generic[T], frozen=True):
    """An answer, where it came from, and how old it may be.

    `source` is "store" (Redis or the shared file, with this process's pending writes folded in), "near" (what
    this process knows, and the change log says still holds), "mirror" (from the copy on this machine's disk, which
    follows the log) or "local" (the server is away: what this process knows). `as_of` is the wall time in seconds
    of the knowledge behind the latter three, None where only this process's own writes are known.
    """

    value: T
    source: Source = "store"
    as_of: float | None = None

    @property
    def stale(self) -> bool:
        """Whether other processes may have written since, for all anybody here knows."""
        return self.source == "local"


State = Literal["journalled", "applied", "replicated", "rejected"]


class Receipt(msgspec.Struct, frozen=True):
    """What is certain about a write when the call returns.

    "journalled": on this machine's disk, will be applied in order. "applied": in the store.
    "replicated": on as many of its replicas, too, as the setting `replicas` says.
    "rejected": its effect was refused, `reason` is one of the result codes above or an edit's own.
    `result` is what an edit returned (the popped item, the new count).
    """

    state: State
    op_id: str
    result: Any = None
    reason: str = ""


JSON = Any
"""None, bool, int, float, str, list or dict with text keys, nested."""
