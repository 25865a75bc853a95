"""The values that conversation memory takes and gives, and the contract of what keeps it.

Names and fields are those that agents of the `arshai` package know. Their own objects are accepted
wherever ours are: what counts is the attributes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, Final, Protocol, Self, runtime_checkable

from remanence.errors import CorruptRecord, InvalidArgument, InvalidValue
from remanence.model import Record
from remanence.wire import codec

INITIAL: Final = """\
### USER CONTEXT:
Nothing is known about the user yet: no profile, no preferences, no requirements.

### CONVERSATION FLOW:
The conversation is about to begin. There is nothing to look back on.

### CURRENT FOCUS:
The first message, which will say what the conversation is about.

### INTERACTION TONE:
Friendly and matter-of-fact until the user's own style shows."""
"""What an assistant has in mind before the first message."""


class ConversationMemoryType(StrEnum):
    """What a memory is for. `str()` gives the word in its key."""

    SHORT_TERM_MEMORY = "SHORT_TERM_MEMORY"
    LONG_TERM_MEMORY = "LONG_TERM_MEMORY"
    WORKING_MEMORY = "WORKING_MEMORY"


@dataclass(slots=True)
class IWorkingMemory:
    """What an assistant keeps in mind during a conversation: one text, in sections if you like."""

    working_memory: str

    @classmethod
    def initialize_memory(cls) -> Self:
        """The memory of a conversation that has not begun, in four sections."""
        return cls(INITIAL)

    def to_dict(self) -> dict[str, str]:
        """As it is stored."""
        return {"working_memory": self.working_memory}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What `to_dict` gave. Raises `InvalidArgument` where `working_memory` is missing."""
        if not isinstance(data, Mapping) or "working_memory" not in data:
            raise InvalidArgument("a working memory is made from a dict with the member 'working_memory'")
        return cls(data["working_memory"])


@dataclass(slots=True)
class IMemoryInput:
    """Which memory is meant, and what to do with it. Nothing is checked before it is used.

    `data`: what to store or update. `query`: text that memories must contain, in any case. `memory_id`:
    the key that `store` returned, or `{key}#{n}` for one item, counted from 0. `limit`: most items to
    retrieve, None for all. `filters`: metadata members that must be equal. `metadata`: what is stored
    beside the memory.
    """

    conversation_id: str
    memory_type: ConversationMemoryType | str = ConversationMemoryType.SHORT_TERM_MEMORY
    data: list[IWorkingMemory] | None = None
    query: str | None = None
    memory_id: str | None = None
    limit: int | None = 5
    filters: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None


class OfConversation(Protocol):
    """Anything with the attributes of `IMemoryInput`; those it lacks have their defaults."""

    @property
    def conversation_id(self) -> str:
        """Which conversation."""


Asked = OfConversation | Mapping[str, Any]
"""What the verbs take: an `IMemoryInput`, an object like it, or a dict of its fields.

