"""A memory as it is stored: under which key, in which bytes, and what an index is told of it.

A memory's document is a flag byte and msgpack (`wire.codec.pack`), at `memory:{type}:{memory_id}`. A skill's id is
made of its name, so that agents who save the same skill at once save one. Working steps are a list at
`agent:{agent_id}:working:{session_id}`, a session's own record is at `agent:session:{session_id}`.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from remanence.errors import CorruptRecord, InvalidArgument, InvalidValue
from remanence.faces.agents.types import (
    AgentMemory,
    EpisodicMemory,
    MemoryType,
    SemanticMemory,
    SessionMessage,
    SkillMemory,
    WorkingMemoryStep,
)
from remanence.search.types import Document
from remanence.settings import Settings
from remanence.wire import codec
from remanence.wire.checks import check
from remanence.wire.keys import component, final

CLASSES: Final[Mapping[str, type[AgentMemory]]] = {
    "episodic": EpisodicMemory,
    "semantic": SemanticMemory,
    "skill": SkillMemory,
}
PREFIXES: Final = {kind: f"memory:{kind}:" for kind in CLASSES}
_DECODERS: Final[dict[str, Any]] = {
    kind: msgspec.msgpack.Decoder(each, ext_hook=codec.unboxed) for kind, each in CLASSES.items()
}
MESSAGE: Final = "message"
"""The kind of a message of a session, in an index."""

DIGITS: Final = 9
"""Of a message's place in its session, in the ids of messages."""
_MOST_STEPS_TOLD: Final = 20


# --- keys -----------------------------------------------------------------------------------------


def key_of(kind: MemoryType, memory_id: str, limit: int = 512) -> str:
    """Where a memory is stored. Raises `InvalidKey`."""
    prefix = PREFIXES[kind]
    return prefix + final(memory_id, "memory_id", limit=limit - len(prefix))


def steps_key(agent_id: str, session_id: str, limit: int = 512) -> str:
    """Where an agent's steps of a session are. Raises `InvalidKey`."""
    start = f"agent:{component(agent_id, 'agent_id', limit=limit // 2)}:working:"
    return start + final(session_id, "session_id", limit=limit - len(start.encode()))


def session_key(session_id: str, limit: int = 512) -> str:
    """Where it is told what came before a session. Raises `InvalidKey`."""
    return "agent:session:" + final(session_id, "session_id", limit=limit - 14)


def skill_id(name: str) -> str:
    """The id of the skill of this name: 32 hex digits of BLAKE2b (RFC 7693)."""
    return hashlib.blake2b(final(name, "skill_name").encode(), digest_size=16, person=b"remanence-skill").hexdigest()


def memory_id(runtime_wall: float, random: bytes) -> str:
    """A new id that sorts by time: a UUID of version 7 (RFC 9562), of the time in seconds and 10 random bytes."""
    high = int.from_bytes(random[:2], "big") & 0xFFF
    low = int.from_bytes(random[2:10], "big") & ((1 << 62) - 1)
    number = (int(runtime_wall * 1000) & ((1 << 48) - 1)) << 80 | 7 << 76 | high << 64 | 2 << 62 | low
    digits = f"{number:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


# --- making and storing -----------------------------------------------------------------------------


def made(kind: type[msgspec.Struct], **parts: Any) -> Any:
    """A value of these parts. Raises `InvalidArgument` naming the part that cannot be."""
    try:
        return msgspec.convert(parts, kind)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise InvalidArgument(f"{kind.__name__}: {_told(error)}") from None


def part(kind: Any, value: Any, name: str) -> Any:
    """A value for a part of this type. Raises `InvalidArgument`."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise InvalidArgument(f"{name}: {_told(error)}") from None


def _told(error: Exception) -> str:
    """What is wrong and where, as msgspec says it: never with a value of the caller's."""
    if isinstance(error, UnicodeEncodeError):
        return "it holds half a surrogate pair, which is not text"
    text = str(error)
    return text.replace(" - at `$.", " (").replace("`)", ")").rstrip("`") + (")" if " - at `$." in text else "")


def plain(memory: AgentMemory) -> dict[str, Any]:
    """The document of a memory, as JSON has it."""
    found: dict[str, Any] = msgspec.to_builtins(memory, enc_hook=_text)
    return found


def _text(value: object) -> str:
    """A text of a class of the caller's own, such as a member of an enumeration, as text."""
    if isinstance(value, str):
        return str.__str__(value)
    raise NotImplementedError


def packed(memory: AgentMemory, settings: Settings) -> bytes:
    """The bytes to store. Raises `InvalidValue` and `ValueTooLarge`."""
    return codec.pack(
        plain(memory),
        threshold=settings.compression_threshold,
        limit=settings.value_bytes,
        depth=settings.depth + 3,
        path=type(memory).__name__,
    )


def stored(body: bytes, key: str) -> AgentMemory:
    """The memory in these bytes. Raises `CorruptRecord` for anything else."""
    kind = key.split(":", 2)[1]
    memory: AgentMemory = codec.unpack_as(_DECODERS[kind], body, key)
    if isinstance(memory, SkillMemory):
        loose: Any = memory.action_sequence
    else:
        steps = memory.steps if isinstance(memory, EpisodicMemory) else ()
        loose = [step.tool_calls for step in steps if step.tool_calls]
    if loose:  # of what has a type, the type has told
        codec.vouch(loose, key)
    if key != PREFIXES[kind] + memory.memory_id:
        raise CorruptRecord(f"{key!r} holds a memory of another id: repair or delete it")
    return memory


