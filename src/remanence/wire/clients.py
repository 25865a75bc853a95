"""What a client that the user made says about its server, so that links of our own can be opened to it.

Nothing is sent over the client itself: its pool, its retries and its timeouts stay the user's.
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from remanence.errors import InvalidSetting

_NOT_OURS: Final = (
    ("credential_provider", "a provider of credentials"),
    ("ssl_ca_path", "a folder of certificates"),
    ("ssl_ca_data", "certificates given as text"),
    ("ssl_password", "a key with a password"),
)
"""What a client may have been given that a URL and the TLS settings cannot say."""


def options_of_client(client: Any) -> dict[str, str]:
    """The settings `url`, and `tls_ca`, `tls_cert`, `tls_key` where there are any, of a client's server.

    `client` is a `redis.Redis`, of `redis.asyncio` too, or another with such a connection pool. Its database,
    user name and password are taken over. Raises `InvalidSetting`, without naming them, for a client of
    Sentinel or of a cluster, and for one that logs in by a way that a URL cannot say.
    """
    pool = getattr(client, "connection_pool", None)
    known = getattr(pool, "connection_kwargs", None)
    if not isinstance(known, Mapping):
        raise InvalidSetting("redis_client must be a redis.Redis of one server: give storage_url instead")
    if "connection_pool" in known:
        raise InvalidSetting("redis_client asks Sentinel for its server: give storage_url instead")
    for name, meaning in _NOT_OURS:
        if known.get(name) is not None:
            raise InvalidSetting(f"redis_client uses {meaning} ({name}), which cannot be taken over: give storage_url")
    kind = getattr(pool, "connection_class", type(None))
    secure = any("SSL" in each.__name__ for each in kind.__mro__)
    return {"url": _url(known, secure), **(_tls(known) if secure else {})}


def _url(known: Mapping[str, Any], secure: bool) -> str:
    login, db = _login(known), int(known.get("db") or 0)
    if path := known.get("path"):
        return f"unix://{login}{quote(str(path))}?{urlencode({'db': db})}"
    host = str(known.get("host") or "localhost")
    place = f"[{host}]" if ":" in host else host
    return f"{'rediss' if secure else 'redis'}://{login}{place}:{int(known.get('port') or 6379)}/{db}"


def _login(known: Mapping[str, Any]) -> str:
    user, password = (_text(known.get(name)) for name in ("username", "password"))
    return f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


def _tls(known: Mapping[str, Any]) -> dict[str, str]:
    files = {"tls_ca": "ssl_ca_certs", "tls_cert": "ssl_certfile", "tls_key": "ssl_keyfile"}
    return {ours: str(known[theirs]) for ours, theirs in files.items() if known.get(theirs)}
