"""What goes wrong, and how often: the faults that a history's seed chooses among."""

from collections.abc import Callable, Coroutine
from typing import Any, Final

from remanence.testing.simulator.network import FATES, Network, loading, out_of_memory
from remanence.testing.simulator.world import Machine, Process, World, folder_of

Fault = Callable[["Nemesis"], Coroutine[Any, Any, None]]


class Nemesis:
    """Strikes at moments that the seed chooses, with the faults that the history is to have."""

    def __init__(self, world: World, kinds: list[str], revive: Callable[[Machine], None], *, skews: bool) -> None:
        """`kinds`: names in `FAULTS` and `FATES`. `revive` starts a process that works."""
        self.skews = skews
        """Whether clocks may be wrong."""
        self.world = world
        self.chance = world.chance
        self.stopped = False
        self.copies = 0
        self.backups: list[tuple[Machine, str, dict[str, bytes]]] = []
        self.revive = revive
        self._faults = [kind for kind in kinds if kind in FAULTS]
        for fate in FATES:
            if fate in kinds:
                share = self.chance.choice((0.02, 0.08, 0.2))
                for network in world.networks:
                    network.weather[fate] = share

    async def run(self, strikes: int, pace: float) -> None:
        """Strike, with `pace` seconds between, more or less."""
        for _ in range(strikes):
            await self.world.simulation.sleep(pace * self.chance.uniform(0.0, 2.0))
            if not self._faults:
                continue
            kind = self.chance.choice(self._faults)
            self.world.network.injected[kind] += 1
            self.world.simulation.spawn(f"fault {kind}", FAULTS[kind](self))

    async def watch(self) -> None:
        """Remember the servers from time to time, for them to fall back to."""
        while not self.stopped:
            await self.world.simulation.sleep(self.chance.random() ** 3)  # also moments between two messages
            for network in self.world.networks:
                if network.up:
                    network.snapshot()

    async def pause(self, least: float, most: float) -> None:
        """Let some time pass."""
        await self.world.simulation.sleep(self.chance.uniform(least, most))

    def process(self) -> Process | None:
        """One that lives."""
        found = self.world.processes
        return self.chance.choice(found) if found else None

    def machine(self) -> Machine:
        """Any."""
        return self.chance.choice(self.world.machines)

    def server(self) -> Network:
        """Any."""
        servers = self.world.networks
        return self.chance.choice(servers) if len(servers) > 1 else servers[0]

    async def restart(self, machine: Machine) -> None:
        """Start a process on a machine after a while."""
        await self.pause(0.0, 3.0)
        self.revive(machine)

    def heal(self) -> None:
        """No more faults."""
        self.stopped = True
        for network in self.world.networks:
            network.weather.clear()
            network.partitioned.clear()
            network.up, network.refusal = True, None
        for machine in self.world.machines:
            machine.disk.full = False


async def kill(nemesis: Nemesis) -> None:
    """Kill -9 between two awaits."""
    process = nemesis.process()
    if process is not None:
        process.kill()
        await nemesis.restart(process.machine)


async def kill_in_write(nemesis: Nemesis) -> None:
    """Kill -9 in the middle of a transaction."""
    process = nemesis.process()
    if process is None:
        return
    process.holder.die_after(nemesis.chance.randrange(12))
    await nemesis.pause(0.0, 2.0)
    process.kill()
    await nemesis.restart(process.machine)


async def power(nemesis: Nemesis) -> None:
    """A machine loses power, and sometimes the right time."""
    machine = nemesis.machine()
    many = len(machine.processes)
    machine.lose_power()
    if nemesis.skews and nemesis.chance.random() < 0.3:
        machine.jumps += 1
        machine.clock.jump(nemesis.chance.uniform(-3600.0, 600.0))
    for _ in range(max(1, many)):
        await nemesis.restart(machine)


async def partition(nemesis: Nemesis) -> None:
    """A machine cannot reach a server."""
    name, partitioned = nemesis.machine().name, nemesis.server().partitioned
    partitioned[name] = nemesis.chance.random() < 0.5
    await nemesis.pause(0.1, 6.0)
    partitioned.pop(name, None)


async def restart_server(nemesis: Nemesis) -> None:
    """A server is away for a while and comes back with everything."""
    await _restart(nemesis, nemesis.server())


async def _restart(nemesis: Nemesis, network: Network) -> None:
    network.up = False
    await nemesis.pause(0.0, 3.0)
    network.up = True


