"""Documents by age rather than by a question, a page at a time. Pages stay right while others add and remove."""

import numpy as np

from remanence.errors import InvalidArgument
from remanence.search.columns import Columns
from remanence.search.types import EVERYTHING, Filter

Page = tuple[float, str]
"""When the last of a page was created, and its id."""


def page_of(after: str) -> Page | None:
    """What a page's end, as `listed` spells it, means. Raises `InvalidArgument`."""
    if after == "":
        return None
    try:
        created, _, id = after.partition(" ")
        return float.fromhex(created), id
    except (AttributeError, ValueError, OverflowError):
        raise InvalidArgument("after must be what an earlier page of the same list gave") from None


def listed(columns: Columns, only: Filter, limit: int, place: Page | None, now: float) -> tuple[list[str], str]:
    """Ids of what `only` admits, newest first, and of one moment by their ids; and where to go on."""
    created = columns.fact("created")
    wanted = columns.admitted(only, now)
    if place is not None:
        wanted &= created <= place[0]
    slots = np.flatnonzero(wanted)
    beginning = columns.ids
    if place is not None:
        same = slots[created[slots] == place[0]]
        told = [slot for slot in same.tolist() if beginning[slot] >= place[1]]
        slots = np.setdiff1d(slots, np.array(told, dtype=slots.dtype), assume_unique=True)
    if len(slots) > limit:  # all of the moment at which the page ends: which of them, the ids decide
        oldest = np.partition(created[slots], len(slots) - limit)[len(slots) - limit]
        slots = slots[created[slots] >= oldest]
        more = True
    else:
        more = False
    found = sorted(((float(created[slot]), beginning[slot]) for slot in slots.tolist()), reverse=True)[:limit]
    return [id for _, id in found], f"{found[-1][0].hex()} {found[-1][1]}" if more else ""


def counted(columns: Columns, now: float) -> dict[str, int]:
    """How many documents of each kind live."""
    kinds, counts = np.unique(columns.fact("kind")[columns.admitted(EVERYTHING, now)], return_counts=True)
    return {columns.kinds.text(kind): count for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True)}
