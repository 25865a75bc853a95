"""What is under way to a store."""

from collections.abc import Sequence

import msgspec

from remanence.model import Batch
from remanence.stores.resolve import Resolution
from remanence.stores.rows import Lineage, Row


class Load(msgspec.Struct):
    """A batch that is sent, what it was made of, and its way once it is under way."""

    lineage: Lineage
    rows: list[Row]
    resolutions: Sequence[Resolution]
    """None where there are no patches among the rows."""
    batch: Batch
    started: float
    tick: int = -1
    """See `Knowledge.tick`."""
