"""Remanence: the memory of AI agents that outlives the outage."""

from remanence.aio.state import AsyncConversationMemory, AsyncMemory
from remanence.faces.state import MISSING
from remanence.sync.state import ConversationMemory, Memory

__version__ = "0.1.0"
__all__ = ["MISSING", "AsyncConversationMemory", "AsyncMemory", "ConversationMemory", "Memory"]
