"""The user's own merge of two values of one name, as the stores want it: over bodies, by key."""

import inspect
from collections.abc import Awaitable, Callable

from remanence.faces.values import MISSING, equal, value_of
from remanence.model import JSON, Record

Merge = Callable[[str, JSON, JSON], JSON | Awaitable[JSON]]
"""Given a name, the value that lost and the one that won, what to store: see `State` and `Memory.on_conflict`."""


class ByName:
    """A `Merger` of the names of one memory."""

    def __init__(
        self, function: Merge, name_of: Callable[[str], str | None], body_of: Callable[[str, JSON], bytes]
    ) -> None:
        """`name_of` tells the name behind a key, None for a key of others; `body_of` makes a name's value a body."""
        self._function = function
        self._name_of = name_of
        self._body_of = body_of

    def claims(self, key: str) -> bool:
        """See `Merger`."""
        return self._name_of(key) is not None

    async def merged(self, key: str, lost: bytes | None, won: bytes | None) -> bytes | None:
        """See `Merger`. The function gets copies of its own: it may change and return them."""
        name = self._name_of(key)
        assert name is not None, "claimed"
        told = self._function(name, _value(key, lost), _value(key, won))
        if inspect.isawaitable(told):
            told = await told
        if told is MISSING:
            return None
        if won is not None and equal(told, _value(key, won)):
            return won
        return self._body_of(name, told)


def _value(key: str, body: bytes | None) -> JSON:
    return MISSING if body is None else value_of(Record(key, body, ""))
