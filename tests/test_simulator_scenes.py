"""Histories told by hand, too rare for chance: they end well, and without their safeguard they do not."""

import contextlib
import inspect
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from remanence.errors import DeadlineExceeded
from remanence.model import Append, Batch, Put
from remanence.protocols import Tail
from remanence.settings import Settings
from remanence.stores import drain, journal, memory, rows, rules, settling
from remanence.stores.memory import MemoryStore
from remanence.stores.reader import Reader
from remanence.stores.rows import Lineage
from remanence.testing.simulator.safeguards import nothing, replaced
from remanence.testing.simulator.world import Process, World
from remanence.wire.sqlite import FileDamaged


def without_fence(batch: Any, mark: Any, before: int) -> Any:
    if mark is not None:
        batch = msgspec.structs.replace(batch, nonce=mark.nonce)
    return rules.admitted(batch, mark, before)


def fork_at_random(patch: pytest.MonkeyPatch) -> None:
    counter = itertools.count()

    class Digest:
        def __init__(self, seed: bytes, digest_size: int) -> None:
            pass

        def hexdigest(self) -> str:
            return f"fork{next(counter)}"

    patch.setattr(rows.hashlib, "blake2b", Digest)


def learned_in_silence(patch: pytest.MonkeyPatch) -> None:
    real = settling.Settling._remember

    def learn(self: drain.Drain, lineage: Lineage, mark: Any, upto: int) -> None:
        patch.setattr(settling.Settling, "_remember", nothing)
        learn_it(self, lineage, mark, upto)
        patch.setattr(settling.Settling, "_remember", real)

    learn_it = drain.Drain._learn
    patch.setattr(drain.Drain, "_learn", learn)


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
