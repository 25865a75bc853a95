"""What an index on a server holds of a document, which commands change it, and how a filter is spelled there. Pure.

No text of a document's or a caller's stands in an attribute or a filter: names are digests there, for the server's
language of filters has strings without escapes. An answer is checked against the entries themselves.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from remanence.search.bm25 import hashed
from remanence.search.types import Document, Filter
from remanence.wire.keys import Keyspace

Command = tuple[str | bytes, ...]
FURTHEST: Final = 1e18
"""Numbers beyond are told apart by entries alone; a time like this is never."""
LINKING: Final = "100"
"""Near ones that a new piece's links are chosen from. With 200, the default, a server takes in 6 where it takes in 10
with this; of 45,000 turns and messages it then finds 98.5 % of the nearest 300, instead of 98.1 %.
"""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A document as it is held: what it is found and judged by, not what it says."""

    kind: str
    session: str
    position: int
    speaker: str
    role: str
    tags: tuple[str, ...]
    agent: str
    success: bool | None
    importance: float
    trust: float
    created: float
    expires: float | None
    uses: int
    timed: bool
    text: bytes
    """A digest of what its pieces say."""
    pieces: tuple[tuple[int, bytes], ...]
    """Of each piece how many terms it has, and these as `bm25.packed` has them."""
    version: str = ""
    """Of the record that it was made of, "" where there is none."""


class Seen(NamedTuple):
    """What shall be held as long as a record is at `version`: `ABSENT`, an etag, or "" whatever it is."""

    version: str
    document: Document | None


def entry_of(
    document: Document, timed: bool, texts: Sequence[str], pieces: tuple[tuple[int, bytes], ...], version: str = ""
) -> Entry:
    """What is held of a document, whose `texts` have these `pieces`."""
    made: dict[str, Any] = {"timed": timed, "text": said(texts), "pieces": pieces, "version": version}
    return Entry(**{name: getattr(document, name) for name in Entry.__struct_fields__ if name not in made}, **made)


def said(texts: Sequence[str]) -> bytes:
    """A digest of what a document's pieces say."""
    return hashlib.blake2b("\0".join(texts).encode("utf-8", "replace"), digest_size=12).digest()


class Names:
    """The keys of an index in one partition, all in its slot."""

    def __init__(self, keys: Keyspace) -> None:
        """`keys`: of the partition."""
        self._keys = keys
        self.entries = keys.index("entries")
        self.rarity = keys.index("rarity")
        """How many pieces hold each term."""
        self.totals = keys.index("totals")
        """`p`ieces and their `t`erms."""
        self.kinds = keys.index("kinds")
        self.makers = keys.index("makers")
        """Which embedders made vectors here."""
        self.filled = keys.index("filled")
        """Up to where the change log is in the index, with all that was there before."""

    def ages(self, kind: str) -> str:
        """The ids of a kind, by when they were created."""
        return self._keys.index(f"ages:{kind}")

    def ends(self, kind: str) -> str:
        """The ids of a kind that expire, by when."""
        return self._keys.index(f"ends:{kind}")

    def vectors(self, maker: str, kind: str) -> str:
        """The vectors that an embedder made of the pieces of a kind."""
        return self._keys.index(f"vectors:{maker}:{kind}")

    def owed(self, maker: str) -> str:
        """The ids whose vectors an embedder has yet to make."""
        return self._keys.index(f"owed:{maker}")


def digest(text: str) -> str:
    """A name as filters have it: 24 hex digits, whatever it is made of."""
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=12).hexdigest()


def number(value: float) -> str:
    """A number as both JSON and filters read it: digits without an exponent, exact within `FURTHEST`."""
    near = min(max(float(value), -FURTHEST), FURTHEST)
    if abs(near) < 1e-60:
        return "0.0"
    return np.format_float_positional(near, unique=True, trim="0")


def attributes(entry: Entry) -> str:
    """The JSON that filters look at."""
    tags = ",".join(f'"{digest(tag)}"' for tag in entry.tags)
    outcome = -1 if entry.success is None else int(entry.success)
    ends = FURTHEST if entry.expires is None else entry.expires
    return (
        f'{{"x":{number(ends)},"a":"{digest(entry.agent)}","s":"{digest(entry.session)}","t":[{tags}],"o":{outcome},'
        f'"i":{number(entry.importance)},"r":{number(entry.trust)},"c":{number(entry.created)}}}'
    )


def expression(only: Filter, now: float) -> str:
    """A filter in the server's language; which kinds is told by which sets are asked."""
    told = [f".x > {number(now)}"]
    for name, wanted in (("a", only.agents), ("s", only.sessions)):
        if wanted:
            named = ",".join(f'"{digest(each)}"' for each in wanted)
            told.append(f".{name} in [{named}]")
    told += [f'"{digest(tag)}" in .t' for tag in only.tags]
    if only.success is not None:
        told.append(f".o == {int(only.success)}")
    for name, bound, sign in (
        ("c", only.since, ">="),
        ("c", only.until, "<="),
        ("i", only.importance, ">="),
        ("r", only.trust, ">="),
    ):
        if bound is not None:
            told.append(f".{name} {sign} {number(bound)}")
    return " and ".join(told)


