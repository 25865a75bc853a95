"""Opens everything, closes everything: one engine per process and deployment, shared by its faces.

An engine belongs to the process that opened it. After a fork the child opens its own: the parent's
connections and files are left alone.
"""

import atexit
import hashlib
import os
import threading
import time
import weakref
from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from remanence import events
from remanence.errors import InvalidSetting
from remanence.feed.feed import Feed
from remanence.model import Erased
from remanence.observers import logging
from remanence.protocols import Gateway, Runtime, Status
from remanence.runtime.asynchronous import AsyncRuntime
from remanence.runtime.blocking import BlockingRuntime, run
from remanence.settings import Settings
from remanence.stores.deadletters import without_effect
from remanence.stores.direct import DirectStore
from remanence.stores.memory import MemoryStore
from remanence.stores.merging import Merges
from remanence.stores.outcomes import CONFLICTS, DEAD_LETTERS
from remanence.stores.partitioned import PartitionedStore, parts_of
from remanence.stores.redis import RedisStore
from remanence.stores.resilient import ResilientStore
from remanence.stores.routes import Route, routes_to
from remanence.stores.rows import Outcome
from remanence.stores.shelf import Shelf
from remanence.stores.sqlite import SQLiteStore
from remanence.wire.address import Address
from remanence.wire.keys import tag
from remanence.wire.redis import async_connect, blocking_connect

_left_to_parent: list[Any] = []
"""What a forked child inherited and must neither use nor close."""

_TOLD_OF_FORKS = hasattr(os, "register_at_fork")

_engines: "weakref.WeakSet[Engine]" = weakref.WeakSet()
"""Every engine of this process, to be told of a fork."""


class Engine:
    """The parts behind faces of one deployment, opened with the first call that needs them."""

    def __init__(self, settings: Settings) -> None:
        """Checks the settings that need no server. Raises `InvalidSetting`."""
        _engines.add(self)
        self.settings = settings
        self.events = events.Events()
        self.merges = Merges()
        """The user's own merges of what two processes wrote: see `Memory.on_conflict`."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._address = _address(settings) if settings.backend == "redis" else None
        self._memory: MemoryStore | None = None
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

    def _opened(self) -> list[Gateway]:
        return []

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
        return stack

    def leave_to_parent(self) -> None:
        """In a forked child: forget what the parent has open; the next call opens anew."""
        self._lock = threading.Lock()  # the parent's may be held by a thread that does not exist here
        if self._memory is not None:
            self._memory.mutex = threading.RLock()
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


class BlockingEngine(Engine):
    """An engine for callers on plain threads."""

    def __init__(self, settings: Settings) -> None:
        """See `Engine`."""
        super().__init__(settings)
        self._gateway: Gateway | None = None

    def _opened(self) -> list[Gateway]:
        return [self._gateway] if self._gateway is not None else []

    @property
    def gateway(self) -> Gateway:
        """The way to the store, opened once per process."""
        found = self._gateway
        if found is not None and (_TOLD_OF_FORKS or self._pid == os.getpid()):
            return found
        with self._lock:
            if self._gateway is None:
                self._gateway = self._open(BlockingRuntime())
            return self._gateway

    def leave_to_parent(self) -> None:
        """See `Engine.leave_to_parent`."""
        super().leave_to_parent()
        _leave(self._gateway)
        self._gateway = None

    def status(self) -> Status:
        """Availability, pending writes, lag and counters, without asking the server."""
        return run(self.gateway.status())

    def conflicts(self, limit: int = 1000) -> list[Outcome]:
        """Writes without effect (kind conflict, stale or rejected), newest first, at most `limit`.

        Of this process and of those whose journals it took over. Without a journal (the sqlite and memory
        backends) there are none: the call itself raises. Raises `InvalidArgument` for a limit below one.
        """
        return without_effect(self.gateway, CONFLICTS, limit)

    def dead_letters(self, limit: int = 1000) -> list[Outcome]:
        """Writes that can never be applied as they are, as `conflicts` tells of those without effect."""
        return without_effect(self.gateway, DEAD_LETTERS, limit)

    def forget(self, key: str = "", *, beginning: bool = False, deadline: float | None = None) -> Erased:
        """Erase what is at `key`, and where `beginning` all that begins like it, for good and everywhere.

        "" and `beginning` is the whole namespace. Gone with it: what is journalled, remembered, mirrored or waiting
        in any process of the deployment; those that are away let go of it before they send anything again. Takes as
        long as the store needs to look through its keys, at most `deadline` seconds (60), and goes on by itself
        after that. Raises `InvalidArgument` for the whole of a server's default namespace.
        """
        return run(self.gateway.forget(key, beginning=beginning, deadline=deadline))

    def erased(self, receipt: str) -> Erased:
        """How far an erasure has come, by the `id` of its receipt. Raises `InvalidArgument` for an unknown one."""
        return run(self.gateway.erased(receipt))

    def flush(self, timeout: float = 1.0) -> bool:
        """Wait until the store has every pending write; False after `timeout` seconds."""
        return run(self.gateway.flush(timeout))

    def close(self, timeout: float | None = None) -> None:
        """Close what was opened; a later call opens anew."""
        with self._lock:
            found, self._gateway = self._gateway, None
        if found is not None and self._pid == os.getpid():
            run(found.close(timeout))


class AsyncEngine(Engine):
    """An engine for callers in asyncio loops: one gateway for each running loop."""

    def __init__(self, settings: Settings) -> None:
        """See `Engine`."""
        super().__init__(settings)
        self._gateways: dict[AbstractEventLoop, Gateway] = {}

    def _opened(self) -> list[Gateway]:
        return list(self._gateways.values())

    @property
    def gateway(self) -> Gateway:
        """The way to the store from the running loop. Raises RuntimeError outside a loop."""
        loop = get_running_loop()
        found = self._gateways.get(loop)
        if found is not None and (_TOLD_OF_FORKS or self._pid == os.getpid()):
            return found
        with self._lock:
            self._abandon_closed_loops()
            found = self._gateways[loop] = self._open(AsyncRuntime())
            return found

    def _abandon_closed_loops(self) -> None:
        """A loop that ended without closing us leaves its journal to the next one."""
        for loop in [loop for loop in self._gateways if loop.is_closed()]:
            gateway = self._gateways.pop(loop)
            for part in parts_of(gateway):
                part.abandon()

    async def status(self) -> Status:
        """Availability, pending writes, lag and counters, without asking the server."""
        return await self.gateway.status()

    async def conflicts(self, limit: int = 1000) -> list[Outcome]:
        """See `BlockingEngine.conflicts`; of the running loop's gateway."""
        return without_effect(self.gateway, CONFLICTS, limit)

    async def dead_letters(self, limit: int = 1000) -> list[Outcome]:
        """See `BlockingEngine.dead_letters`; of the running loop's gateway."""
        return without_effect(self.gateway, DEAD_LETTERS, limit)

    async def forget(self, key: str = "", *, beginning: bool = False, deadline: float | None = None) -> Erased:
        """See `BlockingEngine.forget`."""
        return await self.gateway.forget(key, beginning=beginning, deadline=deadline)

    async def erased(self, receipt: str) -> Erased:
        """See `BlockingEngine.erased`."""
        return await self.gateway.erased(receipt)

    async def flush(self, timeout: float = 1.0) -> bool:
        """Wait until the store has every pending write; False after `timeout` seconds."""
        return await self.gateway.flush(timeout)

    def leave_to_parent(self) -> None:
        """See `Engine.leave_to_parent`."""
        super().leave_to_parent()
        for gateway in self._gateways.values():
            _leave(gateway)
        self._gateways = {}

    async def close(self, timeout: float | None = None) -> None:
        """Close what the running loop opened."""
        found = self._gateways.pop(get_running_loop(), None)
        if found is not None:
            await found.close(timeout)


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


