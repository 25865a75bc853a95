"""What every face does with its gateway: lifetimes checked, receipts read, deadlines passed on."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from remanence.errors import Conflict, InvalidTTL, Rejected, WrongKind
from remanence.faces.watching import Named, Watcher
from remanence.model import CONFLICT, NEVER, WRONG_KIND, Erased, Reading, Receipt, Wanted, Write
from remanence.protocols import Ask, Gateway
from remanence.settings import Settings

MOST_TTL = 10 * 365 * 86400
"""Ten years in seconds: what a server can add to its clock without overflowing, and a guard against
milliseconds passed as seconds."""


def ttl_ms(ttl: float | timedelta | None, meaning: str = "ttl") -> int:
    """A lifetime as milliseconds; None is for ever. Raises `InvalidTTL` for anything but a positive number."""
    if ttl is None:
        return NEVER
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds != seconds:  # NaN is no number
        raise InvalidTTL(f"{meaning} must be a number of seconds, a timedelta, or None for never")
    if not 0.001 <= seconds <= MOST_TTL:
        raise InvalidTTL(f"{meaning} must be a positive number of seconds up to ten years, or None for never")
    return max(1, int(seconds * 1000))


class Face:
    """A public way of remembering, over the gateway that `opener` gives for each call."""

    def __init__(self, opener: Callable[[], Gateway], settings: Settings) -> None:
        self._opener = opener
        self._settings = settings

    async def _write(self, *writes: Write) -> list[Receipt]:
        """Hand writes in; raises what a refused one means."""
        receipts = await self._opener().write(writes)
        for receipt in receipts:
            if receipt.state == "rejected":
                raise refusal(writes[receipts.index(receipt)], receipt)
        return receipts

    async def _tell(self, *asks: Ask, fresh: bool = False) -> list[Reading[Any]]:
        return await self._opener().read(asks, fresh=fresh)

    async def _forget(self, key: str, *, beginning: bool = False) -> Erased:
        return await self._opener().forget(key, beginning=beginning)

    def _watch(self, wanted: Wanted, named: Named, since: str | None, timeout: float | None) -> Watcher:
        gateway = self._opener()
        return Watcher(gateway.watch(wanted, since), named, timeout, gateway.runtime, self._settings.deadline)

    async def _scan(self, prefix: str, cursor: str = "") -> tuple[list[str], str]:
        return await self._opener().scan(prefix, cursor)


def refusal(write: Write, receipt: Receipt) -> Exception:
    """The error that a rejected receipt means to the caller."""
    if receipt.reason == CONFLICT:
        return Conflict(f"{write.key} changed since it was read: read it again and decide anew")
    if receipt.reason == WRONG_KIND or "another type" in receipt.reason:
        return WrongKind(f"{write.key} holds another type of value than this write needs; nothing was changed")
    return Rejected(f"the write to {write.key} had no effect: {receipt.reason}", receipt.reason)