def admits(only: Filter, entry: Entry, now: float) -> bool:
    """Whether a filter admits a document that lives."""
    return (
        (entry.expires is None or entry.expires > now)
        and (not only.kinds or entry.kind in only.kinds)
        and (not only.agents or entry.agent in only.agents)
        and (not only.sessions or entry.session in only.sessions)
        and set(only.tags) <= set(entry.tags)
        and (only.success is None or entry.success is only.success)
        and (only.since is None or entry.created >= only.since)
        and (only.until is None or entry.created <= only.until)
        and (only.importance is None or entry.importance >= only.importance)
        and (only.trust is None or entry.trust >= only.trust)
    )


def element(id: str, piece: int) -> str:
    """The name of a piece in a set of vectors."""
    return f"{piece}:{id}"


class Change(msgspec.Struct, frozen=True):
    """What is to become of a document. `entry` None: it goes.

    `vectors`: of its pieces as bytes of float32, None for a piece that means nothing; None for all: they are owed.
    """

    id: str
    entry: Entry | None
    vectors: tuple[bytes | None, ...] | None = None


def replacing(names: Names, before: Entry | None, change: Change, mine: str, makers: Sequence[str]) -> list[Command]:
    """The commands that put `change` in place of what was there. `mine`: who made its vectors.

    Where it says what it said before, the vectors of others stay.
    """
    after = change.entry
    if before is not None and after is not None and (before.text, before.kind) == (after.text, after.kind):
        others = makers if change.vectors is None else [maker for maker in makers if maker != mine]
        put = [("ZADD", names.ages(after.kind), repr(after.created), change.id)]
        return [*put, *reattributed(names, change.id, before, after, others), *_vectors(names, change, mine)]
    found = [] if before is None else _taking_out(names, before, change, makers)
    if after is None:
        found += [("SREM", names.owed(maker), change.id) for maker in makers]
        return [*found, ("HDEL", names.entries, change.id)]
    owing = makers if change.vectors is None else [maker for maker in makers if maker != mine]
    owed = [("SADD", names.owed(maker), change.id) for maker in owing]
    return [*found, *_putting_in(names, change.id, after), *owed, *_vectors(names, change, mine)]


def reattributed(names: Names, id: str, before: Entry, after: Entry, makers: Sequence[str]) -> list[Command]:
    """The commands that change what a document is judged by, and not its text."""
    told = attributes(after)
    found: list[Command] = [("HSET", names.entries, id, msgspec.msgpack.encode(after)), _end(names, id, after)]
    for maker in makers:
        name = names.vectors(maker, after.kind)
        found += [("VSETATTR", name, element(id, piece), told) for piece in range(len(before.pieces))]
    return found


def _taking_out(names: Names, before: Entry, change: Change, makers: Sequence[str]) -> list[Command]:
    id, kind = change.id, before.kind
    found: list[Command] = [("ZREM", names.ages(kind), id), ("ZREM", names.ends(kind), id)]
    for maker in makers:
        found += [("VREM", names.vectors(maker, kind), element(id, piece)) for piece in range(len(before.pieces))]
    return found + _counted(names, before, -1)


def _putting_in(names: Names, id: str, entry: Entry) -> list[Command]:
    return [
        ("HSET", names.entries, id, msgspec.msgpack.encode(entry)),
        ("SADD", names.kinds, entry.kind),
        ("ZADD", names.ages(entry.kind), repr(entry.created), id),
        _end(names, id, entry),
        *_counted(names, entry, 1),
    ]


def _end(names: Names, id: str, entry: Entry) -> Command:
    if entry.expires is None:
        return ("ZREM", names.ends(entry.kind), id)
    return ("ZADD", names.ends(entry.kind), repr(entry.expires), id)


def _counted(names: Names, entry: Entry, by: int) -> list[Command]:
    """What the terms of a document add to the counts, or take from them."""
    held: Counter[int] = Counter()
    for _, packed in entry.pieces:
        held.update(terms_of(packed))
    found: list[Command] = [("HINCRBY", names.rarity, str(term), str(by * count)) for term, count in held.items()]
    found.append(("HINCRBY", names.totals, "p", str(by * len(entry.pieces))))
    found.append(("HINCRBY", names.totals, "t", str(by * sum(length for length, _ in entry.pieces))))
    return found


def _vectors(names: Names, change: Change, mine: str) -> list[Command]:
    """The commands that add the vectors of a change, where it has them."""
    if change.entry is None or change.vectors is None:
        return []
    kind, told = change.entry.kind, attributes(change.entry)
    found: list[Command] = [("SREM", names.owed(mine), change.id)]
    for piece, vector in enumerate(change.vectors):
        if vector is not None:
            name, named = names.vectors(mine, kind), element(change.id, piece)
            found.append(("VADD", name, "FP32", vector, named, "Q8", "EF", LINKING, "SETATTR", told))
    return found


def terms_of(packed: bytes) -> list[int]:
    """The numbers of the terms of a piece."""
    found: list[int] = np.frombuffer(packed, dtype=[("term", "<u4"), ("count", "u1")])["term"].tolist()
    return found


def term(text: str) -> str:
    """A term as the counts name it."""
    return str(hashed(text))
