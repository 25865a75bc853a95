"""What agents search where the index is on the server: nothing is kept on this machine, and no log is read for it.

Each process puts in what it writes; what that could not, it puts in later. What was there before the index is put in
once, by one process at a time, and again where the server has forgotten something.
"""

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

from remanence import events
from remanence.errors import AuthenticationFailed, CorruptRecord, Misconfigured, RemanenceError, WorldError
from remanence.faces.agents.catalogue import Catalogue, Entry
from remanence.faces.agents.changes import Told
from remanence.faces.agents.following import AT_ONCE, DELETED, EMPTY, UNKNOWN, Follower
from remanence.faces.agents.records import CLASSES, MESSAGE, PREFIXES, stored
from remanence.model import Notice
from remanence.protocols import Fetch, Gateway, Runtime, Watching
from remanence.search.bodies import Body
from remanence.search.redis import VectorSetIndex
from remanence.search.types import EVERYTHING, NOTHING, Document, Favour, Filter, Hit, Index, Mode

DOUBT: Final = 2.0
"""Seconds until a memory that was deleted and can be read is looked at again: our own pending writes are read, too."""
MOST_LATE: Final = 10_000
"""Memories that could not be put in, and are remembered to be."""
_AMENDED: Final = ("success", "importance", "trust", "expires", "uses")


class SharedCatalogue(Catalogue):
    """An index on the server, for callers that may not be held up."""

    def __init__(self, shared: VectorSetIndex, runtime: Runtime, tell: Callable[[events.Event], None]) -> None:
        """Talks to nobody yet."""
        super().__init__(None, None, runtime, tell)
        self._shared = shared
        self._open = False
        self._late_keys: dict[str, None] = {}
        self._guard = threading.Lock()
        self.read: Callable[[Sequence[str]], Awaitable[dict[str, Document]]] | None = None
        """Gives the memories at these keys as the index shall see them: the follower's part."""

    @property
    def index(self) -> Index:
        """The one on the server."""
        return self._shared

    async def opened(self) -> None:
        """Raises `Misconfigured` where the server has no vector sets. One that is away may have them."""
        if not self._open:
            try:
                await self._runtime.aside(self._shared.open)
            except AuthenticationFailed:  # as any call tells, and writes wait in the journal
                return
            except Misconfigured:
                raise
            except WorldError:
                return
            self._open = True

    async def take(self, entries: Sequence[Entry], gone: Sequence[str] = ()) -> None:
        """Have what this process wrote found, and what it deleted found no more: now, or as soon as that can be."""
        try:
            await self.put(entries)
            await self.remove(gone)
        except RemanenceError as error:
            self._tell(events.IndexFailed(str(error)))
            self.later([*(each.body.id for each in entries), *gone])

    def later(self, keys: Iterable[str]) -> None:
        """These could not be put in or taken out: remember them."""
        with self._guard:
            for key in keys:
                if len(self._late_keys) < MOST_LATE:
                    self._late_keys[key] = None

    def put_off(self) -> list[str]:
        """The keys of what could not be put in or taken out; each once."""
        with self._guard:
            found, self._late_keys = list(self._late_keys), {}
        return found

    async def put(self, entries: Sequence[Entry]) -> None:
        """Have these found from now on, as they are now."""
        if entries:
            await self._runtime.aside(lambda: self._shared.put([each.document for each in entries]))

    async def remove(self, ids: Sequence[str]) -> None:
        """Have these found no more."""
        if ids:
            self.removed(ids)
            await self._runtime.aside(lambda: self._shared.remove(ids))

    async def search(
        self,
        query: str,
        *,
        limit: int,
        mode: Mode = "fused",
        only: Filter = EVERYTHING,
        favour: Favour = NOTHING,
        explain: bool = False,
    ) -> list[Hit]:
        """See `VectorSetIndex.search`. Raises `Misconfigured` for messages of sessions, which are not put in."""
        if MESSAGE in only.kinds:
            raise Misconfigured(
                "messages of sessions are found by the local index alone: set REMANENCE_INDEX=local, or leave them out"
            )
        await self.opened()
        return await super().search(query, limit=limit, mode=mode, only=only, favour=favour, explain=explain)

    async def amend(self, documents: Mapping[str, Document]) -> None:
        """Take over what may change of these without their text."""

        def some() -> None:
            for key, seen in documents.items():
                self._shared.amend(key, **{name: getattr(seen, name) for name in _AMENDED})

        await self._runtime.aside(some)

    async def missing(self, ids: Sequence[str]) -> list[str]:
        """Those of these that are not in the index."""
        return await self._runtime.aside(lambda: self._shared.missing(ids))

    async def filling(self, who: str) -> bool | None:
        """See `VectorSetIndex.filling`."""
        return await self._runtime.aside(lambda: self._shared.filling(who))

    async def filled(self, whole: bool) -> None:
        """See `VectorSetIndex.filled`."""
        await self._runtime.aside(lambda: self._shared.filled(whole))

    @property
    def owes(self) -> bool:
        """Any process may have put in what this one's embedder has yet to embed."""
        return True

    async def reembed(self) -> AsyncIterator[tuple[int, int]]:
        """See `VectorSetIndex.reembed`."""
        done = 0
        while self.read is not None:
            ids, left = await self._runtime.aside(lambda: self._shared.owed(AT_ONCE))
            if not ids:
                return
            documents = await self.read(ids)
            await self._settle(ids, documents)
            done += len(ids)
            yield done, max(0, left - len(ids))

    async def _settle(self, ids: Sequence[str], documents: Mapping[str, Document]) -> None:
        await self._runtime.aside(lambda: self._shared.settle(ids, documents))

    # --- what is kept of memories on a machine: nothing -------------------------------------------

    async def bodies(self, ids: Sequence[str]) -> Mapping[str, Body]:
        """None: see `Catalogue.bodies`."""
        return {}

    async def cursor(self) -> str | None:
        """None: there is nothing to go on from."""
        return None

    async def reached(self, cursor: str) -> None:
        """Nothing is noted."""

    async def sweep(self) -> None:
        """Let go of memories whose time is over; they are not found in any case."""
        while await self._runtime.aside(self._shared.sweep):
            pass

    def let_go(self) -> None:
        """Before a fork: close the links that nobody uses now."""
        self._shared.let_go()

    def close(self) -> None:
        """Close the links for good."""
        super().close()
        self._shared.close()


