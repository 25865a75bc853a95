"""Having the catalogue know memories as their store has them now.

A version is put over the one that was there before the store was read, and over no other: who writes puts in what it
wrote at the same time. What was changed meanwhile is read again.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from remanence import events
from remanence.errors import CorruptRecord, RemanenceError, WrongKind
from remanence.faces.agents.catalogue import Catalogue, Entry, entry_of
from remanence.faces.agents.changes import Told, change_of, deletion_of
from remanence.faces.agents.records import version_of
from remanence.model import Reading
from remanence.protocols import Ask, Fetch, Gateway

EMPTY: Final[Mapping[str, str]] = {}
AT_ONCE: Final = 100
"""Memories that are read and put in together: what one trip carries, and a moment's embedding."""


class Refresher:
    """Between a store and a catalogue."""

    def __init__(self, gateway: Gateway, catalogue: Catalogue, tell: Callable[[events.Event], None]) -> None:
        """Reads nothing yet."""
        self._gateway = gateway
        self._catalogue = catalogue
        self._tell = tell

    async def refresh(self, keys: Sequence[str]) -> None:
        """Look at these in the store. What cannot be read now is told: the change log brings it later."""
        try:
            await self._records(keys)
        except RemanenceError as error:
            self._tell(events.IndexFailed(str(error)))

    async def _records(self, keys: Sequence[str], ops: Mapping[str, str] = EMPTY) -> dict[str, Told]:
        """Have the catalogue know these memories as they are now; what was done to each.

        `ops`: the last operation of each, so that the store is not asked for what the catalogue has.
        """
        told: dict[str, Told] = {}
        for start in range(0, len(keys), AT_ONCE):
            left = keys[start : start + AT_ONCE]
            while left:
                left = await self._looked(left, ops, told)
        return told

    async def _looked(self, keys: Sequence[str], ops: Mapping[str, str], told: dict[str, Told]) -> list[str]:
        """Look at them once, and note what was done to them; those that were changed in the catalogue meanwhile."""
        before = await self._catalogue.bodies(keys)
        known = {key: each for key, each in before.items() if each.etag == ops.get(key)}
        asked = [key for key in keys if key not in known]
        records = dict(zip(asked, await self._asked([Fetch(key) for key in asked]), strict=True)) if asked else {}
        entries, gone = [], []
        for key in keys:
            entry = self._entry(key, known.get(key) or records[key])
            if entry is None:
                gone.append(key)
            elif key not in before or before[key].etag != entry.body.etag:
                entries.append(entry)
            if entry is not None and (change := change_of(key, entry.body.body, known=key in before)):
                told[key] = change
        told |= {key: deletion_of(key, before[key].body) for key in gone if key in before}
        over = {key: each.etag for key, each in before.items()}
        return [*await self._catalogue.put(entries, over), *await self._catalogue.remove(gone, over)]

    def _entry(self, key: str, record: Any) -> Entry | None:
        if record is None:
            return None
        try:
            return entry_of(key, record.body, record.etag or version_of(record.body))
        except CorruptRecord as error:
            self._tell(events.RecordSkipped(key, 0, str(error)))
            return None

    async def _asked(self, asks: Sequence[Ask]) -> list[Any]:
        """What the store answers; None for what cannot be read, which is told."""
        try:
            return [each.value for each in await self._gateway.read(asks, fresh=True)]
        except (CorruptRecord, WrongKind):
            return [await self._asked_alone(each) for each in asks]

    async def _asked_alone(self, ask: Ask) -> Any:
        try:
            found: list[Reading[Any]] = await self._gateway.read([ask], fresh=True)
            return found[0].value
        except (CorruptRecord, WrongKind) as error:
            self._tell(events.RecordSkipped(ask.key, 0, str(error)))
            return None


__all__ = ["Refresher"]
