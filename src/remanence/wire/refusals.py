"""What a server's refusals and a transport's errors mean: the one table from their words to our errors.

Told by the first word of a reply wherever there is one, for only that is the same on Redis and Valkey.
"""

import ssl

import redis.exceptions

from remanence.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    Misconfigured,
    RemanenceError,
    ServerFull,
    Unavailable,
    WorldError,
    WrongKind,
)


class Refusal(Exception):
    """An error reply, as the server worded it."""

    @property
    def word(self) -> str:
        """The reply's first word: the only part that is the same on Redis and Valkey."""
        return str(self).partition(" ")[0]


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

UNREADABLE = frozenset({"LOADING", "MASTERDOWN", "NOAUTH", "WRONGPASS", "DENIED", "MOVED", "CLUSTERDOWN"})
"""Error replies of a server that would refuse to be read from as well."""

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
        error.answered = refusal.word not in UNREADABLE
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


def translated(error: Exception, connecting: str = "") -> Exception:
    """The error of ours that a transport error means; `connecting` is the address for people."""
    where = f" at {connecting}" if connecting else ""
    if isinstance(error, RemanenceError):
        return error
    if isinstance(error, TimeoutError | BlockingIOError | redis.exceptions.TimeoutError):
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
