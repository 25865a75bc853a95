"""Versions of a named value: what they are to the caller, and which one is meant. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec

from remanence.errors import CorruptRecord, InvalidArgument, Missing, Unavailable
from remanence.faces.values import value_of
from remanence.model import JSON, Kept, Reading, Record, Source
from remanence.stores.versions import before


class Version(msgspec.Struct, frozen=True):
    """What a name held from one write until the next.

    `id` is the id of that write (its receipt has it), `at` when it was made in seconds since the epoch, None for a
    value that something else put there. `deleted`: it was a delete, and there is no value. `problem`: why the value
    cannot be read, "" where it can. `source` is "local" where the server was away: then there may be others.
    """

    id: str
    value: JSON
    at: float | None
    deleted: bool = False
    problem: str = ""
    source: Source = "store"

    def __repr__(self) -> str:
        return f"Version(id={self.id!r}, at={self.at!r}, deleted={self.deleted!r})"  # logs must not tell values


def versions_of(key: str, readings: Sequence[Reading[Any]]) -> list[Version]:
    """The versions that answers to Fetch, and Versions where it was asked, tell of."""
    record: Record | None = readings[0].value
    found = [Kept(record.etag, record.hlc, record.body)] if record else []
    if len(readings) > 1:
        found += before(record.etag if record else None, readings[1].value)
    return [_version(key, kept, readings[0].source) for kept in found]


def _version(key: str, kept: Kept, source: Source) -> Version:
    at = kept.hlc / 1e6 if kept.hlc else None
    if kept.body is None:
        return Version(kept.etag, None, at, True, "", source)
    try:
        return Version(kept.etag, value_of(Record(key, kept.body, kept.etag, kept.hlc)), at, source=source)
    except CorruptRecord as error:  # to go back behind it, one must be able to look at the others
        return Version(kept.etag, None, at, False, str(error), source)


def chosen(key: str, found: Sequence[Version], version: "str | Version", history: int) -> Version:
    """The version that is meant. Raises as `State.rollback`; `history` is the setting."""
    wanted = version.id if isinstance(version, Version) else version
    if not isinstance(wanted, str):
        raise InvalidArgument(f"version must be a version's id or a Version, not {type(wanted).__name__}")
    for each in found:
        if each.id == wanted:
            if each.problem:
                raise CorruptRecord(each.problem)
            return each
    if any(each.source == "local" for each in found):
        raise Unavailable(f"the server is away; that version of {key} is not known here")
    if not history:
        raise Missing(f"only the present version of {key} is kept: set history (REMANENCE_HISTORY) above 0")
    raise Missing(f"there is no such version of {key} (any more): history() lists those there are")
