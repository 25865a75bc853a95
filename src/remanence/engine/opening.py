"""Opens everything, closes everything: one engine per process and deployment, shared by its faces.

An engine belongs to the process that opened it. After a fork the child opens its own: the parent's
connections and files are left alone.
"""

import hashlib
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remanence import events
from remanence.errors import InvalidArgument, InvalidSetting, Misconfigured
from remanence.feed.feed import Feed
from remanence.observers import logging
from remanence.protocols import Gateway, Runtime
from remanence.runtime.asynchronous import AsyncRuntime
from remanence.runtime.blocking import BlockingRuntime
from remanence.settings import Settings
from remanence.stores.direct import DirectStore
from remanence.stores.memory import MemoryStore
from remanence.stores.merging import Merges
from remanence.stores.partitioned import PartitionedStore, parts_of
from remanence.stores.redis import RedisStore
from remanence.stores.resilient import ResilientStore
from remanence.stores.routes import Route, routes_to
from remanence.stores.shelf import Shelf
from remanence.stores.sqlite import SQLiteStore
from remanence.wire.address import Address
from remanence.wire.keys import tag
from remanence.wire.redis import async_connect, blocking_connect

if TYPE_CHECKING:
    from remanence.faces.agents.library import Library
    from remanence.search.embedders import Embedder
    from remanence.search.redis import VectorSetIndex

left_to_parent: list[Any] = []
"""What a forked child inherited and must neither use nor close."""

TOLD_OF_FORKS = hasattr(os, "register_at_fork")

engines: "weakref.WeakSet[Engine]" = weakref.WeakSet()
"""Every engine of this process, to be told of a fork."""


LIBRARY_SECONDS = 1.0
"""Longest wait at closing for what keeps the index: it has at most a page of memories in hand."""


