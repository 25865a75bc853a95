"""Each safeguard of the engine is needed.

A mutant removes one safeguard; the simulator must then find a violation within a few seeds. What a mutant
is hunted with are the faults that its safeguard is there for.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from remanence.feed import feed
from remanence.feed.feed import Feed
from remanence.model import OK, REFUSED
from remanence.stores import clock, dating, drain, journal, keeper, memory, pruning, resolve, rules
from remanence.stores.partitioned import PartitionedStore
from remanence.stores.resilient import ResilientStore
from remanence.stores.rows import Lineage
from remanence.stores.vouching import Vouching
from remanence.testing.simulator import world
from remanence.testing.simulator.__main__ import main
from remanence.testing.simulator.histories import Plan, Report, divided, plan, play
from remanence.testing.simulator.safeguards import nothing, replaced
from remanence.wire import sqlite


def hunt(
    kinds: str, seeds: int, chosen: dict[str, Any], settings: dict[str, Any], planned: Callable[..., Plan] = plan
) -> Report | None:
    """The first history with these faults that goes wrong."""
    for seed in range(seeds):
        made = planned(seed, kinds.split(", ") if kinds else [])
        made = msgspec.structs.replace(made, settings={**made.settings, **settings}, **chosen)
        report = play(seed, made)
        if report.violations:
            return report
    return None


def test_the_command_reports_and_replays(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    assert main(["--seeds", "3", "--jobs", "1", "--json"]) == 0
    told = msgspec.json.decode(capsys.readouterr().out)
    assert told["histories"] == 3 and told["violations"] == told["lost"] == 0 and told["writes"] > 0
    MUTANTS["gaps are accepted"].apply(monkeypatch)
    broken = hunt("failover", 50, {}, {})
    assert broken is not None
    monkeypatch.setattr("remanence.testing.simulator.__main__.play", lambda seed: broken)
    assert main(["--seeds", "1", "--from", str(broken.seed), "--jobs", "1"]) == 1
    out = capsys.readouterr().out
    assert f"--seeds 1 --from {broken.seed}" in out and broken.violations[0] in out


@dataclass(frozen=True)
class Mutant:
    """A safeguard removed, and what it takes to notice."""

    apply: Callable[[pytest.MonkeyPatch], None]
    kinds: str
    seeds: int = 60
    plan: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def without_gap(batch: Any, mark: Any, before: int) -> Any:
    refusal = rules.admitted(batch, mark, before)
    return None if refusal is not None and refusal.status == "gap" else refusal


def handshake_of_the_pending(patch: pytest.MonkeyPatch) -> None:
    real = drain.Drain._compare

    async def compare(self: drain.Drain, lineage: Lineage, mark: Any, deadline: float) -> None:
        if lineage.pending or mark.seq >= lineage.acked:
            await real(self, lineage, mark, deadline)

    patch.setattr(drain.Drain, "_compare", compare)


def watermark_apart(patch: pytest.MonkeyPatch) -> None:
    """As two commands would: a server that falls back may have the one without the other."""
    real = memory.MemoryStore.snapshot
    before: dict[int, Any] = {}

    def snapshot(self: memory.MemoryStore) -> Any:
        made = real(self)
        marks, before[id(self)] = before.get(id(self), made.marks), made.marks
        return msgspec.structs.replace(made, marks=marks)

    patch.setattr(memory.MemoryStore, "snapshot", snapshot)


def merges_unconditional(op: Any, base: str, *rest: Any) -> Any:
    return REAL_JUDGE(op, "" if op.merge else base, *rest) if not op.merge else ("", rest[0][1] + 1 if rest[0] else 1)


REAL_JUDGE = rules.judge


def records_without_blanking(patch: pytest.MonkeyPatch) -> None:
    real = journal.Journal.record

    def record(self: journal.Journal, row: Any, kind: str, reason: str) -> None:
        real(self, row, kind, reason)
        self._database.run("UPDATE rows SET write = ? WHERE n = ?", (journal._encode(row.write), row.n))

    patch.setattr(journal.Journal, "record", record)


def loss_told_afterwards(patch: pytest.MonkeyPatch) -> None:
    async def pass_over(self: drain.Drain, lineage: Lineage, seq: int, deadline: float) -> None:
        upto = lineage.pruned
        await self._store.forward(lineage.name, self._nonce, upto, lineage.pruned_id, deadline)
        self._tell.tell(drain.events.DataLost(lineage.name, seq + 1, upto))

    patch.setattr(drain.Drain, "_pass_over", pass_over)


def power_forgotten(patch: pytest.MonkeyPatch) -> None:
    """`durability="full"` without waiting for the disk."""
    real = sqlite.Database._configure
    patch.setattr(sqlite.Database, "_configure", lambda self, full, *rest: real(self, False, *rest))


def unnoticed(patch: pytest.MonkeyPatch) -> None:
    """No new lineage after a loss of power or a copy, and no look at what the server was sent last."""
    patch.setattr(world, "fingerprint", lambda *_: "the same")
    patch.setattr(drain.Drain, "follows", lambda *_: True)


def rewound_in_silence(patch: pytest.MonkeyPatch) -> None:
    def rewind(self: drain.Drain, lineage: Lineage, seq: int) -> None:
        self._forget_recent()
        self.journal.rewind(lineage, seq)

    patch.setattr(drain.Drain, "_rewind", rewind)


def blank_without_refusal(self: Any, write: Any) -> str:
    result = REAL_BLANK(self, write)
    return OK if result == REFUSED else result


REAL_BLANK = rules._Walk._blank


async def no_beat(*_: Any, **__: Any) -> None:
    return None


def believed(self: clock.StoreClock, row: Any, *, same_start: bool) -> int:
    return int(row.hlc)


async def followed_on(self: Feed) -> None:
    self._cursor = await self.end()


NEAR = {"reads": "near"}
MUTANTS = {
    "gaps are accepted": Mutant(replaced(memory, "admitted", without_gap), "failover"),
    "a server that forgot is not told again": Mutant(replaced(drain.Drain, "_rewind", nothing), "failover"),
    "a server that forgot is told again in silence": Mutant(rewound_in_silence, "failover"),
    "many send at once": Mutant(
        replaced(ResilientStore, "leader", property(nothing, nothing)), "late, twice, reply lost, partition", seeds=300
    ),
    "only lineages with pending rows are compared": Mutant(handshake_of_the_pending, "failover, power"),
    "the last write is not compared": Mutant(replaced(drain.Drain, "follows", lambda *_: True), "restore"),
    "the watermark moves apart from the data": Mutant(watermark_apart, "failover"),
    "rows are forgotten before they are applied": Mutant(
        replaced(pruning, "_prunable", lambda journal, lineage, *_: lineage.count), "partition"
    ),
    "an idle server is not asked": Mutant(replaced(keeper.Keeper, "_beat", no_beat), "failover, empty"),
    "stamps stay as the machine believed": Mutant(
        replaced(clock.StoreClock, "dated", believed), "partition, request lost", plan={"skews": True}
    ),
    "a fresh write is judged by its clock": Mutant(
        replaced(dating, "LIVE_SECONDS", -1.0), "clock, kill, partition", plan={"skews": True}
    ),
    "a copied or cut journal goes on as it was": Mutant(unnoticed, "power"),
    "deletes leave no tombstone": Mutant(replaced(memory.Shelf, "tombstone", nothing), "partition, restart"),
    "patches overwrite": Mutant(replaced(rules, "judge", merges_unconditional), ""),
    "what was refused is sent again": Mutant(records_without_blanking, "failover, empty"),
    "a refused patch looks like any blank": Mutant(
        replaced(rules._Walk, "_blank", blank_without_refusal), "reply lost, kill"
    ),
    "a loss is told after it is passed over": Mutant(
        loss_told_afterwards, "failover, reply lost", seeds=150, settings={"retain": 3.0}
    ),
    "the text of a patch comes after a stop": Mutant(
        replaced(resolve, "_stops", lambda found: [False] * len(found)), "", plan={"callers": 3}
    ),
    "lineages are forgotten at once": Mutant(
        replaced(pruning, "_outlived", lambda *_: True),
        "power, failover",
        seeds=150,
        settings={"retain": 3.0},
    ),
    "a log of another past is followed on": Mutant(
        replaced(Feed, "_resync", followed_on), "failover, empty", settings=NEAR
    ),
    "what was heard is not doubted": Mutant(
        replaced(Vouching, "doubt", nothing), "empty", seeds=200, settings={**NEAR, "retain": 3.0}
    ),
    "others' changes are not heard": Mutant(replaced(Vouching, "_heard", nothing), "", settings=NEAR),
    "commits do not wait for the disk": Mutant(power_forgotten, "power", settings={"durability": "full"}),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_simulator_notices_when(name: str, monkeypatch: pytest.MonkeyPatch):
    mutant = MUTANTS[name]
    mutant.apply(monkeypatch)
    found = hunt(mutant.kinds, mutant.seeds, mutant.plan, mutant.settings)
    assert found is not None, "no history went wrong: what is this safeguard for?"


async def where_there_is_a_server(self: PartitionedStore, writes: Any, **options: Any) -> Any:
    there = [part for part in self.parts if part.contact.available] or self.parts
    apart = PartitionedStore.__new__(PartitionedStore)
    apart.__dict__.update({**self.__dict__, "parts": there})
    return await REAL_WRITE(apart, writes, **options)


REAL_WRITE = PartitionedStore.write
DIVIDED = {
    "a key goes where there is a server": Mutant(
        replaced(PartitionedStore, "write", where_there_is_a_server), "restart"
    ),
    "journals of all partitions lie together": Mutant(replaced(world, "folder", lambda *_: ""), "kill"),
    "all partitions have the same number": Mutant(replaced(Feed, "number", property(lambda _: 0, nothing)), ""),
    "a log of another past is followed on": Mutant(replaced(Feed, "_resync", followed_on), "failover, empty"),
    "a resync that was told in part is forgotten": Mutant(
        replaced(feed, "in_one", list), "failover, empty, restart", seeds=300
    ),
}


@pytest.mark.parametrize("name", DIVIDED)
def test_the_simulator_with_several_partitions_notices_when(name: str, monkeypatch: pytest.MonkeyPatch):
    mutant = DIVIDED[name]
    mutant.apply(monkeypatch)
    found = hunt(mutant.kinds, mutant.seeds, mutant.plan, mutant.settings, divided)
    assert found is not None, "no history went wrong: what is this safeguard for?"
