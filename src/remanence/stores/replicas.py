"""Waiting for a server's replicas, for who asked for it (`ack="replicated"`)."""

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from remanence.errors import WorldError
from remanence.model import Receipt

if TYPE_CHECKING:
    from remanence.stores.resilient import ResilientStore

SLACK: Final = 0.05
"""Seconds that an answer may be late which the server was asked to give in time."""


async def replicated(owner: "ResilientStore", first: int, receipts: list[Receipt], limit: float) -> list[Receipt]:
    """The receipts of the rows from `first` on: of applied writes as replicated, where enough replicas have them.

    What the replicas confirm is the server that answers now: one that was promoted without these writes has
    followed our lineage less far, and nothing is said of them.
    """
    lineage, wanted = owner.journal.lineage_of(first), owner.settings.replicas
    left = limit - owner.runtime.monotonic()
    try:
        reached, count = await owner.store.replicated(lineage.name, wanted, left, limit + SLACK)
    except WorldError:  # they are applied, which is all that is known
        return receipts
    if count < wanted or reached.seq < first + len(receipts) - lineage.first:
        return receipts
    return [replace(each, state="replicated") if each.state == "applied" else each for each in receipts]