class Engine:
    """The parts behind faces of one deployment, opened with the first call that needs them."""

    def __init__(self, settings: Settings) -> None:
        """Checks the settings that need no server. Raises `InvalidSetting`."""
        engines.add(self)
        self.settings = settings
        self.events = events.Events()
        self.merges = Merges()
        """The user's own merges of what two processes wrote: see `Memory.on_conflict`."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._address = _address(settings) if settings.backend == "redis" else None
        self._memory: MemoryStore | None = None
        self._libraries: dict[tuple[int, str], Library] = {}
        self._agents = 0
        self.embedder: Any = None
        """What embeds agents' memories, where the setting shall not say."""
        logging.attach(self)

    @property
    def place(self) -> str:
        """Where memories live, for people: host:port/db, the file, or "memory"."""
        if self._address:
            return self._address.name
        return str(self._file()) if self.settings.backend == "sqlite" else "memory"

    def observe(self, observer: events.Observer, wants: events.Wants | None = None) -> Callable[[], None]:
        """Have `observer` called with each event, where it happens; returns what removes it.

        `wants`, asked with a kind of event before one is made, keeps unwanted ones from costing anything.
        """
        return self.events.observe(observer, wants)

    @property
    def gateway(self) -> Gateway:
        """The way to the store, of the caller's thread or loop."""
        raise NotImplementedError

    def _opened(self) -> list[Gateway]:
        return []

    def library(self, settings: Settings) -> "Library":
        """What agents of this engine search, opened with the first of them; `settings` are the face's own."""
        gateway = self.gateway
        found = self._libraries.get((id(gateway), settings.key_prefix))
        if found is not None:
            return found
        from remanence.faces.agents.library import Library  # NumPy is loaded by those alone who search

        with self._lock:
            found = self._libraries.get((id(gateway), settings.key_prefix))
            if found is None:
                path, embedder = self._index_file(settings), self._embedder(settings)
                shared = self._shared_index(settings, embedder) if settings.index == "redis" else None
                found = Library(gateway, settings, path, embedder, self.events.tell, shared)
                self._libraries[id(gateway), settings.key_prefix] = found
            return found

    def use_embedder(self, embedder: Any) -> None:
        """Have agents' memories embedded by this, in place of what the setting `embedder` names.

        Raises `InvalidArgument` where they are already embedded by something else in this process.
        """
        if self._libraries and embedder != self.embedder:
            raise InvalidArgument("another agent of this process has opened this memory with another embedder")
        self.embedder = embedder

    def _embedder(self, settings: Settings) -> "Embedder | None":
        from remanence.search.embedders.factory import embedder_from

        chosen = settings.embedder if self.embedder is None else self.embedder
        return embedder_from(chosen, models=settings.models_folder)

    def _index_file(self, settings: Settings) -> Path | None:
        """The file of the index, None where nothing is to be left on the disk."""
        if settings.backend == "memory" or settings.durability == "volatile":
            return None
        named = f"{self.place} {settings.namespace} {settings.key_prefix}".encode()
        return settings.folder / "search" / f"{hashlib.blake2b(named, digest_size=8).hexdigest()}.db"

    def _shared_index(self, settings: Settings, embedder: "Embedder | None") -> "VectorSetIndex":
        """The index on the server. Raises `Misconfigured` where there is none, or no embedder."""
        from remanence.search.redis import VectorSetIndex

        if self._address is None:
            raise Misconfigured("REMANENCE_INDEX=redis needs a Redis server: name one (REDIS_URL), or set it to local")
        runtime = BlockingRuntime()  # in a loop, too: an index is asked aside, on threads
        routes = routes_to(self._address, blocking_connect, runtime, settings)
        places = [(route.keys, route.connect) for route in routes]
        return VectorSetIndex(places, embedder, runtime, pool=settings.pool, deadline=settings.deadline)

    def agent_opened(self) -> None:
        """One more face searches what agents remember."""
        with self._lock:
            self._agents += 1

    async def agent_closed(self, gateway: Gateway | None) -> None:
        """One less; behind the last, nobody keeps the index any more."""
        with self._lock:
            self._agents -= 1
            left = self._agents
        if not left and gateway is not None:
            await self.close_libraries(gateway)

    async def close_libraries(self, gateway: Gateway) -> None:
        """Close what agents search by this gateway; a later call opens it anew."""
        for library in self._libraries_of(gateway):
            await library.close(LIBRARY_SECONDS)

    def _libraries_of(self, gateway: Gateway) -> "list[Library]":
        """The libraries of a gateway, which are the engine's no more."""
        names = [name for name in self._libraries if name[0] == id(gateway)]
        return [self._libraries.pop(name) for name in names]

    def hold(self) -> ExitStack:
        """Keep every other thread out of what is open, so that a child is not forked from the midst of it."""
        stack = ExitStack()
        stack.enter_context(self._lock)
        for gateway in self._opened():
            for part in parts_of(gateway):
                stack.enter_context(part.mutex)
            for feed in _feeds(gateway):
                stack.enter_context(feed.mutex)
        if self._memory is not None:
            stack.enter_context(self._memory.mutex)
        for library in self._libraries.values():
            stack.enter_context(library.catalogue.mutex)
            library.catalogue.let_go()
        return stack

    def leave_to_parent(self) -> None:
        """In a forked child: forget what the parent has open; the next call opens anew."""
        self._lock = threading.Lock()  # the parent's may be held by a thread that does not exist here
        if self._memory is not None:
            self._memory.mutex = threading.RLock()
        left_to_parent.append(self._libraries)
        self._libraries = {}
        self._pid = os.getpid()

    def _file(self) -> Path:
        name = f"remanence-{tag(self.settings.namespace)}.db" if self.settings.namespace else "remanence.db"
        return self.settings.folder / name

    def _open(self, runtime: Runtime) -> Gateway:
        settings = self.settings
        if self._address is not None:
            return self._open_redis(runtime)
        if settings.backend == "sqlite":
            file = self._file()
            store = SQLiteStore(
                file,
                runtime.wall,
                runtime.monotonic,
                mutex=runtime.mutex(),
                full=settings.durability == "full",
                log_length=settings.log_length,
                tombstone_ttl=settings.tombstone_ttl,
                history=settings.history,
            )
            return DirectStore(store, runtime, settings, self.events, place=str(file), durable=True)
        if self._memory is None:
            self._memory = MemoryStore(runtime.wall, history=settings.history, mutex=threading.RLock())
        return DirectStore(self._memory, runtime, settings, self.events, place="volatile", durable=False)

    def _open_redis(self, runtime: Runtime) -> Gateway:
        settings, address = self.settings, self._address
        assert address is not None  # only called with one
        dial = async_connect if isinstance(runtime, AsyncRuntime) else blocking_connect
        routes = routes_to(address, dial, runtime, settings)
        parts = [self._open_partition(runtime, route) for route in routes]
        return parts[0] if len(parts) == 1 else PartitionedStore(parts, routes[0].agreement)

    def _open_partition(self, runtime: Runtime, route: Route) -> ResilientStore:
        settings = self.settings
        store = RedisStore(
            route.connect,
            runtime,
            route.keys,
            pool=settings.pool,
            log_length=settings.log_length,
            tombstone_ttl=settings.tombstone_ttl,
            watermark_ttl=settings.watermark_ttl,
            history=settings.history,
        )
        folder = None if settings.durability == "volatile" else journal_folder(settings, self.place) / route.part
        shelf = Shelf(folder, runtime, settings, self.events)
        opened = ResilientStore(store, shelf, runtime, settings, self.events)
        opened.merging.merges = self.merges
        return opened


def _address(settings: Settings) -> Address:
    tls = {"ca": settings.tls_ca, "cert": settings.tls_cert, "key": settings.tls_key}
    if any(tls.values()) and not settings.url.startswith("rediss"):
        raise InvalidSetting("tls_ca, tls_cert and tls_key need a rediss:// url")
    return Address(settings.url, connect_timeout=settings.connect_timeout, tls=tls)


def journal_folder(settings: Settings, place: str) -> Path:
    """The folder of the journals of one deployment and namespace."""
    digest = hashlib.blake2b(f"{place} {settings.namespace}".encode(), digest_size=8).hexdigest()
    return settings.folder / "journals" / digest


def _feeds(gateway: Gateway) -> list[Feed]:
    return [gateway.feed] if isinstance(gateway, DirectStore) else [part.feed for part in parts_of(gateway)]


def leave(gateway: Gateway | None) -> None:
    """In a forked child: have what the parent opened neither used nor closed."""
    left_to_parent.append(gateway)
    for part in parts_of(gateway):
        part.shelf.after_fork()
