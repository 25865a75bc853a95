"""The server as a model, and a network that loses, delays, repeats and refuses.

The server is a `MemoryStore`, the specification of all stores. A request is executed at one moment of
simulated time, if it arrives; what a caller hears of it is another matter.
"""

import random
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from msgspec.structs import replace

from remanence.errors import DeadlineExceeded, ServerFull, Unavailable, WorldError
from remanence.model import BEGINNING, Batch, Changes, Cursor, Erasure, Outcome, Reached, Seen, Watermark
from remanence.protocols import Ask, Told
from remanence.runtime.blocking import run
from remanence.runtime.simulated import EPOCH, SimulatedTask, Simulation
from remanence.settings import Settings
from remanence.stores.memory import MemoryStore
from remanence.stores.memory_shelf import Snapshot
from remanence.testing.simulator.invariants import Oracle

T = TypeVar("T")
Request = Callable[[MemoryStore], Coroutine[Any, Any, T]]

FATES = ("request lost", "reply lost", "late", "twice", "slow")
"""What can become of a single request, besides nothing special."""


class Network:
    """A server, its health, and the way to it."""

    def __init__(self, simulation: Simulation, oracle: Oracle, chance: random.Random, settings: Settings) -> None:
        self.simulation = simulation
        self.oracle = oracle
        oracle.servers.append(self)
        self.chance = chance
        self.skew = 0.0
        """Seconds that the server's clock is wrong."""
        self.store = MemoryStore(
            self._clock, tombstone_ttl=settings.tombstone_ttl, watermark_ttl=settings.watermark_ttl
        )
        self.up = True
        self.refusal: Callable[[], WorldError] | None = None
        """What every write is answered while the server refuses."""
        self.partitioned: dict[str, bool] = {}
        """Machines that cannot reach the server, and whether their calls hang (or fail at once)."""
        self.weather: dict[str, float] = {}
        """The chance of each of `FATES`, per request."""
        self.injected: Counter[str] = Counter()
        self.latest = 0.0
        """When the last request under way will have been delivered."""
        self.resets = 0
        """How often every connection was closed."""
        self.hidden = False
        """Whether it forgot something without closing a connection."""
        self.snapshots: deque[Snapshot] = deque(maxlen=12)
        self._ages = [0]
        """How many entries the log had when each age of the server began."""

    def _clock(self) -> float:
        return EPOCH + self.simulation.now + self.skew

    # --- the server's life

    def snapshot(self) -> None:
        """Remember the server as it is, to be brought back by a failover."""
        self.snapshots.append(self.store.snapshot())

    def forget(self, *, everything: bool) -> None:
        """Be as some time ago, or empty. A proxy may hide from the processes that it is another server."""
        noticed = self.chance.random() < 0.5
        self.resets += noticed
        self.hidden |= not noticed
        before = {lineage: mark.seq for lineage, (mark, _) in self.store.snapshot().marks.items()}
        if everything or not self.snapshots:
            self.snapshots.clear()
            self.store.restore()
        else:
            back = self.chance.randrange(len(self.snapshots))
            for _ in range(back):
                self.snapshots.pop()  # what came later is forgotten for good
            self.store.restore(self.snapshots[-1])
        self._ages = [min(begun, self.store.logged) for begun in self._ages] + [self.store.logged]
        after = {lineage: mark.seq for lineage, (mark, _) in self.store.snapshot().marks.items()}
        self.oracle.forgotten(before, after)

    def outside(self, position: str) -> str:
        """A position of the model's log as the server tells it: one that was forgotten does not come again.

        A real server's positions begin with its clock's milliseconds, so that the same is true there.
        """
        age = max(age for age, begun in enumerate(self._ages) if begun < int(position))
        return f"{age}-{position}"

    def inside(self, cursor: Cursor) -> Cursor:
        """The model's own cursor; of a position that was forgotten one that it does not have."""
        if cursor == BEGINNING:
            return cursor
        position = cursor.position.partition("-")[2]
        there = int(position) <= self.store.logged and self.outside(position) == cursor.position
        return Cursor(position, cursor.op_id if there else "")

    def is_end(self, cursor: Cursor) -> bool:
        """Whether a cursor is at the end of the log."""
        if not self.store.logged:
            return cursor == BEGINNING
        return cursor.position == self.outside(str(self.store.logged))

    def execute(self, request: Request[T], *, late: bool = False) -> T:
        """Let the server carry out a request now."""
        before = len(self.store.log())
        answer: T = run(request(self.store))
        self.oracle.executed(self.store, before, late=late)
        return answer

    def fate(self) -> str:
        """What becomes of the next request, "" for nothing special."""
        draw = self.chance.random()
        for name, share in self.weather.items():
            if draw < share:
                self.injected[name] += 1
                return name
            draw -= share
        return ""