def step_item(step: WorkingMemoryStep, settings: Settings) -> bytes:
    """A step as an item of its list. Raises `InvalidValue` and `ValueTooLarge`."""
    return codec.encode(
        msgspec.to_builtins(step, enc_hook=_text),
        limit=settings.value_bytes,
        depth=settings.depth + 1,
        path="WorkingMemoryStep",
    )


def step_of(item: bytes, key: str) -> WorkingMemoryStep | str:
    """A step, or the id of the episode that was saved at this place. Raises `CorruptRecord`."""
    found = codec.decode(item, key)
    if isinstance(found, dict) and isinstance(found.get("episode"), str):
        return str(found["episode"])
    try:
        return msgspec.convert(found, WorkingMemoryStep)
    except msgspec.ValidationError:
        raise CorruptRecord(f"{key!r} holds an entry that is no step: repair or delete it") from None


def marker(episode: str) -> bytes:
    """What stands behind the steps of an episode that was saved."""
    return codec.encode({"episode": episode})


def checked(value: Any, name: str, settings: Settings) -> Any:
    """`value`, which JSON can hold. Raises `InvalidValue` naming the place."""
    check(value, depth=settings.depth, path=name)
    return value


def texts(value: Any, name: str) -> list[str]:
    """A list of texts; None is none. Raises `InvalidValue`."""
    if value is None:
        return []
    if isinstance(value, str) or not isinstance(value, (list, tuple, set, frozenset)):
        raise InvalidValue(f"{name} must be a list of texts")
    if not all(isinstance(each, str) for each in value):
        raise InvalidValue(f"{name} must hold texts alone")
    return list(dict.fromkeys(value) if name == "tags" else value)


# --- what an index is told --------------------------------------------------------------------------


def document(memory: AgentMemory, key: str) -> Document | None:
    """A memory as an index sees it; None for one that shall not be found."""
    if isinstance(memory, EpisodicMemory):
        return None if memory.merged_into else _document(memory, key, _episode(memory), success=memory.success)
    if isinstance(memory, SemanticMemory):
        return _document(memory, key, _lines(memory.pattern, memory.context, *memory.examples))
    return _document(memory, key, _skill(memory))


def _document(memory: AgentMemory, key: str, text: str, success: bool | None = None) -> Document:
    return Document(
        id=key,
        text=text,
        kind=key.split(":", 2)[1],
        session=memory.session_id,
        position=-1,
        tags=tuple(memory.tags),
        agent=memory.agent_id,
        success=success,
        importance=memory.importance,
        trust=memory.trust,
        created=memory.created_at.timestamp(),
        expires=None if memory.expires_at is None else memory.expires_at.timestamp(),
        uses=memory.access_count,
    )


def _episode(memory: EpisodicMemory) -> str:
    steps = [f"{step.action} {step.observation}" for step in memory.steps[-_MOST_STEPS_TOLD:]]
    tags = " ".join(memory.tags)
    return _lines(memory.task_prompt, memory.outcome, tags, *memory.error_messages, *steps)


def _skill(memory: SkillMemory) -> str:
    name = memory.skill_name
    words = name.replace("_", " ").replace("-", " ")
    named = name if words == name else f"{name} {words}"
    return _lines(
        "" if memory.description.startswith(name) and words == name else named,
        memory.description,
        " ".join(memory.tags),
        *memory.preconditions,
        *memory.postconditions,
    )


def _lines(*parts: str) -> str:
    return "\n".join(part for part in parts if part)


def version_of(body: bytes) -> str:
    """What tells versions apart where nobody stamped them: 24 hex digits of BLAKE2b (RFC 7693)."""
    return hashlib.blake2b(body, digest_size=12).hexdigest()


def message_id(key: str, position: int) -> str:
    """A message's id in an index: its list, and its place in there."""
    return f"{key}#{position:0{DIGITS}d}"


def message_of(item: bytes, id: str, prefix: str) -> SessionMessage:
    """The message at an id that `message_id` made. Raises `CorruptRecord`."""
    key, _, position = id.rpartition("#")
    found = codec.decode(item, key)
    try:
        return msgspec.convert(
            {**found, "memory_id": id, "session_id": key.removeprefix(prefix), "position": int(position)},
            SessionMessage,
        )
    except (TypeError, msgspec.ValidationError):
        raise CorruptRecord(f"{key!r} holds an entry that is no message") from None


def message_document(message: SessionMessage, created: float) -> Document:
    """A message as an index sees it.

    Who speaks is told by `speaker` (or `name`) in its metadata; where nobody is named, the role counts. `caption`
    describes what came with it.
    """
    told = message.metadata
    speaker = next((told[each] for each in ("speaker", "name") if isinstance(told.get(each), str)), "")
    caption = told.get("caption")
    return Document(
        id=message.memory_id,
        text=message.content,
        kind=MESSAGE,
        session=message.session_id,
        position=message.position,
        speaker=speaker,
        role="" if speaker else message.role,
        caption=caption if isinstance(caption, str) else "",
        date=message.timestamp[:10],
        created=created,
    )


def seen_message(id: str, item: bytes, prefix: str) -> Document:
    """An entry of a session as an index sees it. Raises `CorruptRecord` where it is no message."""
    message = message_of(item, id, prefix)
    return message_document(message, _moment(message.timestamp))


def _moment(timestamp: str) -> float:
    """Seconds since the epoch; 0.0 for a time that cannot be read."""
    try:
        found = datetime.fromisoformat(timestamp)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return 0.0
