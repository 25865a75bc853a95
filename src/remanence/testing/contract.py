# ruff: noqa: D102, PT018 - a test's name says what it proves, and one fact may have two halves
"""What every `Store` promises, as tests: subclass `StoreContract`, say how to make your store, run pytest.

    class TestMyStore(StoreContract):
        def make_store(self):
            return MyStore(...)

Each test wants an empty store of its own. A store whose coroutines wait on an asyncio loop sets
`asynchronous = True`. A promise that a store must break is left out of its `capabilities`. With
`pytest.register_assert_rewrite("remanence.testing")` first in your conftest, failures show the values.
"""

import hashlib

from remanence.errors import WrongKind
from remanence.model import NOWHERE, Append, Blank, Op, Outcome, Record
from remanence.protocols import Fetch, Length, Lifetime, Tail
from remanence.testing.contract_erasures import ErasuresContract
from remanence.testing.contract_log import LogContract
from remanence.testing.contract_writes import WriteContract
from remanence.testing.store_case import PAST, append, delete, op_id, put, text

ODD_KEYS = (
    "a", " ", "a b", "new\nline", "nul\0inside", "\0", "\x7f", "\u00e9", "e\u0301", "你好", "🧠",
    "\U0010ffff", "\uffff", "*", "?", "[a-z]", "[^a]", "\\", "\\*", "{x}", "{}", "}{", "a:b", ":",
    "%", "%3A", "_", "a_b", "a%b", "'", '"', "-", "a" * 512, "remanence", "log", "NULL", "0", "-1",
)  # fmt: skip
"""Keys that a store may mistake for something else."""
UNSTAMPED = (
    b"", b"plain", b"{}", b"\x00", b"\x01" + b"x" * 60, b"\x00" + b"m" * 22 + b"160000000000000x",
    b"\x80\x04N.", b'{"stamp":"', b'{"stamp":"' + b"0" * 38 + b'"}', b'{"stamp":"' + b"0" * 37 + b'"," ":0}',
    b'{"stamp":"' + b"+" * 22 + b"0" * 16 + b'","a":1}',
)  # fmt: skip
"""What others may have written, which only begins like ours."""


