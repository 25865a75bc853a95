# ruff: noqa: D102, PT018 - a test's name says what it proves, and one fact may have two halves
"""What a `Store` promises that keeps earlier versions of records: for one that keeps `DEPTH` of them.

Beside `StoreContract`, which the same store must fulfil as well.
"""

from remanence.model import ABSENT, KEEP_TTL, NEVER, PASSED, Erasure
from remanence.protocols import Tail
from remanence.testing.store_case import PAST, StoreCase, append, delete, op_id, put, text, touch

DEPTH = 3
"""How many earlier versions the store of these tests must be made to keep."""

Told = tuple[str, int, bytes | None]


def put_by(*numbers: int) -> list[Told]:
    """The versions that these puts made."""
    return [(op_id(n), PAST + n, text(n)) for n in numbers]


def deleted_by(n: int) -> list[Told]:
    """The version that a delete made."""
    return [(op_id(n), PAST + n, None)]


class VersionContract(StoreCase):
    """The promises about what a write replaces, one test each."""

    def test_what_a_put_replaces_is_kept_newest_first(self) -> None:
        assert self.versions() == []
        self.apply(put(1))
        assert self.versions() == [], "the record itself is not among them"
        self.apply(put(2), put(3))
        assert self.versions() == put_by(2, 1)
        assert self.record() == (text(3), op_id(3), PAST + 3)
        assert self.versions("other") == []

    def test_so_many_are_kept(self) -> None:
        for n in range(1, 8):
            self.apply(put(n))
        assert self.versions() == put_by(6, 5, 4)

    def test_a_delete_is_a_version(self) -> None:
        self.apply(put(1), put(2), delete(3))
        assert self.versions() == deleted_by(3) + put_by(2, 1)
        self.apply(put(4, base=ABSENT))
        assert self.versions() == deleted_by(3) + put_by(2, 1)
        self.apply(put(5))
        assert self.versions() == put_by(4) + deleted_by(3) + put_by(2)

    def test_where_the_delete_is_what_there_is_it_counts_as_no_earlier_one(self) -> None:
        self.apply(*(put(n) for n in range(1, 6)), delete(6))
        assert self.versions() == deleted_by(6) + put_by(5, 4, 3)
        self.apply(put(7))
        assert self.versions() == deleted_by(6) + put_by(5, 4)

    def test_a_delete_of_nothing_is_none(self) -> None:
        self.apply(delete(1), delete(2), put(3), delete(4), delete(5))
        assert self.versions() == deleted_by(4) + put_by(3)

    def test_what_has_no_effect_makes_no_version(self) -> None:
        self.apply(put(5, hlc=PAST + 5))
        assert self.apply(put(1, live=False), put(2, base="x"), delete(3, base="x"), delete(4, live=False)) == [
            "stale",
            "conflict",
            "conflict",
            "stale",
        ]
        assert self.versions() == []

    def test_a_write_that_comes_again_makes_no_version(self) -> None:
        self.apply(put(1, live=False), put(2, live=False), put(2, live=False))
        assert self.versions() == put_by(1)
        self.apply(delete(3, live=False), delete(3, live=False))
        assert self.versions() == deleted_by(3) + put_by(2, 1)
        self.open()
        assert self.send(1, put(4)).seq == 1
        assert self.send(1, put(4)).status == "gap"
        assert self.versions() == deleted_by(3) + put_by(2, 1)

    def test_a_lineage_keeps_them_as_well(self) -> None:
        self.open()
        for n in range(1, 5):
            self.send(n, put(n))
        assert self.versions() == put_by(3, 2, 1)

    def test_lists_have_no_versions(self) -> None:
        self.apply(append(1, "l", b"a"), append(2, "l", b"b"), delete(3, "l"), append(4, "l", b"c"))
        assert self.versions("l") == []
        assert self.apply(put(5, "l")) == ["wrongtype"]
        self.apply(put(6), delete(7), append(8, "k"), delete(9))
        assert self.versions() == deleted_by(7) + put_by(6)

    def test_of_a_folded_chain_the_stored_text_is_kept(self) -> None:
        chain = [put(2, base=op_id(1), merge=True, folded=True), put(3, base=op_id(2), merge=True)]
        self.apply(put(1), *chain)
        assert self.versions() == put_by(1)

    def test_a_foreign_value_is_a_version(self) -> None:
        self.needs("foreign")
        self.plant("k", b"theirs")
        self.apply(put(1))
        [(etag, hlc, body)] = self.versions()
        assert (len(etag), hlc, body) == (22, 0, b"theirs")

    def test_a_scan_does_not_show_them(self) -> None:
        self.apply(put(1), put(2), put(3, "other"), delete(4, "other"))
        assert self.pages("", 100) == ["k"]

    # --- lifetimes

    def test_they_go_with_the_record_that_expires(self) -> None:
        self.needs("expiry")
        self.apply(put(1), put(2, ttl=40), put(3, "later"), put(4, "later"), touch(5, "later", 40))
        self.apply(put(6, "kept", ttl=40), put(7, "kept", ttl=KEEP_TTL))
        assert self.versions() == put_by(1) and self.versions("later") == put_by(3)
        assert self.versions("kept") == put_by(6)
        self.advance(0.08)
        for key in ("k", "later", "kept"):
            assert self.versions(key) == [], key
        self.apply(put(8), put(9))
        assert self.versions() == put_by(8)

    def test_they_stay_with_the_record_that_stays(self) -> None:
        self.needs("expiry")
        self.apply(put(1, ttl=40), put(2), put(3, "touched", ttl=40), put(4, "touched", ttl=40))
        self.apply(touch(5, "touched", NEVER))
        self.advance(0.08)
        assert self.versions() == put_by(1)
        assert self.versions("touched") == put_by(3)

    def test_after_a_delete_they_outlive_the_record(self) -> None:
        self.needs("expiry")
        self.apply(put(1, ttl=40), delete(2))
        self.advance(0.08)
        assert self.versions() == deleted_by(2) + put_by(1)

    def test_a_list_does_not_age_what_was_deleted_before_it(self) -> None:
        self.needs("expiry")
        self.apply(put(1), delete(2), append(3, "k"), touch(4, "k", 40))
        self.advance(0.08)
        assert self.ask(Tail("k")) == [[]] and self.versions() == deleted_by(2) + put_by(1)

    def test_a_put_whose_lifetime_passed_leaves_none(self) -> None:
        self.apply(put(1), put(2))
        assert self.apply(put(3, ttl=PASSED)) == ["expired"]
        assert self.versions() == []
        self.apply(put(4), put(5))
        assert self.versions() == put_by(4)

    def test_what_is_erased_has_no_earlier_versions_either(self) -> None:
        self.apply(put(1), put(2), put(3, "m"), put(4, "m"), delete(5, "m"), put(6, "n"), put(7, "n"))
        erasures = Erasure(op_id(8), PAST + 8, "k"), Erasure(op_id(9), PAST + 9, "m", beginning=True)
        for erasure in erasures:
            self.run(self.store.forget(erasure, (), self.deadline(), live=True))
        assert [self.versions(key) for key in ("k", "m")] == [[], []]
        assert self.versions("n")
