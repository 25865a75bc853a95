"""Remanence: the memory of AI agents that outlives the outage."""

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
    "MemoryClient",
    "MemoryClientSelector",
    "MemorySerializer",
    "RedisWorkingMemoryManager",
    "Rejected",
    "RemanenceError",
    "Settings",
    "Unavailable",
    "UsageError",
    "create_memory_manager",
]
