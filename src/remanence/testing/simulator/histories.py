"""One history: processes that write and read, faults, healing, and the verdict."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from remanence.errors import RemanenceError, Unavailable
from remanence.model import Put, Reading, Record
from remanence.protocols import Fetch, Tail, Told
from remanence.runtime.simulated import Deadlock
from remanence.settings import Settings
from remanence.stores.vouching import KEPT_SECONDS
from remanence.testing.simulator.callers import CANCEL, DEADLINE, Caller, tokens_read
from remanence.testing.simulator.faults import FAULTS, Nemesis
from remanence.testing.simulator.listeners import Listener
from remanence.testing.simulator.network import FATES
from remanence.testing.simulator.world import Machine, Process, World
from remanence.wire.sqlite import FileDamaged

PATIENCE = 60.0
"""Simulated seconds within which everything must have settled once the faults are over."""


class Plan(msgspec.Struct, frozen=True):
    """What a history is made of."""

    settings: dict[str, Any]
    machines: int
    processes: int
    callers: int
    calls: int
    strikes: int
    pace: float
    kinds: tuple[str, ...]
    skews: bool
    checkpoint_pages: int
    partitions: int = 1
    listening: bool = False
    """Whether each process has a listener, too."""


class Report(msgspec.Struct, frozen=True):
    """How a history went. `violations` is empty for one that is as it must be."""

    seed: int
    violations: tuple[str, ...]
    writes: int
    steps: int
    seconds: float
    faults: dict[str, int]
    events: dict[str, int]


def plan(seed: int, kinds: Sequence[str] | None = None) -> Plan:
    """What the seed chooses; with `kinds`, only among those faults."""
    chance = random.Random(seed ^ 0x91A4)
    every = [*FAULTS, *FATES, CANCEL] if kinds is None else list(kinds)
    rare = {"clone", "twin", "restore", "garble"}
    chosen = tuple(kind for kind in every if kinds is not None or chance.random() < (0.15 if kind in rare else 0.4))
    if kinds is None and "twin" in chosen:  # with both, what only one twin had may come twice: a known limit
        chosen = tuple(kind for kind in chosen if kind not in ("failover", "empty"))
    settings = {
        "backend": "redis",
        "url": "redis://simulated",
        "deadline": DEADLINE,
        "durability": chance.choice(("process", "full")),
        "heartbeat": chance.choice((0.5, 2.0)),
        "retain": chance.choice((3.0, 600.0, 600.0)),
        "batch_ops": chance.choice((2, 8, 128)),
        "linger": chance.choice((0.0, 0.005, 0.05)),
        "ack": chance.choice(("auto", "auto", "journal")),
        "journal_rows": chance.choice((20, 10_000, 10_000)),
        "on_full": chance.choice(("raise", "block", "drop_new")),
        "reads": chance.choice(("fresh", "fresh", "fresh", "near", "mirror")),
    }
    return Plan(
        settings=settings,
        machines=chance.choice((1, 2, 2, 3)),
        processes=chance.choice((1, 1, 2)),
        callers=chance.choice((1, 2, 3)),
        calls=chance.choice((8, 15, 25)),
        strikes=chance.choice((2, 5, 9)),
        pace=chance.choice((0.2, 0.7, 1.5)),
        kinds=chosen,
        skews="clock" in chosen or chance.random() < 0.3,
        checkpoint_pages=chance.choice((8, 1000)),
    )


def divided(seed: int, kinds: Sequence[str] | None = None) -> Plan:
    """As `plan`, with several partitions, whose servers fail one by one, and with listeners."""
    chance = random.Random(seed ^ 0xD171DED)
    return msgspec.structs.replace(plan(seed, kinds), partitions=chance.choice((2, 2, 3)), listening=True)


def play_divided(seed: int) -> Report:
    """Run one history with several partitions to its end and judge it."""
    return play(seed, divided(seed))


def play(seed: int, chosen: Plan | None = None) -> Report:
    """Run one history to its end and judge it."""
    history = History(seed, chosen or plan(seed))
    try:
        return history.play()
    finally:
        history.world.close()


class History:
    """A world, what is done in it, and what goes wrong."""

    def __init__(self, seed: int, chosen: Plan) -> None:
        self.plan = chosen
        self.seed = seed
        self.world = World(
            seed,
            Settings.build({}, **chosen.settings),
            chosen.machines,
            skews=chosen.skews,
            checkpoint_pages=chosen.checkpoint_pages,
            partitions=chosen.partitions,
        )
        self.listeners: list[Listener] = []
        self.oracle = self.world.oracle
        if "slow" in chosen.kinds:  # the first answer a process hears may have taken as long as it waits
            self.oracle.slack += DEADLINE / 2
        self.chance = random.Random(seed ^ 0xCA11)
        self.nemesis = Nemesis(self.world, list(chosen.kinds), self.revive, skews=chosen.skews)
        self.tokens = 0

    def play(self) -> Report:
        """See `play`."""
        try:
            self.world.simulation.run(self._story())
        except Deadlock as error:
            self.oracle.violated(str(error))
        except Exception as error:  # the engine's own fault, met where a process was started or asked
            self.oracle.violated(f"{type(error).__name__}: {error}")
        return Report(
            self.seed,
            tuple(self.oracle.violations),
            len(self.oracle.deeds),
            self.world.simulation.steps,
            self.world.simulation.now,
            dict(sum((network.injected for network in self.world.networks), Counter())),
            dict(self.oracle.counts),
        )

    async def _story(self) -> None:
        simulation = self.world.simulation
        for machine in self.world.machines:
            for _ in range(self.plan.processes):
                self.revive(machine)
        simulation.spawn("snapshots", self.nemesis.watch())
        await self.nemesis.run(self.plan.strikes, self.plan.pace)
        await simulation.sleep(self.chance.uniform(0.0, 3.0))
        self.nemesis.heal()
        await self._settle()
        if not self.oracle.violations:
            self.oracle.finish()
            await self._calm()
            await self._converged()
            await self._offline()
        for name, error in simulation.faults:
            self.oracle.violated(f"{name} ended with {type(error).__name__}: {error}")

    def revive(self, machine: Machine) -> None:
        """Start a process that works; a machine has room for four."""
        if self.nemesis.stopped or len(machine.processes) >= 4:
            return
        process = machine.start()
        if process is not None:
            for n in range(self.plan.callers):
                caller = Caller(self, process, random.Random(self.chance.random()))
                process.runtime.spawn(f"caller {n}", caller.run)
            if self.plan.listening:
                self.listeners.append(Listener(process, random.Random(self.chance.random())))
                process.runtime.spawn("listener", self.listeners[-1].run)

    # --- healing

    async def _settle(self) -> None:
        """With nothing in the way, everything must reach the server soon."""
        simulation = self.world.simulation
        limit = simulation.now + PATIENCE
        latest = max(network.latest for network in self.world.networks)
        await simulation.sleep(max(3.0, latest - simulation.now + 0.1))
        beats = simulation.now + 2 * self.world.settings.heartbeat + 6.0  # also time to find what others left
        while simulation.now < beats or self._unsettled():
            if self.oracle.violations:
                return
            if simulation.now > limit:
                self.oracle.violated(f"not settled after {PATIENCE} s: {self._unsettled()}")
                return
            self._tend()
            await simulation.sleep(0.5)

    def _tend(self) -> None:
        """On each machine some process must be there to send what others left."""
        for machine in self.world.machines:
            if all(process.closed for process in machine.processes):
                machine.start()
            for process in machine.processes:
                for part in process.parts:
                    if not part.closed:
                        part.keeper.start()

    def _unsettled(self) -> str:
        """What is still on its way, "" for nothing."""
        for process in self.world.processes:
            for part in process.parts:
                for drain in [part.drain, *part.adopted]:
                    if drain.journal.pending and not part.closed:
                        return f"{process.name} has {drain.journal.pending} writes pending in {drain.journal.path}"
        for machine in self.world.machines:
            free = [name for name in machine.journals() if name not in machine.locks]
            if free:
                return f"{free[0]} of {machine.name} is nobody's"
        return ""

    async def _calm(self) -> None:
        """On a good day a write is applied at once."""
        simulation = self.world.simulation
        names = ["calm"] if self.plan.partitions == 1 else [f"calm{n}" for n in range(8)]
        for process in self.world.processes:
            if process.closed:
                continue
            started = simulation.now
            try:
                await process.gateway.write([Put(name, b'{"value":1}') for name in names], ack="store")
            except RemanenceError as error:
                self.oracle.violated(f"{process.name} cannot write on a good day: {error}")
            if simulation.now - started > 0.5:
                self.oracle.violated(f"a write took {simulation.now - started:.3f} s on a good day")

    async def _converged(self) -> None:
        """When all is quiet, what is answered from near is what the store has, and listeners were told of all."""
        if self.world.settings.reads == "fresh" and not self.plan.listening:
            return
        # a feed that lost its link is back by then; what a server forgot behind a proxy is asked anew much later
        hidden = any(network.hidden for network in self.world.networks)
        await self.world.simulation.sleep(KEPT_SECONDS + 1.0 if hidden else 4.0)
        for listener in self.listeners:
            listener.finish()
        if self.world.settings.reads == "fresh":
            return
        asks: list[Tail | Fetch] = [Tail("list0"), Fetch("doc0"), Fetch("doc1"), Fetch("reg0"), Fetch("reg1")]
        for process in self.world.processes:
            for ask in asks * 2 if not process.closed else ():
                (reading,) = await process.gateway.read([ask])
                told = await self._stored(ask)
                self.oracle.counts[f"{reading.source} reads"] += 1
                if _content(reading.value) != _content(told):
                    self.oracle.violated(
                        f"{process.name} reads another {ask.key} ({reading.source}) than the store has"
                    )

    async def _stored(self, ask: Tail | Fetch) -> Told:
        """What the server that has a key has of it; what any has where none has it."""
        told: Told = None
        for network in self.world.networks:
            (told,), _ = await network.store.read([ask], 0.0)
            if told:
                break
        return told

    async def _offline(self) -> None:
        """Cut off, a process answers from what it knows, and knows nothing twice."""
        for network in self.world.networks:
            network.partitioned.update({machine.name: False for machine in self.world.machines})
        asks: list[Tail | Fetch] = [Tail("list0"), Tail("list1"), Fetch("doc0"), Fetch("doc1")]
        for process in self.world.processes:
            for ask in asks if not process.closed else ():
                try:
                    (reading,) = await process.gateway.read([ask])
                except (Unavailable, FileDamaged):
                    continue
                self.check_reading(process, ask.key, reading)

    def check_reading(self, process: Process, key: str, reading: Reading[Any]) -> None:
        """Whatever an answer is made of, nothing is in it twice."""
        oracle = self.oracle
        if oracle.damaged or (reading.source == "local" and (oracle.copied or oracle.rolled_back)):
            return  # a file that is not what it was may not know what the server was told in its name
        (token, count), *_ = [*Counter(tokens_read(reading)).most_common(1), ("", 0)]
        if count > 1:
            self.oracle.violated(f"{process.name} reads {token} {count} times in {key} ({reading.source})")


def _content(told: Any) -> Any:
    """An answer without its clock, which a writer knows as it sent it."""
    return (told.body, told.etag) if isinstance(told, Record) else told
