"""A listener in each process: it misses nothing and hears nothing twice, or is told to read again (I11)."""

import random
from collections.abc import Iterator

from remanence.errors import Closed, WorldError
from remanence.feed.trail import notice_of, place
from remanence.feed.watch import Watch
from remanence.model import RESYNC, Cursor, Notice, Wanted
from remanence.testing.simulator.world import Process

EVERYTHING = Wanted((), ("",))
RESUMED = 0.05
"""The chance, per notice, that it closes its watch and goes on behind its cursor."""


class Listener:
    """Remembers what it was told, to be compared with the logs at the end."""

    def __init__(self, process: Process, chance: random.Random) -> None:
        self._process = process
        self._oracle = process.world.oracle
        self._chance = chance
        self._ready = False
        self._told: dict[str, str] = {}
        """The keys of the operations heard of, without those that a resync took back."""
        self._excused: set[str] = set()
        """Operations that it need not hear of."""
        self._places: dict[int, tuple[int, ...]] = {}

    async def run(self) -> None:
        """Listen until the process ends."""
        watch = self._process.gateway.watch(EVERYTHING)
        while not self._ready:
            self._ready = await watch.ready(2.0)
            if watch.closed:
                return
        self._excused = {op_id for op_id, _ in self._logged()}
        while not watch.closed:
            try:
                notice = await watch.next(1.0)
            except WorldError:  # the server is away while the past is read: it is read again
                await self._process.runtime.sleep(0.1)
                continue
            if notice is None:
                continue
            self._hear(notice)
            if self._chance.random() < RESUMED and watch.cursor:
                watch = self._resumed(watch)

    def _resumed(self, watch: Watch) -> Watch:
        self._oracle.counts["watches resumed"] += 1
        watch.close()
        try:
            return self._process.gateway.watch(EVERYTHING, since=watch.cursor)
        except Closed:
            return watch

    def _hear(self, notice: Notice) -> None:
        if notice.kind == RESYNC:
            self._resynced(notice)
            return
        if notice.op_id in self._told:
            self._oracle.violated(f"{self._process.name} hears of {notice.op_id} ({notice.key}) twice")
        at = place(notice.cursor)
        if at <= self._places.get(notice.source, ()):
            self._oracle.violated(f"{self._process.name} hears of {notice.op_id} ({notice.key}) out of order")
        self._places[notice.source] = at
        self._told[notice.op_id] = notice.key

    def _resynced(self, notice: Notice) -> None:
        """What was heard of one key, or of all, may not hold: it reads what is there up to the notice's cursor."""
        self._oracle.counts["resyncs heard"] += 1
        self._places.pop(notice.source, None)
        if notice.key:
            self._told = {op_id: key for op_id, key in self._told.items() if key != notice.key}
        else:
            self._told.clear()
        for source in range(len(self._oracle.servers)) if not notice.key else (notice.source,):
            upto = notice.cursor if source == notice.source else None
            self._excused |= {op_id for op_id, key in self._logged(source, upto) if notice.key in ("", key)}

    def finish(self) -> None:
        """Everything has settled: it must have heard of all that is there, and of nothing that is not."""
        process = self._process
        if process.closed or not process.alive:
            return
        if not self._ready:
            self._oracle.violated(f"{process.name} cannot listen on a good day")
            return
        logged = dict(self._logged())
        for op_id, key in logged.items():
            if op_id not in self._told and op_id not in self._excused:
                self._oracle.violated(f"{process.name} never heard of {op_id} ({key})")
        for op_id, key in self._told.items():
            if op_id not in logged:
                self._oracle.violated(f"{process.name} was not told that {op_id} ({key}) is undone")

    def _logged(self, source: int | None = None, upto: Cursor | None = None) -> Iterator[tuple[str, str]]:
        """The changes in the logs, or in one of them, up to a cursor: (operation, key)."""
        servers = self._oracle.servers
        for server in servers if source is None else [servers[source]]:
            for change in server.store.log():
                told = notice_of(change, 0) is not None
                if told and (upto is None or place(Cursor(server.outside(change.position), "")) <= place(upto)):
                    yield change.op_id, change.key