class _Flight:
    """A batch on its way, which it finishes whatever becomes of its sender."""

    def __init__(self, link: "Link", batch: Batch, deadline: float) -> None:
        self._link, self._batch, self._deadline = link, batch, deadline
        self._task: SimulatedTask[Outcome] | None = None

    def depart(self) -> bool:
        """See `Flight.depart`."""
        work = self._link.apply(self._batch, self._deadline)
        self._task = self._link.simulation.spawn("flight", work)
        self._task.awaited = True
        return True

    async def outcome(self) -> Outcome:
        """See `Flight.outcome`."""
        assert self._task is not None, "departed"
        await self._task.join(None)
        if self._task.error is not None:
            raise self._task.error
        assert self._task.result is not None, "ended"
        return self._task.result

    def drop(self) -> None:
        """See `Flight.drop`."""


class Link:
    """A process's way to the server: a `Store` that keeps its deadlines, whatever happens."""

    def __init__(self, network: Network, machine: str) -> None:
        self._network = network
        self._machine = machine
        self.simulation = network.simulation
        self._connections = 1

    @property
    def generation(self) -> int:
        """See `Store.generation`."""
        return self._connections + self._network.resets

    async def open(self, lineage: str, nonce: str, deadline: float) -> Watermark:
        """See `Store.open`."""
        return await self._ask(lambda store: store.open(lineage, nonce, deadline), deadline, lineage)

    async def forward(self, lineage: str, nonce: str, seq: int, op_id: str, deadline: float) -> bool:
        """See `Store.forward`."""
        return await self._ask(lambda store: store.forward(lineage, nonce, seq, op_id, deadline), deadline, lineage)

    async def apply(self, batch: Batch, deadline: float) -> Outcome:
        """See `Store.apply`."""
        self._network.oracle.sending(batch)
        return await self._ask(lambda store: store.apply(batch, deadline), deadline, batch.lineage)

    def flight(self, batch: Batch, deadline: float) -> _Flight:
        """See `Store.flight`."""
        return _Flight(self, batch, deadline)

    async def read(
        self, asks: Sequence[Ask], deadline: float, marks: Sequence[str] = ()
    ) -> tuple[list[Told], list[Reached]]:
        """See `Store.read`."""
        return await self._ask(lambda store: store.read(asks, deadline, marks), deadline)

    async def scan(self, prefix: str, cursor: str, count: int, deadline: float) -> tuple[list[str], str]:
        """See `Store.scan`."""
        return await self._ask(lambda store: store.scan(prefix, cursor, count, deadline), deadline)

    async def history(self, lineage: str, limit: int, deadline: float) -> list[tuple[int, str]]:
        """See `Store.history`."""
        return await self._ask(lambda store: store.history(lineage, limit, deadline), deadline)

    async def changes(self, after: Cursor, count: int, wait: float, deadline: float) -> Changes:
        """See `Store.changes`."""
        network, until = self._network, self.simulation.now + wait
        while self.simulation.now < until and network.is_end(after):
            await self.simulation.sleep(min(0.05, until - self.simulation.now))

        async def request(store: MemoryStore) -> Changes:
            page = await store.changes(network.inside(after), count, wait, deadline)
            entries = [replace(each, position=network.outside(each.position)) for each in page.entries]
            return Changes(entries, entries[-1].cursor if entries else after, page.whole)

        return await self._ask(request, deadline)

    async def latest(self, deadline: float) -> Cursor:
        """See `Store.latest`."""

        async def request(store: MemoryStore) -> Cursor:
            end = await store.latest(deadline)
            return end if end == BEGINNING else Cursor(self._network.outside(end.position), end.op_id)

        return await self._ask(request, deadline)

    async def replicated(self, lineage: str, replicas: int, wait: float, deadline: float) -> tuple[Reached, int]:
        """See `Store.replicated`."""
        return await self._ask(lambda store: store.replicated(lineage, replicas, wait, deadline), deadline)

    async def forget(self, erasure: Erasure, lineages: Sequence[str], deadline: float, *, live: bool) -> None:
        """See `Store.forget`."""
        return await self._ask(lambda store: store.forget(erasure, lineages, deadline, live=live), deadline)

    async def erasures(self, holder: str, seen: Seen | None, deadline: float) -> tuple[list[Erasure], Seen]:
        """See `Store.erasures`."""
        return await self._ask(lambda store: store.erasures(holder, seen, deadline), deadline)

    async def holders(self, deadline: float) -> Mapping[str, Seen]:
        """See `Store.holders`."""
        return await self._ask(lambda store: store.holders(deadline), deadline)

    async def publish(self, messages: Sequence[tuple[str, bytes]], deadline: float) -> None:
        """See `Store.publish`."""
        await self._ask(lambda store: store.publish(messages, deadline), deadline)

    async def facts(self, deadline: float) -> Mapping[str, str]:
        """See `Store.facts`."""
        return await self._ask(lambda store: store.facts(deadline), deadline)

    async def close(self) -> None:
        """See `Store.close`."""

    async def _ask(self, request: Request[T], deadline: float, lineage: str = "") -> T:
        """Ask, on a new connection next time if this one fails. `lineage` is what is written about, or ""."""
        try:
            return await self._exchange(request, deadline, lineage)
        except WorldError as error:
            self._connections += not error.answered
            raise

    async def _exchange(self, request: Request[T], deadline: float, lineage: str) -> T:
        """Send, let it be executed when it arrives, and hear the answer if there is one."""
        network, chance = self._network, self._network.chance
        if self.simulation.now >= deadline:
            raise DeadlineExceeded("no time left")
        fate = network.fate()
        there = chance.uniform(0.0002, 0.002) if fate != "slow" else chance.uniform(0.01, 2.5)
        if fate in ("request lost", "late"):
            if fate == "late":
                self._later(request)
            await self._fail(deadline)
        await self._travel(there, deadline, request)
        if lineage and network.refusal is not None:
            raise network.refusal()
        answer = network.execute(request)
        network.oracle.ran(lineage)
        if fate == "twice":
            self._later(request)
        if fate == "reply lost":
            await self._fail(deadline)
        await self._travel(chance.uniform(0.0002, 0.002), deadline, None)
        return answer

    async def _travel(self, seconds: float, deadline: float, request: Request[T] | None) -> None:
        """Take `seconds` to the server or back. A request that is too slow for its caller still arrives."""
        simulation, network = self.simulation, self._network
        await self._reachable(deadline)
        if simulation.now + seconds > deadline:
            if request is not None:
                self._later(request, seconds)
            await simulation.sleep(deadline - simulation.now)
            raise DeadlineExceeded("the server did not answer within the deadline")
        await simulation.sleep(seconds)
        await self._reachable(deadline)
        if not network.up:
            raise Unavailable("the connection was reset")

    async def _reachable(self, deadline: float) -> None:
        network = self._network
        hangs = network.partitioned.get(self._machine)
        if hangs is not None:
            if hangs:
                await self.simulation.sleep(deadline - self.simulation.now)
                raise DeadlineExceeded("the server did not answer within the deadline")
            raise Unavailable("the network cannot be reached")
        if not network.up:
            raise Unavailable("the connection was refused")

    async def _fail(self, deadline: float) -> None:
        """Hear of a lost message: by a reset at once, or not at all."""
        left = deadline - self.simulation.now
        if self._network.chance.random() < 0.5:
            await self.simulation.sleep(min(left, 0.005))
            raise Unavailable("the connection was reset")
        await self.simulation.sleep(left)
        raise DeadlineExceeded("the server did not answer within the deadline")

    def _later(self, request: Request[T], seconds: float | None = None) -> None:
        """Deliver a request to whatever server is there then, with nobody to hear the answer."""
        network = self._network
        if seconds is None:
            seconds = network.chance.choice((0.01, 0.3, 3.0)) * network.chance.uniform(0.5, 2.0)
        network.latest = max(network.latest, self.simulation.now + seconds)

        def arrive() -> None:
            if network.up and network.refusal is None:
                network.execute(request, late=True)

        self.simulation.after(seconds, arrive)


def out_of_memory() -> WorldError:
    """What a full server answers to writes; it still answers reads."""
    error = ServerFull("the server is out of memory")
    error.answered = True
    return error


def loading() -> WorldError:
    """What a server answers that is reading its data back."""
    return Unavailable("the server is loading its data")
