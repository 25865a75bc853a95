"""One history: processes that write and read, faults, healing, and the verdict."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from remanence.errors import Closed, JournalFull, RemanenceError, Unavailable
from remanence.model import ABSENT, Append, Delete, Edit, Patch, Put, Reading, Receipt, Record, Write
from remanence.protocols import Fetch, Tail
from remanence.runtime.simulated import Cancelled, Deadlock
from remanence.settings import Settings
from remanence.stores.vouching import KEPT_SECONDS
from remanence.testing.simulator.deeds import tokens
from remanence.testing.simulator.faults import FAULTS, Nemesis
from remanence.testing.simulator.network import FATES
from remanence.testing.simulator.world import Machine, Process, World
from remanence.wire import codec
from remanence.wire.sqlite import FileDamaged

CANCEL = "cancel"
"""The fault that callers make themselves: they lose patience, at any await."""
DEADLINE = 1.0
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
        )
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
            dict(self.world.network.injected),
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
            self.oracle.finish(self.world.network.store)
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

    # --- healing

    async def _settle(self) -> None:
        """With nothing in the way, everything must reach the server soon."""
        simulation = self.world.simulation
        limit = simulation.now + PATIENCE
        await simulation.sleep(max(3.0, self.world.network.latest - simulation.now + 0.1))
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
            if all(process.store.closed for process in machine.processes):
                machine.start()
            for process in machine.processes:
                if not process.store.closed:
                    process.store.keeper.start()

    def _unsettled(self) -> str:
        """What is still on its way, "" for nothing."""
        for process in self.world.processes:
            for drain in [process.store.drain, *process.store.adopted]:
                if drain.journal.pending and not process.store.closed:
                    return f"{process.name} has {drain.journal.pending} writes pending in {drain.journal.path}"
        for machine in self.world.machines:
            free = [name for name in machine.journals() if name not in machine.locks]
            if free:
                return f"{free[0]} of {machine.name} is nobody's"
        return ""

    async def _calm(self) -> None:
        """On a good day a write is applied at once."""
        simulation = self.world.simulation
        for process in self.world.processes:
            if process.store.closed:
                continue
            started = simulation.now
            try:
                await process.store.write([Put("calm", b'{"value":1}')], ack="store")
            except RemanenceError as error:
                self.oracle.violated(f"{process.name} cannot write on a good day: {error}")
            if simulation.now - started > 0.5:
                self.oracle.violated(f"a write took {simulation.now - started:.3f} s on a good day")

    async def _converged(self) -> None:
        """When all is quiet, what is answered from near is what the store has."""
        if self.world.settings.reads == "fresh":
            return
        store = self.world.network.store
        # a feed that lost its link is back by then; what a server forgot behind a proxy is asked anew much later
        await self.world.simulation.sleep(KEPT_SECONDS + 1.0 if self.world.network.hidden else 4.0)
        asks: list[Tail | Fetch] = [Tail("list0"), Fetch("doc0"), Fetch("doc1"), Fetch("reg0"), Fetch("reg1")]
        for process in self.world.processes:
            for ask in asks * 2 if not process.store.closed else ():
                (reading,) = await process.store.read([ask])
                (told,), _ = await store.read([ask], 0.0)
                self.oracle.counts[f"{reading.source} reads"] += 1
                if _content(reading.value) != _content(told):
                    self.oracle.violated(
                        f"{process.name} reads another {ask.key} ({reading.source}) than the store has"
                    )

    async def _offline(self) -> None:
        """Cut off, a process answers from what it knows, and knows nothing twice."""
        for machine in self.world.machines:
            self.world.network.partitioned[machine.name] = False
        asks: list[Tail | Fetch] = [Tail("list0"), Tail("list1"), Fetch("doc0"), Fetch("doc1")]
        for process in self.world.processes:
            for ask in asks if not process.store.closed else ():
                try:
                    (reading,) = await process.store.read([ask])
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


class Caller:
    """A part of a process that writes and reads, and checks what it is told."""

    def __init__(self, history: History, process: Process, chance: random.Random) -> None:
        self._history = history
        self._process = process
        self._store = process.store
        self._chance = chance
        self._oracle = history.oracle
        self._simulation = history.world.simulation

    async def run(self) -> None:
        """Call and pause, until the faults are over or all is said."""
        for _ in range(self._history.plan.calls):
            if self._history.nemesis.stopped or self._store.closed or self._oracle.violations:
                return
            try:
                await self._call()
            except Closed:
                return
            await self._simulation.sleep(self._chance.choice((0.0, 0.01, 0.1, 1.5)) * self._chance.random())

    async def _call(self) -> None:
        started = self._simulation.now
        try:
            await self._chance.choice((self._write, self._write, self._write, self._read, self._replace))()
        except (JournalFull, Unavailable):
            self._oracle.counts["refused"] += 1
        except FileDamaged:
            assert self._oracle.damaged, "nobody touched a file"
        took = self._simulation.now - started
        if took > DEADLINE * 2 + 0.1:
            self._oracle.violated(f"a call of {self._process.name} took {took:.3f} s")

    async def _write(self) -> None:
        writes = [self._some_write() for _ in range(self._chance.choice((1, 1, 1, 2, 4)))]
        await self._send(writes)

    async def _send(self, writes: Sequence[Write]) -> list[Receipt]:
        ack = self._chance.choice((None, None, "journal", "store"))
        started = self._simulation.now
        if CANCEL in self._history.plan.kinds and self._chance.random() < 0.2:
            receipts = await self._impatient(writes)
        else:
            receipts = await self._store.write(writes, ack=ack)  # type: ignore[arg-type]
        calm = self._history.plan.kinds == (CANCEL,)
        if self._simulation.now - started > (0.2 if calm else DEADLINE + 0.1):
            self._oracle.violated(f"a write took {self._simulation.now - started:.3f} s")
        if self._process.alive:
            self._oracle.told(receipts)
        return receipts

    async def _impatient(self, writes: Sequence[Write]) -> list[Receipt]:
        """Write, and be cancelled meanwhile as a task of asyncio may be: what became of it is then unknown."""
        self._history.world.network.injected[CANCEL] += 1
        task = self._simulation.spawn("impatient", self._store.write(writes), self._process.runtime)
        task.awaited = True
        await self._simulation.sleep(self._chance.choice((0.0, 0.001, 0.004)) * self._chance.random())
        task.cancel()
        await task.join(None)
        if task.error is not None and not isinstance(task.error, Cancelled):
            raise task.error
        return task.result or []

    def _some_write(self) -> Write:
        """Any write; each carries a token that no other has."""
        self._history.tokens += 1
        token = f"t{self._history.tokens}"
        n = self._chance.randrange(2)
        body = b'{"value":"%s"}' % token.encode()
        match self._chance.randrange(10):
            case 9:
                return Patch(f"reg{n}", (Edit(("value",), "append", b'["%s"]' % token.encode()),))  # not a list
            case 0 | 1:
                return Append(f"list{n}", (token.encode(),))
            case 2 | 3 | 4:
                return _patch(f"doc{n}", token)
            case 5:
                return Delete(f"reg{n}")
            case 6:
                return Put(f"ttl{n}", body, ttl=self._chance.choice((5_000, 60_000)))
            case _:
                return Put(f"reg{n}", body)

    async def _replace(self) -> None:
        """Read, then write if nobody else did meanwhile."""
        key = f"cas{self._chance.randrange(2)}"
        (reading,) = await self._store.read([Fetch(key)])
        etag = reading.value.etag if isinstance(reading.value, Record) else ABSENT
        self._history.tokens += 1
        await self._send([Put(key, b'{"value":"t%d"}' % self._history.tokens, base=etag)])

    async def _read(self) -> None:
        """Write, then read it back: whatever happens, the process sees its own writes."""
        write = self._some_write()
        receipts = await self._send([write])
        if write.key.startswith(("reg", "ttl")) or not receipts or not receipts[0].op_id:
            return
        forgot = self._oracle.forgets
        ask = Tail(write.key) if isinstance(write, Append) else Fetch(write.key)
        (reading,) = await self._store.read([ask])
        deed = self._oracle.deeds[receipts[0].op_id]
        (token,) = tokens(deed.write)
        self._history.check_reading(self._process, write.key, reading)
        if forgot != self._oracle.forgets or self._forgetful():
            return
        count = tokens_read(reading).count(token)
        if count != 1:
            self._oracle.violated(
                f"{self._process.name} wrote {token} to {write.key} and reads it {count} times ({reading.source})"
            )

    def _forgetful(self) -> bool:
        """Whether the server has ever forgotten writes, or a file been changed behind our back."""
        return bool(self._oracle.forgets or self._oracle.damaged or self._oracle.rolled_back)


def _patch(key: str, token: str) -> Patch:
    edits = (
        Edit(("value", "tokens"), "append", b'["%s"]' % token.encode()),
        Edit(("value", "count"), "add", b"[1]"),
    )
    return Patch(key, edits, default=b'{"value":{"tokens":[],"count":0}}')


def tokens_read(reading: Reading[Any]) -> list[str]:
    """What a list or a document was read to hold."""
    value = reading.value
    if isinstance(value, list):
        return [item.decode() for item in value]
    if value is None:
        return []
    found: list[str] = codec.decode(value.body, value.key)["value"]["tokens"]
    return found
