"""What was heard lately, so that nothing is told twice and a log that changed its past can be met again. Pure."""

from collections import OrderedDict, deque
from collections.abc import Sequence

from remanence.model import BEGINNING, EXPIRED, OK, Change, Changes, Cursor, Notice

REMEMBERED = 256
"""Entries to look back through for one that the log still has."""
MIDST = "resync"
"""An operation id that no log has."""
TOLD = 10_000
"""Operations that are known to have been told of: more than a server may send again out of order."""


class Trail:
    """The last entries of one log that were heard, and the operations they told of."""

    def __init__(self) -> None:
        self._entries: deque[Change] = deque(maxlen=REMEMBERED)
        self._told: OrderedDict[tuple[str, str], None] = OrderedDict()  # with the key: an erasure has many

    def news(self, entries: Sequence[Change]) -> list[Change]:
        """Note entries, and give those that changed something and were not told before."""
        found = []
        for entry in entries:
            self._entries.append(entry)
            what = entry.op_id, entry.key
            if is_change(entry) and what not in self._told:
                self._told[what] = None
                found.append(entry)
        while len(self._told) > TOLD:
            self._told.popitem(last=False)
        return found

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Change:
        return self._entries[index]

    def cut(self, kept: int) -> list[Change]:
        """The log has only the first `kept` of the entries: the rest, which may come again.

        Where it has none of them, anything that ever was told of may come again.
        """
        gone = list(self._entries)[kept:]
        for entry in gone:
            self._entries.pop()
            self._told.pop((entry.op_id, entry.key), None)
        if not kept:
            self._told.clear()
        return gone


def is_change(entry: Change) -> bool:
    """Whether an entry tells that something changed: also a put that came after its lifetime, which deletes."""
    return (entry.result == OK and entry.kind != "blank") or (entry.result == EXPIRED and entry.kind == "put")


def notice_of(entry: Change, source: int) -> Notice | None:
    """What listeners are told of an entry; None where nothing changed."""
    if not is_change(entry):
        return None
    kind = "delete" if entry.result == EXPIRED else entry.kind
    return Notice(entry.key, kind, entry.cursor, entry.op_id, source)


def place(cursor: Cursor) -> tuple[int, ...]:
    """A cursor's position as what can be compared: positions of one log are a number, or two with a dash, that grow."""
    return tuple(int(number) for number in cursor.position.split("-")) if cursor.position else ()


def up_to(page: Changes, after: Cursor, reached: Cursor) -> Changes:
    """Of a page behind `after`, what is not behind `reached`."""
    entries = [each for each in page.entries if place(each.cursor) <= place(reached)]
    if len(entries) == len(page.entries):
        return page
    return Changes(entries, entries[-1].cursor if entries else after, page.whole)


def midst(cursor: Cursor) -> Cursor:
    """Where somebody stands who was not told of a whole resync yet: who goes on from there is told of one again."""
    return cursor if cursor == BEGINNING else Cursor(cursor.position, MIDST)  # from the beginning on, all is told


def in_one(resync: Sequence[Notice]) -> list[Notice]:
    """The notices of one resync, of which only the last one says that all was told."""
    *before, last = resync
    return [*(Notice(each.key, each.kind, midst(each.cursor), each.op_id, each.source) for each in before), last]
