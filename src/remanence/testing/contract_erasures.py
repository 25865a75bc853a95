# ruff: noqa: D102, PT018 - a test's name says what it proves, and one fact may have two halves
"""What every `Store` promises of erasing for good, as tests (see `remanence.testing.contract`)."""

from typing import Final

from remanence.model import Erasure, Seen
from remanence.testing.store_case import PAST, StoreCase, append, op_id, put

NOTHING_SEEN: Final = Seen()


class ErasuresContract(StoreCase):
    """The promises of `forget`, `erasures` and `holders`."""

    def forget(
        self, n: int, key: str, *, beginning: bool = False, live: bool = False, own: tuple[str, ...] = ()
    ) -> None:
        """Erase, as op number n."""
        erasure = Erasure(op_id(n), PAST + n, key, beginning)
        self.run(self.store.forget(erasure, own, self.deadline(), live=live))

    def told(self, holder: str = "", seen: Seen | None = NOTHING_SEEN) -> tuple[list[str], Seen]:
        """The ops of the erasures behind a place, and the place behind them."""
        erasures, upto = self.run(self.store.erasures(holder, seen, self.deadline()))
        return [each.op_id for each in erasures], upto

    def listed(self) -> list[Erasure]:
        """All erasures."""
        return self.run(self.store.erasures("", NOTHING_SEEN, self.deadline()))[0]

    def test_a_key_is_erased_and_no_other(self) -> None:
        self.apply(put(1), put(2, "k:1"), append(3, "l"))
        self.forget(4, "k")
        self.forget(5, "l")
        assert self.record("k") is None and self.record("k:1") is not None and self.items("l") == []

    def test_all_that_begins_alike_is_erased(self) -> None:
        self.apply(put(1, "a:1"), append(2, "a:2"), put(3, "a"), put(4, "ab"), put(5, "b:a:"))
        self.forget(6, "a:", beginning=True)
        assert self.pages("", 10) == ["a", "ab", "b:a:"]
        self.forget(7, "", beginning=True)
        assert self.pages("", 10) == []

    def test_patterns_in_what_is_erased_are_text(self) -> None:
        self.apply(put(1, "a*:1"), put(2, "ab:1"), put(3, "[ab]:1"))
        self.forget(4, "a*", beginning=True)
        self.forget(5, "[ab]", beginning=True)
        assert self.pages("", 10) == ["ab:1"]

    def test_live_it_erases_what_is_newer_too_and_late_only_what_is_not(self) -> None:
        self.apply(put(10, live=False), put(11, "m", live=False))
        self.forget(5, "k", live=False)
        self.forget(6, "m", live=True)
        assert self.record("k") is not None and self.record("m") is None

    def test_what_was_written_before_stays_erased(self) -> None:
        self.apply(put(6), append(7, "l"))
        self.forget(8, "", beginning=True)
        assert self.apply(put(4, live=False), append(4, "l", live=False)) == ["stale", "stale"]
        assert self.apply(put(9, live=False), append(9, "l", live=False)) == ["ok", "ok"]

    def test_it_is_told_of_as_a_delete_of_each_key(self) -> None:
        self.apply(put(1), put(2, "m"))
        before = self.run(self.store.latest(self.deadline()))
        self.forget(3, "", beginning=True)
        page = self.run(self.store.changes(before, 10, 0.0, self.deadline()))
        assert sorted((c.kind, c.result, c.key) for c in page.entries) == [("delete", "ok", "k"), ("delete", "ok", "m")]

    def test_live_it_is_of_the_stores_own_time(self) -> None:
        self.forget(1, "k")
        self.forget(2, "m", live=True)
        assert self.listed()[0].hlc == PAST + 1 and self.listed()[1].hlc > PAST + 1_000_000

    def test_sessions_end_but_those_that_are_spared(self) -> None:
        self.open("L", "N")
        self.open("M", "N")
        self.open("relay-R", "N")
        self.forget(1, "k", own=("L",))
        assert self.send(1, put(2), lineage="L").status == "ok"
        assert self.send(1, put(2), lineage="relay-R").status == "ok"
        assert self.send(1, put(3), lineage="M").status == "fenced"
        self.open("M", "N")
        assert self.send(1, put(3), lineage="M").status == "ok"

    def test_watermarks_survive_it(self) -> None:
        self.open()
        self.send(1, put(1), put(2))
        self.forget(3, "", beginning=True)
        assert self.seqs("L") == [2]

    def test_erasures_are_listed_once_and_in_order(self) -> None:
        assert self.told() == ([], Seen())
        self.forget(1, "k")
        self.forget(2, "m", beginning=True)
        self.forget(1, "k")
        assert self.told() == ([op_id(1), op_id(2)], Seen(2, op_id(2)))
        assert self.told(seen=Seen(1, op_id(1))) == ([op_id(2)], Seen(2, op_id(2)))
        assert self.told(seen=Seen(2, op_id(2))) == ([], Seen(2, op_id(2)))
        assert self.listed()[1] == Erasure(op_id(2), PAST + 2, "m", True)

    def test_a_place_that_is_not_in_the_list_has_all_behind_it(self) -> None:
        self.forget(1, "k")
        self.forget(2, "m")
        for other in (Seen(1, op_id(9)), Seen(2, op_id(1)), Seen(7, op_id(2))):
            assert self.told(seen=other) == ([op_id(1), op_id(2)], Seen(2, op_id(2)))

    def test_a_store_that_forgot_its_list_tells_so(self) -> None:
        assert self.told(seen=Seen(3, op_id(3))) == ([], Seen())

    def test_holders_say_how_far_they_are(self) -> None:
        self.forget(1, "k")
        self.told("one")
        self.told("two", Seen(1, op_id(1)))
        self.told("")
        assert self.run(self.store.holders(self.deadline())) == {"one": Seen(), "two": Seen(1, op_id(1))}
        self.told("one", None)
        assert self.run(self.store.holders(self.deadline())) == {"two": Seen(1, op_id(1))}

    def test_keys_with_blanks_are_told_whole(self) -> None:
        self.forget(1, "a key  with blanks ")
        assert [each.key for each in self.listed()] == ["a key  with blanks "]