async def empty_server(nemesis: Nemesis) -> None:
    """A server comes back with nothing."""
    network = nemesis.server()
    await _restart(nemesis, network)
    network.forget(everything=True)


async def failover(nemesis: Nemesis) -> None:
    """An older replica takes over, at once or after a while."""
    network = nemesis.server()
    if nemesis.chance.random() < 0.5:
        await _restart(nemesis, network)
    network.forget(everything=False)


async def refuse(nemesis: Nemesis) -> None:
    """A server takes no writes."""
    network = nemesis.server()
    network.refusal = nemesis.chance.choice((out_of_memory, loading))
    await nemesis.pause(0.05, 3.0)
    network.refusal = None


async def clock(nemesis: Nemesis) -> None:
    """A wall clock is set."""
    machine = nemesis.machine()
    machine.jumps += 1
    machine.clock.jump(nemesis.chance.choice((-3600.0, -10.0, -1.0, 1.0, 60.0, 3600.0)))


async def disk_full(nemesis: Nemesis) -> None:
    """A disk has no room for a while."""
    disk = nemesis.machine().disk
    disk.full = True
    await nemesis.pause(0.05, 3.0)
    disk.full = False


async def close(nemesis: Nemesis) -> None:
    """A process closes its store, and is perhaps killed while it does."""
    process = nemesis.process()
    if process is None:
        return

    async def leave() -> None:
        await process.gateway.close()
        process.ended()

    process.runtime.spawn("close", leave)
    if nemesis.chance.random() < 0.5:
        await nemesis.pause(0.0, 0.02)
        process.kill()
    await nemesis.restart(process.machine)


async def backup(nemesis: Nemesis) -> None:
    """A journal is copied while it is in use."""
    machine = nemesis.machine()
    names = machine.journals()
    if names:
        name = nemesis.chance.choice(names)
        nemesis.backups.append((machine, name, machine.disk.copy(name)))


async def clone(nemesis: Nemesis) -> None:
    """A journal's copy appears beside it, or on another machine, and both go on."""
    await backup(nemesis)
    if not nemesis.backups:
        return
    nemesis.world.oracle.copied = True
    _, original, content = nemesis.chance.choice(nemesis.backups)
    machine = nemesis.machine()
    nemesis.copies += 1
    name = f"{folder_of(original)}copy{nemesis.copies}.journal"
    machine.disk.restore(name, content, same_inode=False)
    nemesis.revive(machine)


async def twin(nemesis: Nemesis) -> None:
    """A virtual machine runs twice: nothing tells the copy from the original, and both go on."""
    if len(nemesis.world.machines) < 4:
        nemesis.world.oracle.copied = nemesis.world.oracle.rolled_back = True
        nemesis.revive(nemesis.machine().twin())


async def restore(nemesis: Nemesis) -> None:
    """A journal's older copy takes its place, under its own inode or another."""
    await backup(nemesis)
    await nemesis.pause(0.1, 2.0)
    if not nemesis.backups:
        return
    machine, name, content = nemesis.chance.choice(nemesis.backups)
    owner = machine.locks.get(name)
    if owner is not None:
        owner.kill()
    nemesis.world.oracle.restored(machine.disk.path(name))
    machine.disk.restore(name, content, same_inode=nemesis.chance.random() < 0.5)
    await nemesis.restart(machine)


async def garble(nemesis: Nemesis) -> None:
    """Bytes of a journal's file change on the disk while nobody has it open."""
    process = nemesis.process()
    if process is None:
        return
    names = [name for name, owner in process.machine.locks.items() if owner is process]
    process.kill()
    for name in names:
        nemesis.world.oracle.garbled(process.machine.disk.path(name))
        for part in process.machine.disk.beside(name):
            process.machine.disk.garble(part, nemesis.chance, nemesis.chance.randrange(1, 6))
    await nemesis.restart(process.machine)


FAULTS: Final[dict[str, Fault]] = {
    "kill": kill,
    "kill in write": kill_in_write,
    "power": power,
    "partition": partition,
    "restart": restart_server,
    "empty": empty_server,
    "failover": failover,
    "refuse": refuse,
    "clock": clock,
    "disk full": disk_full,
    "close": close,
    "clone": clone,
    "twin": twin,
    "restore": restore,
    "garble": garble,
}
"""By name."""
