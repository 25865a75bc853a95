"""Every Redis name, spelled once.

On one server the default namespace adds nothing to the documented names. Another namespace prefixes them
with its hash tag, a digest, so that no text of a user's chooses a slot or a pattern. So does every partition
of a namespace that has several, or lives in a cluster, where equal tags mean one slot and thus one node.
What Remanence keeps for itself lies beside the data under `remanence:{tag}:`.

An id or a name in the middle of a key is escaped (`component`) so that no two tuples of ids make the
same key; the last part of a key is kept as it is, for nothing follows it.
"""

import binascii
import hashlib
import re
from typing import Final

from remanence.errors import InvalidKey

RESERVED = frozenset({"WORKING_MEMORY", "SHORT_TERM_MEMORY", "LONG_TERM_MEMORY", "episodic", "semantic", "skill"})
"""First parts of `memory:` keys that other faces own; an id spelled like one is escaped."""

_OWN = re.compile(r"(?:remanence:)?\{[0-9a-f]{16}\}:")
_UNSAFE = re.compile(r"[%:{}*?\[\]\\\s\x00-\x1f\x7f]")


SLOTS: Final = 16384
"""Into how many slots a cluster divides the names of keys."""


def tag(namespace: str, partition: int = 0) -> str:
    """The hash tag of a partition of a namespace: 16 hex digits of BLAKE2b (RFC 7693).

    The first one's is the same however many there are, so that there is a place to say how many.
    """
    if partition:
        named = f"{partition}:{namespace}".encode()
        return hashlib.blake2b(named, digest_size=8, person=b"remanence-part").hexdigest()
    return hashlib.blake2b(namespace.encode(), digest_size=8, person=b"remanence").hexdigest()


def partition_of(key: str, partitions: int) -> int:
    """Which of so many partitions a record or list belongs to. It never changes: what is stored depends on it."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=4).digest()
    return int.from_bytes(digest, "big") % partitions


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
    """The names of the keys of one partition of a namespace."""

    def __init__(self, namespace: str = "", partition: int = 0, *, tagged: bool = False) -> None:
        """`tagged`: the tag is in every name even where there is no namespace."""
        self.tag = tag(namespace, partition)
        self.prefix = f"{{{self.tag}}}:" if namespace or partition or tagged else ""
        self._own = f"remanence:{{{self.tag}}}:"
        self.log = f"{self._own}log"
        self.erasures = f"{self._own}erasures"
        """What was erased for good, in order."""
        self.holders = f"{self._own}holders"
        """How far each journal has let go of that."""
        self.watermarks = f"{self._own}w:"
        """What the names of watermarks begin with."""
        self.partitions = f"{self._own}partitions"
        """Where it is said how many partitions the namespace has; of the first one's names alone."""

    @property
    def slot(self) -> int:
        """The slot of a cluster that all these names are in, where the tag is in them: CRC-16/XMODEM of the tag."""
        return binascii.crc_hqx(self.tag.encode(), 0) % SLOTS

    def data(self, key: str) -> str:
        """The server's name of a record or list."""
        return self.prefix + key

    def key(self, name: str) -> str:
        """The record's key behind a server's name."""
        return name.removeprefix(self.prefix)

    def holds(self, name: str) -> bool:
        """Whether a server's name is a record's of this namespace, not one of ours nor of another namespace."""
        if self.prefix:
            return name.startswith(self.prefix)
        return not _OWN.match(name)

    def tombstone(self, key: str) -> str:
        """Where the stamp of a delete is kept."""
        return f"{self._own}d:{key}"

    def history(self, key: str) -> str:
        """Where the earlier versions of a record are kept."""
        return f"{self._own}h:{key}"

    def index(self, part: str) -> str:
        """Where a part of the search index is kept, if the server keeps that."""
        return f"{self._own}i:{part}"

    def pair(self, key: str) -> tuple[str, str]:
        """Both, for every write needs both."""
        return self.prefix + key, f"{self._own}d:{key}"

    def watermark(self, lineage: str) -> str:
        """Where the store keeps how far it followed a lineage."""
        return f"{self.watermarks}{lineage}"
