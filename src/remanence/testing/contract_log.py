# ruff: noqa: D102, PT018 - a test's name says what it proves, and one fact may have two halves
"""What every `Store` promises of its change log, as tests (see `remanence.testing.contract`)."""

from remanence.model import BEGINNING, Changes, Cursor
from remanence.testing.store_case import StoreCase, append, delete, op_id, put, touch


class LogContract(StoreCase):
    """The promises about what follows a cursor."""

    def changes(self, after: Cursor = BEGINNING, count: int = 100) -> Changes:
        """What the log has behind a cursor, without waiting."""
        return self.run(self.store.changes(after, count, 0.0, self.deadline()))

    def latest(self) -> Cursor:
        """The end of the log."""
        return self.run(self.store.latest(self.deadline()))

    def test_an_empty_log_has_nothing_behind_its_beginning(self) -> None:
        assert self.changes() == Changes([], BEGINNING) and self.latest() == BEGINNING

    def test_changes_come_in_order_with_what_they_came_to(self) -> None:
        self.open()
        self.send(1, put(1), append(2, "l", b"x"), touch(3, "k", 5000), delete(4), put(5, "l"), put(6, base="no"))
        page = self.changes()
        told = [(c.op_id, c.lineage, c.seq, c.kind, c.result, c.key) for c in page.entries]
        assert told == [
            (op_id(1), "L", 1, "put", "ok", "k"),
            (op_id(2), "L", 2, "append", "ok", "l"),
            (op_id(3), "L", 3, "touch", "ok", "k"),
            (op_id(4), "L", 4, "delete", "ok", "k"),
            (op_id(5), "L", 5, "put", "wrongtype", "l"),
            (op_id(6), "L", 6, "put", "conflict", "k"),
        ]
        assert page.whole and page.cursor == page.entries[-1].cursor == self.latest()

    def test_a_cursor_goes_on_where_it_was(self) -> None:
        self.open()
        self.send(1, *[put(n) for n in range(1, 6)])
        page = self.changes(count=2)
        assert [c.seq for c in page.entries] == [1, 2]
        page = self.changes(page.cursor, count=2)
        assert [c.seq for c in page.entries] == [3, 4] and page.whole
        page = self.changes(page.cursor)
        assert [c.seq for c in page.entries] == [5] and page.whole
        assert self.changes(page.cursor) == Changes([], page.cursor), "nothing more yet"
        self.send(6, put(6))
        assert [c.seq for c in self.changes(page.cursor).entries] == [6]

    def test_a_cursor_of_another_history_is_told(self) -> None:
        self.open()
        self.send(1, put(1), put(2))
        here = self.latest()
        assert not self.changes(Cursor(here.position, op_id(9))).whole, "another op lies there"
        first = self.changes(count=1).cursor
        assert not self.changes(Cursor(first.position, op_id(9))).whole

    def test_odd_keys_come_back_as_they_are(self) -> None:
        self.open()
        keys = ["a b c", " ", "new\nline", "你好 🧠", "%3A", "{x}:y", "l ok put"]
        self.send(1, *[put(n, key) for n, key in enumerate(keys, 1)])
        assert [c.key for c in self.changes().entries] == keys
