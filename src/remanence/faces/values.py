"""What a record of shared state holds, decoded, and when two values are the same."""

from typing import Final

from remanence.model import JSON, Record
from remanence.wire import codec


class _Missing:
    """The type of MISSING."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
"""Stands for "no value is stored" in `compare_and_set`, where None is a value like any other."""


def value_of(record: Record) -> JSON:
    """What a record holds, decoded."""
    document = codec.decode(record.body, record.key)
    return document["value"] if codec.is_state(document) else document  # written by others without the envelope


def same(record: Record | None, expected: JSON) -> bool:
    """Whether a record holds `expected`; `MISSING` stands for no record."""
    if record is None or expected is MISSING:
        return record is None and expected is MISSING
    return equal(value_of(record), expected)


def equal(one: JSON, other: JSON) -> bool:
    """Whether two values are the same as JSON: true and 1 differ, 1 and 1.0 do not."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)
