"""The Redis seam: addresses, links, and what the server's errors mean. The only user of redis-py.

redis-py opens the connection (TCP, TLS, AUTH, SELECT); from then on a link speaks over its socket
with hiredis, so that one deadline bounds a whole exchange however slowly bytes arrive, and so that
nothing is ever sent twice: redis-py's own retry repeats commands that are not idempotent.
Protocol, timeouts and retry are set explicitly because their defaults differ between redis-py 5, 7 and 8.
"""

import asyncio
import encodings.idna  # noqa: F401 -- a socket imports it when it first looks up a host: not after a fork
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import hiredis
import redis.asyncio.connection
import redis.asyncio.retry
import redis.connection
import redis.exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from remanence.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    InvalidSetting,
    Misconfigured,
    RemanenceError,
    ServerFull,
    Unavailable,
    WorldError,
    WrongKind,
)

Command = tuple[str | bytes, ...]
"""Words, numbers among them as text: hiredis 3 crashes the process where Ctrl-C meets its own conversion."""
_CHUNK = 65536
_PENDING = object()


class Refusal(Exception):
    """An error reply, as the server worded it."""

    @property
    def word(self) -> str:
        """The reply's first word: the only part that is the same on Redis and Valkey."""
        return str(self).partition(" ")[0]


