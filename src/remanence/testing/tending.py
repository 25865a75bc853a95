"""`Hands` over any gateway, with memories as JSON at `memory:{type}:{id}`: for tests of what tends memories."""

import random
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec
import numpy as np

from remanence.events import Events
from remanence.faces.agents.tending.hands import Add, Mark, Page, Remove, Step
from remanence.faces.agents.tending.lease import Lease
from remanence.faces.agents.tending.likeness import Floats
from remanence.faces.agents.tending.unwanted import Unwanted, drop, noted
from remanence.faces.agents.types import TYPES, AgentMemory, EpisodicMemory, MemoryType, SemanticMemory, SkillMemory
from remanence.model import ABSENT, Delete, Put, Record
from remanence.protocols import Fetch, Gateway
from remanence.runtime.blocking import BlockingRuntime, run
from remanence.search.embedders.static import StaticEmbedder
from remanence.settings import Settings
from remanence.stores.direct import DirectStore
from remanence.stores.memory import MemoryStore

T = TypeVar("T")

START = datetime(2026, 5, 2, tzinfo=UTC)
DAY = timedelta(days=1)
_EMBEDDER = StaticEmbedder()
_KINDS = {EpisodicMemory: "episodic", SemanticMemory: "semantic", SkillMemory: "skill"}
_MARK = "tending:mark"


def key_of(memory: AgentMemory) -> str:
    """Where a memory is stored."""
    return f"memory:{_KINDS[type(memory)]}:{memory.memory_id}"


def body_of(memory: AgentMemory) -> bytes:
    """A memory as it is stored."""
    return msgspec.json.encode(memory)


class GatewayHands:
    """See `Hands`. Steps are written one by one, so that a test can stop between any two."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._lease = Lease(gateway, "tending:lease")

    def now(self) -> datetime:
        """The runtime's time."""
        return datetime.fromtimestamp(self.gateway.runtime.wall(), UTC)

    async def pages(self, kind: MemoryType) -> AsyncIterator[Page]:
        """Pages of a scan."""
        cursor = ""
        while True:
            keys, cursor = await self.gateway.scan(f"memory:{kind}:", cursor)
            memories, unreadable = [], []
            for reading in await self.gateway.read([Fetch(key) for key in keys]):
                if (record := reading.value) is None:
                    continue
                memory = _memory(record)
                unreadable += [record.key] if memory is None else []
                memories += [memory] if memory is not None else []
            yield Page(memories, unreadable)
            if not cursor:
                return

    async def get(self, kind: MemoryType, memory_ids: Sequence[str]) -> list[AgentMemory | None]:
        """What is stored now."""
        asks = [Fetch(f"memory:{kind}:{name}") for name in memory_ids]
        return [_memory(each.value) if each.value else None for each in await self.gateway.read(asks)]

    async def vectors(self, texts: Sequence[str]) -> Floats:
        """Of the default embedder."""
        return _EMBEDDER.embed(texts) if texts else np.zeros((0, _EMBEDDER.dimensions), dtype=np.float32)

    async def write(self, steps: Sequence[Step]) -> list[bool]:
        """Each by its stamp."""
        return [await self.step(each) for each in steps]

    async def step(self, step: Step) -> bool:
        """One step, whether it took effect."""
        if isinstance(step, Add):
            return await self._put(Put(key_of(step.memory), body_of(step.memory), self._ttl(step.memory), ABSENT))
        record: Record | None = (await self.gateway.read([Fetch(key_of(step.was))]))[0].value
        if record is None or _memory(record) != step.was:
            return False
        if isinstance(step, Remove):
            return await self._put(Delete(record.key, record.etag))
        return await self._put(Put(record.key, body_of(step.now), self._ttl(step.now), record.etag))

    async def _put(self, write: Put | Delete) -> bool:
        (receipt,) = await self.gateway.write([write], ack="store")
        return receipt.state != "rejected"

    def _ttl(self, memory: AgentMemory) -> int:
        if memory.expires_at is None:
            return 0
        return max(1, round((memory.expires_at - self.now()).total_seconds() * 1000))

    async def unwanted(self) -> list[Unwanted]:
        """All notes."""
        return await noted(self.gateway)

    async def drop(self, notes: Sequence[Unwanted]) -> None:
        """Deletes them."""
        await drop(self.gateway, notes)

    async def aside(self, work: Callable[[], T]) -> T:
        """Here."""
        return work()

    async def pause(self) -> None:
        """Nothing: nobody else is there."""

    async def lease(self, seconds: float) -> str | None:
        """See `Lease.take`."""
        return await self._lease.take(seconds)

    async def renew(self, token: str, seconds: float) -> str | None:
        """See `Lease.renew`."""
        return await self._lease.renew(token, seconds)

    async def release(self, token: str) -> None:
        """See `Lease.release`."""
        await self._lease.release(token)

    async def mark(self) -> Mark | None:
        """The stored mark."""
        record = (await self.gateway.read([Fetch(_MARK)]))[0].value
        return msgspec.json.decode(record.body, type=Mark) if record else None

    async def note(self, mark: Mark) -> None:
        """Store a mark."""
        await self.gateway.write([Put(_MARK, msgspec.json.encode(mark))])

    async def everything(self) -> dict[str, Any]:
        """All memories by their ids, for tests."""
        return {each.memory_id: each for kind in TYPES async for page in self.pages(kind) for each in page.memories}


