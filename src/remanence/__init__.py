"""Remanence: the memory of AI agents that outlives the outage."""

from typing import TYPE_CHECKING, Any

from remanence.aio.conversations import AsyncInMemoryManager, AsyncRedisWorkingMemoryManager
from remanence.aio.messages import AsyncMemoryClient, AsyncMemoryClientSelector
from remanence.aio.state import AsyncConversationMemory, AsyncMemory
from remanence.errors import (
    Conflict,
    CorruptRecord,
    InvalidValue,
    JournalFull,
    Rejected,
    RemanenceError,
    Unavailable,
    UsageError,
)
from remanence.faces.conversation_types import (
    ConversationMemoryType,
    IMemoryInput,
    IMemoryManager,
    IWorkingMemory,
)
from remanence.faces.messages import AsyncBaseMemory, BaseMemory
from remanence.faces.serializer import MemorySerializer
from remanence.faces.values import MISSING
from remanence.settings import Settings
from remanence.sync.conversations import InMemoryManager, RedisWorkingMemoryManager, create_memory_manager
from remanence.sync.messages import MemoryClient, MemoryClientSelector
from remanence.sync.state import ConversationMemory, Memory

if TYPE_CHECKING:
    from remanence.aio.agents import RedisMemoryAdapter, create_memory_adapter
    from remanence.sync.agents import MemoryArchitecture

__version__ = "0.1.0"
__all__ = [
    "MISSING",
    "AsyncBaseMemory",
    "AsyncConversationMemory",
    "AsyncInMemoryManager",
    "AsyncMemory",
    "AsyncMemoryClient",
    "AsyncMemoryClientSelector",
    "AsyncRedisWorkingMemoryManager",
    "BaseMemory",
    "Conflict",
    "ConversationMemory",
    "ConversationMemoryType",
    "CorruptRecord",
    "IMemoryInput",
    "IMemoryManager",
    "IWorkingMemory",
    "InMemoryManager",
    "InvalidValue",
    "JournalFull",
    "Memory",
    "MemoryArchitecture",
    "MemoryClient",
    "MemoryClientSelector",
    "MemorySerializer",
    "RedisMemoryAdapter",
    "RedisWorkingMemoryManager",
    "Rejected",
    "RemanenceError",
    "Settings",
    "Unavailable",
    "UsageError",
    "create_memory_adapter",
    "create_memory_manager",
]

_SEARCHING = {
    "MemoryArchitecture": "remanence.sync.agents",
    "RedisMemoryAdapter": "remanence.aio.agents",
    "create_memory_adapter": "remanence.aio.agents",
}
"""Names whose modules need NumPy: loaded by those alone who use them, for it takes longer than all else here."""


def __getattr__(name: str) -> Any:
    if name not in _SEARCHING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(_SEARCHING[name]), name)
    return found
