"""The retrieval benchmark's sets as agents would have them: through the public face, one by one.

Dialogues are messages of their sessions, with who spoke, when, and what came with it; tools are skills.
"""

import math
import os
from collections.abc import Sequence
from typing import Any

from remanence.search.types import Document, Hit
from remanence.sync.agents import MemoryArchitecture
from remanence.sync.messages import MemoryClient


class Remembered:
    """What is measured: an agent in a namespace of its own, in memory."""

    def __init__(self, embedder: Any) -> None:
        """`embedder`: one that is loaded already, or its name."""
        self._place: dict[str, Any] = {"namespace": f"bench-{os.urandom(6).hex()}", "deadline": 60.0}
        self.agent = MemoryArchitecture("memory", "bench", embedder=embedder, **self._place)
        self._ids: dict[str, str] = {}
        self._messages = False

    def put(self, documents: Sequence[Document]) -> None:
        """Remember all of these."""
        lengths: dict[str, int] = {}
        with MemoryClient(backend="memory", session_ttl=math.inf, **self._place) as client:
            for each in documents:
                if each.kind == "message":
                    self._messages = True
                    position = lengths.get(each.session, 0)
                    lengths[each.session] = position + 1
                    self._say(client, each)
                    self._ids[f"{each.session or 'all'} {position}"] = each.id
                else:
                    self._ids[self.agent.save_skill(each.id, each.text, []).memory_id] = each.id

    def _say(self, client: MemoryClient, each: Document) -> None:
        told = {"caption": each.caption} if each.caption else {}
        if not each.role:
            told["speaker"] = each.speaker
        when = f"{each.date}+00:00" if each.date else None
        client.add(each.session or "all", each.role or "user", each.text, told, timestamp=when)

    def search(self, query: str, *, limit: int) -> list[Hit]:
        """Answer a question, best first."""
        if self._messages:
            found = self.agent.search_messages(query, limit)
            keys = [f"{each.session_id} {each.position}" for each in found]
        else:
            keys = [each.memory_id for each in self.agent.search_skills(query, limit)]
        return [Hit(id=self._ids[key], kind="", score=0.0) for key in keys]

    def close(self) -> None:
        """Forget it all."""
        self.agent.close()
