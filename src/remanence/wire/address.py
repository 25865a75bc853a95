"""Where memories live and how to log in there: one server, one behind Sentinels, or a cluster.

redis-py makes the connections (TCP, TLS, AUTH, SELECT). Protocol, timeouts and retry are set explicitly
because their defaults differ between redis-py 5, 7 and 8; host names are resolved by `wire.lookup`, which
has a deadline.
"""

import copy
import socket
import ssl
import time
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

import redis.asyncio.connection
import redis.asyncio.retry
import redis.connection
from redis.backoff import NoBackoff
from redis.retry import Retry

from remanence.errors import InvalidSetting
from remanence.wire.lookup import lookups

Kind = Literal["server", "sentinel", "cluster"]
_parse_url: Any = redis.connection.parse_url  # untyped in redis-py

_SCHEMES: dict[str, tuple[Kind, str]] = {
    "redis": ("server", "redis"),
    "rediss": ("server", "rediss"),
    "unix": ("server", "unix"),
    "redis+sentinel": ("sentinel", "redis"),
    "rediss+sentinel": ("sentinel", "rediss"),
    "redis+cluster": ("cluster", "redis"),
    "rediss+cluster": ("cluster", "rediss"),
}
_FORMS = {
    "server": "redis://[user:password@]host:port/db",
    "sentinel": "redis+sentinel://[user:password@]host:port[,host:port…]/service[/db]",
    "cluster": "redis+cluster://[user:password@]host:port[,host:port…]",
}
_PORTS = {"sentinel": 26379, "cluster": 6379}


