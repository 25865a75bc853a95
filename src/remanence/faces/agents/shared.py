"""What agents search where the index is on the server: nothing is kept on this machine, and no log is read for it.

Each process puts in what it writes; what that could not, it puts in later, and whoever hears of it looks whether it
is there. What was there before the index is put in once, by one process at a time, and again where the change log
does not go on where it was last heard.
"""

import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

from remanence import events
from remanence.errors import AuthenticationFailed, Misconfigured, RemanenceError, WorldError
from remanence.faces.agents.catalogue import Catalogue, Entry
from remanence.faces.agents.changes import DELETED, Told, change_of, deletion_of
from remanence.faces.agents.following import NOTED, RETRY, UPKEEP, Follower
from remanence.faces.agents.records import MESSAGE
from remanence.faces.agents.refreshing import AT_ONCE, EMPTY
from remanence.model import ABSENT, Notice, Wanted
from remanence.protocols import Fetch, Gateway, Runtime, Watching
from remanence.runtime.blocking import run
from remanence.search.bodies import Body
from remanence.search.entries import Seen
from remanence.search.redis import VectorSetIndex
from remanence.search.types import EVERYTHING, NOTHING, Favour, Filter, Hit, Index, Mode

DOUBT: Final = 2.0
"""Seconds until what was heard of is looked for in the index: its writer puts it in at once."""
MOST_LATE: Final = 10_000
"""Memories that could not be put in, and are remembered to be."""


