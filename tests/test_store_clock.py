"""The store's time as a process knows it, whatever its own clock says: in simulated time."""

from remanence.model import Append
from remanence.runtime.simulated import SimulatedMachine, SimulatedRuntime, Simulation
from remanence.stores import clock
from remanence.stores.rows import Row


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
