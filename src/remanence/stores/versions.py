"""Earlier versions of a record as a server keeps them. Pure.

One list per record, newest first: "v" and the stored document, or "d" and the stamp of a delete.
"""

from collections.abc import Iterable, Sequence

from remanence.model import Kept
from remanence.wire import codec


def read(entry: bytes) -> Kept | None:
    """A version as the server has it; None for an entry that others put there."""
    if entry[:1] == b"v":
        body, etag, hlc = codec.split(entry[1:])
        return Kept(etag, hlc, body)
    if entry[:1] == b"d" and len(entry) == 39 and entry[23:].isdigit():
        return Kept(entry[1:23].decode("ascii", "replace"), int(entry[23:]), None)
    return None


def once(versions: Iterable[Kept | None]) -> tuple[Kept, ...]:
    """Each version once, where it is newest: a write that was refused halfway may have left it twice."""
    found: dict[str, Kept] = {}
    for each in versions:
        if each is not None:
            found.setdefault(each.etag, each)
    return tuple(found.values())


def before(etag: str | None, versions: Sequence[Kept]) -> Sequence[Kept]:
    """Those that are earlier than the version `etag` (None: than whatever is there now).

    A server answers for the record and for its earlier versions one after the other: a write in between has
    put the record just told of among them, and itself on top.
    """
    place = next((i for i, each in enumerate(versions) if each.etag == etag), -1)
    return versions[place + 1 :]
