"""Inputs and answers of conversation memory, in short: for its tests."""

from typing import Any

from remanence.faces.conversation_types import ConversationMemoryType, IMemoryInput, IWorkingMemory

WORKING = ConversationMemoryType.WORKING_MEMORY


def about(conversation: str = "conv_123", *words: str, **fields: Any) -> IMemoryInput:
    """The input for a conversation's working memory, with an item for each of `words`."""
    data = [IWorkingMemory(word) for word in words] or None
    return IMemoryInput(**{"conversation_id": conversation, "memory_type": WORKING, "data": data, **fields})


def words(memories: list[IWorkingMemory]) -> list[str]:
    """The texts of what was remembered."""
    return [memory.working_memory for memory in memories]
