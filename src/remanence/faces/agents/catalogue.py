"""What agents of this machine search: an index of memories and messages, and the memories as they were last seen.

It is made of what the store holds and can be made anew at any time: by reading all once, then by following the change
log (`following`). A process puts what it writes in at once, so that it finds it as soon as its call returns.
Processes of one machine share the file.
"""

import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from remanence import events
from remanence.errors import CorruptRecord, RemanenceError
from remanence.faces.agents.changes import Told
from remanence.faces.agents.own import OwnWrites
from remanence.faces.agents.records import document, seen_message, stored
from remanence.protocols import Runtime
from remanence.search.bodies import Bodies, Body
from remanence.search.embedders import Embedder
from remanence.search.sqlite import SQLiteIndex
from remanence.search.types import EVERYTHING, NOTHING, Document, Favour, Filter, Hit, Index, Mode
from remanence.wire.sqlite import Database, FileDamaged, usable_folder

T = TypeVar("T")

_FOLLOWED: Final = "log"
_CHANGING: Final = ("success", "importance", "trust", "expires", "uses")
"""What of a document may change without its text."""


class Entry(msgspec.Struct, frozen=True):
    """A memory as it was seen, and as the index shall see it."""

    body: Body
    document: Document


class Catalogue:
    """The index's file, for callers that may not be held up."""

    def __init__(
        self,
        path: Path | None,
        embedder: Embedder | None,
        runtime: Runtime,
        tell: Callable[[events.Event], None],
        messages: str = "",
    ) -> None:
        """`path` None: in memory alone. `messages`: what the keys of sessions begin with. Opens nothing yet."""
        self._messages = messages
        self._path = path
        self._runtime = runtime
        self._tell = tell
        self.mutex = threading.RLock()
        self._embedder = embedder
        self._local = SQLiteIndex(self._opened, embedder, runtime.wall, mutex=self.mutex)
        self._anew = False
        self.own = OwnWrites()
        self.removed: Callable[[Sequence[str]], None] = lambda ids: None
        """Hears of memories that are gone."""
        self.begun_anew: Callable[[], None] = lambda: None
        """Hears that the file was damaged, and holds nothing now."""

    @property
    def index(self) -> Index:
        """What finds memories."""
        return self._local

    def _opened(self) -> Database:
        if self._path is None:
            database = Database(":memory:")
        else:
            usable_folder(self._path.parent)
            database = Database(str(self._path))
        database.run("PRAGMA secure_delete = ON")  # what was erased is in no free page
        Bodies(database).prepare()
        return database

    async def _aside(self, work: Callable[[], T]) -> T:
        """What `work` returns. A damaged file is begun anew, for it holds nothing that is not elsewhere."""
        index = self._local
        try:
            return await self._runtime.aside(work)
        except FileDamaged as error:
            self._tell(events.IndexFailed(str(error)))
            await self._runtime.aside(lambda: self._begin_anew(index))
            return await self._runtime.aside(work)

    def _begin_anew(self, damaged: SQLiteIndex) -> None:
        with self.mutex:
            if self._local is not damaged or self._path is None:
                return  # another thread has done it
            damaged.close()
            _unlink(self._path)
            self._local = SQLiteIndex(self._opened, self._embedder, self._runtime.wall, mutex=self.mutex)
            self._anew = True
        self.begun_anew()

    # --- what this process wrote ----------------------------------------------------------------

    @asynccontextmanager
    async def writing(self, keys: Sequence[str]) -> AsyncIterator[dict[str, str]]:
        """While these keys are written: which versions were here before, to put what was written over these alone."""
        with self.own.writing(keys):
            try:
                before = await self.versions(keys)
            except RemanenceError as error:  # it is stored all the same
                self._tell(events.IndexFailed(str(error)))
                before = {}
            yield before

    async def wrote(self, op_id: str, told: Told, entry: Entry | None, over: Mapping[str, str]) -> list[str]:
        """Note that this process stored a memory, or deleted it (None). Returns as `take`."""
        self.own.expect(op_id, told)
        gone = [f"memory:{told.kind}:{told.memory_id}"] if entry is None else []
        return await self.take([] if entry is None else [entry], gone, over)

    async def take(
        self, entries: Sequence[Entry], gone: Sequence[str] = (), over: Mapping[str, str] | None = None
    ) -> list[str]:
        """Have what this process wrote found, and what it deleted found no more, if that can be.

        `over`: the versions before it was written, as `writing` told them; None for what can have no later one.
        Returns what was changed here meanwhile, and is to be looked at in the store.
        """
        try:
            return [*await self.put(entries, over or {}), *await self.remove(gone, over)]
        except RemanenceError as error:
            self._tell(events.IndexFailed(str(error)))
            return []

    async def put(self, entries: Sequence[Entry], over: Mapping[str, str]) -> list[str]:
        """Have these found from now on, as they are now, where what is here is still of the versions in `over`.

        Who reads the store, and who writes to it, put in what they saw, each in its own time: without this, a version
        could be put over a later one. `over` lacks what was not here. Returns the ids of those that were left out.
        """
        return await self._aside(lambda: self._put(entries, over)) if entries else []

    def _put(self, entries: Sequence[Entry], over: Mapping[str, str]) -> list[str]:
        known = self._get([each.body.id for each in entries])
        fresh: dict[str, Entry] = {}
        amended: dict[str, Entry] = {}
        left: set[str] = set()
        for each in entries:
            id, before = each.body.id, known.get(each.body.id)
            if before is not None and before.etag == each.body.etag != "":
                continue
            if before is not None and _only_amended(before, each):
                amended[id] = each
            else:
                fresh[id] = each

        def keeping(some: Iterable[Entry]) -> Callable[[Database], set[str]]:
            def keep(database: Database) -> set[str]:
                changed = Bodies(database).put([each.body for each in some], over)
                left.update(changed)
                return changed

            return keep

        if fresh:
            self._local.put([each.document for each in fresh.values()], keeping(fresh.values()))
        if amended:
            changes = {id: {name: getattr(each.document, name) for name in _CHANGING} for id, each in amended.items()}
            self._local.amend_all(changes, keeping(amended.values()))
        return list(left)

    async def remove(self, ids: Sequence[str], over: Mapping[str, str] | None = None) -> list[str]:
        """Have these found no more; with `over`, as `put` does."""
        left: set[str] = set()

        def keep(database: Database) -> set[str]:
            left.update(Bodies(database).remove(ids, over))
            return left

        if ids:
            self.removed(ids)
            await self._aside(lambda: self._local.remove(ids, keep))
        return list(left)

    # --- asking ---------------------------------------------------------------------------------

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
        """See `SQLiteIndex.search`."""
        return await self._aside(
            lambda: self.index.search(query, limit=limit, mode=mode, only=only, favour=favour, explain=explain)
        )

    async def list(self, only: Filter, limit: int, after: str = "") -> tuple[list[str], str]:
        """See `SQLiteIndex.list`."""
        return await self._aside(lambda: self.index.list(only, limit, after))

    async def bodies(self, ids: Sequence[str]) -> Mapping[str, Body]:
        """Those of these memories that are here, as they were last seen."""
        return await self._aside(lambda: self._get(ids))

    def _get(self, ids: Sequence[str]) -> dict[str, Body]:
        return self._local.beside(lambda database: Bodies(database).get(ids))

    async def versions(self, ids: Sequence[str]) -> dict[str, str]:
        """The versions of those of these memories that are here."""
        return await self._aside(lambda: self._local.beside(lambda database: Bodies(database).versions(ids)))

    async def last(self, beginning: str, more: int) -> tuple[int, str]:
        """How many ids are this and `more` bytes, and the version of the last of them, "" where there is none."""
        return await self._aside(lambda: self._local.beside(lambda database: Bodies(database).last(beginning, more)))

    async def etags(self, beginning: str) -> dict[str, str]:
        """The version of each whose id begins like this."""
        return await self._aside(lambda: self._local.beside(lambda database: Bodies(database).etags(beginning)))

    async def counts(self) -> dict[str, int]:
        """How many memories of each kind can be found."""
        return await self._aside(self.index.counts)

    async def opened(self) -> None:
        """Raises `Misconfigured` where there can be no such index."""

    @property
    def owes(self) -> bool:
        """Whether there may be something to embed anew."""
        return self.index.away is not None

    async def reembed(self) -> AsyncIterator[tuple[int, int]]:
        """See `SQLiteIndex.reembed`."""
        steps = self.index.reembed(self._documents)
        while (step := await self._aside(lambda: next(steps, None))) is not None:
            yield step

    def _documents(self, ids: Sequence[str]) -> dict[str, Document]:
        """These memories and messages as the index sees them."""
        found: dict[str, Document] = {}
        for id, body in self._get(ids).items():
            with contextlib.suppress(CorruptRecord):  # who reads it tells of it
                seen = self._seen(body)
                found |= {} if seen is None else {id: seen}
        return found

    def _seen(self, body: Body) -> Document | None:
        if body.id.startswith("memory:"):
            return document(stored(body.body, body.id), body.id)
        return seen_message(body.id, body.body, self._messages)

    # --- upkeep ---------------------------------------------------------------------------------

    async def cursor(self) -> str | None:
        """How far the log was followed, None before all was read once."""

        def told(database: Database) -> str | None:
            self._anew = False
            return Bodies(database).cursor(_FOLLOWED)

        return await self._aside(lambda: self._local.beside(told))

    async def reached(self, cursor: str) -> None:
        """Note how far the log was followed."""

        def note(database: Database) -> None:
            if not self._anew:  # else all is to be read first
                Bodies(database).reached(_FOLLOWED, cursor)

        await self._aside(lambda: self._local.beside(note))

    async def sweep(self) -> None:
        """Let go of memories whose time is over; they are not found in any case."""

        def let_go(database: Database) -> None:
            while gone := Bodies(database).gone(1000):
                Bodies(database).remove(gone)

        def some() -> None:
            while self.index.sweep():
                self._local.beside(let_go)

        await self._aside(some)

    def let_go(self) -> None:
        """Before a fork: close the file, which the next call opens anew."""
        if self._path is not None:
            self.index.let_go()

    def close(self) -> None:
        """Close the file for good."""
        self.index.close()


def _unlink(path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}{end}")


def _only_amended(before: Body, entry: Entry) -> bool:
    """Whether what was seen before differs in nothing that the memory is found by."""
    try:
        known = document(stored(before.body, before.id), before.id)
    except CorruptRecord:
        return False
    if known is None:
        return False
    return (
        msgspec.structs.replace(known, **{name: getattr(entry.document, name) for name in _CHANGING}) == entry.document
    )


def entry_of(key: str, body: bytes, etag: str) -> Entry | None:
    """What a catalogue shall know of a stored memory; None of one that shall not be found.

    Raises `CorruptRecord` where it is none.
    """
    seen = document(stored(body, key), key)
    return None if seen is None else Entry(Body(key, etag, body), seen)


__all__ = ["Catalogue", "Entry", "entry_of"]