class Hearer(Follower):
    """Hears what is done to memories, to tell of it; it reads all once, where nobody has put that in yet."""

    def __init__(
        self,
        gateway: Gateway,
        catalogue: SharedCatalogue,
        tell: Callable[[events.Event], None],
        *,
        deadline: float,
    ) -> None:
        """See `Follower`."""
        super().__init__(gateway, catalogue, tell, messages=None, lock=None, deadline=deadline)
        self._shared = catalogue
        self._name = gateway.runtime.random_bytes(8).hex()
        self._doubtful: dict[str, float] = {}
        catalogue.read = self._documents
        self.chores.append(self._catch_up)

    async def level(self, timeout: float) -> bool:
        """True: a memory is in the index when the call that saved it returns."""
        return True

    async def refresh(self, keys: Sequence[str]) -> None:
        """Have the index know how often these were used, and how long they live by now."""
        try:
            for start in range(0, len(keys), AT_ONCE):
                await self._shared.amend(await self._documents(keys[start : start + AT_ONCE]))
        except RemanenceError as error:
            self._tell(events.IndexFailed(str(error)))

    async def _begin(self, watch: Watching) -> bool:
        if not await watch.ready(self._deadline):
            return False
        self._reached = watch.cursor
        await self._shared.opened()
        return await self._fill()

    async def _read_anew(self) -> None:
        await self._shared.filled(False)
        await self._fill()

    async def _fill(self) -> bool:
        """Put in what was there before the index; False while another process does."""
        mine = await self._shared.filling(self._name)
        if mine:
            await self._read_all()
            await self._shared.filled(True)
        return mine is not False

    async def _read_kind(self, prefix: str) -> None:
        async for keys in self._scanned(prefix):
            for start in range(0, len(keys), AT_ONCE):
                await self._records(await self._shared.missing(keys[start : start + AT_ONCE]))
                await self._shared.filling(self._name)  # the lease lasts a minute
        await self._let_go_of(prefix)

    async def _let_go_of(self, prefix: str) -> None:
        """Take out what the store does not have any more."""
        only, after = Filter(kinds=(prefix.split(":")[1],)), ""
        while True:
            keys, after = await self._shared.list(only, AT_ONCE, after)
            if keys:
                records = await self._asked([Fetch(key) for key in keys])
                await self._shared.remove([key for key, each in zip(keys, records, strict=True) if each is None])
            if not after:
                return

    async def _records(self, keys: Sequence[str], ops: Mapping[str, str] = EMPTY) -> dict[str, Told]:
        for start in range(0, len(keys), AT_ONCE):
            some = list(keys[start : start + AT_ONCE])
            records = await self._asked([Fetch(key) for key in some])
            found = [(key, self._entry(key, record)) for key, record in zip(some, records, strict=True)]
            await self._shared.put([entry for _, entry in found if entry is not None])
            await self._shared.remove([key for key, entry in found if entry is None])
        return {}

    async def _documents(self, keys: Sequence[str]) -> dict[str, Document]:
        records = await self._asked([Fetch(key) for key in keys])
        entries = [self._entry(key, record) for key, record in zip(keys, records, strict=True)]
        return {each.body.id: each.document for each in entries if each is not None}

    async def _catch_up(self) -> None:
        """Put in what could not be put in when it was written; look again at what was deleted, and yet there."""
        now = self._runtime.monotonic()
        due = [key for key, at in self._doubtful.items() if now >= at]
        for key in due:
            del self._doubtful[key]
        keys = [*self._shared.put_off(), *due]
        if keys:
            try:
                await self._records(keys)
            except WorldError:
                self._shared.later(keys)

    async def _handle(self, notices: Sequence[Notice]) -> None:
        latest = {each.key: each for each in notices if each.key and self._has_name(each.key)}
        await self._written(latest)
        mine = self._shared.own.claim(each.op_id for each in notices)
        await self._announce([*mine.items()])
        others = {key: each for key, each in latest.items() if each.op_id not in mine}
        await self._hear({key: each for key, each in others.items() if key.startswith(tuple(PREFIXES.values()))})

    async def _hear(self, latest: Mapping[str, Notice]) -> None:
        """Tell of what others did; what they deleted is taken out, should they have ended in between."""
        asked = [key for key, each in latest.items() if each.kind == DELETED or self.listeners]
        records = await self._asked([Fetch(key) for key in asked]) if asked else []
        await self._shared.remove([key for key, each in zip(asked, records, strict=True) if each is None])
        for key, record in zip(asked, records, strict=True):
            if record is not None and latest[key].kind == DELETED:  # saved anew, or a write of ours is still to fail
                self._doubtful[key] = self._runtime.monotonic() + DOUBT
        told = [_told(key, None if each is None else each.body) for key, each in zip(asked, records, strict=True)]
        await self._announce([("", each) for each in told if each is not None])


def _told(key: str, body: bytes | None) -> Told | None:
    """What was done last to a memory; None where it was only used, or cannot be read."""
    _, kind, memory_id = key.split(":", 2)
    if kind not in CLASSES:
        return None
    if body is None:
        return Told(DELETED, kind, memory_id, UNKNOWN)
    try:
        memory = stored(body, key)
    except CorruptRecord:
        return None
    if memory.updated_at < memory.last_accessed:
        return None
    action = "add" if memory.updated_at == memory.created_at else "update"
    return Told(action, kind, memory_id, memory.agent_id)


__all__ = ["Hearer", "SharedCatalogue"]