class SharedCatalogue(Catalogue):
    """An index on the server, for callers that may not be held up."""

    def __init__(self, shared: VectorSetIndex, runtime: Runtime, tell: Callable[[events.Event], None]) -> None:
        """Talks to nobody yet."""
        super().__init__(None, None, runtime, tell)
        self._shared = shared
        self._open = False
        self._late_keys: dict[str, None] = {}
        self._guard = threading.Lock()
        self._begun: str | None = None
        self.read: Callable[[Sequence[str]], Awaitable[dict[str, Seen]]] = _nothing
        """Gives what the store has at these keys as the index shall see it: the follower's part."""

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

    async def versions(self, ids: Sequence[str]) -> dict[str, str]:
        """None: the index itself compares versions."""
        return {}

    async def take(
        self, entries: Sequence[Entry], gone: Sequence[str] = (), over: Mapping[str, str] | None = None
    ) -> list[str]:
        """Have what this process wrote found, and what it deleted found no more: now, or as soon as that can be."""
        left = [*(each.body.id for each in entries), *gone]
        try:
            self.removed(gone)
            known = {each.body.id: Seen(each.body.etag, each.document) for each in entries if each.body.etag}
            known |= {key: Seen(ABSENT, None) for key in gone}
            others = await self.keep(known)
            others += [each.body.id for each in entries if not each.body.etag]
            left = await self.keep(await self.read(others)) if others else []
        except RemanenceError as error:
            self._tell(events.IndexFailed(str(error)))
        self.later(left)
        return []

    def later(self, keys: Iterable[str]) -> None:
        """These could not be put in or taken out, or have not reached the store: look at them again."""
        with self._guard:
            for key in keys:
                if len(self._late_keys) < MOST_LATE:
                    self._late_keys[key] = None

    def put_off(self) -> list[str]:
        """The keys to look at again; each once."""
        with self._guard:
            found, self._late_keys = list(self._late_keys), {}
        return found

    async def keep(self, seen: Mapping[str, Seen], *, surely: bool = False) -> list[str]:
        """See `VectorSetIndex.keep`."""
        return await self._runtime.aside(lambda: self._shared.keep(seen, surely=surely)) if seen else []

    async def follow(self, seen: Mapping[str, Seen]) -> list[str]:
        """See `VectorSetIndex.follow`."""
        return await self._runtime.aside(lambda: self._shared.follow(seen)) if seen else []

    async def behind(self, versions: Mapping[str, str]) -> list[str]:
        """See `VectorSetIndex.behind`."""
        return await self._runtime.aside(lambda: self._shared.behind(versions))

    async def remove(self, ids: Sequence[str], over: Mapping[str, str] | None = None) -> list[str]:
        """Have these found no more, unless the store has them."""
        self.removed(ids)
        self.later(await self.keep({id: Seen(ABSENT, None) for id in ids}))
        return []

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

    @property
    def owes(self) -> bool:
        """Any process may have put in what this one's embedder has yet to embed."""
        return True

    async def reembed(self) -> AsyncIterator[tuple[int, int]]:
        """See `VectorSetIndex.reembed`."""
        done = 0
        while True:
            ids, left = await self._runtime.aside(lambda: self._shared.owed(AT_ONCE))
            if not ids:
                return
            others = await self.keep(await self.read(ids), surely=True)
            self.later(others)
            if len(others) == len(ids):
                return  # they have not reached the store: another time
            done += len(ids)
            yield done, max(0, left - len(ids))

    # --- what is kept of memories on a machine: nothing -------------------------------------------

    async def bodies(self, ids: Sequence[str]) -> Mapping[str, Body]:
        """None: see `Catalogue.bodies`."""
        return {}

    async def cursor(self) -> str | None:
        """Up to where the log is in the index, whoever put that in; None where it is to be filled first."""
        self._begun = await self._runtime.aside(lambda: run(self._shared.first.heard()))
        return self._begun

    async def reached(self, cursor: str) -> None:
        """Note how far the log was heard."""
        await self._runtime.aside(lambda: run(self._shared.first.reached(cursor)))

    async def lost(self) -> None:
        """The log does not go on where this process began to hear: the index is to be filled again."""
        begun = self._begun
        if begun is not None:
            await self._runtime.aside(lambda: run(self._shared.first.lost(begun)))

    async def filling(self, who: str) -> bool:
        """See `Part.filling`."""
        return await self._runtime.aside(lambda: run(self._shared.first.filling(who)))

    async def filled(self, cursor: str) -> None:
        """See `Part.filled`."""
        await self._runtime.aside(lambda: run(self._shared.first.filled(cursor)))

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
    """Hears what is done to memories, to tell of it, and to see to it that all of it is in the index.

    Whoever writes a memory puts it in; what is heard of is looked for there a moment later, for its writer may have
    ended in between, or written without the index, or to a server that forgot.
    """

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
        self._heard: deque[tuple[float, str, dict[str, str]]] = deque()
        """When to look for what was heard, up to where the log was heard then, and the last operation of each key."""
        self._checked = self._written = ""
        self._passed, self._tried = -UPKEEP, -RETRY
        catalogue.read = self._seen
        self.chores.append(self._catch_up)

    async def level(self, timeout: float) -> bool:
        """True: a memory is in the index when the call that saved it returns."""
        return True

    async def _begin(self, watch: Watching) -> bool:
        """Put in what was there before the index; False while another process does."""
        if not await watch.ready(self._deadline):
            return False
        self._reached = watch.cursor
        await self._shared.opened()
        await self._shared.lost()  # where the index was heard to another place than this log's
        if not await self._shared.filling(self._name):
            return False
        await self._read_all()
        await self._shared.filled(self._reached)
        return True

    async def _read_anew(self) -> None:
        await self._shared.lost()
        self._heard.clear()
        self._checked = self._written
        self.again()

    async def _read_kind(self, prefix: str) -> None:
        async for keys in self._scanned(prefix):
            for start in range(0, len(keys), AT_ONCE):
                await self._records(keys[start : start + AT_ONCE])
                await self._shared.filling(self._name)  # the lease lasts a minute
        only, after = Filter(kinds=(prefix.split(":")[1],)), ""
        while True:  # what the store does not have any more
            keys, after = await self._shared.list(only, AT_ONCE, after)
            await self._shared.remove(keys)
            if not after:
                return

    async def _records(self, keys: Sequence[str], ops: Mapping[str, str] = EMPTY) -> dict[str, Told]:
        for start in range(0, len(keys), AT_ONCE):
            self._shared.later(await self._shared.follow(await self._seen(keys[start : start + AT_ONCE])))
        return {}

    async def _seen(self, keys: Sequence[str]) -> dict[str, Seen]:
        records = dict(zip(keys, await self._asked([Fetch(key) for key in keys]), strict=True))
        entries = {key: self._entry(key, record) for key, record in records.items()}
        return {
            key: Seen(ABSENT if record is None else record.etag, None if entry is None else entry.document)
            for (key, record), entry in zip(records.items(), entries.values(), strict=True)
        }

    async def _catch_up(self) -> None:
        """Look again at what was put off, and for what was heard of a while ago."""
        now = self._runtime.monotonic()
        if now - self._tried >= RETRY and (late := self._shared.put_off()):
            self._tried = now
            try:
                await self._records(late)
            except WorldError:
                self._shared.later(late)
                return
        while self._heard and self._heard[0][0] <= now:
            _, cursor, ops = self._heard[0]
            await self._records(await self._shared.behind(ops))
            self._checked = cursor or self._checked
            self._heard.popleft()
        if not self._heard and now - self._passed >= UPKEEP:
            self._passed = now
            self._heard.append((now, self._passing(), {}))

    def _passing(self) -> str:
        """Where the log is by now, "" where that cannot be told: much may be written that is no memory."""
        probe = self._gateway.watch(Wanted((), self._prefixes))
        cursor = probe.cursor
        probe.close()
        return "" if self._watch is None or self._watch.waiting else cursor  # asked for behind: what is new waits

    async def _note(self) -> None:
        if self._checked != self._written and self._runtime.monotonic() - self._noted >= NOTED:
            self._noted = self._runtime.monotonic()
            await self._shared.reached(self._checked)
            self._written = self._checked

    async def _handle(self, notices: Sequence[Notice]) -> None:
        latest = {each.key: each for each in notices if each.key and self._has_name(each.key)}
        ops = {key: each.op_id for key, each in latest.items()}
        self._heard.append((self._runtime.monotonic() + DOUBT, self._watch.cursor if self._watch else "", ops))
        await self._settled(latest)
        mine = self._shared.own.claim(each.op_id for each in notices)
        if mine:
            self._tried = -RETRY  # it has reached the store
        await self._announce([*mine.items()])
        await self._hear({key: each for key, each in latest.items() if each.op_id not in mine})

    async def _hear(self, latest: Mapping[str, Notice]) -> None:
        """Tell of what others did; what they deleted is taken out now."""
        await self._records([key for key, each in latest.items() if each.kind == DELETED])
        asked = list(latest) if self.listeners else []
        records = await self._asked([Fetch(key) for key in asked]) if asked else []
        told = [
            deletion_of(key) if each is None else change_of(key, each.body, known=True)
            for key, each in zip(asked, records, strict=True)
        ]
        await self._announce([("", each) for each in told if each is not None])


async def _nothing(keys: Sequence[str]) -> dict[str, Seen]:
    return {}


__all__ = ["Hearer", "SharedCatalogue"]
