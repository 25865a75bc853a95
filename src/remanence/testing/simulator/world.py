"""What a history happens in: machines with disks and clocks, processes on them, and how they live and die."""

import contextlib
import random
from collections.abc import Iterator
from typing import NoReturn

from remanence import events
from remanence.errors import CorruptRecord, JournalFull, RemanenceError
from remanence.runtime.simulated import SimulatedMachine, SimulatedRuntime, Simulation
from remanence.settings import Settings
from remanence.stores.journal import Journal
from remanence.stores.mirror_file import MirrorFile
from remanence.stores.partitioned import PartitionedStore
from remanence.stores.resilient import ResilientStore
from remanence.stores.routes import Agreement
from remanence.stores.shelf import Shelf
from remanence.testing.disk import VFS, Dead, Disk, Holder
from remanence.testing.simulator.deeds import WatchedJournal
from remanence.testing.simulator.invariants import Oracle
from remanence.testing.simulator.network import Link, Network
from remanence.wire.keys import Keyspace
from remanence.wire.sqlite import Database, FileDamaged


class World:
    """Everything there is in one history, made from its seed."""

    def __init__(
        self,
        seed: int,
        settings: Settings,
        machines: int,
        *,
        skews: bool = False,
        checkpoint_pages: int = 1000,
        partitions: int = 1,
    ) -> None:
        """`partitions`: each has a server of its own, which fails by itself."""
        self.simulation = Simulation(seed)
        self.chance = random.Random(seed ^ 0xC0FFEE)
        """For what happens; the simulation's own decides the order."""
        self.settings = settings
        self.checkpoint_pages = checkpoint_pages
        self.oracle = Oracle(self.simulation, settings)
        self.networks = [Network(self.simulation, self.oracle, self.chance, settings) for _ in range(partitions)]
        self.network = self.networks[0]
        """The one that there is, where there is one partition."""
        self.machines = [
            Machine(self, f"m{n}", self.chance.uniform(-600, 600) if skews else 0.0) for n in range(machines)
        ]
        self.everyone: list[Process] = []
        """All that ever started."""

    def close(self) -> None:
        """End every task and forget every disk."""
        for machine in self.machines:
            for process in list(machine.processes):
                process.kill()
        for process in self.everyone:
            process.drop()
        self.simulation.close()
        for machine in self.machines:
            machine.disk.close()

    @property
    def processes(self) -> list["Process"]:
        """Those that live."""
        return [process for machine in self.machines for process in machine.processes]


class Machine:
    """A computer: its clocks, its disk, and the processes that run on it."""

    def __init__(self, world: World, name: str, skew: float) -> None:
        self.world = world
        self.name = name
        self.clock = SimulatedMachine(world.simulation, name, skew)
        self.disk = Disk()
        self.processes: list[Process] = []
        self.locks: dict[str, Process] = {}
        self.jumps = 0
        """How often its wall clock was set: lifetimes counted across a restart may then be wrong."""

    def start(self) -> "Process | None":
        """Start a process; None where its journal cannot be made because the disk is full."""
        process = Process(self)
        self.processes.append(process)
        try:
            process.open()
        except (JournalFull, Dead):
            process.kill()
            return None
        except BaseException:
            process.kill()
            raise
        return process

    def lose_power(self) -> None:
        """Every process ends, what was not synced may be gone, and the machine starts anew."""
        for process in list(self.processes):
            process.kill()
        self.disk.lose_power(self.world.chance)
        self.clock.reboot()
        self.world.oracle.power_lost(self.disk.name)

    def twin(self) -> "Machine":
        """A second machine that is the same one: a virtual machine brought up again from its snapshot."""
        twin = Machine(self.world, self.name, 0.0)
        twin.clock = self.clock
        twin.jumps = self.jumps
        for name in self.journals():
            twin.disk.restore(name, self.disk.copy(name), same_inode=False)
            twin.disk.files[name].inode = self.disk.files[name].inode
        self.world.machines.append(twin)
        return twin

    def journals(self) -> list[str]:
        """The names of the journals on its disk."""
        return sorted(name for name in self.disk.files if name.endswith(".journal"))


