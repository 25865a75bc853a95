"""The right to be the only one: a record that is made where there is none, and has a lifetime."""

from typing import Final

from remanence.errors import InvalidArgument
from remanence.faces.access import ttl_ms
from remanence.model import ABSENT, Delete, Put, Write
from remanence.protocols import Gateway

_BODY: Final = b'{"held":true}'


class Lease:
    """One right, at one key. It ends by itself `seconds` after it was had or renewed, also when its holder died.

    Tokens are the stamps of the record. Only the store decides, so each method raises `Unavailable` while it is away.
    """

    def __init__(self, gateway: Gateway, key: str) -> None:
        self._gateway = gateway
        self._key = key

    async def take(self, seconds: float) -> str | None:
        """The token, None while somebody has the right."""
        return await self._written(Put(self._key, _BODY, ttl_ms(seconds, "seconds"), ABSENT))

    async def renew(self, token: str, seconds: float) -> str | None:
        """A new token, None where the right was lost."""
        return await self._written(Put(self._key, _BODY, ttl_ms(seconds, "seconds"), _checked(token)))

    async def release(self, token: str) -> None:
        """Give it back, if it was not lost."""
        await self._written(Delete(self._key, _checked(token)))

    async def _written(self, write: Write) -> str | None:
        (receipt,) = await self._gateway.write([write], ack="store")
        return None if receipt.state == "rejected" else receipt.op_id


def _checked(token: str) -> str:
    if not token or token == ABSENT:
        raise InvalidArgument("a token is what `take` or `renew` gave")
    return token
