"""Keeping a catalogue like the sessions of its store: their messages, by places that never change while one lives."""

from typing import Final

from remanence.errors import CorruptRecord, WrongKind
from remanence.faces.agents.catalogue import Catalogue, Entry
from remanence.faces.agents.records import DIGITS, MESSAGE, message_id, seen_message, version_of
from remanence.protocols import Gateway, Length, Tail
from remanence.search.bodies import Body
from remanence.search.types import Document

AT_ONCE: Final = 200
"""Messages that are read and put in together."""


class Transcripts:
    """What the catalogue knows of sessions."""

    def __init__(self, gateway: Gateway, catalogue: Catalogue, prefix: str | None) -> None:
        """`prefix`: what the keys of sessions begin with, None where messages are not searched."""
        self._gateway = gateway
        self._catalogue = catalogue
        self.prefix = prefix

    def holds(self, key: str) -> bool:
        """Whether a key may be a session's."""
        return self.prefix is not None and key.startswith(self.prefix)

    async def follow(self, key: str) -> None:
        """Have the catalogue know the messages of a session: those that came, or none where it ended."""
        count, last = await self._catalogue.last(f"{key}#", DIGITS)
        length = await self._length(key)
        if count and (length < count or last != await self._version_at(key, count - 1)):
            known = await self._catalogue.etags(f"{key}#")
            mine = [id for id in known if id.rpartition("#")[0] == key]  # not of one whose id goes on with a #
            await self._catalogue.remove(mine)  # it ended, and another began
            count = 0
        while count < length:
            items = await self._items(key, count, min(length, count + AT_ONCE))
            if not items:
                return
            await self._catalogue.put([self._message(key, at, item) for at, item in enumerate(items, count)], {})
            count += len(items)

    async def _length(self, key: str) -> int:
        try:
            return int((await self._gateway.read([Length(key)], fresh=True))[0].value)
        except (CorruptRecord, WrongKind):  # it is no list, but another's
            return 0

    async def _items(self, key: str, start: int, stop: int) -> list[bytes]:
        found: list[bytes] = (await self._gateway.read([Tail(key, start, stop - 1)], fresh=True))[0].value
        return found

    async def _version_at(self, key: str, position: int) -> str:
        items = await self._items(key, position, position + 1)
        return version_of(items[0]) if items else ""

    def _message(self, key: str, position: int, item: bytes) -> Entry:
        id, version = message_id(key, position), version_of(item)
        try:
            seen = seen_message(id, item, self.prefix or "")
        except CorruptRecord:  # whoever reads the session tells of it; its place is kept, so that others stay right
            seen, item = Document(id=id, text="", kind=MESSAGE, position=position, session=key), b"{}"
        return Entry(Body(id, version, item), seen)
