"""The real engine in simulated histories: nothing is lost, doubled or reordered, and each safeguard is needed.

A mutant removes one safeguard; the simulator must then find a violation within a few seeds. What a mutant
is hunted with are the faults that its safeguard is there for.
"""

import contextlib
import inspect
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from remanence.errors import DeadlineExceeded, JournalFull
from remanence.feed import feed
from remanence.feed.feed import Feed
from remanence.model import OK, REFUSED, Append, Batch, Put
from remanence.protocols import Tail
from remanence.runtime.simulated import Deadlock, SimulatedMachine, SimulatedRuntime, Simulation
from remanence.settings import Settings
from remanence.stores import clock, dating, drain, journal, keeper, memory, pruning, resolve, rows, rules, settling
from remanence.stores.memory import MemoryStore
from remanence.stores.partitioned import PartitionedStore
from remanence.stores.reader import Reader
from remanence.stores.resilient import ResilientStore
from remanence.stores.rows import Lineage, Row
from remanence.stores.vouching import Vouching
from remanence.testing.disk import VFS, Dead, Disk, Holder
from remanence.testing.simulator import world
from remanence.testing.simulator.__main__ import main
from remanence.testing.simulator.histories import Plan, Report, divided, plan, play, play_divided
from remanence.testing.simulator.world import Process, World
from remanence.wire import sqlite
from remanence.wire.sqlite import FileDamaged

SOAK_SEEDS = int(os.environ.get("SOAK_SEEDS", "100000"))


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


# --- as it is -------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_no_history_violates_an_invariant(first: int):
    broken = [report for seed in range(first, first + 50) if (report := play(seed)).violations]
    assert not broken, "\n".join(f"seed {report.seed}: {report.violations[0]}" for report in broken)


@pytest.mark.parametrize("seed", [100070, 100469, 100905, 101513, 102191, 301888])
@pytest.mark.parametrize("reads", ["near", "mirror"])
def test_histories_that_went_wrong_once(seed: int, reads: str):
    made = plan(seed)
    report = play(seed, msgspec.structs.replace(made, settings={**made.settings, "reads": reads}))
    assert not report.violations, report.violations


@pytest.mark.parametrize("first", range(0, 80, 40))
def test_no_history_with_several_partitions_and_listeners_violates_an_invariant(first: int):
    broken = [report for seed in range(first, first + 40) if (report := play_divided(seed)).violations]
    assert not broken, "\n".join(f"seed {report.seed}: {report.violations[0]}" for report in broken)


