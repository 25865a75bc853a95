"""What every index makes of what it is given: documents that can be stored, cut into pieces, and valid questions."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from remanence.errors import InvalidArgument
from remanence.search.query import pieces
from remanence.search.types import MODES, Document

AMENDABLE: Final = frozenset({"success", "importance", "trust", "expires", "uses"})
"""What of a document may change without its text."""


class Cut(NamedTuple):
    """Documents with the pieces of their texts."""

    documents: Sequence[Document]
    parts: Sequence[Sequence[str]]

    @property
    def texts(self) -> list[str]:
        """The pieces of all."""
        return [text for parts in self.parts for text in parts]


def cut(documents: Sequence[Document]) -> Cut:
    """Each document in pieces that are found by themselves."""
    parts = [
        pieces(document.text, "" if document.role else document.speaker, document.caption, document.date)
        for document in documents
    ]
    return Cut(documents, parts)


def checked(document: Document) -> Document:
    """The document, if it can be stored; text that UTF-8 cannot hold is replaced within the text alone."""
    try:
        found = msgspec.convert(msgspec.to_builtins(document), Document)
        msgspec.json.encode((found.id, found.kind, found.session, found.speaker, found.role, found.tags, found.agent))
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise InvalidArgument("a document has a field of a wrong type, or a name that UTF-8 cannot hold") from error
    if not found.id:
        raise InvalidArgument("a document needs an id")
    numbers = (found.importance, found.trust, found.created, found.expires or 0.0)
    if not np.all(np.isfinite(numbers)) or abs(found.position) >= 1 << 62 or abs(found.uses) >= 1 << 62:
        raise InvalidArgument("a document has a number that is not finite, or too large")
    return msgspec.structs.replace(found, text=clean(found.text), caption=clean(found.caption), date=clean(found.date))


def checked_changes(id: str, changes: Mapping[str, Any]) -> None:
    """Raises `InvalidArgument` for what of a document cannot be amended like this."""
    if not changes or not AMENDABLE.issuperset(changes):
        raise InvalidArgument(f"only {', '.join(sorted(AMENDABLE))} can be amended: put the document again")
    checked(msgspec.structs.replace(Document(id=id, text=""), **changes))


def checked_question(query: str, limit: int, mode: str) -> None:
    """Raises `InvalidArgument` for what is no question."""
    if mode not in MODES or not isinstance(limit, int) or limit < 1 or not isinstance(query, str):
        raise InvalidArgument(f"a query is text, its limit at least 1, its mode one of {', '.join(MODES)}")


def clean(text: str) -> str:
    """The text without halves of letters, which UTF-8 cannot hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def converted(value: Any, kind: Any) -> Any:
    """A filter or a favour as what it is. Raises `InvalidArgument`."""
    try:
        return msgspec.convert(msgspec.to_builtins(value), kind)
    except (msgspec.ValidationError, TypeError) as error:
        raise InvalidArgument(f"a {kind.__name__} has a field of a wrong type: {error}") from error