def _leave(gateway: Gateway | None) -> None:
    _left_to_parent.append(gateway)
    for part in parts_of(gateway):
        part.shelf.after_fork()


# --- one engine for all faces of a deployment ---------------------------------------------------

_shared: dict[tuple[type[Engine], Settings], Engine] = {}
_users: dict[int, int] = {}
_registry = threading.Lock()


def shared_blocking(settings: Settings) -> BlockingEngine:
    """The process's engine for these settings; `release` it when done."""
    engine = _share(BlockingEngine, settings)
    assert isinstance(engine, BlockingEngine)  # by its key
    return engine


def shared_async(settings: Settings) -> AsyncEngine:
    """As `shared_blocking`, for asyncio."""
    engine = _share(AsyncEngine, settings)
    assert isinstance(engine, AsyncEngine)  # by its key
    return engine


def _share(kind: type[Engine], settings: Settings) -> Engine:
    settings = settings.deployment()
    with _registry:
        engine = _shared.get((kind, settings))
        if engine is None:
            engine = _shared[kind, settings] = kind(settings)
        _users[id(engine)] = _users.get(id(engine), 0) + 1
        return engine


def released(engine: Engine) -> bool:
    """One user less; True when it was the last and the engine is to be closed."""
    with _registry:
        left = _users.get(id(engine), 0) - 1
        if left > 0:
            _users[id(engine)] = left
            return False
        _users.pop(id(engine), None)
        for key in [key for key, each in _shared.items() if each is engine]:
            del _shared[key]
        return True


@atexit.register
def _close_all() -> None:
    """At the interpreter's exit: let pending writes go out, no longer than the setting allows."""
    with _registry:
        engines = list(_shared.values())
    started = time.monotonic()
    for engine in engines:  # one after the other, and yet together within their time
        if isinstance(engine, BlockingEngine):
            engine.close(max(0.0, engine.settings.close_timeout - (time.monotonic() - started)))


_held: list[ExitStack] = []


def _before_fork() -> None:
    """SQLite's own locks, too, must not be held by a thread that the child does not have."""
    _held.extend([engine.hold() for engine in list(_engines)])


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop().close()


def _after_fork_in_child() -> None:
    """The child's registry lock may have been held by a thread that does not exist here."""
    global _registry
    _left_to_parent.append(_held[:])
    _held.clear()
    _registry = threading.Lock()
    for engine in _engines:
        engine.leave_to_parent()


if _TOLD_OF_FORKS:
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)

__all__ = ["AsyncEngine", "BlockingEngine", "Engine", "released", "shared_async", "shared_blocking"]
