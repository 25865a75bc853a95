"""What this process knows of the server's records, for reads while the server is away.

Kept in memory within a byte budget and written to the journal's file in the background. An entry says
up to which row of this journal it is exact; later rows are folded over it (`stores.folding`).
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice

import msgspec

from remanence.model import ABSENT, Record
from remanence.wire.sqlite import Database

TAIL_ITEMS = 200
"""Items of a list's end that are remembered: several context windows of messages."""
LEAST = 200
"""About how many bytes an entry takes in memory beside what is in it."""
LATELY = 64
BIG = 65536
"""Entries that wait to be filed, and bytes of one that does not wait."""
_encoder = msgspec.msgpack.Encoder()


class Document(msgspec.Struct, frozen=True, array_like=True, tag="d"):
    """A record as the server last told it; `body` None where there was none."""

    body: bytes | None
    etag: str = ""
    hlc: int = 0


class ListTail(msgspec.Struct, frozen=True, array_like=True, tag="l"):
    """The end of a list and its length; `length` -1 where only own appends are known."""

    items: tuple[bytes, ...]
    length: int


Entry = Document | ListTail
_decoder = msgspec.msgpack.Decoder(Entry)


class Knowledge(msgspec.Struct, frozen=True):
    """An entry, the row it is exact up to, when the server said it and when it expires (wall seconds).

    `tick`: when it was asked for or sent, as `Vouching` counts; -1 for what the feed cannot vouch for.
    """

    n: int
    entry: Entry
    wall: float
    expires: float | None = None
    tick: int = -1