@pytest.mark.parametrize("seed", [55, 130, 180, 247, 297, 704, 820, 942, 1102, 4337])
def test_histories_with_several_partitions_that_went_wrong_once(seed: int):
    assert not play_divided(seed).violations


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("mode", "share"), [((), 1), (("--divided",), 5)], ids=["one", "several"])
def test_t41_long(mode: tuple[str, ...], share: int, capsys: pytest.CaptureFixture[str], campaign: Callable[..., None]):
    code = main(["--seeds", str(SOAK_SEEDS // share), "--from", "1000", "--json", *mode])
    told = msgspec.json.decode(capsys.readouterr().out)
    injected = f"{told['histories']} histories, {sum(told['faults'].values())} faults"
    campaign(injected, told["writes"], told["lost"], told["duplicated"], told["out_of_order"])
    assert code == 0, told["broken"][:5]


def test_a_seed_is_the_same_history_anywhere():
    script = (
        "from remanence.testing.simulator.histories import play, play_divided;"
        "print([play(s) for s in (11, 12, 15)], play_divided(4))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": n, "PYTHONPATH": ":".join(sys.path)},
            check=True, capture_output=True, text=True,
        ).stdout
        for n in ("1", "2")
    }  # fmt: skip
    assert told == {f"{[play(seed) for seed in (11, 12, 15)]} {play_divided(4)}\n"}


def test_histories_hold_what_they_are_to_prove():
    """A simulator that injected nothing would find nothing either."""
    reports = [play(seed) for seed in range(60)]
    faults = {name for report in reports for name in report.faults}
    assert faults >= {
        "kill",
        "kill in write",
        "power",
        "failover",
        "empty",
        "partition",
        "clone",
        "late",
        "reply lost",
    }
    heard = {name for report in reports for name in report.events}
    assert heard >= {"Rewound", "DataLost", "Forked", "OrphanAdopted", "WriteStale", "BecameUnavailable"}
    assert sum(report.writes for report in reports) > 3000


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


# --- one safeguard removed ------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """A safeguard removed, and what it takes to notice."""

    apply: Callable[[pytest.MonkeyPatch], None]
    kinds: str
    seeds: int = 60
    plan: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def replaced(owner: Any, name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(owner, name, value, raising=not isinstance(value, property))


def without_fence(batch: Any, mark: Any, before: int) -> Any:
    if mark is not None:
        batch = msgspec.structs.replace(batch, nonce=mark.nonce)
    return rules.admitted(batch, mark, before)


def without_gap(batch: Any, mark: Any, before: int) -> Any:
    refusal = rules.admitted(batch, mark, before)
    return None if refusal is not None and refusal.status == "gap" else refusal


def handshake_of_the_pending(patch: pytest.MonkeyPatch) -> None:
    real = drain.Drain._compare

    async def compare(self: drain.Drain, lineage: Lineage, mark: Any, deadline: float) -> None:
        if lineage.pending or mark.seq >= lineage.acked:
            await real(self, lineage, mark, deadline)

    patch.setattr(drain.Drain, "_compare", compare)


def fork_at_random(patch: pytest.MonkeyPatch) -> None:
    counter = itertools.count()

    class Digest:
        def __init__(self, seed: bytes, digest_size: int) -> None:
            pass

        def hexdigest(self) -> str:
            return f"fork{next(counter)}"

    patch.setattr(rows.hashlib, "blake2b", Digest)


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


def learned_in_silence(patch: pytest.MonkeyPatch) -> None:
    real = settling.Settling._remember

    def learn(self: drain.Drain, lineage: Lineage, mark: Any, upto: int) -> None:
        patch.setattr(settling.Settling, "_remember", nothing)
        learn_it(self, lineage, mark, upto)
        patch.setattr(settling.Settling, "_remember", real)

    learn_it = drain.Drain._learn
    patch.setattr(drain.Drain, "_learn", learn)


def blank_without_refusal(self: Any, write: Any) -> str:
    result = REAL_BLANK(self, write)
    return OK if result == REFUSED else result


REAL_BLANK = rules._Walk._blank


def nothing(*_: Any, **__: Any) -> None:
    return None


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


# --- too rare for chance: histories told by hand -----------------------------------------------


@pytest.fixture
def stage() -> Iterator[World]:
    settings = Settings.build(
        {}, backend="redis", url="redis://simulated", durability="full", batch_ops=1, retain=3.0, deadline=5.0
    )
    made = World(1, settings, machines=2)
    yield made
    made.close()


async def two_losers(stage: World) -> None:
    """A journal is put back to an older copy, goes on, and is copied before it meets the server again."""
    one, two = stage.machines
    process = one.start()
    for n in range(7):
        await process.store.write([Append("list0", (b"a%d" % n,))])
    (name,) = one.journals()
    early = one.disk.copy(name)
    for n in range(3):
        await process.store.write([Append("list0", (b"b%d" % n,))])
    process.kill()
    stage.oracle.restored(one.disk.path(name))
    stage.oracle.copied = True
    one.disk.restore(name, early, same_inode=True)
    stage.network.partitioned = {"m0": False, "m1": False}
    process = one.start()
    for n in range(2):
        await process.store.write([Append("list0", (b"c%d" % n,))])
    two.disk.restore("copy.journal", one.disk.copy(name), same_inode=False)
    copy = two.start()
    stage.network.partitioned.clear()
    for each in (process, copy):
        assert await each.store.flush(10.0)


async def older_lineage_forgotten(stage: World) -> None:
    """A server falls back to just before it was sent the rest of an older lineage."""
    machine = stage.machines[0]
    stage.network.partitioned["m0"] = False
    process = machine.start()
    for n in range(3):
        await process.store.write([Append("list0", (b"a%d" % n,))])
    machine.lose_power()
    process = machine.start()
    for n in range(3):
        await process.store.write([Append("list0", (b"b%d" % n,))])
    execute = stage.network.execute

    def executed(request: Any, *, late: bool = False) -> Any:
        answer = execute(request, late=late)
        if not stage.network.snapshots and len(stage.network.store.snapshot().marks) == 2:
            stage.network.snapshot()
        if not stage.oracle.forgets and len(stage.network.store.log()) == 3:
            stage.simulation.after(0.0, unnoticed)
        return answer

    def unnoticed() -> None:
        before = stage.network.resets
        stage.network.forget(everything=False)
        stage.network.resets = before

    stage.network.execute = executed  # type: ignore[method-assign]
    stage.network.partitioned.clear()
    assert await process.store.flush(10.0)
    assert stage.oracle.forgets == 1


async def answer_overlapped(stage: World) -> None:
    """A read is under way while its process writes the same key; then the server is away."""
    process = stage.machines[0].start()
    for n in range(60):
        reading = process.runtime.spawn("read", lambda: read_it(process))
        await process.store.write([Append("list0", (b"a%d" % n,))])
        await reading.join(None)
        stage.network.partitioned["m0"] = False
        (local,) = await process.store.read([Tail("list0")])
        if len(set(local.value)) != len(local.value):
            stage.oracle.violated("a list is read that never was")
            return
        stage.network.partitioned.clear()
        await stage.simulation.sleep(5.0)


async def answer_lost(stage: World) -> None:
    """A write whose answer got lost is known all the same when the server is away."""
    process = stage.machines[0].start()
    await process.store.write([Append("list0", (b"a",))])
    stage.network.weather["reply lost"] = 1.0
    await process.store.write([Append("list0", (b"b",))])
    stage.network.weather.clear()
    assert await process.store.flush(10.0)
    await stage.simulation.sleep(0.1)  # until it counts as back
    await process.store.write([Append("list0", (b"c",))])
    stage.network.partitioned["m0"] = False
    (local,) = await process.store.read([Tail("list0")])
    if local.value != [b"a", b"b", b"c"]:
        stage.oracle.violated("a list is read that never was")


async def old_backup(stage: World) -> None:
    """A backup comes back when the change log has long forgotten what it holds."""
    machine = stage.machines[0]
    stage.network.store = MemoryStore(machine.clock.wall, log_length=2)
    stage.oracle.damaged = True  # the log is too short for it to judge by
    process = machine.start()
    for n in range(5):
        await process.store.write([Append("list0", (b"a%d" % n,))])
    await stage.simulation.sleep(3.0)
    (name,) = machine.journals()
    backup = machine.disk.copy(name)
    for n in range(5):
        await process.store.write([Append("list0", (b"b%d" % n,))])
    process.kill()
    machine.disk.restore(name, backup, same_inode=False)
    process = machine.start()
    await process.store.write([Append("list0", (b"c",))])
    stored = stage.network.store.dump()["list0"]
    if len(stored) != 11:
        stage.oracle.violated(f"{len(stored)} items where 11 were written")


async def pruned_meanwhile(stage: World) -> None:
    """While a journal is told of a loss that it cannot make good, its old rows are pruned on."""
    process = stage.machines[0].start()
    for n in range(5):
        await process.store.write([Append("list0", (b"a%d" % n,))])
    await stage.simulation.sleep(3.5)
    for n in range(5):
        await process.store.write([Append("list0", (b"b%d" % n,))])
        await stage.simulation.sleep(0.1)
    assert process.store.journal.active.pruned == 5
    stage.network.forget(everything=True)
    wait, forward = stage.simulation.sleep, process.link.forward

    async def slowly(*parts: Any) -> bool:
        await wait(3.2)
        return await forward(*parts)

    process.link.forward = slowly  # type: ignore[method-assign]
    process.store.drain.opened = False
    assert process.store.take_lead(stage)  # so that the keeper is free to prune
    await process.store.pump(process.store.drain, stage.simulation.now + 5.0)
    process.store.pass_on(stage)
    with contextlib.suppress(FileDamaged):  # as a journal with a hole in it would seem
        await process.store.write([Append("list0", (b"c",))])
    stored = stage.network.store.dump()["list0"]
    if stored != [b"b0", b"b1", b"b2", b"b3", b"b4", b"c"]:
        stage.oracle.violated(f"{len(stored)} items where 6 were kept")


def rewound_afterwards(patch: pytest.MonkeyPatch) -> None:
    real = drain.Drain._compare

    async def compare(self: drain.Drain, lineage: Lineage, mark: Any, deadline: float) -> None:
        upto = lineage.pruned
        if mark.seq >= upto:
            await real(self, lineage, mark, deadline)
            return
        await self._pass_over(lineage, mark.seq, deadline)
        self._rewind(lineage, upto)

    patch.setattr(drain.Drain, "_compare", compare)


async def delayed(stage: World) -> None:
    """What an old session sent as just made arrives when another has begun, and somebody wrote meanwhile."""
    one, two = (machine.start() for machine in stage.machines)
    await one.store.write([Append("list0", (b"a",))])
    held: list[Batch] = []

    async def hold(batch: Batch, deadline: float) -> Any:
        stage.oracle.sending(batch)
        held.append(batch)
        raise DeadlineExceeded("held")

    apply, one.link.apply = one.link.apply, hold  # type: ignore[method-assign]
    await one.store.write([Put("reg0", b'{"value":"old"}')])
    one.link.apply = apply  # type: ignore[method-assign]
    await one.store.drain.handshake(stage.simulation.now + 1.0)
    await two.store.write([Put("reg0", b'{"value":"new"}')])
    stage.network.execute(lambda store: store.apply(held[0], 0.0), late=True)
    if b"new" not in stage.network.store.dump()["reg0"]:
        stage.oracle.violated("what was made later is replaced")
    assert await one.store.flush(10.0)


async def twin_writes(stage: World) -> None:
    """A copy of a running machine has a write of the number that ours has when ours is read."""
    machine = stage.machines[0]
    process = machine.start()
    await process.store.write([Append("list0", (b"a",))])
    stage.oracle.copied = stage.oracle.rolled_back = True
    twin = machine.twin().start()
    await twin.store.write([Append("list0", (b"b",))])
    await process.store.write([Append("list0", (b"c",))], ack="journal")
    (reading,) = await process.store.read([Tail("list0")])
    if b"c" not in reading.value:
        stage.oracle.violated("a process does not see its own write")
    assert await process.store.flush(10.0)


def whatever_the_read_says(patch: pytest.MonkeyPatch) -> None:
    told = drain.Drain.follows
    reads = inspect.getmodule(Reader)
    patch.setattr(
        drain.Drain,
        "follows",
        lambda *given: sys._getframe(1).f_globals["__name__"] == reads.__name__ or told(*given),  # type: ignore[union-attr]
    )


async def nothing_shared(self: drain.Drain, lineage: Lineage, mark: Any, deadline: float) -> int:
    return lineage.pruned


async def read_it(process: Process) -> None:
    await process.store.read([Tail("list0")])


SCENES = {
    "rows are pruned between a loss and the rewind": (pruned_meanwhile, rewound_afterwards),
    "sessions are not fenced": (delayed, replaced(memory, "admitted", without_fence)),
    "a read does not ask whose write it is": (twin_writes, whatever_the_read_says),
    "only the log tells what was applied": (old_backup, replaced(drain.Drain, "_shared", nothing_shared)),
    "a lost answer teaches nothing": (answer_lost, learned_in_silence),
    "an answer is kept that own writes overlap": (
        answer_overlapped, replaced(journal.Journal, "keys_behind", lambda *_: set())
    ),
    "forks have random names": (two_losers, fork_at_random),
    "the preceding lineage is not required": (
        older_lineage_forgotten, replaced(drain.Drain, "_previous", nothing)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("safe", [True, False], ids=["as it is", "mutant"])
def test_the_scene_ends_well_unless(name: str, safe: bool, stage: World, monkeypatch: pytest.MonkeyPatch):
    story, mutate = SCENES[name]
    if not safe:
        mutate(monkeypatch)
    stage.simulation.run(story(stage))
    stage.oracle.finish()
    assert bool(stage.oracle.violations) is not safe, stage.oracle.violations
    assert stage.network.store.dump()["list0"]


@pytest.mark.parametrize(("times", "pause", "batches"), [(30, 0.002, 2), (120, 0.002, 4), (5, 0.02, 5)])
def test_unawaited_writes_come_together_while_more_keep_coming(times: int, pause: float, batches: int):
    settings = Settings.build({}, backend="redis", url="redis://simulated", linger=0.005)
    stage = World(1, settings, machines=1)
    (machine,) = stage.machines

    async def story() -> None:
        process = machine.start()
        for n in range(times):
            await process.store.write([Append("list0", (b"%d" % n,))], ack="journal")
            await process.runtime.sleep(pause)
        await process.store.flush(5.0)

    applied = 0
    real = MemoryStore.apply

    async def counted(self: MemoryStore, batch: Batch, deadline: float) -> Any:
        nonlocal applied
        applied += 1
        return await real(self, batch, deadline)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryStore, "apply", counted)
        stage.simulation.run(story())
    stage.close()
    assert applied <= batches, applied


# --- the tools ------------------------------------------------------------------------------------


def test_waiting_for_nobody_is_a_deadlock():
    simulation = Simulation(1)

    async def wait() -> None:
        await simulation.signal().wait(None)

    with pytest.raises(Deadlock, match="main"):
        simulation.run(wait())


def test_work_without_end_at_one_moment_is_a_deadlock():
    simulation = Simulation(1)

    async def spin() -> None:
        while True:
            await simulation.sleep(0.0)

    with pytest.raises(Deadlock, match="for ever"):
        simulation.run(spin())
    simulation.close()


def test_the_seed_decides_the_order_and_time_passes_only_in_waits():
    def order(seed: int) -> list[int]:
        simulation, found = Simulation(seed), list[int]()

        async def step(n: int) -> None:
            await simulation.sleep(1.0)
            found.append(n)

        async def all_of_them() -> None:
            for task in [simulation.spawn("", step(n)) for n in range(6)]:
                assert await task.join(5.0)
            assert simulation.now == 1.0

        simulation.run(all_of_them())
        return found

    assert order(3) == order(3)
    assert len({tuple(order(seed)) for seed in range(9)}) > 3


def test_a_killed_process_does_nothing_more_and_a_shielded_work_ends():
    simulation = Simulation(1)
    runtime = SimulatedRuntime(SimulatedMachine(simulation, "m"))
    done: list[str] = []

    async def work(name: str) -> None:
        await runtime.sleep(1.0)
        done.append(name)

    async def story() -> None:
        caller = runtime.spawn("cancelled", lambda: runtime.shield(work("shielded")))
        await simulation.sleep(0.5)
        caller.cancel()
        await simulation.sleep(1.0)
        runtime.spawn("killed", lambda: work("killed"))
        await simulation.sleep(0.5)
        runtime.kill()
        await simulation.sleep(2.0)

    simulation.run(story())
    assert done == ["shielded"]


def test_machines_have_clocks_of_their_own():
    simulation = Simulation(1)
    machine = SimulatedMachine(simulation, "m", skew=60.0)
    other = SimulatedMachine(simulation, "n")
    assert machine.wall() - other.wall() == 60.0
    machine.jump(-10.0)
    assert machine.wall() - other.wall() == 50.0
    before, boottime = machine.boot_id, machine.boottime()
    machine.reboot()
    assert machine.boot_id != before and machine.boottime() < boottime
    drawn = [SimulatedRuntime(each).random_bytes(16) for each in (machine, other)]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("full", [True, False])
def test_a_disk_without_power_keeps_what_was_synced(full: bool):
    for seed in range(40):
        disk, holder = Disk(), Holder()
        disk.create("file")
        disk.hold("file", holder)
        database = sqlite.Database(disk.path("file"), full=full, vfs=VFS, exclusive=True)
        database.run("CREATE TABLE t (n)")
        for n in range(20):
            database.run("INSERT INTO t VALUES (?)", (n,))
        holder.alive = False
        with pytest.raises(Dead):
            database.close()
        disk.lose_power(random.Random(seed))
        disk.hold("file", Holder())
        database = sqlite.Database(disk.path("file"), vfs=VFS, exclusive=True)
        assert database.healthy() == ""
        there = database.run("SELECT name FROM sqlite_master")
        kept = [n for (n,) in database.run("SELECT n FROM t")] if there else []
        assert kept == list(range(20 if full else len(kept)))
        database.close()
        disk.close()


def test_a_full_disk_refuses_and_a_killed_process_leaves_no_half():
    disk, holder = Disk(), Holder()
    disk.create("file")
    disk.hold("file", holder)
    database = sqlite.Database(disk.path("file"), vfs=VFS, exclusive=True)
    database.run("CREATE TABLE t (n)")
    disk.full = True
    with pytest.raises(JournalFull):
        database.run("INSERT INTO t VALUES (1)")
    disk.full = False
    database.run("INSERT INTO t VALUES (2)")
    holder.die_after(1)
    with pytest.raises(Dead):
        database.run("INSERT INTO t VALUES (3)")
    with pytest.raises(Dead):
        database.close()
    disk.hold("file", Holder())
    database = sqlite.Database(disk.path("file"), vfs=VFS, exclusive=True)
    assert database.run("SELECT n FROM t") == [(2,)]
    database.close()
    disk.close()


# --- the store's time -----------------------------------------------------------------------------


def made(runtime: SimulatedRuntime, hlc: int) -> Row:
    return Row(1, "x" * 22, hlc, Append("list0", ()), runtime.wall(), runtime.boottime(), 1)


def test_a_wrong_clock_is_put_right_when_the_store_is_heard():
    simulation = Simulation(1)
    machine = SimulatedMachine(simulation, "m", skew=-600.0)
    runtime = SimulatedRuntime(machine)
    told = clock.StoreClock(runtime)
    early = made(runtime, told.tick(0, runtime.wall(), runtime.boottime()))
    true = round((machine.wall() + 600.0) * 1e6)
    simulation.run(simulation.sleep(5.0))
    machine.jump(3600.0)
    told.hear(true + 5_000_000, runtime.boottime())
    assert abs(told.dated(early, same_start=True) - true) < 10
    late = made(runtime, told.tick(0, runtime.wall(), runtime.boottime()))
    assert told.dated(late, same_start=True) == late.hlc
    assert abs(late.hlc - true - 5_000_000) < 10
    now = told.now(0.0, runtime.boottime())
    assert told.dated(early, same_start=False) <= now, "whatever was set meanwhile: not in the future"


def test_a_quick_answer_is_not_outdone_by_a_slow_one():
    simulation = Simulation(1)
    runtime = SimulatedRuntime(SimulatedMachine(simulation, "m"))
    told = clock.StoreClock(runtime)
    told.hear(1_000_000, runtime.boottime())
    asked = runtime.boottime()
    simulation.run(simulation.sleep(1.0))
    told.hear(2_000_000, asked)  # said at the end of that second, not in its middle
    assert told.now(0.0, runtime.boottime()) == 2_000_000
    told.hear(90_000_000, asked)  # but another server has another clock
    assert told.now(0.0, runtime.boottime()) == 90_500_000
