"""What the change log says of how far a store followed a lineage."""

from contextlib import AbstractContextManager
from typing import Any

from msgspec.structs import replace

from remanence.model import Watermark
from remanence.protocols import Store
from remanence.stores.journal import Journal
from remanence.stores.rows import Lineage


async def recovered(
    store: Store,
    journal: Journal,
    lineage: Lineage,
    mark: Watermark,
    nonce: str,
    guard: AbstractContextManager[Any],
    deadline: float,
) -> Watermark:
    """The mark, put back where it alone is gone: a full server evicts what has a lifetime, and the log has none.

    Else all that is kept would be sent again, and appends and counts take effect twice.
    """
    for seq, op_id in await store.history(lineage.name, 1, deadline):
        with guard:
            ours = seq <= lineage.count and journal.op_id(lineage, seq) == op_id
        if ours and await store.forward(lineage.name, nonce, seq, op_id, deadline):
            return replace(mark, seq=seq, op_id=op_id)
    return mark