class StoreContract(WriteContract, LogContract, ErasuresContract):
    """The promises of `Store`, one test each."""

    # --- sessions

    def test_unknown_lineage_opens_at_zero_and_tells_the_time(self) -> None:
        mark = self.open()
        assert (mark.seq, mark.op_id, mark.results, mark.highest) == (0, "", (), 0)
        assert mark.clock > PAST

    def test_open_tells_how_far_the_store_is(self) -> None:
        self.open()
        assert self.send(1, put(1), put(2, live=False, hlc=PAST - 9), put(3, "other")).seq == 3
        self.send(4, put(4), put(5, base="x"), append(6, "k"))
        mark = self.open(nonce="M")
        assert (mark.seq, mark.op_id, mark.results_from) == (6, op_id(6), 4)
        assert mark.results == ("ok", "conflict", "wrongtype")
        assert mark.highest == PAST + 4

    def test_open_tells_results_that_are_all_ok(self) -> None:
        self.open()
        self.send(1, put(1))
        self.send(2, put(2), put(3))
        mark = self.open()
        assert (mark.results_from, mark.results) == (2, ("ok", "ok"))

    def test_another_session_is_fenced(self) -> None:
        self.open(nonce="first")
        self.open(nonce="second")
        outcome = self.send(1, put(1), nonce="first")
        assert (outcome.status, outcome.seq, list(outcome.results)) == ("fenced", 0, [])
        assert self.send(1, put(2), nonce="second").status == "ok"
        assert self.send(2, put(3), nonce="first") == Outcome("fenced", 1)
        assert self.record() == (text(2), op_id(2), PAST + 2)
        assert not self.forward(9, op_id(9), "first")

    def test_a_lineage_that_nobody_opened_is_fenced(self) -> None:
        assert self.send(1, put(1)).status == "fenced"
        assert not self.forward(1, op_id(1))
        assert self.record() is None

    def test_a_gap_changes_nothing(self) -> None:
        self.open()
        self.send(1, put(1))
        assert self.send(3, put(3)) == Outcome("gap", 1)
        assert self.record() == (text(1), op_id(1), PAST + 1)
        assert self.seqs("L") == [1]

    def test_a_lineage_waits_for_the_one_before(self) -> None:
        self.open("A")
        self.open("B")
        for through in (0, 1):
            assert self.send(1, put(9), lineage="B", prev=("A", 2)) == Outcome("gap", 0)
            assert self.send(1 + through, put(1 + through), lineage="A").status == "ok"
        assert self.send(1, put(3), lineage="B", prev=("A", 2)).status == "ok"
        assert self.send(2, put(4), lineage="B", prev=("A", 99)).status == "ok", "only the beginning waits"
        assert self.seqs("B", "A", "unknown") == [2, 2, 0]

    def test_each_op_is_applied_once(self) -> None:
        self.open()
        self.send(1, append(1, "l", b"1"))
        ops = (append(2, "l", b"2"), put(3, "l"), append(4, "l", b"4"))
        assert list(self.send(2, *ops).results) == ["ok", "wrongtype", "ok"]
        for first in (1, 2, 3):
            assert self.send(first, *ops) == Outcome("gap", 4), "whose writes those are is to be asked"
        assert self.items() == [b"1", b"2", b"4"]
        mark = self.open()
        assert (mark.seq, mark.results_from, mark.results) == (4, 2, ("ok", "wrongtype", "ok")), "they are remembered"

    def test_lineages_do_not_meet(self) -> None:
        self.open("A", "a")
        self.open("B", "b")
        assert self.send(1, put(1, "x"), lineage="A", nonce="a").seq == 1
        assert self.send(1, put(2, "y"), put(3, "z"), lineage="B", nonce="b").seq == 2
        assert self.seqs("A", "B") == [1, 2]
        assert self.history("A", 9) == [(1, op_id(1))]

    def test_forward_passes_over_what_is_lost(self) -> None:
        self.open()
        self.send(1, put(1))
        assert self.forward(5, op_id(5))
        mark = self.open()
        assert (mark.op_id, mark.results_from, mark.results) == (op_id(5), 0, ())
        assert self.forward(3, op_id(3)), "it never goes back"
        assert self.seqs("L") == [5]
        assert self.send(5, put(5), put(6)) == Outcome("gap", 5)
        assert self.send(6, put(6)).seq == 6

    def test_without_a_lineage_everything_is_applied_as_it_comes(self) -> None:
        for _ in range(2):
            outcome = self.send(1, append(1, "l", b"x"), put(2), lineage="", nonce="")
            assert (outcome.status, outcome.seq, list(outcome.results)) == ("ok", 2, ["ok", "ok"])
        assert self.items() == [b"x", b"x"]

    def test_history_is_newest_first(self) -> None:
        self.open()
        self.send(1, *(put(n) for n in range(1, 8)))
        self.send(8, put(8, base="x"), Op(op_id(9), PAST, Blank("k")))
        assert self.history("L", 3) == [(9, op_id(9)), (8, op_id(8)), (7, op_id(7))]
        assert [seq for seq, _ in self.history("L", 99)] == [9, 8, 7, 6, 5, 4, 3, 2, 1]
        assert self.history("unknown", 9) == []

    # --- reading

    def test_a_tail_counts_as_lrange_does(self) -> None:
        items = [b"%d" % n for n in range(5)]
        self.apply(Op(op_id(1), PAST, Append("l", tuple(items))))
        for start in range(-7, 8):
            for stop in range(-7, 8):
                first = max(start + 5 if start < 0 else start, 0)
                last = stop + 5 if stop < 0 else stop
                wanted = items[first : last + 1] if last >= first else []
                assert self.ask(Tail("l", start, stop)) == [wanted], (start, stop)

    def test_a_wrong_kind_is_the_answer_to_its_own_ask(self) -> None:
        self.apply(put(1, "d"), append(2, "l", b"x"))
        told = self.ask(Fetch("l"), Fetch("d"), Tail("d"), Length("d"), Length("l"), Lifetime("l"), Tail("l"))
        assert [isinstance(each, WrongKind) for each in told] == [
            True,
            False,
            True,
            True,
            False,
            False,
            False,
        ]
        assert (told[1].body, told[4:]) == (text(1), [1, -1, [b"x"]])

    def test_answers_and_marks_come_together(self) -> None:
        self.open("A")
        self.send(1, put(1), put(2), lineage="A")
        self.apply(append(3, "l"))
        told, marks = self.run(self.store.read([Fetch("k"), Fetch("l"), Fetch("none")], self.deadline(), ["x", "A"]))
        assert isinstance(told[0], Record) and isinstance(told[1], WrongKind) and told[2] is None
        assert [mark.seq for mark in marks] == [0, 2]
        assert [mark.op_id for mark in marks] == ["", op_id(2)]

    def test_a_read_of_nothing_is_nothing(self) -> None:
        assert self.run(self.store.read([], self.deadline())) == ([], [])
        assert self.run(self.store.read([], self.deadline(), ["L"])) == ([], [NOWHERE])

    def test_a_foreign_value_is_readable_and_can_be_replaced(self) -> None:
        self.needs("foreign")
        self.plant("k", b'{"theme":"dark"}')
        digest = hashlib.sha1(b'{"theme":"dark"}', usedforsecurity=False).hexdigest()[:22]
        assert self.record() == (b'{"theme":"dark"}', digest, 0)
        assert self.apply(put(1, base="x"), put(2, base=digest)) == ["conflict", "ok"]
        for n, raw in enumerate(UNSTAMPED):
            self.plant(f"f{n}", raw)
            self.plant(f"m{n}", raw)
            found = self.record(f"f{n}")
            assert found is not None and found[0] == raw and found[2] == 0
            outcome = self.send(1, put(3, f"m{n}", base="x", merge=True), lineage="", nonce="")
            assert outcome.current == raw
            assert self.apply(put(4, f"f{n}", base=found[1]), put(5, f"m{n}", live=False)) == ["ok", "ok"]

    def test_a_foreign_list_is_a_list(self) -> None:
        self.needs("foreign")
        self.plant("l", [b"theirs"])
        assert self.apply(append(1, "l", b"ours"), put(2, "l")) == ["ok", "wrongtype"]
        assert self.items() == [b"theirs", b"ours"]

    # --- keys

    def test_a_key_may_be_any_text(self) -> None:
        for n, key in enumerate(ODD_KEYS):
            kind = put(n, key) if n % 2 else append(n, key, b"%d" % n)
            assert self.apply(kind) == ["ok"], key
        for n, key in enumerate(ODD_KEYS):
            if n % 2:
                assert self.record(key) == (text(n), op_id(n), PAST + n), key
            else:
                assert self.items(key) == [b"%d" % n], key
            assert key in self.pages(key, 100)
        assert self.pages("", 20) == sorted(ODD_KEYS)
        assert self.apply(*(delete(100 + n, key) for n, key in enumerate(ODD_KEYS))) == ["ok"] * len(ODD_KEYS)
        assert self.pages("", 100) == []

    def test_a_scan_takes_its_prefix_literally(self) -> None:
        keys = ["a*", "a*b", "ab", "a?", "a[b]", "a[", "b", "a\\", "a^", "[a-z]x", "ax"]
        self.apply(*(put(n, key) for n, key in enumerate(keys)))
        for prefix in ("", "a", "a*", "a?", "a[", "a[b", "[a-z]", "a\\", "a^", "ab", "zz", "*", "?"):
            assert self.pages(prefix, 20) == sorted(key for key in keys if key.startswith(prefix)), prefix

    def test_a_scan_finds_everything_in_pages(self) -> None:
        keys = [f"p:{n:04d}" for n in range(700)]
        for start in range(0, 700, 100):
            self.apply(*(put(n, keys[n]) if n % 3 else append(n, keys[n]) for n in range(start, start + 100)))
        self.apply(put(1, "o"), put(2, "q"))
        for count in (50, 10_000):
            assert self.pages("p:", count) == keys

    def test_a_scan_survives_changes_behind_it(self) -> None:
        keys = [f"{n:03d}" for n in range(300)]
        self.apply(*(put(n, key) for n, key in enumerate(keys)))
        found, cursor = self.run(self.store.scan("", "", 50, self.deadline()))
        seen = set(found)
        self.apply(*(delete(1000 + n, key) for n, key in enumerate(keys) if n % 2), put(2000, "new"))
        while cursor:
            found, cursor = self.run(self.store.scan("", cursor, 50, self.deadline()))
            seen.update(found)
        assert seen >= {key for n, key in enumerate(keys) if n % 2 == 0}

    # --- the store itself

    def test_facts_say_what_it_is(self) -> None:
        self.apply(put(1), append(2, "l"))
        facts = self.run(self.store.facts(self.deadline()))
        assert facts["kind"] and int(facts["keys"]) >= 2
        assert all(isinstance(text, str) for pair in facts.items() for text in pair)

    def test_closing_twice_is_closing(self) -> None:
        self.apply(put(1))
        self.run(self.store.close())
        self.run(self.store.close())
