"""`MemorySerializer`: the binary format of agent memories, by the name of the third seed."""

from typing import Any

from remanence.wire.checks import MOST_BYTES
from remanence.wire.codec import pack, unpack


class MemorySerializer:
    """`pack` and `unpack` under the names that users of the third seed know. No pickles, either way."""

    def __init__(self, compression_threshold: int = 1024, *, limit: int = MOST_BYTES) -> None:
        self.compression_threshold = compression_threshold
        self.limit = limit

    def serialize(self, obj: Any) -> bytes:
        """Flag byte and payload of a JSON value. Raises what `pack` raises."""
        return pack(obj, threshold=self.compression_threshold, limit=self.limit)

    def deserialize(self, data: bytes) -> Any:
        """The value that `serialize` was given. Raises `CorruptRecord`."""
        return unpack(data, "serialized value", self.limit)
