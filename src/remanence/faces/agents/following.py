"""Keeping a catalogue like its store: all is read once, and then what the change log tells of.

The cursor is noted behind what was put in, so that whoever goes on from there misses nothing; what is told twice is
put in once, for a memory's version is known. Nothing here is a promise to who writes: the catalogue can be made anew.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from remanence import events
from remanence.errors import InvalidArgument, RemanenceError, WorldError
from remanence.faces.agents.catalogue import Catalogue
from remanence.faces.agents.changes import DELETED, Heard, Told, deletion_of
from remanence.faces.agents.records import PREFIXES
from remanence.faces.agents.refreshing import AT_ONCE, Refresher
from remanence.faces.agents.transcripts import Transcripts
from remanence.model import RESYNC, Notice, Wanted
from remanence.protocols import Gateway, Watching
from remanence.stores.shelf import Lock

TAKEN: Final = 500
"""Notices that are handled together: most of them are of what this process knows."""
WRITING: Final = 0.25
"""Longest wait for a write of this process that the log has told of and that has yet to return."""
RETRY: Final = 0.5
"""Seconds until a store that is away is tried again."""
GATHERING: Final = 0.003
"""Seconds until what was heard is looked at: who wrote it is done by then, and more may have come."""
NOTED: Final = 1.0
"""Seconds between two notes of how far the log was followed."""
UPKEEP: Final = 5.0
"""Seconds between looks for what has expired, and for what shall be written down."""

_MEMORIES: Final = tuple(PREFIXES.values())
_EMPTY: Final = "/"
"""The cursor of a log without entries: a server that forgot all goes on from there, and nothing tells of it."""


class Follower(Refresher):
    """One process's part in keeping a catalogue."""

    def __init__(
        self,
        gateway: Gateway,
        catalogue: Catalogue,
        tell: Callable[[events.Event], None],
        *,
        messages: str | None,
        lock: Path | None,
        deadline: float,
    ) -> None:
        """`messages`: what the keys of sessions begin with, None to leave them out. `lock`: who has it reads all."""
        super().__init__(gateway, catalogue, tell)
        self.transcripts = Transcripts(gateway, catalogue, messages)
        self._lock = lock
        self._deadline = deadline
        self._runtime = gateway.runtime
        self._watch: Watching | None = None
        self._busy = True
        self._closed = False
        self._ready = gateway.runtime.signal()
        self._upkeep = 0.0
        self._reached = ""
        """All that the log told up to here is known."""
        self._turned = ""
        """Where it was read anew from the last time: should nothing follow, its past is gone."""
        self._unnoted = False
        self._noted = -NOTED
        self.chores: list[Callable[[], Any]] = []
        """Coroutine functions to be called every few seconds."""
        self.listeners: list[Callable[[Heard], Any]] = []
        """Coroutine functions that are called with what was done, this process's own included."""

    @property
    def _prefixes(self) -> tuple[str, ...]:
        return _MEMORIES if self.transcripts.prefix is None else (*_MEMORIES, self.transcripts.prefix)

    async def ready(self, timeout: float) -> bool:
        """Wait until all that was there has been read; False after `timeout` seconds."""
        return await self._ready.wait(timeout)

    async def level(self, timeout: float) -> bool:
        """Wait until all that the store has applied by now can be found; False past the time, or where it is away."""
        limit = self._runtime.monotonic() + timeout
        if not await self.ready(timeout):
            return False
        while (watch := self._watch) is not None and not await self._level(watch, limit):
            if watch is self._watch:  # else another took its place meanwhile
                return False
        return True

    async def _level(self, watch: Watching, limit: float) -> bool:
        try:
            if not await watch.level(limit - self._runtime.monotonic()):
                return False
        except WorldError:  # what was heard before it went away is all there is
            return False
        while watch.waiting or self._busy:
            if self._runtime.monotonic() >= limit or self._closed or watch.closed:
                return False
            await self._runtime.sleep(0.0005)
        return True

    def close(self) -> None:
        """Follow no more."""
        self._closed = True
        if self._watch is not None:
            self._watch.close()

    def again(self) -> None:
        """Look anew where the catalogue ends, and go on from there."""
        if self._watch is not None:
            self._watch.close()

    async def run(self) -> None:
        """Follow until closed."""
        while not self._closed:
            try:
                await self._follow()
            except WorldError:  # the store is away: whoever writes or reads tells of it
                pass
            except RemanenceError as error:
                self._tell(events.IndexFailed(str(error)))
            except Exception as error:  # a fault of ours: told, and tried again, for else nothing would be found
                self._tell(events.IndexFailed(f"a fault inside ({type(error).__name__}): please report it"))
            if not self._closed:
                await self._runtime.sleep(RETRY)

    async def _follow(self) -> None:
        since = await self._catalogue.cursor()
        if since is not None and _EMPTY in since.split(";"):
            since = None
        with _reader(self._lock) as reads:
            if since is None and not reads:
                return  # another process reads all: soon there is a cursor
            watch, fits = self._watching(since)
            self._watch, self._reached = watch, since if since and fits else ""
            try:
                if not fits and not await self._begin(watch):
                    watch.close()
                    return
                self._ready.set()
            except BaseException:  # cancelled too: who follows anew watches anew
                watch.close()
                raise
        try:
            while not self._closed and not self._watch.closed:
                await self._step(self._watch)
        finally:
            self._watch.close()
            self._noted = -NOTED
            await self._note()

    def _watching(self, since: str | None) -> tuple[Watching, bool]:
        """A watch, and whether it goes on where the catalogue ends."""
        wanted = Wanted((), self._prefixes)
        try:
            return self._gateway.watch(wanted, since), since is not None
        except InvalidArgument:  # of another number of partitions, or of another kind of store
            return self._gateway.watch(wanted, None), False

    async def _begin(self, watch: Watching) -> bool:
        """Read all that is there; False where the store could not be heard yet."""
        if not await watch.ready(self._deadline):
            return False
        self._reached = watch.cursor
        await self._read_all()
        await self._catalogue.reached(self._reached)
        return True

    async def _step(self, watch: Watching) -> None:
        self._busy = True
        notices = await self._taken(watch)
        if any(each.kind == RESYNC and not each.key for each in notices):
            await self._lost_track(watch)
        elif notices:
            await self._handle(notices)
            self._got_to(watch.cursor)
        if late := self._catalogue.own.late():
            await self._records([PREFIXES[each.kind] + each.memory_id for _, each in late])  # a later one was put over
            await self._announce(late)
        self._busy = False
        if self._runtime.monotonic() - self._upkeep >= UPKEEP:
            self._upkeep = self._runtime.monotonic()
            await self._catalogue.sweep()
        if not watch.waiting or self._runtime.monotonic() - self._noted >= NOTED:
            await self._note()
        for chore in self.chores:
            await chore()
        if await watch.stirred(NOTED):
            await self._runtime.sleep(GATHERING)

    def _got_to(self, cursor: str) -> None:
        self._reached, self._unnoted = cursor, True

    async def _lost_track(self, watch: Watching) -> None:
        """More came at once than waits for a listener: read on in the log. If that has no such place, read all."""
        if self._reached not in ("", self._turned):
            self._turned = self._reached
            self._watch = self._gateway.watch(Wanted((), self._prefixes), self._reached)
            watch.close()
            return
        cursor = watch.cursor
        await self._read_anew()
        self._got_to(cursor)

    async def _read_anew(self) -> None:
        await self._read_all()

    async def _note(self) -> None:
        """Note how far the log was followed: seldom, for what is told twice does no harm."""
        if self._unnoted and self._runtime.monotonic() - self._noted >= NOTED:
            self._noted = self._runtime.monotonic()
            await self._catalogue.reached(self._reached)
            self._unnoted = False

    async def _taken(self, watch: Watching) -> list[Notice]:
        found: list[Notice] = []
        while len(found) < TAKEN and watch.waiting and (notice := await watch.next(0.0)) is not None:
            found.append(notice)
        return found

    # --- what changed -----------------------------------------------------------------------------

    async def _handle(self, notices: Sequence[Notice]) -> None:
        latest = {each.key: each for each in notices if each.key and self._has_name(each.key)}
        await self._settled(latest)
        mine = self._catalogue.own.claim(each.op_id for each in notices)
        missed = await self._missed({key: each.op_id for key, each in latest.items() if each.op_id in mine}, mine)
        others = [key for key, each in latest.items() if each.op_id not in mine]
        ops = {key: latest[key].op_id for key in others}
        told = await self._records([key for key in others if key.startswith(_MEMORIES)], ops)
        for key in others:
            if self.transcripts.holds(key):
                await self.transcripts.follow(key)
        await self._records(missed)
        for key in others:
            if latest[key].kind == DELETED and key not in told and key.startswith(_MEMORIES):
                told[key] = deletion_of(key)  # another process of this machine was faster
        await self._announce([*mine.items(), *(("", each) for each in told.values())])

    async def _settled(self, keys: Collection[str]) -> None:
        """Wait a moment while this process still writes at one of these keys: it then knows what it wrote."""
        limit = self._runtime.monotonic() + WRITING
        while self._catalogue.own.is_writing(keys) and self._runtime.monotonic() < limit:
            await self._runtime.sleep(GATHERING)

    async def _missed(self, written: Mapping[str, str], mine: Mapping[str, Told]) -> list[str]:
        """Of what this process wrote last, what the catalogue does not know so: it failed, or another took it out.

        What it wrote again since is looked at when the log tells of that.
        """
        known = await self._catalogue.versions(list(written))
        return [
            key
            for key, op_id in written.items()
            if (version := known.get(key)) != (None if mine[op_id].action == DELETED else op_id)
            and not self._catalogue.own.expects(version)
        ]

    def _has_name(self, key: str) -> bool:
        """Whether a key is text; those of other systems need not be, and no memory has such a one."""
        if key.isascii():
            return True
        try:
            key.encode()
        except UnicodeEncodeError:
            self._tell(events.RecordSkipped(ascii(key), 0, "its name is not UTF-8"))
            return False
        return True

    async def _announce(self, heard: Heard) -> None:
        for listener in self.listeners if heard else ():
            await listener(heard)

    # --- everything -------------------------------------------------------------------------------

    async def _read_all(self) -> None:
        """Have the catalogue know all that is there, and nothing else."""
        for prefix in PREFIXES.values():
            await self._read_kind(prefix)
        if self.transcripts.prefix is not None:
            before = {id.rpartition("#")[0] for id in await self._catalogue.etags(self.transcripts.prefix)}
            async for keys in self._scanned(self.transcripts.prefix):
                for key in keys:
                    before.discard(key)
                    await self.transcripts.follow(key)
            for key in before:
                await self.transcripts.follow(key)

    async def _read_kind(self, prefix: str) -> None:
        before = set(await self._catalogue.etags(prefix))
        async for keys in self._scanned(prefix):
            before.difference_update(keys)
            await self._records(keys)
        await self._records(sorted(before))  # what the store does not have any more

    async def _scanned(self, prefix: str) -> AsyncIterator[list[str]]:
        """All keys that begin like this, some hundred at a time: a step of a scan may give few."""
        cursor, found = "", dict[str, None]()
        while True:
            keys, cursor = await self._gateway.scan(prefix, cursor)
            found.update((key, None) for key in keys if self._has_name(key))
            if len(found) >= AT_ONCE or not cursor:
                yield list(found)
                found.clear()
            if not cursor or self._closed:
                return


class _reader:
    """Holds the lock of who reads all; True inside where it was had, or where there is none to have."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock: Lock | None = None

    def __enter__(self) -> bool:
        if self._path is None:
            return True
        try:
            self._lock = Lock(self._path)
        except BlockingIOError:
            return False
        return True

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            self._lock.release()


__all__ = ["Follower"]
