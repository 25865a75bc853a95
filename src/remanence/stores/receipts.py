"""Forgetting on demand, and the receipt of it: which journals have let go of what was erased."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from remanence.errors import InvalidArgument, JournalFull
from remanence.model import Erased, Erasure, Forget, Seen
from remanence.protocols import Store
from remanence.stores.erasing import FORGET_SECONDS
from remanence.wire.keys import final

if TYPE_CHECKING:
    from remanence.stores.resilient import ResilientStore


async def forget(owner: "ResilientStore", key: str, beginning: bool, deadline: float | None) -> Erased:
    """See `Gateway.forget`. Raises `InvalidArgument` where what is not ours would go as well."""
    check_named(key, beginning)
    if not key and not owner.settings.namespace:
        raise InvalidArgument(
            "the default namespace shares its database with keys of other programs, so it cannot be forgotten "
            'as a whole: forget what begins like something, "memory:" or "session:"'
        )
    wait = FORGET_SECONDS if deadline is None else deadline
    limit = owner.runtime.monotonic() + wait
    [told] = await owner.write([Forget(key, beginning)], deadline=wait)
    if told.state == "rejected":
        raise JournalFull(f"nothing was forgotten: {told.reason}")
    if told.state != "journalled":
        return await receipt(owner, told.op_id, limit)
    with owner.mutex:
        owner.drain.erasing.ahead(Erasure(told.op_id, 0, key, beginning))
    return Erased(told.op_id, "journalled")


def check_named(key: str, beginning: bool) -> None:
    """Raise `InvalidKey` for what no key can be, or begin like."""
    if key or not beginning or not isinstance(key, str):
        final(key, "the key to forget")


async def receipt(owner: "ResilientStore", op_id: str, limit: float) -> Erased:
    """How far an erasure of this or another process has come. Raises `InvalidArgument` for one that nobody knows."""
    with owner.mutex:
        found = owner.journal.database.run("SELECT n FROM rows WHERE op_id = ?", (op_id,))
        if found and owner.journal.is_pending(found[0][0]):
            return Erased(op_id, "journalled")
    return await looked_up(owner.store, op_id, limit)


async def looked_up(store: Store, op_id: str, deadline: float) -> Erased:
    """How far an erasure has come that the store knows."""
    erasures, _ = await store.erasures("", Seen(), deadline)
    number = next((n for n, each in enumerate(erasures, 1) if each.op_id == op_id), 0)
    if not number:
        raise unknown()
    return judged(op_id, number, erasures, await store.holders(deadline))


def judged(op_id: str, number: int, erasures: Sequence[Erasure], holders: Mapping[str, Seen]) -> Erased:
    """The receipt of erasure `number`, by how far each journal has come."""
    done = {
        holder: seen.number >= number and erasures[seen.number - 1].op_id == seen.op_id
        for holder, seen in holders.items()
        if seen.number <= len(erasures)
    }
    confirmed = sorted(holder for holder in holders if done.get(holder))
    return Erased(op_id, "erased", tuple(confirmed), tuple(sorted(holders.keys() - set(confirmed))))


def together(told: Sequence[Erased]) -> Erased:
    """One receipt of those of several partitions."""
    if len(told) == 1:
        return told[0]
    state: Literal["erased", "journalled"] = "erased" if all(each.state == "erased" for each in told) else "journalled"
    confirmed = [holder for each in told for holder in each.confirmed]
    waiting = [holder for each in told for holder in each.waiting]
    return Erased(",".join(each.id for each in told), state, tuple(confirmed), tuple(waiting))


def unknown() -> InvalidArgument:
    """What to say of an id that nothing is known of."""
    return InvalidArgument("no erasure of this id is known here: take the id from the receipt of `forget`")
