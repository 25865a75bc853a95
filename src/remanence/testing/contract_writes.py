# ruff: noqa: D102, PT018 - a test's name says what it proves, and one fact may have two halves
"""What every `Store` promises of single writes: conflicts, kinds and lifetimes. Part of `StoreContract`."""

from itertools import pairwise

from remanence.model import ABSENT, KEEP_TTL, NEVER, PASSED, Append, Blank, Op, Put
from remanence.protocols import Fetch, Length, Lifetime, Tail
from remanence.testing.store_case import PAST, StoreCase, append, delete, op_id, put, text, touch
from remanence.wire.codec import split, stamped


class WriteContract(StoreCase):
    """The promises of the kinds of writes, one test each."""

    # --- conflicts

    def test_a_document_carries_its_stamp(self) -> None:
        assert self.apply(put(1), Op(op_id(2), PAST + 2, Put("flagged", b"\x00\x81\xa1a\xc0"))) == [
            "ok",
            "ok",
        ]
        assert self.record() == (text(1), op_id(1), PAST + 1)
        assert self.record("flagged") == (b"\x00\x81\xa1a\xc0", op_id(2), PAST + 2)

    def test_a_base_is_compared_and_set(self) -> None:
        assert self.apply(put(1, base=ABSENT), put(2, base=ABSENT), put(3, base=op_id(1))) == [
            "ok",
            "conflict",
            "ok",
        ]
        assert self.apply(delete(4, base=op_id(1)), delete(5, base=op_id(3))) == ["conflict", "ok"]
        assert self.apply(delete(6, base=ABSENT), put(7, base=op_id(3))) == ["ok", "conflict"]
        assert self.record() is None

    def test_a_base_wins_over_clocks(self) -> None:
        assert self.apply(put(1, hlc=PAST + 50), put(2, hlc=PAST, live=False, base=op_id(1))) == ["ok", "ok"]
        assert self.record() == (text(2), op_id(2), PAST + 51), "stamps of a record only rise"

    def test_a_merge_whose_base_moved_on_stops_the_batch(self) -> None:
        self.open()
        self.send(1, put(1))
        late = put(3, base=op_id(9), merge=True)
        outcome = self.send(2, put(2, "other"), late, put(4, "never"))
        assert (outcome.status, outcome.moved, outcome.seq, list(outcome.results)) == ("ok", True, 2, ["ok"])
        assert outcome.current == stamped(text(1), op_id(1), PAST + 1)
        assert self.seqs("L") == [2]
        assert self.record("never") is None
        assert list(self.send(3, put(3, base=op_id(1), merge=True), put(4, "never")).results) == ["ok", "ok"]

    def test_a_merge_tells_that_there_is_nothing(self) -> None:
        self.open()
        outcome = self.send(1, put(1, base=op_id(9), merge=True))
        assert (outcome.moved, outcome.seq, outcome.current, list(outcome.results)) == (True, 0, None, [])
        assert self.open().seq == 0

    def test_a_merge_on_a_list(self) -> None:
        assert self.apply(append(1, "k"), put(2, base=op_id(9), merge=True)) == ["ok", "wrongtype"]
        outcome = self.send(1, append(3, "k"), delete(4, base=op_id(9), merge=True), lineage="", nonce="")
        assert (outcome.moved, outcome.current, outcome.seq) == (True, None, 1)

    def test_a_blank_may_vouch_for_a_version(self) -> None:
        self.open()
        blanks = [Op(op_id(n), PAST, Blank("k", base), merge=True) for n, base in ((2, op_id(1)), (3, "x"))]
        outcome = self.send(1, put(1), Op(op_id(9), PAST, Blank("k")), *blanks)
        assert (outcome.moved, outcome.seq, list(outcome.results)) == (True, 3, ["ok", "ok", "refused"])
        assert split(outcome.current or b"")[1] == op_id(1)
        assert self.apply(append(4, "l"), Op(op_id(5), PAST, Blank("l", "x"), merge=True)) == [
            "ok",
            "wrongtype",
        ]

    def test_of_a_folded_chain_the_last_carries_the_text(self) -> None:
        chain = [
            put(n, base=base, merge=True, folded=n < 4) for n, base in ((2, op_id(1)), (3, op_id(2)), (4, op_id(3)))
        ]
        self.open()
        outcome = self.send(1, put(1, hlc=PAST + 100), *chain)
        assert (outcome.moved, list(outcome.results), outcome.highest) == (False, ["ok"] * 4, PAST + 103)
        assert self.record() == (text(4), op_id(4), PAST + 103)
        assert [ident for _, ident in self.history("L", 9)] == [op_id(n) for n in (4, 3, 2, 1)]

    def test_a_folded_chain_begins_from_nothing_or_not_at_all(self) -> None:
        chain = [put(1, base=ABSENT, merge=True, folded=True), put(2, base=op_id(1), merge=True)]
        assert self.apply(*chain) == ["ok", "ok"]
        assert self.record() == (text(2), op_id(2), PAST + 2)
        outcome = self.send(1, *chain, lineage="", nonce="")
        assert (outcome.moved, list(outcome.results)) == (True, [])

    def test_what_was_folded_ends_with_its_document(self) -> None:
        folded = put(2, base=op_id(1), folded=True)
        assert self.apply(put(1), folded, delete(3), put(4, base=ABSENT)) == ["ok"] * 4
        folded = put(5, base=op_id(4), folded=True)
        assert self.apply(folded, put(6, ttl=PASSED), put(7, base=ABSENT)) == ["ok", "expired", "ok"]

    def test_a_replayed_write_loses_to_a_newer_one(self) -> None:
        self.apply(put(1, hlc=PAST + 50))
        assert self.apply(put(2, hlc=PAST + 49, live=False), delete(3, hlc=PAST + 49, live=False)) == ["stale"] * 2
        assert self.apply(put(4, hlc=PAST + 51, live=False)) == ["ok"]
        assert self.record() == (text(4), op_id(4), PAST + 51)

    def test_ids_decide_between_equal_times_byte_by_byte(self) -> None:
        order = "-09AZ_az"  # as bytes; many locales sort these otherwise
        for n, (lower, higher) in enumerate(pairwise(order)):
            low, high = lower.ljust(22, "m"), higher.ljust(22, "M")
            ops = [Op(ident, PAST, Put(f"{n}", text(n)), live=False) for ident in (low, high, low)]
            assert self.apply(*ops) == ["ok", "ok", "stale"], (lower, higher)

    def test_a_live_write_always_wins(self) -> None:
        self.apply(put(1, hlc=PAST + 50))
        assert self.apply(put(2, hlc=PAST)) == ["ok"]
        assert self.record() == (text(2), op_id(2), PAST + 51)
        assert self.apply(delete(3, hlc=PAST), put(4, hlc=PAST)) == ["ok", "ok"]
        assert self.record() == (text(4), op_id(4), PAST + 53)
        assert self.apply(put(5, hlc=PAST + 53)) == ["ok"]
        assert self.record() == (text(5), op_id(5), PAST + 54), "later than what it replaced, not as late"

    def test_the_same_write_again_is_not_stale(self) -> None:
        assert (
            self.apply(put(1, live=False), put(1, live=False), delete(2, live=False), delete(2, live=False))
            == ["ok"] * 4
        )
        self.apply(put(3, hlc=PAST + 50), put(4, hlc=PAST))
        assert self.apply(put(4, hlc=PAST, live=False)) == ["ok"], "though its stamp was raised"

    def test_a_clock_may_run_ahead_by_five_seconds_at_most(self) -> None:
        self.open()
        ahead = self.open().clock + 3_600_000_000
        assert self.send(1, put(1, hlc=ahead), put(2, "r", hlc=ahead, live=False)).highest < ahead
        now = self.open().clock
        for key in ("k", "r"):
            found = self.record(key)
            assert found is not None and now - 60_000_000 < found[2] <= now + 5_000_000
        near = now + 3_000_000
        self.apply(put(3, "near", hlc=near, live=False))
        assert self.record("near") == (text(3), op_id(3), near)

    def test_highest_counts_documents_and_deletes(self) -> None:
        self.open()
        assert self.send(1, put(1, hlc=PAST + 7), append(2, "l", hlc=PAST + 99)).highest == PAST + 7
        assert self.send(3, delete(3, hlc=PAST + 8)).highest == PAST + 8
        assert self.send(4, put(4, hlc=PAST, base="x")).highest == PAST + 8
        assert self.open().highest == PAST + 8

    def test_what_was_deleted_does_not_come_back(self) -> None:
        self.apply(put(1, hlc=PAST + 1), delete(2, hlc=PAST + 50), append(3, "l"), delete(4, "l", hlc=PAST + 50))
        assert self.ask(Fetch("k"), Tail("l"), Length("l"), Lifetime("k")) == [None, [], 0, -2]
        late = PAST + 40
        replayed = (
            put(5, hlc=late, live=False),
            append(6, "l", hlc=late, live=False),
            delete(7, hlc=late, live=False),
        )
        assert self.apply(*replayed) == ["stale"] * 3
        assert self.pages("", 100) == []
        later = PAST + 60
        assert self.apply(put(8, hlc=later, live=False), append(9, "l", hlc=later, live=False)) == [
            "ok",
            "ok",
        ]
        assert self.record() == (text(8), op_id(8), later)

    def test_a_delete_takes_lists_whatever_their_age(self) -> None:
        assert self.apply(append(1, "l", hlc=PAST + 9), delete(2, "l", hlc=PAST, live=False)) == ["ok", "ok"]
        assert self.items() == []
        assert self.apply(append(5, "l", hlc=PAST, live=False), delete(6, "l")) == ["ok", "ok"], "as late"
        new = append(3, "l", b"new", hlc=PAST - 9)
        assert self.apply(new, delete(4, "l", base="x")) == ["ok", "conflict"], "a live append minds no tombstone"
        assert self.items() == [b"new"]

    # --- kinds

    def test_an_op_on_another_kind_is_refused_alone(self) -> None:
        self.apply(put(1, "doc"), append(2, "list", b"x"))
        results = self.apply(put(3, "list"), append(4, "doc", b"y"), append(5, "list", b"z"), put(6, "doc"))
        assert results == ["wrongtype", "wrongtype", "ok", "ok"]
        assert self.apply(put(7, "list", base="x"), touch(8, "list", NEVER)) == ["wrongtype", "ok"]
        assert self.items("list") == [b"x", b"z"]
        assert self.record("doc") == (text(6), op_id(6), PAST + 6)

    def test_a_deleted_key_may_hold_the_other_kind(self) -> None:
        assert self.apply(put(1), delete(2), append(3, "k", b"x")) == ["ok"] * 3
        assert self.items("k") == [b"x"]
        assert self.apply(delete(4), put(5)) == ["ok", "ok"]
        assert self.ask(Fetch("k"), Length("k"))[0].etag == op_id(5)

    def test_a_long_list_comes_whole(self) -> None:
        items = tuple(b"%d" % n for n in range(2500))
        assert self.apply(Op(op_id(1), PAST, Append("l", items)), append(2, "l", b"last")) == ["ok", "ok"]
        assert self.items() == [*items, b"last"]
        assert self.ask(Length("l"), Tail("l", -2, -1)) == [2501, [b"2499", b"last"]]

    def test_items_may_be_any_bytes(self) -> None:
        items = (b"", b"\0", b"\xff\xfe", b'{"a":1}', b"," * 1000)
        self.apply(Op(op_id(1), PAST, Append("l", items)))
        assert self.items() == list(items)

    # --- lifetimes

    def test_a_put_sets_keeps_or_ends_a_lifetime(self) -> None:
        self.apply(put(1, ttl=60_000))
        assert self.lives("k", 60_000)
        self.apply(put(2, ttl=KEEP_TTL))
        assert self.lives("k", 60_000)
        self.apply(put(3, ttl=90_000))
        assert self.lives("k", 90_000)
        self.apply(put(4))
        assert self.left("k") == -1
        self.apply(put(5, "new", ttl=KEEP_TTL))
        assert self.ask(Lifetime("new"), Lifetime("none")) == [-1, -2]

    def test_a_put_whose_lifetime_passed_leaves_nothing(self) -> None:
        assert self.apply(put(1), put(2, ttl=PASSED), put(3, base=ABSENT)) == ["ok", "expired", "ok"]
        assert self.apply(put(4, ttl=PASSED, hlc=PAST, live=False)) == ["stale"]
        assert self.apply(put(5, ttl=PASSED)) == ["expired"]
        assert self.record() is None

    def test_an_append_starts_the_lifetime_anew(self) -> None:
        for ttl in (60_000, 90_000, 30_000):
            self.apply(append(1, "l", ttl=ttl))
            assert self.lives("l", ttl)
        self.apply(append(2, "l", ttl=KEEP_TTL))
        assert self.lives("l", 30_000)
        self.apply(append(3, "l", ttl=NEVER))
        assert self.left("l") == -1

    def test_a_replayed_append_only_lengthens(self) -> None:
        self.apply(append(1, "l", ttl=60_000, live=False))
        assert self.lives("l", 60_000), "one that makes the list sets its lifetime"
        self.apply(append(2, "l", ttl=30_000, live=False))
        assert self.lives("l", 60_000)
        self.apply(append(3, "l", ttl=90_000, live=False))
        assert self.lives("l", 90_000)
        self.apply(append(4, "l", ttl=NEVER, live=False), append(5, "l", ttl=30_000, live=False))
        assert self.left("l") == -1
        assert len(self.items()) == 5

    def test_an_append_whose_lifetime_passed_only_joins_others(self) -> None:
        assert self.apply(append(1, "l", ttl=PASSED)) == ["expired"]
        assert self.apply(append(2, "l", ttl=60_000), append(3, "l", ttl=PASSED)) == ["ok", "ok"]
        assert len(self.items()) == 2 and self.lives("l", 60_000)

    def test_touch_gives_either_kind_a_lifetime(self) -> None:
        self.apply(put(1), append(2, "l"))
        for key in ("k", "l"):
            assert self.apply(touch(3, key, 60_000)) == ["ok"]
            assert self.lives(key, 60_000)
            assert self.apply(touch(4, key, 30_000, live=False), touch(5, key, KEEP_TTL)) == ["ok", "ok"]
            assert self.lives(key, 60_000)
            assert self.apply(touch(6, key, 90_000, live=False)) == ["ok"]
            assert self.lives(key, 90_000)
            assert self.apply(touch(7, key, NEVER), touch(8, key, 30_000, live=False)) == ["ok", "ok"]
            assert self.left(key) == -1
            assert self.apply(touch(9, key, PASSED)) == ["expired"]
        assert self.apply(touch(10, "none", 1000)) == ["expired"]
        assert self.record() == (text(1), op_id(1), PAST + 1)

    def test_what_expired_is_nowhere(self) -> None:
        self.needs("expiry")
        self.apply(
            put(1, ttl=40),
            append(2, "l", b"old", ttl=40),
            put(3, "stays", ttl=60_000),
            put(4, "other", ttl=40),
        )
        self.advance(0.08)
        assert self.ask(Fetch("k"), Tail("l"), Length("l"), Lifetime("k")) == [None, [], 0, -2]
        assert self.pages("", 10) == ["stays"]
        assert self.apply(put(5, base=op_id(1)), touch(6, "k", 1000)) == ["conflict", "expired"]
        assert self.apply(put(7, ttl=KEEP_TTL), append(8, "l", b"new", ttl=KEEP_TTL), append(9, "other")) == ["ok"] * 3
        assert self.ask(Tail("l"), Lifetime("k"), Lifetime("l"), Lifetime("other")) == [[b"new"], -1, -1, -1]
        assert self.apply(put(10, "l"), put(11, "other", base=ABSENT)) == ["wrongtype", "wrongtype"]
