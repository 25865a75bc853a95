"""A proxy between a client and a server that loses, cuts, delays and resets what passes.

Each fault is one that networks and dying servers produce: an executed command whose answer never
comes, an answer cut in the middle, a connection that is open but silent, a reset, a refusal.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, TypeVar

from remanence.testing.servers import HOST, PortClaim, Server

T = TypeVar("T")

_CHUNK = 1 << 16
_PATIENCE = 10.0
"""Seconds after which a proxy that does not obey is a fault of its own."""
_LINGER_NONE = struct.pack("ii", 1, 0)
"""With this, closing sends RST instead of FIN."""


@dataclass(frozen=True)
class Counts:
    """What has passed through a proxy so far."""

    accepted: int = 0
    """Connections that clients opened."""
    open: int = 0
    """Those open now."""
    dropped: int = 0
    """Replies swallowed."""
    cut: int = 0
    """Replies cut short."""
    reset: int = 0
    """Connections reset by `reset_all`."""


class FaultProxy:
    """Stands on a loopback port of its own before `target`, a `Server` or a port; use it in a `with`.

    Without faults it passes bytes on unchanged. Its methods may be called from any thread and take
    effect before they return. A *reply* is a chunk as it arrives from the server: the whole answer
    to a small command. Where the server is down, connections are accepted and closed at once.
    """

    def __init__(self, target: Server | int) -> None:
        self._target = target
        self._claim = PortClaim()
        self.port = self._claim.number
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"fault-proxy-{self.port}", daemon=True)
        self._listener: socket.socket | None = None
        self._links: dict[asyncio.Task[None], _Link] = {}
        self._counts = Counts()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._delay = 0.0
        self._drops = 0
        self._cut: tuple[int, bool] | None = None
        self._after = b""

    @property
    def url(self) -> str:
        """The target's address through this proxy."""
        if isinstance(self._target, Server):
            return self._target.url_at(self.port)
        return f"redis://{HOST}:{self.port}/0"

    @property
    def counts(self) -> Counts:
        """What has passed so far."""
        return self._ask(self._count())

    # --- its life

    def start(self) -> Self:
        """Begin to listen."""
        self._thread.start()
        self._ask(self._listen())
        return self

    def close(self) -> None:
        """Close every connection and stop listening. Closing twice is closing once."""
        if self._thread.is_alive():
            self._ask(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_PATIENCE)
        self._loop.close()
        self._claim.release()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the faults

    def delay(self, seconds: float) -> None:
        """Hold each chunk that long, in both directions; 0 ends it."""
        self._ask(self._set_delay(seconds))

    def drop_replies(self, n: int = 1, *, after: bytes = b"") -> None:
        """Swallow the next `n` replies and close their connections: executed, and no answer.

        With `after`, only replies to requests that contain these bytes and are sent from now on count.
        """
        self._ask(self._arm(n, None, after))

    def cut_reply_after(self, nbytes: int, *, hang: bool = False, after: bytes = b"") -> None:
        """Pass `nbytes` of the next reply, then close its connection, or with `hang` say no more.

        `after` as for `drop_replies`. A hanging connection stays so until it is closed or reset.
        """
        self._ask(self._arm(0, (nbytes, hang), after))

    def reset_all(self) -> int:
        """Reset (RST) every open connection, to client and server; returns how many there were."""
        return self._ask(self._reset())

    def half_open(self) -> None:
        """Pass nothing on, not even the end of a connection, and keep all connections open.

        New ones are accepted and get no answer. What is sent meanwhile arrives after `heal`.
        """
        self._ask(self._set_flowing(False))

    def refuse(self) -> None:
        """Refuse new connections, as a machine does on which nothing listens; open ones stay."""
        self._ask(self._stop_listening())

    def accept(self) -> None:
        """Accept connections again after `refuse`."""
        self._ask(self._listen())

    def heal(self) -> None:
        """End every fault, those armed included. Connections already closed or hanging stay so."""
        self._ask(self._heal())

    # --- inside: everything below runs on the proxy's own thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _ask(self, work: Coroutine[Any, Any, T]) -> T:
        """Have `work` done on the proxy's thread. Called from any other."""
        if not self._thread.is_alive():
            work.close()
            raise RuntimeError("the proxy does not run: use it in a with block")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)

    async def _count(self) -> Counts:
        return replace(self._counts, open=len(self._links))

    def _add(self, **steps: int) -> None:
        self._counts = replace(self._counts, **{k: getattr(self._counts, k) + v for k, v in steps.items()})

    async def _listen(self) -> None:
        if self._listener is not None:
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind((HOST, self.port))
        listener.listen(128)
        self._listener = listener
        # a callback, not a task: cancelling a task could lose the connection that it was just given
        self._loop.add_reader(listener, self._take, listener)

    async def _stop_listening(self) -> None:
        if self._listener is None:
            return
        self._loop.remove_reader(self._listener)
        self._listener.close()
        self._listener = None

    def _take(self, listener: socket.socket) -> None:
        """Accept one connection and serve it."""
        try:
            client, _ = listener.accept()
        except OSError:
            return  # it went away before it was accepted
        link = _Link(client, asked=not self._after)
        task = self._loop.create_task(self._serve(link))
        self._links[task] = link
        task.add_done_callback(self._forget)
        self._add(accepted=1)

    def _forget(self, task: "asyncio.Task[None]") -> None:
        """Close what a link's task leaves, even one that was cancelled before it began."""
        self._links.pop(task).close()

    async def _serve(self, link: "_Link") -> None:
        """One connection, from its acceptance to its end."""
        port = self._target.port if isinstance(self._target, Server) else self._target
        pumps: list[asyncio.Task[None]] = []
        try:
            await self._loop.sock_connect(link.server, (HOST, port))
            pumps = [self._loop.create_task(pump(link)) for pump in (self._pump_up, self._pump_down)]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # the server is down: the client sees its connection end
        finally:
            await _cancel(*pumps)

    async def _pump_up(self, link: "_Link") -> None:
        while chunk := await self._receive(link.client):
            if self._after and self._after in chunk:
                link.asked = True
            if not await self._send(link.server, chunk):
                return

    async def _pump_down(self, link: "_Link") -> None:
        while chunk := await self._receive(link.server):
            passed, then = self._judge(link, chunk)
            sent = await self._send(link.client, passed)
            if then == "hang":
                await asyncio.Event().wait()
            if then == "close" or not sent:
                return

    async def _receive(self, end: socket.socket) -> bytes:
        """The next chunk, held for as long as the faults say; b"" at the end."""
        try:
            chunk = await self._loop.sock_recv(end, _CHUNK)
        except OSError:
            chunk = b""
        if self._delay:
            await asyncio.sleep(self._delay)
        await self._flowing.wait()
        return chunk

    async def _send(self, end: socket.socket, chunk: bytes) -> bool:
        try:
            await self._loop.sock_sendall(end, chunk)
        except OSError:
            return False
        return True

    def _judge(self, link: "_Link", chunk: bytes) -> tuple[bytes, Literal["go on", "close", "hang"]]:
        """What of a reply is passed, and what comes then; uses up the armed fault that it meets."""
        if not link.asked:
            return chunk, "go on"
        if self._drops:
            self._drops -= 1
            self._add(dropped=1)
            return b"", "close"
        if self._cut is not None:
            (nbytes, hang), self._cut = self._cut, None
            self._add(cut=1)
            return chunk[:nbytes], "hang" if hang else "close"
        return chunk, "go on"

    async def _set_delay(self, seconds: float) -> None:
        self._delay = seconds

    async def _set_flowing(self, flowing: bool) -> None:
        (self._flowing.set if flowing else self._flowing.clear)()

    async def _arm(self, drops: int, cut: tuple[int, bool] | None, after: bytes) -> None:
        self._drops, self._cut, self._after = drops, cut, after
        for link in self._links.values():
            link.asked = not after

    async def _heal(self) -> None:
        self._delay = 0.0
        await self._arm(0, None, b"")
        await self._set_flowing(True)
        await self._listen()

    async def _reset(self) -> int:
        links = dict(self._links)
        for link in links.values():
            link.reset_on_close()
        await _cancel(*links)
        self._add(reset=len(links))
        return len(links)

    async def _end(self) -> None:
        await self._stop_listening()
        await _cancel(*self._links)


class _Link:
    """A client's connection and ours to the server. `asked`: its next reply may meet the armed fault."""

    def __init__(self, client: socket.socket, asked: bool) -> None:
        self.client = client
        self.server = socket.socket()
        self.asked = asked
        for end in (self.client, self.server):
            end.setblocking(False)
        self.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def reset_on_close(self) -> None:
        for end in (self.client, self.server):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)

    def close(self) -> None:
        self.client.close()
        self.server.close()


async def _cancel(*tasks: "asyncio.Task[None]") -> None:
    """Cancel tasks and wait for their end; only then may their sockets be closed."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
