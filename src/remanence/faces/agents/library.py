"""What the faces of agents of one engine share: the catalogue, who keeps it, and which memories were used."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from remanence import events
from remanence.errors import RemanenceError
from remanence.faces.agents.catalogue import Catalogue
from remanence.faces.agents.following import Follower
from remanence.model import Patch
from remanence.protocols import Gateway, Task
from remanence.search.embedders import Embedder
from remanence.settings import Settings
from remanence.stores.edits import edit

if TYPE_CHECKING:
    from remanence.search.redis import VectorSetIndex

MOST_USES: Final = 10_000
"""Memories whose uses are gathered at most; further ones count when these are written down."""
TOGETHER: Final = 500
"""Memories in which uses are noted at a time: each note is a write that every process hears of."""


FIRST: Final = 10.0
"""Longest wait of a first search for the index of what was there: some 20,000 memories are indexed by then."""
EMBEDDING: Final = 10.0
"""Seconds until an embedder that was away is tried again."""


class Library:
    """Opened with the first call of a face, closed with the engine."""

    def __init__(
        self,
        gateway: Gateway,
        settings: Settings,
        path: Path | None,
        embedder: Embedder | None,
        tell: Callable[[events.Event], None],
        shared: "VectorSetIndex | None" = None,
    ) -> None:
        """`path`: the index's file, None for none; `shared`: what takes its place. Starts to follow the store."""
        self.gateway = gateway
        self.tell = tell
        self.embedder = embedder
        self.uses = Uses(gateway, settings.use_interval)
        self.catalogue: Catalogue
        self.follower: Follower
        if shared is None:
            self.catalogue = Catalogue(path, embedder, gateway.runtime, tell, settings.key_prefix)
            self.follower = Follower(
                gateway,
                self.catalogue,
                tell,
                messages=settings.key_prefix if settings.index_messages else None,
                lock=None if path is None else path.with_suffix(".lock"),
                deadline=settings.deadline,
            )
        else:
            from remanence.faces.agents.shared import Hearer, SharedCatalogue  # loaded by those alone who use it

            catalogue = SharedCatalogue(shared, gateway.runtime, tell)
            hearer = Hearer(gateway, catalogue, tell, deadline=settings.deadline)
            self.catalogue, self.follower, self.uses.noted = catalogue, hearer, hearer.refresh
        self.catalogue.removed = self.uses.forget
        self.catalogue.begun_anew = self.follower.again
        self.follower.chores.append(self.uses.note_down)
        self._closing = gateway.runtime.signal()
        self._tasks: list[Task] = [gateway.runtime.spawn("remanence-index", self.follower.run)]
        if embedder is not None:
            self._tasks.append(gateway.runtime.spawn("remanence-embed", self._embed))
        self._waited = False
        self.published: set[str] = set()
        """Of what was heard last, the operations that the channel was told of."""

    async def ready(self, timeout: float) -> None:
        """Wait once for what was there before this process: `FIRST` seconds, or `timeout` while the store is away."""
        if self._waited:
            return
        self._waited = True
        await self._ready(FIRST, timeout)

    async def _ready(self, timeout: float, away: float) -> bool:
        runtime, begun = self.gateway.runtime, self.gateway.runtime.monotonic()
        while not await self.follower.ready(0.05):
            waited = runtime.monotonic() - begun
            if waited > timeout or (waited > away and not (await self.gateway.status()).available):
                return False
        return True

    async def level(self, timeout: float, away: float) -> bool:
        """Wait until all that the store has applied by now can be found.

        False past `timeout` seconds, or where the store is away and was so for `away` seconds.
        """
        limit = self.gateway.runtime.monotonic() + timeout
        if not await self._ready(timeout, away):
            return False
        return await self.follower.level(limit - self.gateway.runtime.monotonic())

    async def close(self, timeout: float) -> None:
        """Note down what was used, and let go of the file."""
        self.follower.close()
        self._closing.set()
        await self.uses.note_down(now=True)
        for task in self._tasks:
            await task.join(timeout)
        self.catalogue.close()

    async def _embed(self) -> None:
        """Embed anew what another embedder did, and what this one owes because it was away."""
        owing = True
        while True:
            try:
                if owing:
                    async for done, left in self.catalogue.reembed():
                        self.tell(events.Reembedded(done, left))
                        if await self._closing.wait(0.0):
                            return
            except RemanenceError:  # the embedder is away, as those who search are told, or the file is closed
                pass
            if await self._closing.wait(EMBEDDING):
                return
            owing = self.catalogue.owes