class Link(Protocol):
    """One connection. Used by one caller at a time; after any exception it is closed for good."""

    async def exchange(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        """Send commands in one go and return their replies; error replies are `Refusal` values in it."""

    def close(self) -> None:
        """Close at once, without a word to the server."""


Connect = Callable[[float], Awaitable[Link]]
_parse_url: Any = redis.connection.parse_url  # untyped in redis-py


class Address:
    """Where a server is and how to log in, from a URL. Its repr holds no secret."""

    def __init__(self, url: str, *, connect_timeout: float, tls: dict[str, str] | None = None) -> None:
        """Parse `redis://`, `rediss://` or `unix://`. Raises `InvalidSetting` without quoting the URL."""
        scheme = url.partition("://")[0] if "://" in url else ""
        if scheme not in ("redis", "rediss", "unix"):
            raise InvalidSetting("url must begin with redis://, rediss:// or unix:// (REDIS_URL)")
        try:
            options = dict(_parse_url(url))
        except (ValueError, TypeError):
            raise InvalidSetting("url cannot be read: redis://[user:password@]host:port/db (REDIS_URL)") from None
        options.pop("connection_class", None)
        self.scheme = scheme
        self.options = options | {
            "socket_connect_timeout": connect_timeout,
            "socket_timeout": connect_timeout,
            "health_check_interval": 0,
            "protocol": 2,
            "decode_responses": False,
            **_introduction(),
        }
        if scheme != "unix":
            self.options["socket_keepalive"] = True
        if scheme == "rediss":
            self.options |= _tls_options(tls or {})
        self.name = _public_name(url, scheme, options)

    def __repr__(self) -> str:
        return f"Address({self.name})"

    def blocking(self) -> redis.connection.AbstractConnection:
        """A redis-py connection, not yet connected."""
        kinds: dict[str, Any] = {
            "redis": redis.connection.Connection,
            "rediss": redis.connection.SSLConnection,
            "unix": redis.connection.UnixDomainSocketConnection,
        }
        connection: redis.connection.AbstractConnection = kinds[self.scheme](
            **self.options, retry=Retry(NoBackoff(), 0)
        )
        return connection

    def asynchronous(self) -> redis.asyncio.connection.AbstractConnection:
        """A redis.asyncio connection, not yet connected."""
        kinds: dict[str, Any] = {
            "redis": redis.asyncio.connection.Connection,
            "rediss": redis.asyncio.connection.SSLConnection,
            "unix": redis.asyncio.connection.UnixDomainSocketConnection,
        }
        connection: redis.asyncio.connection.AbstractConnection = kinds[self.scheme](
            **self.options, retry=redis.asyncio.retry.Retry(NoBackoff(), 0)
        )
        return connection


def _introduction() -> dict[str, Any]:
    """What redis-py tells the server of itself: else it looks its version up on disk for each connection.

    That takes longer than connecting, and imports modules, which never ends in a child forked meanwhile.
    """
    version, driver = redis.__version__, getattr(redis.connection, "DriverInfo", None)  # since 7
    return {"driver_info": driver(lib_version=version)} if driver else {"lib_version": version}


def _tls_options(tls: dict[str, str]) -> dict[str, Any]:
    files = {
        "ssl_ca_certs": tls.get("ca") or None,
        "ssl_certfile": tls.get("cert") or None,
        "ssl_keyfile": tls.get("key") or None,
    }
    return {k: v for k, v in files.items() if v} | {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
    }


def _public_name(url: str, scheme: str, options: dict[str, Any]) -> str:
    """host:port/db, or the socket's path: what may be shown and what tells deployments apart."""
    db = options.get("db", 0)
    if scheme == "unix":
        return f"unix:{options.get('path') or unquote(urlsplit(url).path)}/{db}"
    return f"{options.get('host', 'localhost')}:{options.get('port', 6379)}/{db}"


class BlockingLink:
    """A link on the caller's own thread. Its coroutines never suspend."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection  # untyped in redis-py; its socket has been `_sock` since 2.0
        self._socket: socket.socket = self._connection._sock
        self._reader = hiredis.Reader(notEnoughData=_PENDING, replyError=Refusal)

    async def exchange(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        """See `Link.exchange`."""
        try:
            self._socket.settimeout(_left(deadline))
            self._socket.sendall(packed(commands))
            return self._replies(len(commands), deadline)
        except BaseException as error:
            self.close()  # whatever was under way, a late answer must not meet another question
            if isinstance(error, Exception):
                raise translated(error) from error
            raise

    def _replies(self, count: int, deadline: float) -> list[Any]:
        reader, replies = self._reader, []
        while True:
            reply = reader.gets()
            while reply is not _PENDING:
                replies.append(reply)
                if len(replies) == count:
                    return replies
                reply = reader.gets()
            self._socket.settimeout(_left(deadline))
            data = self._socket.recv(_CHUNK)
            if not data:
                raise ConnectionResetError("the server closed the connection")
            reader.feed(data)

    def close(self) -> None:
        """See `Link.close`."""
        self._connection.disconnect()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class AsyncLink:
    """A link on the running asyncio loop."""

    def __init__(self, connection: redis.asyncio.connection.AbstractConnection) -> None:
        stream, sink = connection._reader, connection._writer
        assert stream is not None, "connected"
        assert sink is not None, "connected"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] = (stream, sink)
        connection._reader = connection._writer = None  # ours now: redis-py must not close or warn
        self._reader = hiredis.Reader(notEnoughData=_PENDING, replyError=Refusal)

    async def exchange(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        """See `Link.exchange`."""
        try:
            async with asyncio.timeout_at(deadline):
                stream, sink = self._streams
                sink.write(packed(commands))
                await sink.drain()
                return await self._replies(stream, len(commands))
        except BaseException as error:
            self.close()  # cancelled or failed: a late answer must not meet another question
            if isinstance(error, Exception):
                raise translated(error) from error
            raise

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

    def close(self) -> None:
        """See `Link.close`."""
        self._streams[1].transport.abort()


def packed(commands: Sequence[Command]) -> bytes:
    """Commands in the wire format (RESP)."""
    pack: Callable[[Any], bytes] = hiredis.pack_command
    if len(commands) == 1:
        return pack(commands[0])
    return b"".join([pack(command) for command in commands])


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
                raise translated(error, connecting=address) from error
            raise
        return BlockingLink(connection)

    return connect


def async_connect(address: Address) -> Connect:
    """How the asyncio runtime opens links to `address`."""

    async def connect(deadline: float) -> Link:
        connection: Any = address.asynchronous()
        try:
            async with asyncio.timeout_at(deadline):
                await connection.connect()
        except Exception as error:
            await connection.disconnect(nowait=True)
            raise translated(error, connecting=address) from error
        except BaseException:  # cancelled: what is half open must not stay so
            if connection._writer is not None:
                connection._writer.transport.abort()
            raise
        return AsyncLink(connection)

    return connect


TRANSIENT = {
    "LOADING": "the server is loading its data",
    "BUSY": "a script keeps the server busy",
    "MASTERDOWN": "the replica has lost its primary",
    "CLUSTERDOWN": "the cluster is down",
    "TRYAGAIN": "the cluster is moving keys",
    "MOVED": "the cluster moved the key",
    "ASK": "the cluster is moving the key",
    "READONLY": "the server became a read-only replica",
    "NOREPLICAS": "the server has too few replicas to write",
    "MISCONF": "the server cannot save its data to disk and refuses writes: free its disk",
    "UNBLOCKED": "the server let go of a blocked call",
    "NOTREADY": "the server is not ready",
}
"""Error replies that pass by themselves, by first word."""

ADVICE = {
    "NOAUTH": "the server wants a password: put it in the URL, redis://:password@host:port/db, or REDIS_PASSWORD",
    "WRONGPASS": "the server does not know this user name and password: check REDIS_URL or REDIS_PASSWORD",
    "NOPERM": "this user may not run a command that is needed: see the access rules in the guide (ACL SETUSER)",
    "DENIED": "the server is in protected mode: set a password or bind it to the right address",
    "NOPROTO": "the server does not speak the protocol asked for",
}

SCRIPT_DENIED = ("ACL failure in script", "can't run this command", "can't access at least one of the keys")
"""How servers word NOPERM inside a script, where the first word is ERR."""


def refused(refusal: Refusal, key: str = "") -> RemanenceError:
    """The error of ours that an error reply means, with what to do about it."""
    error = _refused(refusal, key)
    if isinstance(error, WorldError):
        error.answered = refusal.word not in ("LOADING", "MASTERDOWN", "NOAUTH", "WRONGPASS", "DENIED")
    return error


def _refused(refusal: Refusal, key: str) -> RemanenceError:
    text = str(refusal)
    word = "NOPERM" if any(sign in text for sign in SCRIPT_DENIED) else refusal.word
    if word in TRANSIENT:
        return Unavailable(f"{TRANSIENT[word]} ({word})")
    if word == "OOM":
        return ServerFull("the server is out of memory (OOM): raise its maxmemory or remove old data")
    if word in ("NOAUTH", "WRONGPASS"):
        return AuthenticationFailed(f"{ADVICE[word]} ({word})")
    if word in ADVICE:
        return Misconfigured(f"{ADVICE[word]} ({word})")
    if word == "WRONGTYPE":
        return WrongKind(f"{key or 'the key'} holds another type of value than was asked for")
    if "max number of clients" in text:
        return Unavailable("the server has no room for another client (maxclients)")
    if "DB index" in text:
        return Misconfigured("the server has no such database: check the number at the end of REDIS_URL (REDIS_DB)")
    if "invalid password" in text or "AUTH" in text:
        return AuthenticationFailed(f"{ADVICE['WRONGPASS']}")
    if "unknown command" in text.lower():
        return Misconfigured("the server lacks a command that is needed: Redis 7.0 or Valkey 8 at least")
    return Misconfigured(f"the server refused a command ({word})")


def translated(error: Exception, connecting: Address | None = None) -> Exception:
    """The error of ours that a transport error means; `connecting` names the address in it."""
    where = f" at {connecting.name}" if connecting else ""
    if isinstance(error, RemanenceError):
        return error
    if isinstance(error, TimeoutError | redis.exceptions.TimeoutError):
        return DeadlineExceeded(f"the server{where} did not answer in time")
    if isinstance(error, redis.exceptions.AuthenticationError):
        return AuthenticationFailed(f"{ADVICE['WRONGPASS']}{where}")
    if isinstance(error, redis.exceptions.BusyLoadingError):
        return Unavailable(f"{TRANSIENT['LOADING']}{where}")
    if isinstance(error, redis.exceptions.ResponseError):
        return refused(Refusal(_with_word(error)))
    if isinstance(error, ssl.SSLError) or "SSL" in str(error) or "certificate" in str(error):
        return Misconfigured(
            f"no trusted TLS connection{where}: check the certificates (REMANENCE_TLS_CA, _CERT, _KEY), "
            f"the host name and the clock ({_ssl_reason(error)})"
        )
    if isinstance(error, OSError | redis.exceptions.ConnectionError):
        return Unavailable(f"the server{where} cannot be reached ({_cause(error)}): is it running?")
    return Unavailable(f"what answers{where} is no Redis ({type(error).__name__}): check the address (REDIS_URL)")


def _with_word(error: redis.exceptions.ResponseError) -> str:
    """redis-py strips the first word of the replies it has classes for: put it back."""
    names = {"NoPermissionError": "NOPERM", "ReadOnlyError": "READONLY", "OutOfMemoryError": "OOM"}
    word = names.get(type(error).__name__, "")
    return f"{word} {error}".strip()


def _ssl_reason(error: BaseException) -> str:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return seen.verify_message or "verification failed"
        if isinstance(seen, ssl.SSLError) and seen.reason:
            return str(seen.reason)
        seen = seen.__cause__ or seen.__context__
    return "the handshake failed"


def _cause(error: BaseException) -> str:
    """The operating system's word for it, which holds no address and no secret."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror.lower()
        seen = seen.__cause__ or seen.__context__
    return "connection closed"
