"""What a store's answer to a write means for whoever made it. Pure."""

from typing import Final

from remanence.model import CONFLICT, DUPLICATE, FAULT, REFUSED, STALE, WRONG_KIND

APPLIED: Final = "applied"
UNKNOWN: Final = "unknown"
"""It is in the store, and only whoever sent it there in our name knows what became of it."""
DEAD: Final = "dead"
REJECTED: Final = "rejected"

_REASONS: Final = {
    CONFLICT: "the record had changed since it was read",
    STALE: "a newer write is stored",
    WRONG_KIND: "the key holds another type of value",
    FAULT: "the store could not carry it out",
    REFUSED: "its edit does not fit the record",
}


def fate(code: str, rejection: str) -> tuple[str, str]:
    """(what became of a write, why it has no effect).

    `rejection` is why its edit could not be applied, as far as this process knows. The first is
    `APPLIED`, `UNKNOWN`, or the kind of a write without effect: `DEAD`, `REJECTED`, CONFLICT or STALE.
    """
    if code in (WRONG_KIND, FAULT):
        return DEAD, _REASONS[code]
    if code in (CONFLICT, STALE):
        return code, _REASONS[code]
    if code == DUPLICATE:
        return UNKNOWN, ""
    if code == REFUSED or rejection:
        return REJECTED, rejection or _REASONS[REFUSED]
    return APPLIED, ""
