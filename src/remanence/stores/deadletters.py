"""Looking at what had no effect through an open gateway, and handing a dead letter in again."""

from collections.abc import Sequence

from remanence.errors import Closed, InvalidArgument, JournalFull, UsageError
from remanence.model import Receipt, Write
from remanence.protocols import Gateway
from remanence.stores.outcomes import newest
from remanence.stores.partitioned import parts_of
from remanence.stores.resilient import ResilientStore
from remanence.stores.rows import Outcome


def without_effect(gateway: Gateway, kinds: Sequence[str], limit: int) -> list[Outcome]:
    """The newest outcomes of these kinds in a gateway's journals, newest first; none where it has no journal.

    Raises `InvalidArgument` for a limit that is no whole number above zero, `Closed` after another thread's close.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidArgument("limit must be a whole number above zero")
    return newest([each for part in parts_of(gateway) for each in _of_part(part, kinds, limit)], limit)


def _of_part(part: ResilientStore, kinds: Sequence[str], limit: int) -> list[Outcome]:
    with part.mutex:
        if part.closed:
            raise Closed("this memory was closed: open a new one")
        journals = [part.journal, *(drain.journal for drain in part.adopted)]
        return [each for journal in journals for each in journal.outcomes(*kinds, limit=limit)]


async def hand_in(gateway: Gateway, write: Write) -> Receipt:
    """Hand a dead letter's write in as a new one, which lives as long as was asked for at first.

    Raises what `Gateway.write` raises; `certain` says after which errors the write was surely not taken.
    """
    return (await gateway.write([write], ack="auto"))[0]


def certain(error: BaseException) -> bool:
    """Whether a write that raised this was surely not taken: it may be handed in once more without a second thought."""
    # a full journal says so before it takes a write; a full disk may say so when the write has left already
    return isinstance(error, UsageError) or (isinstance(error, JournalFull) and error.__cause__ is None)
