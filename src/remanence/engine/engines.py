"""The engine for callers on plain threads, and the one for callers in asyncio loops."""

import os
from asyncio import AbstractEventLoop, get_running_loop

from remanence.engine.opening import TOLD_OF_FORKS, Engine, leave
from remanence.model import Erased
from remanence.protocols import Gateway, Status
from remanence.runtime.asynchronous import AsyncRuntime
from remanence.runtime.blocking import BlockingRuntime, run
from remanence.settings import Settings
from remanence.stores.deadletters import without_effect
from remanence.stores.outcomes import CONFLICTS, DEAD_LETTERS
from remanence.stores.partitioned import parts_of
from remanence.stores.rows import Outcome


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
        if found is not None and (TOLD_OF_FORKS or self._pid == os.getpid()):
            return found
        with self._lock:
            if self._gateway is None:
                self._gateway = self._open(BlockingRuntime())
            return self._gateway

    def agent_left(self) -> None:
        """See `Engine.agent_closed`."""
        run(self.agent_closed(self._gateway))

    def leave_to_parent(self) -> None:
        """See `Engine.leave_to_parent`."""
        super().leave_to_parent()
        leave(self._gateway)
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
            run(self.close_libraries(found))
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
        if found is not None and (TOLD_OF_FORKS or self._pid == os.getpid()):
            return found
        with self._lock:
            self._abandon_closed_loops()
            found = self._gateways[loop] = self._open(AsyncRuntime())
            return found

    def _abandon_closed_loops(self) -> None:
        """A loop that ended without closing us leaves its journal to the next one."""
        for loop in [loop for loop in self._gateways if loop.is_closed()]:
            gateway = self._gateways.pop(loop)
            for library in self._libraries_of(gateway):  # its task ended with the loop
                library.catalogue.close()
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

    async def agent_left(self) -> None:
        """See `Engine.agent_closed`."""
        await self.agent_closed(self._gateways.get(get_running_loop()))

    def leave_to_parent(self) -> None:
        """See `Engine.leave_to_parent`."""
        super().leave_to_parent()
        for gateway in self._gateways.values():
            leave(gateway)
        self._gateways = {}

    async def close(self, timeout: float | None = None) -> None:
        """Close what the running loop opened."""
        found = self._gateways.pop(get_running_loop(), None)
        if found is not None:
            await self.close_libraries(found)
            await found.close(timeout)
