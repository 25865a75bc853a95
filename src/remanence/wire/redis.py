"""The Redis seam: links to servers. Beside `wire.address` and `wire.refusals` the only user of redis-py.

redis-py opens the connection; from then on a link speaks over its socket
with hiredis, so that one deadline bounds a whole exchange however slowly bytes arrive, and so that
nothing is ever sent twice: redis-py's own retry repeats commands that are not idempotent.
"""

import asyncio
import encodings.idna  # noqa: F401 -- a socket imports it when it first looks up a host: not after a fork
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn, Protocol

import hiredis
import redis.asyncio.connection

from remanence.wire.address import Address
from remanence.wire.refusals import Refusal, translated

Command = Sequence[str | bytes]
"""Words, numbers among them as text: hiredis 3 crashes the process where Ctrl-C meets its own conversion."""
_CHUNK = 65536
_SLACK = 0.01
"""Seconds that a socket may wait past a deadline."""
_PENDING = object()
_OUTDATED = "another server has taken this one's place"


class Link(Protocol):
    """One connection. Used by one caller at a time; after any exception it is closed for good.

    `outdated`: set by whoever learned that another server has taken this one's place; the next use fails.
    `lost`: called whenever it is closed.
    """

    outdated: bool
    lost: Callable[[], None]

    def post(self, commands: Sequence[Command], deadline: float) -> None:
        """Send commands in one go, and wait no longer than that takes."""

    async def answer(self, count: int, deadline: float) -> list[Any]:
        """The replies to the `count` commands posted; error replies are `Refusal` values in it."""

    async def exchange(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        """Both: send commands and return their replies."""

    def close(self) -> None:
        """Close at once, without a word to the server."""


Connect = Callable[[float], Awaitable[Link]]
Dial = Callable[[Address], Connect]
"""How a runtime opens links to one server: `blocking_connect` or `async_connect`."""


def _unheard() -> None:
    """Nobody wants to know."""


class BlockingLink:
    """A link on the caller's own thread. Its coroutines never suspend."""

    outdated = False

    def __init__(self, connection: Any) -> None:
        self.lost: Callable[[], None] = _unheard
        self._connection = connection  # untyped in redis-py; its socket has been `_sock` since 2.0
        self._socket: socket.socket = self._connection._sock
        self._timeout = 0.0
        # the kernel keeps the time, for Python would ask it before each call whether the socket is ready
        self._timed_by_kernel = type(self._socket) is socket.socket
        if self._timed_by_kernel:
            self._socket.settimeout(None)
        self._reader = hiredis.Reader(notEnoughData=_PENDING, replyError=Refusal)

    def post(self, commands: Sequence[Command], deadline: float) -> None:
        """See `Link.post`."""
        try:
            if self.outdated:
                raise ConnectionResetError(_OUTDATED)
            self._limit(deadline)
            self._socket.sendall(packed(commands))
        except BaseException as error:
            self._fail(error)

    async def answer(self, count: int, deadline: float) -> list[Any]:
        """See `Link.answer`."""
        reader, replies = self._reader, list[Any]()
        try:
            while True:
                reply = reader.gets()
                while reply is not _PENDING:
                    replies.append(reply)
                    if len(replies) == count:
                        return replies
                    reply = reader.gets()
                self._limit(deadline)
                data = self._socket.recv(_CHUNK)
                if not data:
                    raise ConnectionResetError("the server closed the connection")
                reader.feed(data)
        except BaseException as error:
            self._fail(error)

    async def exchange(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        """See `Link.exchange`."""
        self.post(commands, deadline)
        return await self.answer(len(commands), deadline)

    def _limit(self, deadline: float) -> None:
        """Have the socket give up at the deadline, or a moment later: setting it to the point takes a system call."""
        left = deadline - time.monotonic()
        if not 0 < left <= self._timeout <= left + 2 * _SLACK:
            if left <= 0:
                raise TimeoutError
            self._timeout = left + _SLACK
            if self._timed_by_kernel:
                most = struct.pack("ll", *divmod(int(self._timeout * 1e6), 1_000_000))
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, most)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, most)
            else:
                self._socket.settimeout(self._timeout)

    def _fail(self, error: BaseException) -> NoReturn:
        """Close, for whatever was under way, a late answer must not meet another question."""
        self.close()
        if isinstance(error, Exception):
            raise translated(error) from error
        raise error

    def close(self) -> None:
        """See `Link.close`."""
        self._connection.disconnect()
        self.lost()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class AsyncLink:
    """A link on the running asyncio loop."""

    outdated = False

    def __init__(self, connection: redis.asyncio.connection.AbstractConnection) -> None:
        self.lost: Callable[[], None] = _unheard
        stream, sink = connection._reader, connection._writer
        assert stream is not None, "connected"
        assert sink is not None, "connected"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] = (stream, sink)
        connection._reader = connection._writer = None  # ours now: redis-py must not close or warn
        self._reader = hiredis.Reader(notEnoughData=_PENDING, replyError=Refusal)

    def post(self, commands: Sequence[Command], deadline: float) -> None:
        """See `Link.post`. What the socket does not take now goes out while the answer is awaited."""
        try:
            if self.outdated:
                raise ConnectionResetError(_OUTDATED)
            self._streams[1].write(packed(commands))
        except BaseException as error:
            self._fail(error)

    async def answer(self, count: int, deadline: float) -> list[Any]:
        """See `Link.answer`."""
        try:
            async with asyncio.timeout_at(deadline):
                stream, sink = self._streams
                await sink.drain()
                return await self._replies(stream, count)
        except BaseException as error:
            self._fail(error)

    async def exchange(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        """See `Link.exchange`."""
        self.post(commands, deadline)
        return await self.answer(len(commands), deadline)

    async def _replies(self, stream: asyncio.StreamReader, count: int) -> list[Any]:
        reader, replies = self._reader, []
        while True:
            reply = reader.gets()
            while reply is not _PENDING:
                replies.append(reply)
                if len(replies) == count:
                    return replies
                reply = reader.gets()
            data = await stream.read(_CHUNK)
            if not data:
                raise ConnectionResetError("the server closed the connection")
            reader.feed(data)

    def _fail(self, error: BaseException) -> NoReturn:
        """Close: cancelled or failed, a late answer must not meet another question."""
        self.close()
        if isinstance(error, Exception):
            raise translated(error) from error
        raise error

    def close(self) -> None:
        """See `Link.close`."""
        self._streams[1].transport.abort()
        self.lost()


def packed(commands: Sequence[Command]) -> bytes:
    """Commands in the wire format (RESP)."""
    pack: Callable[[Any], bytes] = hiredis.pack_command
    if len(commands) == 1:
        return pack(tuple(commands[0]))
    return b"".join([pack(tuple(command)) for command in commands])


def blocking_connect(address: Address) -> Connect:
    """How the blocking runtime opens links to `address`."""

    async def connect(deadline: float) -> Link:
        connection: Any = address.blocking()
        try:
            connection.socket_connect_timeout = connection.socket_timeout = min(
                address.options["socket_connect_timeout"], _left(deadline)
            )
            connection.connect()
        except BaseException as error:
            connection.disconnect()
            if isinstance(error, Exception):
                raise translated(error, connecting=address.name) from error
            raise
        return BlockingLink(connection)

    return connect


def async_connect(address: Address) -> Connect:
    """How the asyncio runtime opens links to `address`."""

    async def connect(deadline: float) -> Link:
        connection: Any = address.asynchronous()
        try:
            connection.socket_connect_timeout = min(
                address.options["socket_connect_timeout"], max(0.001, deadline - asyncio.get_running_loop().time())
            )
            async with asyncio.timeout_at(deadline):
                await connection.connect()
        except Exception as error:
            await connection.disconnect(nowait=True)
            raise translated(error, connecting=address.name) from error
        except BaseException:  # cancelled: what is half open must not stay so
            if connection._writer is not None:
                connection._writer.transport.abort()
            raise
        return AsyncLink(connection)

    return connect