class Process:
    """One process with a store for each partition, which may be killed at any await or in any write to its disk."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.world = machine.world
        self.world.everyone.append(self)
        self.name = f"{machine.name}/p{len(self.world.everyone)}"
        self.runtime = SimulatedRuntime(machine.clock, self.name)
        self.alive = True
        self.holder = Holder(self.kill)
        self.events = events.Events()
        self.events.observe(lambda event: self.world.oracle.heard(self, event))
        self.links = [Link(network, machine.name) for network in self.world.networks]
        self.link = self.links[0]
        self.databases: list[Database] = []
        self.parts: list[ResilientStore] = []
        self._gateway: ResilientStore | PartitionedStore | None = None

    def open(self) -> None:
        """Begin to work."""
        settings, count = self.world.settings, len(self.links)
        for at, link in enumerate(self.links):
            shelf = SimulatedShelf(self, folder(at, count))
            self.parts.append(ResilientStore(link, shelf, self.runtime, settings, self.events))
        self._gateway = self.parts[0] if count == 1 else PartitionedStore(self.parts, agreed(count))

    @property
    def store(self) -> ResilientStore:
        """What is under test, where there is one partition."""
        return self.parts[0]

    @property
    def gateway(self) -> ResilientStore | PartitionedStore:
        """What is under test: all partitions."""
        assert self._gateway is not None, "not opened"
        return self._gateway

    @property
    def closed(self) -> bool:
        """Whether it takes no more calls."""
        return any(part.closed for part in self.parts)

    def kill(self) -> None:
        """Kill -9."""
        if not self.alive:
            return
        self.alive = self.holder.alive = False
        self.runtime.kill()
        self.machine.processes.remove(self)
        for name in [name for name, owner in self.machine.locks.items() if owner is self]:
            del self.machine.locks[name]
        self.world.simulation.after(0.0, self.drop)

    def drop(self) -> None:
        """Let go of connections, through which nothing can be changed any more."""
        while self.databases:
            with contextlib.suppress(BaseException):  # a dead process cannot even close them
                self.databases.pop().close()

    def ended(self) -> None:
        """It closed its store and exits."""
        self.kill()


def agreed(partitions: int) -> Agreement:
    """That all processes have the same number of partitions: how they agree on it is not simulated."""

    async def nowhere(deadline: float) -> NoReturn:
        raise AssertionError("nobody asks once there is agreement")

    agreement = Agreement(Keyspace("", 0, tagged=True), nowhere, partitions)
    agreement.reached = True
    return agreement


def folder(partition: int, partitions: int) -> str:
    """How the names of a partition's journals begin; "" where there is only one."""
    return f"{partition}/" if partitions > 1 else ""


def folder_of(name: str) -> str:
    """The folder of a journal."""
    before, slash, _ = name.rpartition("/")
    return before + slash


def fingerprint(machine: Machine, inode: int) -> str:
    """What `stores.shelf.fingerprint` makes of a file."""
    return f"{machine.name} {machine.clock.boot_id} {inode}"


class SimulatedShelf(Shelf):
    """The folder of a partition's journals on a simulated disk, with locks that die with their process."""

    def __init__(self, process: Process, folder: str) -> None:
        settings = process.world.settings
        super().__init__(None, process.runtime, settings, process.events)
        self._process = process
        self._inside = folder
        self._machine = process.machine
        self._disk = process.machine.disk

    def own(self) -> Journal:
        """See `Shelf.own`."""
        return self._claimed() or self._made()

    def mirror(self) -> MirrorFile:
        """A mirror of this process alone: what is there of an earlier one is tested on real files."""
        return MirrorFile(Database(":memory:"), records=8, size=1 << 20, evict="lru")

    def orphans(self) -> Iterator[Journal]:
        """See `Shelf.orphans`."""
        while journal := self._claimed():
            yield journal

    def _claimed(self) -> Journal | None:
        for name in self._machine.journals():
            mine = folder_of(name) == self._inside and name not in self._machine.locks
            if mine and (journal := self._open(name)) is not None:
                return journal
        return None

    def _made(self) -> Journal:
        self._disk.hold("", self._process.holder)
        name = f"{self._inside}{self._runtime.random_bytes(6).hex()}.journal"
        self._disk.create(name)
        journal = self._open(name)
        assert journal is not None, "an empty file is a journal to be"
        return journal

    def _open(self, name: str) -> Journal | None:
        """The journal of that name; a damaged one is set aside and None returned."""
        locks, process = self._machine.locks, self._process
        locks[name] = process
        self._disk.hold(name, process.holder)
        try:
            return self._read(name)
        except (FileDamaged, CorruptRecord) as error:
            self._set_aside(name, str(error))
            return None
        except RemanenceError:
            locks.pop(name, None)
            raise

    def _read(self, name: str) -> Journal:
        full = self._settings.durability == "full"
        database = Database(
            self._disk.path(name),
            full=full,
            vfs=VFS,
            exclusive=True,
            checkpoint_pages=self._process.world.checkpoint_pages,
        )
        self._process.databases.append(database)
        printed = fingerprint(self._machine, self._disk.files[name].inode)
        journal = WatchedJournal(self._process.world.oracle, self._process, database, self._runtime, printed)
        complaint = "" if journal.clean else database.healthy()
        if complaint:
            raise FileDamaged(f"{name} is damaged: {complaint}")
        self._process.world.oracle.opened(journal)
        return journal

    def _set_aside(self, name: str, reason: str) -> None:
        self._process.world.oracle.set_aside(self._disk.path(name))
        self._disk.rename(name, f"{name}.damaged-{len(self._disk.files)}")
        self._machine.locks.pop(name, None)
        self._tell.tell(events.JournalSetAside(name, f"{name}.damaged", reason))

    def _name(self, journal: Journal) -> str:
        return self._inside + journal.path.rsplit("/", 1)[1]

    def retire(self, journal: Journal, reason: str) -> None:
        """See `Shelf.retire`."""
        with contextlib.suppress(RemanenceError):
            journal.database.close()
        self._set_aside(self._name(journal), reason)

    def replace(self, journal: Journal, reason: str) -> Journal:
        """See `Shelf.replace`."""
        self.retire(journal, reason)
        return self._made()

    def release(self, journal: Journal, *, discard: bool = False) -> None:
        """See `Shelf.release`."""
        journal.close()
        name = self._name(journal)
        if discard:
            self._process.world.oracle.discarded(journal.path)
            self._disk.delete(name)
        self._machine.locks.pop(name, None)

    def after_fork(self) -> None:
        """Simulated processes do not fork."""
