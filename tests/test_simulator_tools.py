"""What the simulator is made of: simulated time, processes that are killed, and a disk that loses power."""

import random

import pytest

from remanence.errors import JournalFull
from remanence.runtime.simulated import Deadlock, SimulatedMachine, SimulatedRuntime, Simulation
from remanence.testing.disk import VFS, Dead, Disk, Holder
from remanence.wire import sqlite


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