A dict may hold the text itself as `working_memory` in place of `data`.
"""


@runtime_checkable
class IMemoryManager(Protocol):
    """What keeps the memory of conversations."""

    def store(self, input: IMemoryInput) -> str:
        """Keep `input.data`, replacing what was there, and return its key."""

    def retrieve(self, input: IMemoryInput) -> list[IWorkingMemory]:
        """The memories that match; none where there are none."""

    def update(self, input: IMemoryInput) -> None:
        """Replace the data of a memory that is there."""

    def delete(self, input: IMemoryInput) -> None:
        """Remove a memory, if it is there."""


# --- reading what callers hand in -----------------------------------------------------------------

_FIELDS: Final = tuple(field.name for field in fields(IMemoryInput))


def understood(asked: Asked) -> IMemoryInput:
    """What a caller handed in, as an `IMemoryInput` whose memory type is one of the three.

    Who does not say which type it is means WORKING_MEMORY: that is what agents send. Raises
    `InvalidArgument`; values of the other fields are looked at by whoever uses them.
    """
    if isinstance(asked, Mapping):
        found = _of_mapping(asked)
    elif hasattr(asked, "conversation_id"):
        given = {name: getattr(asked, name) for name in _FIELDS if hasattr(asked, name)}
        found = IMemoryInput(**{"memory_type": None, **given})
    else:
        raise InvalidArgument("give an IMemoryInput, an object with its attributes, or a dict of its fields")
    return replace(found, memory_type=kind_of(found.memory_type))


def _of_mapping(asked: Mapping[str, Any]) -> IMemoryInput:
    given = dict(asked)
    if unknown := [name for name in given if name not in (*_FIELDS, "working_memory")]:
        raise InvalidArgument(f"unknown field {unknown[0]!r}: one of {', '.join(_FIELDS)}, working_memory")
    if "conversation_id" not in given:
        raise InvalidArgument("the dict has no conversation_id")
    text = given.pop("working_memory", None)
    if text is not None:
        if given.get("data") is not None:
            raise InvalidArgument("give either data or working_memory, not both")
        given["data"] = [IWorkingMemory(text)]
    return IMemoryInput(**{"memory_type": None, **given})


def kind_of(memory_type: object) -> ConversationMemoryType:
    """The type that a word, or another library's enum, names; None is WORKING_MEMORY.

    Raises `InvalidArgument`.
    """
    if memory_type is None:
        return ConversationMemoryType.WORKING_MEMORY
    if isinstance(memory_type, str):  # as is every other library's enum of these words
        word = str.__str__(memory_type)
        if word in ConversationMemoryType.__members__:
            return ConversationMemoryType(word)
    raise InvalidArgument(f"memory_type must be one of {', '.join(ConversationMemoryType)}")


def texts(data: object, purpose: str) -> list[str]:
    """The texts in `data`. Raises `InvalidArgument` where there are none, `InvalidValue` for other items."""
    if data is None or (isinstance(data, list | tuple) and not data):
        raise InvalidArgument(f"no data to {purpose}: put at least one IWorkingMemory into data")
    if not isinstance(data, list | tuple):
        raise InvalidArgument(f"data must be a list of IWorkingMemory, not {type(data).__name__}")
    return [_text(item, f"data[{place}]") for place, item in enumerate(data)]


def _text(item: object, place: str) -> str:
    missing = object()
    if isinstance(item, Mapping):
        text = item.get("working_memory", missing)
    else:
        text = getattr(item, "working_memory", missing)
    if text is missing:
        raise InvalidValue(f"{place} must be an IWorkingMemory, not {type(item).__name__}")
    if not isinstance(text, str):
        raise InvalidValue(f"{place}.working_memory must be text, not {type(text).__name__}")
    return text


def matches(metadata: Mapping[str, Any], filters: object) -> bool:
    """Whether each member of `filters` equals the one in `metadata`. Raises `InvalidArgument`."""
    if filters is None:
        return True
    if not isinstance(filters, Mapping):
        raise InvalidArgument(f"filters must be a dict of metadata members, not {type(filters).__name__}")
    return all(name in metadata and _same(metadata[name], wanted) for name, wanted in filters.items())


def _same(one: Any, other: Any) -> bool:
    """Equality of JSON, where true is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def containing(found: list[str], query: object) -> list[str]:
    """The texts that contain `query` in any case. Raises `InvalidArgument` for an empty one."""
    if query is None:
        return found
    if not isinstance(query, str) or not query:
        raise InvalidArgument("query must be text that is not empty, or None for all")
    wanted = query.casefold()
    return [text for text in found if wanted in text.casefold()]


def limited(found: list[str], limit: object) -> list[str]:
    """The first `limit` texts. Raises `InvalidArgument` below one."""
    if limit is None:
        return found
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidArgument("limit must be a whole number from 1, or None for all")
    return found[:limit]


# --- the stored document --------------------------------------------------------------------------


def shaped(words: Sequence[str]) -> Any:
    """One item as others store and read it; several as a list of such."""
    items = [{"working_memory": text} for text in words]
    return items[0] if len(items) == 1 else items


def parsed(record: Record) -> tuple[dict[str, Any], list[str]]:
    """The stored document, with a dict as `metadata`, and the texts in its `data`. Raises `CorruptRecord`."""
    document = codec.decode(record.body, record.key)
    if not isinstance(document, dict):
        raise corrupt(record.key)
    if document.get("metadata") is None:
        document["metadata"] = {}
    data = document.get("data")
    items = data if isinstance(data, list) else [data]
    members = [item.get("working_memory") for item in items if isinstance(item, dict)]
    found = [text for text in members if isinstance(text, str)]
    if len(found) < len(items) or not isinstance(document["metadata"], dict):
        raise corrupt(record.key)
    return document, found


def corrupt(key: str) -> CorruptRecord:
    """What is at `key` cannot be read as a memory."""
    return CorruptRecord(f"{key!r} holds no conversation memory: repair or delete it")
