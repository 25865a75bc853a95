"""How the Redis store spells ops for its script, and what the replies of the server mean."""

from typing import Any

from remanence.errors import RemanenceError, WrongKind
from remanence.model import (
    Append,
    Batch,
    Delete,
    Op,
    Outcome,
    Put,
    Record,
    Touch,
)
from remanence.protocols import Ask, Fetch, Told, Versions
from remanence.stores.versions import once, read
from remanence.wire import codec
from remanence.wire.refusals import Refusal, refused


def fields_of(op: Op) -> tuple[str | bytes, ...]:
    """An op as the script's arguments."""
    write = op.write
    start, flags = f"{op.op_id}{op.hlc:016d}", op.live + 2 * op.merge + 4 * op.folded
    match write:
        case Put():
            return (f"{start}p{flags}1", write.base or "", str(write.ttl), write.body)
        case Append():
            return (f"{start}a{flags}{len(write.items)}", "", str(write.ttl), *write.items)
        case Delete():
            return (f"{start}d{flags}0", write.base or "", "0")
        case Touch():
            return (f"{start}t{flags}0", "", str(write.ttl))
        case _:
            return (f"{start}b{flags}0", write.base or "", "0")


def outcome_of(batch: Batch, reply: Any) -> Outcome:
    """The script's reply."""
    status, seq, highest, results = reply[:4]
    moved = status == b"moved"
    if status not in (b"ok", b"moved"):
        return Outcome("fenced" if status == b"fenced" else "gap", int(seq))
    count = int(seq) - batch.first + 1 if moved else len(batch.ops)
    current = reply[4] if moved and len(reply) > 4 else None
    return Outcome("ok", int(seq), int(highest), results_of(results, count), moved, current)


def results_of(joined: bytes, count: int) -> tuple[str, ...]:
    """The script's results: "" stands for all ok."""
    return tuple(joined.decode().split(",")) if joined else ("ok",) * count


def checked(reply: Any) -> Any:
    """A reply that is no refusal; raises what a refusal means."""
    if isinstance(reply, Refusal):
        raise refused(reply)
    return reply


def executed(replies: list[Any]) -> list[Any]:
    """What EXEC brought, or the refusal that kept it from running."""
    for reply in replies[:-1]:
        checked(reply)
    executed: list[Any] = checked(replies[-1])
    return executed


def text_of(entry: Any) -> str:
    """What an entry of the log says, "" for one that is not ours."""
    fields = entry[1]
    return fields[1].decode("utf-8", "surrogateescape") if len(fields) == 2 and fields[0] == b"c" else ""


def op_of(entry: Any) -> str:
    """The operation that an entry of the log tells of, "" for one that is not ours."""
    return text_of(entry).partition(" ")[0]


def answer(ask: Ask, reply: Any) -> Told:
    """A reply as the ask's answer; a key of another type is that answer's error alone."""
    if isinstance(reply, Refusal):
        error: RemanenceError = refused(reply, ask.key)
        if isinstance(error, WrongKind):
            return error
        raise error
    if isinstance(ask, Fetch):
        if reply is None:
            return None
        body, etag, hlc = codec.split(reply)
        return Record(ask.key, body, etag, hlc)
    if isinstance(ask, Versions):
        return once(map(read, reply))
    told: list[bytes] | int = reply
    return told
