"""Host names to addresses, in time: the resolver has no deadline of its own, and may stall for half a minute.

Each lookup runs in a daemon thread, which a caller waits for no longer than it wants. Where it is late or
fails for the moment, the addresses that the name had last are used, and what it brings later serves the next.
"""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

KNOWN_SHARE = 4
"""A name with known addresses may take this part of the time: the rest is for connecting to them."""


class Place(NamedTuple):
    """Where a socket connects to."""

    family: int
    address: Any
    """As `socket.connect` takes it; the first item is the numeric host."""


class _Lookup:
    """One question under way, for everybody who asks it meanwhile."""

    def __init__(self, host: str, port: int, found: Callable[[list[Place]], None]) -> None:
        self.places: list[Place] = []
        self.error: OSError = socket.gaierror(socket.EAI_AGAIN, "the name was not resolved")
        self._mutex = threading.Lock()
        self._ended = False
        self._waiting: list[Callable[[], None]] = []
        self._found = found
        self.thread = threading.Thread(
            target=self._ask, args=(host, port), name="remanence-lookup", daemon=True
        )  # a daemon: one that stalls must not keep the process from ending
        self.thread.start()

    def _ask(self, host: str, port: int) -> None:
        try:
            answers = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
            self.places = [Place(family, address) for family, _, _, _, address in answers]
        except OSError as error:
            self.error = error
        except UnicodeError:
            self.error = socket.gaierror(socket.EAI_NONAME, "no host has such a name")
        self._found(self.places)
        with self._mutex:
            self._ended, waiting = True, self._waiting
        for tell in waiting:
            tell()

    def when_done(self, tell: Callable[[], None]) -> None:
        """Call `tell` at the end, from any thread; at once where it has ended."""
        with self._mutex:
            if not self._ended:
                self._waiting.append(tell)
                return
        tell()


class Lookups:
    """The names of one process: what is being asked, and what was answered last."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._running: dict[tuple[str, int], _Lookup] = {}
        self._last: dict[tuple[str, int], list[Place]] = {}

    def places(self, host: str, port: int, seconds: float) -> list[Place]:
        """The addresses of a name, in at most `seconds` on this thread. Raises TimeoutError or `socket.gaierror`."""
        if literal := numeric(host, port):
            return [literal]
        lookup, known = self._begun(host, port)
        lookup.thread.join(seconds / KNOWN_SHARE if known else seconds)
        return self._outcome(lookup, known)

    async def places_async(self, host: str, port: int, seconds: float) -> list[Place]:
        """As `places`, without blocking the loop."""
        if literal := numeric(host, port):
            return [literal]
        lookup, known = self._begun(host, port)
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def settle() -> None:
            if not done.done():
                done.set_result(None)

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle)

        lookup.when_done(tell)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done, seconds / KNOWN_SHARE if known else seconds)
        return self._outcome(lookup, known)

    def _begun(self, host: str, port: int) -> tuple[_Lookup, list[Place]]:
        key = (host, port)
        with self._mutex:
            lookup = self._running.get(key)
            if lookup is None:
                lookup = self._running[key] = _Lookup(host, port, lambda places: self._heard(key, places))
            return lookup, self._last.get(key, [])

    def _heard(self, key: tuple[str, int], places: list[Place]) -> None:
        with self._mutex:
            self._running.pop(key, None)
            if places:
                self._last[key] = places

    def _outcome(self, lookup: _Lookup, known: list[Place]) -> list[Place]:
        if lookup.places:
            return lookup.places
        late = lookup.thread.is_alive()
        passing = late or getattr(lookup.error, "errno", None) in (socket.EAI_AGAIN, socket.EAI_FAIL)
        if known and passing:
            return known
        if late:
            raise TimeoutError("the host name was not resolved in time")
        raise lookup.error


def numeric(host: str, port: int) -> Place | None:
    """The place of a numeric address; None for a name, which has to be looked up."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            socket.inet_pton(family, host)
            return Place(family, (host, port))
    return None


lookups = Lookups()
"""This process's."""


def _forget_threads() -> None:
    """A forked child has none of its parent's threads: nothing is under way there."""
    lookups.__init__()  # type: ignore[misc] # the same object, as others hold it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