class Uses:
    """Which memories were found and used: gathered for some seconds, then noted in them together.

    Uses that were not noted when a process is killed are lost; nothing is built on them but statistics.
    """

    def __init__(self, gateway: Gateway, interval: float) -> None:
        """`interval`: seconds between two notes."""
        self._gateway = gateway
        self._interval = interval
        self._mutex = gateway.runtime.mutex()
        self._counts: dict[str, int] = {}
        self._lifetimes: dict[str, int] = {}
        self._noted = gateway.runtime.monotonic()
        self.noted: Callable[[Sequence[str]], Awaitable[None]] | None = None
        """Is told of what was noted in which memories, where no log is followed for it."""

    def used(self, keys: Iterable[str]) -> None:
        """Memories were used."""
        with self._mutex:
            for key in keys:
                if key in self._counts or len(self._counts) < MOST_USES:
                    self._counts[key] = self._counts.get(key, 0) + 1

    def extend(self, keys: Iterable[str], lifetime: int) -> None:
        """These were used, and live for `lifetime` ms from the note on, if they would not live as long by then."""
        with self._mutex:
            for key in keys:
                if key in self._lifetimes or len(self._lifetimes) < MOST_USES:
                    self._lifetimes[key] = lifetime

    def forget(self, keys: Sequence[str]) -> None:
        """These are gone: there is nothing to note in them."""
        with self._mutex:
            for key in keys:
                self._counts.pop(key, None)
                self._lifetimes.pop(key, None)

    async def note_down(self, *, now: bool = False) -> None:
        """Write down what was gathered, if it is time; `now`, in any case.

        What others deleted meanwhile stays deleted, and what they pinned, or gave a longer life, keeps it.
        """
        runtime = self._gateway.runtime
        if not (self._counts or self._lifetimes) or (not now and runtime.monotonic() - self._noted < self._interval):
            return
        self._noted = runtime.monotonic()
        with self._mutex:
            counts, lifetimes = (_taken(each, None if now else TOGETHER) for each in (self._counts, self._lifetimes))
        wall = runtime.wall()
        notes = [_counted(key, count, wall) for key, count in counts.items()]
        notes += [_prolonged(key, lifetime, wall) for key, lifetime in lifetimes.items()]
        try:
            await self._gateway.write(notes, ack="journal")
        except RemanenceError:  # the journal is full, or closed: statistics are not worth an error to anybody
            return
        if self.noted is not None:
            await self.noted(list({**counts, **lifetimes}))


def _taken(gathered: dict[str, int], most: int | None) -> dict[str, int]:
    """The first so many, which are not gathered any more; None: all."""
    return {key: gathered.pop(key) for key in list(islice(gathered, most))}


def _counted(key: str, count: int, wall: float) -> Patch:
    edits = (
        edit(("access_count",), "add", count),
        edit(("last_accessed",), "set", datetime.fromtimestamp(wall, UTC).isoformat()),
    )
    return Patch(key, edits, optional=True)


def _prolonged(key: str, lifetime: int, wall: float) -> Patch:
    until = datetime.fromtimestamp(wall + lifetime / 1000, UTC).isoformat()
    return Patch(key, (edit(("expires_at",), "prolong", until),), lifetime, optional=True)
