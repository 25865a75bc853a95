"""Every Redis name, spelled once.

The default namespace adds nothing to the documented names. Another namespace prefixes them with its
hash tag, a digest, so that no text of a user's chooses a slot or a pattern. What Remanence keeps for
itself lies beside the data under `remanence:{tag}:`.

An id or a name in the middle of a key is escaped (`component`) so that no two tuples of ids make the
same key; the last part of a key is kept as it is, for nothing follows it.
"""

import hashlib
import re

from remanence.errors import InvalidKey

RESERVED = frozenset({"WORKING_MEMORY", "SHORT_TERM_MEMORY", "LONG_TERM_MEMORY", "episodic", "semantic", "skill"})
"""First parts of `memory:` keys that other faces own; an id spelled like one is escaped."""

_UNSAFE = re.compile(r"[%:{}*?\[\]\\\s\x00-\x1f\x7f]")


def tag(namespace: str) -> str:
    """The hash tag of a namespace: 16 hex digits of BLAKE2b (RFC 7693)."""
    return hashlib.blake2b(namespace.encode(), digest_size=8, person=b"remanence").hexdigest()


def component(text: object, meaning: str, *, limit: int = 512) -> str:
    """`text` as the middle part of a key: separators, globs, braces and blanks percent-encoded.

    Raises `InvalidKey` naming `meaning` for anything but non-empty, encodable text within `limit` bytes.
    """
    word = final(text, meaning, limit=limit)
    if word in RESERVED:
        return f"%{ord(word[0]):02X}{word[1:]}"
    spelled = _UNSAFE.sub(lambda m: "".join(f"%{b:02X}" for b in m[0].encode()), word)
    return final(spelled, f"{meaning}, with its separators escaped,", limit=limit)


def original(part: str) -> str:
    """The text that `component` made `part` of."""
    return re.sub(r"(?:%[0-9A-F]{2})+", lambda m: bytes.fromhex(m[0].replace("%", "")).decode(errors="replace"), part)


def final(text: object, meaning: str, *, limit: int = 512) -> str:
    """`text` as the last part of a key, unchanged. Raises `InvalidKey` as `component` does."""
    if not isinstance(text, str):
        raise InvalidKey(f"{meaning} must be text, not {type(text).__name__}")
    if not text:
        raise InvalidKey(f"{meaning} must not be empty")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidKey(f"{meaning} holds half a surrogate pair, which UTF-8 cannot encode") from None
    if size > limit:
        raise InvalidKey(f"{meaning} has {size} bytes, more than the {limit} allowed (REMANENCE_KEY_BYTES)")
    return text


def glob_literal(text: str) -> str:
    """`text` as a Redis pattern that matches only itself."""
    return re.sub(r"([*?\[\]\\^-])", r"\\\1", text)


class Keyspace:
    """The names of one namespace's keys on a server."""

    def __init__(self, namespace: str = "") -> None:
        self.tag = tag(namespace)
        self.prefix = f"{{{self.tag}}}:" if namespace else ""
        self._own = f"remanence:{{{self.tag}}}:"
        self.log = f"{self._own}log"

    def data(self, key: str) -> str:
        """The server's name of a record or list."""
        return self.prefix + key

    def key(self, name: str) -> str:
        """The record's key behind a server's name."""
        return name.removeprefix(self.prefix)

    def tombstone(self, key: str) -> str:
        """Where the stamp of a delete is kept."""
        return f"{self._own}d:{key}"

    def pair(self, key: str) -> tuple[str, str]:
        """Both, for every write needs both."""
        return self.prefix + key, f"{self._own}d:{key}"

    def watermark(self, lineage: str) -> str:
        """Where the store keeps how far it followed a lineage."""
        return f"{self._own}w:{lineage}"