def _memory(record: Record) -> AgentMemory | None:
    try:
        memory: AgentMemory = msgspec.json.decode(record.body, type=AgentMemory)
        return memory
    except (msgspec.DecodeError, ValueError):
        return None


# --- a store of its own, and a worker that dies ------------------------------------------------------


class Clock(BlockingRuntime):
    """A runtime whose wall clock stands where it was put."""

    def __init__(self) -> None:
        super().__init__()
        self.time = START.timestamp()

    def wall(self) -> float:
        """Where it was put."""
        return self.time

    def move(self, seconds: float) -> None:
        """Put it later."""
        self.time += seconds


class Crash(BaseException):
    """The process ends here."""


class Stopped(GatewayHands):
    """Dies before the write of this number, counted from 0, whatever it is; nothing works afterwards."""

    def __init__(self, gateway: Gateway, at: int) -> None:
        super().__init__(gateway)
        self.left = at

    def _live(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Crash

    async def step(self, step: Step) -> bool:
        """See `GatewayHands.step`."""
        self._live()
        return await super().step(step)

    async def note(self, mark: Mark) -> None:
        """See `GatewayHands.note`."""
        self._live()
        await super().note(mark)

    async def drop(self, notes: Sequence[Unwanted]) -> None:
        """See `GatewayHands.drop`."""
        if notes:
            self._live()
        await super().drop(notes)

    async def release(self, token: str) -> None:
        """See `GatewayHands.release`."""
        self._live()
        await super().release(token)


def opened(clock: Clock | None = None) -> GatewayHands:
    """Hands on an empty store in memory, with a clock of its own."""
    runtime = clock or Clock()
    store = MemoryStore(runtime.wall)
    way = DirectStore(store, runtime, Settings(backend="memory"), Events(), place="volatile", durable=False)
    return GatewayHands(way)


def stored(hands: GatewayHands, *memories: Any) -> GatewayHands:
    """The hands, after these memories were stored."""
    assert all(run(hands.write([Add(each) for each in memories])))
    return hands


def told(hands: GatewayHands) -> dict[str, Any]:
    """All that is stored, by its ids."""
    return run(hands.everything())


def learned(hands: GatewayHands) -> list[SemanticMemory]:
    """What was learned."""
    return [each for each in told(hands).values() if isinstance(each, SemanticMemory)]


# --- episodes whose truth is known ----------------------------------------------------------------

_TASKS = (
    "Deploy the {thing} service to the {place} cluster",
    "Fix the failing tests in the {thing} module of {place}",
    "Summarise the {thing} report that {place} sent",
    "Find out why the {thing} job is slow on {place}",
    "Book a room for the {thing} meeting in {place}",
    "Migrate the {thing} table from {place} without downtime",
)
_THINGS = (
    *("billing", "search", "login", "invoice", "gallery", "parser", "scheduler", "mailing", "payroll", "inventory"),
    *("checkout", "upload", "export", "backup", "pricing", "review", "chat", "profile", "translation", "feedback"),
)
_PLACES = ("Berlin", "Lisbon", "Osaka", "Denver", "Cairo", "Quito", "Oslo", "Perth", "Lagos", "Turin", "Malmo", "Davos")
_RESULTS = ("It took {n} minutes and the team was told", "Done after {n} attempts, notes are in the wiki")


class Told(msgspec.Struct, frozen=True):
    """Episodes, and which of them are one told several times: `truth` names the original of each retelling."""

    episodes: list[EpisodicMemory]
    truth: dict[str, str]


def generated(count: int, seed: int = 1, *, retold: float = 0.2) -> Told:
    """About `count` episodes of different tasks, of which that share are told again in other words.

    Many differ in a number, a name or a single word alone, or say the opposite: these are not retellings.
    """
    chance = random.Random(seed)
    made: list[tuple[str, str]] = []
    truth: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    while len(made) < count:
        parts = {"thing": chance.choice(_THINGS), "place": chance.choice(_PLACES), "n": chance.randrange(2, 400)}
        said = chance.choice(_TASKS).format(**parts), chance.choice(_RESULTS).format(**parts)
        if chance.random() < 0.05:
            said = said[0], said[1].replace("was told", "was not told").replace("are in", "are not in")
        if said in seen:
            continue
        seen.add(said)
        made.append(said)
        original = name_of(len(made) - 1)
        while chance.random() < retold:
            truth[name_of(len(made))] = original
            made.append(_retold(said, chance))
    return Told([episode(name_of(at), *said) for at, said in enumerate(made)], truth)


def _retold(said: tuple[str, str], chance: random.Random) -> tuple[str, str]:
    task, result = said
    ways: list[Callable[[str], str]] = [
        lambda text: text.replace("the ", ""),
        lambda text: text.lower(),
        lambda text: f"  {text}!",
        lambda text: text.replace("Deploy", "Deploying").replace("Fix", "Fixing").replace("Find", "Finding"),
        lambda text: text.replace("tests", "test").replace("minutes", "minute"),
    ]
    for way in chance.sample(ways, 2):
        task = way(task)
    return task, chance.choice((result, f"{result}.", result.lower()))


def name_of(at: int) -> str:
    """The id of the generated episode at a place."""
    return f"e{at:06d}"


def episode(name: str, task: str, outcome: str = "Done", **fields: Any) -> EpisodicMemory:
    """An episode that succeeded on the first of May 2026, unless fields say otherwise."""
    made = fields.pop("created_at", datetime(2026, 5, 1, tzinfo=UTC))
    given = {"success": True, "duration_seconds": 1.0, "updated_at": made, "last_accessed": made, **fields}
    return EpisodicMemory(memory_id=name, created_at=made, task_prompt=task, outcome=outcome, **given)


TWICE = (
    episode("a", "Deploy the web app to staging", "Rolled out", tags=["deploy"], access_count=3, importance=0.4),
    episode(
        "b",
        "deploying web app to staging!",
        "rolled out",
        tags=["web", "deploy"],
        access_count=2,
        importance=0.9,
        created_at=START,
    ),
)


def deployments(count: int, failures: int = 0, first: int = 0, **fields: Any) -> list[EpisodicMemory]:
    """So many similar episodes, the first `failures` of them failures; `first` numbers them."""
    services = ("billing", "search", "login", "invoice", "gallery", "parser", "mailing", "payroll", "checkout")
    return [
        episode(
            f"d{at}",
            f"Deploy the {services[at]} service to staging",
            "Rolled out" if at - first >= failures else "It broke",
            success=at - first >= failures,
            tags=["deploy", services[at]],
            tools_used=["kubectl", "helm"],
            error_messages=[] if at - first >= failures else ["timeout while pulling image"],
            trust=0.5 + at / 20,
            created_at=START - DAY * (20 - at),
            **fields,
        )
        for at in range(first, first + count)
    ]