class Known:
    """Not thread-safe: its owner holds a mutex around each call."""

    def __init__(self, database: Database, *, records: int, budget: int = 24 << 20) -> None:
        """`records`: most entries on disk; `budget`: bytes held in memory."""
        self._database = database
        self._records = records
        self._budget = budget
        self._size = 0
        self._entries: OrderedDict[str, Knowledge] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._dirty: dict[str, None] = {}  # in order: a history must come out the same each time it is played
        self._lately: dict[str, Knowledge] = {}
        """What was put since the last look: of many writes to a key only the last need be filed."""
        self._ageless: dict[str, None] = {}

    def get(self, key: str) -> Knowledge | None:
        """What is known of `key`, from memory or disk."""
        self._file()
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
            return found
        rows = self._database.run("SELECT n, entry, wall, expires FROM known WHERE key = ?", (key,))
        if not rows:
            return None
        n, data, wall, expires = rows[0]
        entry = _read(data)
        return None if entry is None else Knowledge(n, entry, wall, expires)

    def at_hand(self, key: str) -> Knowledge | None:
        """What is known of `key` in memory. Unlike all else here it needs no mutex."""
        return self._lately.get(key) or self._entries.get(key)

    def heard(self, key: str, knowledge: Knowledge) -> None:
        """Remember what the server said; how long it lives is to be asked later (`ageless`)."""
        self._ageless[key] = None
        self.put(key, knowledge)

    def ageless(self, most: int) -> list[str]:
        """Some keys whose lifetime was not asked yet; they are not given again."""
        return [self._ageless.popitem()[0] for _ in range(min(most, len(self._ageless)))]

    def put(self, key: str, knowledge: Knowledge) -> None:
        """Remember, newest last; what no longer fits in memory goes to disk."""
        if self._records:
            self._lately[key] = knowledge
            body = getattr(knowledge.entry, "body", None)
            if len(self._lately) >= LATELY or (body is not None and len(body) > BIG):
                self._file()

    def _file(self) -> None:
        if self._lately:
            lately, self._lately = self._lately, {}
            for key, knowledge in lately.items():
                self._hold(key, knowledge, _size(knowledge.entry))
            if self._size > self._budget:
                self._fit()

    def _hold(self, key: str, knowledge: Knowledge, size: int) -> None:
        self._size += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        self._entries[key] = knowledge
        self._entries.move_to_end(key)
        self._dirty[key] = None

    def _release(self, key: str) -> None:
        if self._entries.pop(key, None) is not None:
            self._size -= self._sizes.pop(key)

    def _fit(self) -> None:
        """Let the oldest go from memory until the rest is within the budget."""
        while self._size > self._budget and len(self._entries) > 1:
            oldest = next(iter(self._entries))
            if oldest in self._dirty:
                self.save([oldest])
            self._release(oldest)

    def extend(self, key: str, n: int, items: Sequence[bytes], wall: float, expires: float | None) -> None:
        """Own items were appended to the list by row `n`."""
        if self._records == 0:
            return
        before = self.get(key)
        if before is not None and n <= before.n:
            return  # in it already: a server that forgot was sent the row again
        old = _tail(before)
        length = old.length + len(items) if old.length >= 0 else -1
        items = items[-TAIL_ITEMS:]
        more = max(0, len(old.items) + len(items) - TAIL_ITEMS)
        entry = ListTail(old.items[more:] + tuple(items), length)
        tick = before.tick if before is not None and old is before.entry else -1
        # by what changed: to add up the lengths of hundreds of items takes longer than the write itself
        was = self._sizes[key] if before is not None and old is before.entry and key in self._sizes else _size(old)
        size = was + _bytes(items) - _bytes(old.items[:more])
        self._hold(key, Knowledge(n, entry, wall, expires, tick), size)
        if self._size > self._budget:
            self._fit()

    def forget(self, keys: Sequence[str]) -> None:
        """Drop entries whose basis is gone."""
        self._file()
        for key in keys:
            self._release(key)
            self._dirty.pop(key, None)
        self._database.many("DELETE FROM known WHERE key = ?", [(key,) for key in keys])

    def dirty(self, most: int) -> list[str]:
        """Keys not yet on disk; of more than are kept there, the last."""
        self._file()
        for key in list(islice(self._dirty, max(0, len(self._dirty) - self._records))):
            del self._dirty[key]
        return [key for key, _ in zip(self._dirty, range(most), strict=False)]

    def save(self, keys: Sequence[str]) -> None:
        """Write entries to disk and keep the table within its number of records."""
        rows = [
            (key, k.n, _encoder.encode(k.entry), k.expires, k.wall)
            for key in keys
            if (k := self._entries.get(key)) is not None
        ]
        self._database.many("INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?, ?)", rows)
        for key in keys:
            self._dirty.pop(key, None)

    def trim(self, most: int = 1 << 30) -> bool:
        """Forget the oldest entries on disk past the number of records kept; True if more than `most` were too many."""
        over = self._database.run("SELECT count(*) FROM known")[0][0] - self._records
        if over > 0:
            self._database.run(
                "DELETE FROM known WHERE key IN (SELECT key FROM known ORDER BY wall LIMIT ?)", (min(over, most),)
            )
        return bool(over > most)

    def keys(self, prefix: str) -> list[str]:
        """Keys that are known to exist and begin with `prefix`."""
        self.save(self.dirty(1 << 30))
        rows = self._database.run(
            "SELECT key, entry FROM known WHERE key >= ? AND substr(key, 1, ?) = ?",
            (prefix, len(prefix), prefix),
        )
        return [key for key, data in rows if (entry := _read(data)) is not None and exists(entry)]


def _read(data: bytes) -> Entry | None:
    """An entry as the file has it; None where it cannot be read, for what is known can be asked again."""
    try:
        entry: Entry = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return entry


def exists(entry: Entry) -> bool:
    """Whether there was something at the key."""
    return entry.body is not None if isinstance(entry, Document) else bool(entry.items)


def of_record(record: Record | None) -> Document:
    """A record as an entry."""
    return Document(None, ABSENT) if record is None else Document(record.body, record.etag, record.hlc)


def _tail(before: Knowledge | None) -> ListTail:
    """What is known of a list before items are added; of anything else, that only those will be known."""
    if before is None:
        return ListTail((), -1)
    if isinstance(before.entry, ListTail):
        return before.entry
    return ListTail((), 0 if before.entry.body is None else -1)


def _size(entry: Entry) -> int:
    """About how many bytes an entry takes in memory."""
    return LEAST + (len(entry.body or b"") if isinstance(entry, Document) else _bytes(entry.items))


def _bytes(items: Sequence[bytes]) -> int:
    return sum(map(len, items)) + 40 * len(items)
