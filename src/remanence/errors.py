"""All the ways it can fail, in three families: the caller's, the data's, the world's.

Each class is also the standard (or redis-py) exception that a caller of the systems this library
replaces would catch, so that `except ValueError` and `except redis.ConnectionError` keep working.
No message holds a secret or a stored value.
"""

import redis.exceptions


class RemanenceError(Exception):
    """Everything this library raises on purpose."""


# --- the caller's -------------------------------------------------------------------------------


class UsageError(RemanenceError):
    """The call cannot be carried out as it was made. Never retried; nothing was stored."""


class InvalidKey(UsageError, ValueError):
    """A name or an id that cannot be part of a key: wrong type, empty, too long, not encodable."""


class InvalidValue(UsageError, TypeError):
    """A value that JSON cannot hold exactly. The message names the path, never the value."""


class ValueTooLarge(UsageError, ValueError):
    """A value, a message or a batch past its limit in bytes or depth."""


class InvalidTTL(UsageError, ValueError):
    """A lifetime that is not a positive number of seconds, a timedelta, or None for never."""


class InvalidSetting(UsageError, ValueError):
    """A setting of the wrong type or out of range, or an unknown one."""


class InvalidArgument(UsageError, ValueError):
    """An argument out of range: a limit below one, a role that is not allowed, an empty query."""


class Closed(UsageError, RuntimeError):
    """The memory was closed. Open a new one."""


# --- the data's ---------------------------------------------------------------------------------


class DataError(RemanenceError):
    """What is stored cannot be used. It is never read as missing and never overwritten silently."""


class CorruptRecord(DataError, ValueError):
    """The stored bytes are of no known format, are cut short, or grow past the size limit."""


class WrongKind(DataError, TypeError):
    """The key holds another Redis type than the one asked for, such as a list for a string."""


class Missing(DataError, KeyError):
    """There is no record where the call needs one."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # KeyError would show the message's repr


# --- the world's --------------------------------------------------------------------------------


class WorldError(RemanenceError):
    """Something outside failed.

    `retryable`: the same call may succeed later. `answered`: the server is there and may answer reads,
    it only refuses this for now.
    """

    retryable = True
    answered = False


class Unavailable(WorldError, redis.exceptions.ConnectionError):
    """The server cannot be reached, or is not serving now, and the answer is not known locally."""


class DeadlineExceeded(Unavailable, redis.exceptions.TimeoutError):
    """The server took longer than the deadline. A journalled write stays journalled."""


class PoolExhausted(DeadlineExceeded):
    """Every connection was in use up to the deadline; the server itself may be well."""


class Misconfigured(WorldError, redis.exceptions.ConnectionError):
    """The server refuses us until somebody changes a setting: password, permissions, TLS, version."""

    retryable = False


class AuthenticationFailed(Misconfigured, redis.exceptions.AuthenticationError):
    """Wrong or missing user name or password."""


class ServerFull(Unavailable, redis.exceptions.OutOfMemoryError):
    """The server is out of memory or disk. What is journalled waits for room."""


class JournalFull(WorldError):
    """The local journal reached its limit or the disk is full. The write was not taken."""

    answered = True  # it says nothing about the server


class JournalUnusable(WorldError):
    """The journal's folder cannot be used: read-only, missing, or on a network file system."""

    retryable = False


class Conflict(WorldError):
    """The record changed meanwhile in a way that this write cannot be merged with."""

    retryable = False


class Rejected(WorldError):
    """The server took the write's place in the order but refused its effect; `reason` says why."""

    retryable = False

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class UnavailableAttribute(Unavailable, AttributeError):
    """An attribute whose value is not known here while the server is away.

    It is an AttributeError too, so that `hasattr` and `getattr(m, name, default)` keep their meaning.
    """