class Node(NamedTuple):
    """One server, as others reach it."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Address:
    """Where a deployment is and how to log in, from a URL. Its repr holds no secret.

    `scheme`: how its servers are spoken to: redis, rediss or unix. `nodes`: the Sentinels, or the servers of a
    cluster to ask first. `name`: what may be shown and what tells deployments apart; it depends neither on the
    order of hosts nor on which server is the primary now.
    """

    def __init__(self, url: str, *, connect_timeout: float, tls: dict[str, str] | None = None) -> None:
        """Parse the URL, `connect_timeout` in seconds. Raises `InvalidSetting` without quoting the URL."""
        found = _SCHEMES.get(url.partition("://")[0] if "://" in url else "")
        if found is None:
            raise InvalidSetting(
                "url must begin with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// (REDIS_URL)"
            )
        self.kind, self.scheme = found
        self.nodes: tuple[Node, ...] = ()
        self.service = ""
        options = self._of_one(url) if self.kind == "server" else self._of_several(url)
        self.options = options | {
            "socket_connect_timeout": connect_timeout,
            "socket_timeout": connect_timeout,
            "health_check_interval": 0,
            "protocol": 2,
            "decode_responses": False,
            **_introduction(),
        }
        if self.scheme != "unix":
            self.options["socket_keepalive"] = True
        if self.scheme == "rediss":
            self.options |= _tls_options(tls or {})

    def _of_one(self, url: str) -> dict[str, Any]:
        try:
            options = dict(_parse_url(url))
        except (ValueError, TypeError):
            raise _unreadable("server") from None
        options.pop("connection_class", None)
        db = options.get("db", 0)
        if self.scheme == "unix":
            self.name = f"unix:{options.get('path') or unquote(urlsplit(url).path)}/{db}"
        else:
            self.name = f"{options.get('host', 'localhost')}:{options.get('port', 6379)}/{db}"
        return options

    def _of_several(self, url: str) -> dict[str, Any]:
        login, _, rest = url.partition("://")[2].rpartition("@")
        places, _, path = rest.partition("/")
        if "?" in rest or "#" in rest:
            raise _unreadable(self.kind)
        self.nodes = tuple(dict.fromkeys(_node(each, self.kind) for each in places.split(",")))
        listed = ",".join(sorted(map(str, self.nodes)))
        options: dict[str, Any] = {"host": self.nodes[0].host, "port": self.nodes[0].port} | _login(login)
        if self.kind == "cluster":
            if path not in ("", "0"):
                raise InvalidSetting("a cluster has database 0 alone: leave the number out of the url (REDIS_URL)")
            self.name = f"cluster://{listed}"
            return options
        service, _, db = path.partition("/")
        if not service or not (db or "0").isdecimal():
            raise _unreadable(self.kind)
        self.service = unquote(service)
        options["db"] = int(db or 0)
        self.name = f"sentinel://{listed}/{self.service}/{options['db']}"
        return options

    def __repr__(self) -> str:
        return f"Address({self.name})"

    def at(self, node: Node, **others: Any) -> "Address":
        """One server of this deployment, with the same login, database, timeouts and TLS unless `others` differ."""
        one = copy.copy(self)
        one.kind, one.nodes, one.service = "server", (), ""
        one.options = self.options | {"host": node.host, "port": node.port} | others
        one.name = f"{node}/{one.options.get('db', 0)}"
        return one

    def blocking(self) -> redis.connection.AbstractConnection:
        """A redis-py connection, not yet connected."""
        kinds: dict[str, Any] = {
            "redis": _Plain,
            "rediss": _Secure,
            "unix": redis.connection.UnixDomainSocketConnection,
        }
        connection: redis.connection.AbstractConnection = kinds[self.scheme](
            **self.options, retry=Retry(NoBackoff(), 0)
        )
        return connection

    def asynchronous(self) -> redis.asyncio.connection.AbstractConnection:
        """A redis.asyncio connection, not yet connected."""
        kinds: dict[str, Any] = {
            "redis": _AsyncPlain,
            "rediss": _AsyncSecure,
            "unix": redis.asyncio.connection.UnixDomainSocketConnection,
        }
        connection: redis.asyncio.connection.AbstractConnection = kinds[self.scheme](
            **self.options, retry=redis.asyncio.retry.Retry(NoBackoff(), 0)
        )
        return connection


def _unreadable(kind: Kind) -> InvalidSetting:
    return InvalidSetting(f"url cannot be read: {_FORMS[kind]} (REDIS_URL)")


def _node(place: str, kind: Kind) -> Node:
    host, _, port = place.rpartition(":") if place.rfind(":") > place.rfind("]") else (place, "", "")
    host = host.removeprefix("[").removesuffix("]")
    number = port or str(_PORTS[kind])
    if not host or any(c in host for c in " []\t\r\n") or not number.isdecimal() or not 0 < int(number) < 65536:
        raise _unreadable(kind)
    return Node(host, int(number))


def _login(login: str) -> dict[str, str]:
    user, _, password = login.partition(":")
    return {k: unquote(v) for k, v in (("username", user), ("password", password)) if v}


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


# --- redis-py's connections, with names looked up in time -------------------------------------------


class _Plain(redis.connection.Connection):
    """Looks its host up and connects within one timeout for both, where redis-py's has none for the name."""

    def _connect(self) -> socket.socket:
        seconds = float(self.socket_connect_timeout or 0.0)  # always set, to a moment at least
        limit = time.monotonic() + seconds
        error: OSError = OSError("the host name has no address")
        for place in lookups.places(self.host, self.port, seconds):
            opened = socket.socket(place.family, socket.SOCK_STREAM)
            try:
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in (self.socket_keepalive_options or {}).items():
                    opened.setsockopt(socket.IPPROTO_TCP, option, value)
                opened.settimeout(max(0.001, limit - time.monotonic()))
                opened.connect(place.address)
                opened.settimeout(self.socket_timeout)
                return opened
            except OSError as failure:
                opened.close()
                error = failure
            except BaseException:  # Ctrl-C: nobody will know of this socket
                opened.close()
                raise
        raise error


class _Secure(redis.connection.SSLConnection, _Plain):
    """The same with TLS, whose `_connect` wraps what the next class's returns; the name stays what is verified."""


class _InTime:
    """For both connections of redis.asyncio: each address of the name in turn."""

    _place = ""

    async def _connect(self) -> None:
        connection: Any = self
        error: OSError = OSError("the host name has no address")
        places = await lookups.places_async(connection.host, connection.port, connection.socket_connect_timeout)
        for place in places:
            self._place = place.address[0]
            try:
                await super()._connect()  # type: ignore[misc] # of the class beside this one
                return
            except OSError as failure:
                error = failure
        raise error

    def _connection_arguments(self) -> dict[str, Any]:
        """What asyncio is given: the address, and the name only to be verified."""
        given: dict[str, Any] = {**super()._connection_arguments()}  # type: ignore[misc] # as above
        if given.get("ssl"):
            given["server_hostname"] = given["host"]
        return given | {"host": self._place}


class _AsyncPlain(_InTime, redis.asyncio.connection.Connection):
    """redis.asyncio's, with the lookup above."""


class _AsyncSecure(_InTime, redis.asyncio.connection.SSLConnection):
    """The same with TLS."""
