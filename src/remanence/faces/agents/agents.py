"""The face of agents: everything an agent remembers, behind the verbs of the third seed."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from remanence.errors import InvalidArgument, WorldError
from remanence.events import MemoryHeard
from remanence.faces.agents.base import Identity
from remanence.faces.agents.changes import Heard, Told
from remanence.faces.agents.library import Library
from remanence.faces.agents.records import PREFIXES
from remanence.faces.agents.types import TYPES, MemoryType
from remanence.faces.agents.upkeep import Upkeep
from remanence.faces.watching import Callback, Watcher, start
from remanence.model import Wanted
from remanence.protocols import Gateway
from remanence.settings import Settings

CHANNEL: Final = "agent:memory:"
"""What the names of channels begin with; the type of memory follows."""
MOST_STEPS: Final = 10_000


class Agents(Upkeep):
    """An agent's memory, as coroutines. `RedisMemoryAdapter` and `MemoryArchitecture` are made of it."""

    def __init__(
        self,
        opener: Callable[[], Gateway],
        librarian: Callable[[], Library],
        settings: Settings,
        who: Identity,
        session_id: str | None,
    ) -> None:
        """Reads nothing. Raises `InvalidArgument` and `InvalidKey`."""
        capacity = who.working_capacity
        if isinstance(capacity, bool) or not isinstance(capacity, int) or not 1 <= capacity <= MOST_STEPS:
            raise InvalidArgument(f"working_capacity must be a whole number from 1 to {MOST_STEPS}")
        super().__init__(opener, librarian, settings, who)
        self._start(session_id)
        self._steps_key(session_id or "-")  # an id that no key can have is told of here
        self._joined: dict[Library, Callable[..., Any]] = {}

    async def initialize(self) -> None:
        """Take up the session where it was left, and hear of other agents. Other calls do so by themselves.

        Raises `Misconfigured` where the setting `index` asks for what the server does not have.
        """
        library = self._librarian()
        if self._who.pubsub and library not in self._joined:
            heard = self._joined[library] = partial(self._heard, library)
            library.follower.listeners.append(heard)
        if self._who.consolidates:
            self._tend()
        await library.catalogue.opened()
        await super().initialize()

    async def _heard(self, library: Library, heard: Heard) -> None:
        """Memories were changed: tell the channel of what this agent did, and the log of what others did."""
        library.published &= {op_id for op_id, _ in heard}
        ours: dict[str, Told] = {}
        for op_id, told in heard:
            if told.agent_id != self.agent_id:
                library.tell(MemoryHeard(told.action, told.kind, told.memory_id, told.agent_id))
            elif op_id and op_id not in library.published:  # by another face of the same agent
                ours[op_id] = told
        library.published |= set(ours)
        if ours:
            await self._publish(library.gateway, list(ours.values()))

    async def _publish(self, gateway: Gateway, told: Sequence[Told]) -> None:
        limit = gateway.runtime.monotonic() + self._settings.deadline
        try:
            await gateway.store.publish([(CHANNEL + each.kind, _message(each)) for each in told], limit)
        except WorldError:  # a channel promises nothing: the change log has what happened
            return

    def leave(self) -> None:
        """Hear of nothing any more, and tend nothing."""
        self._stop_tending()
        for library, heard in self._joined.items():
            library.follower.listeners.remove(heard)
        self._joined = {}

    async def get_stats(self) -> dict[str, Any]:
        """Numbers about this memory: how many of each type, of whom, and how the store is.

        `pending` is how many writes wait for the server; `indexed` whether all that was there can be found.
        """
        await self.initialize()
        library, gateway = self._librarian(), self._opener()
        await library.ready(self._settings.deadline)
        counts, status = await library.catalogue.counts(), await gateway.status()
        return {
            "agent_id": self.agent_id,
            "session_id": self.session_id,
            "sessions": len(await self.get_session_history()),
            "working_steps": len(await self.get_recent_steps(self._who.working_capacity)),
            **{kind: counts.get(kind, 0) for kind in TYPES},
            "messages": counts.get("message", 0),
            "available": status.available,
            "pending": status.pending,
            "indexed": await library.follower.ready(0.0),
        }

    def watch(self, *kinds: MemoryType, since: str | None = None, timeout: float | None = None) -> Watcher:
        """The memories that change from now on, of these types or all: `name` is type:memory_id. See `Memory.watch`."""
        if not all(isinstance(each, str) and each in TYPES for each in kinds):
            raise InvalidArgument(f"a type of memory is one of {', '.join(TYPES)}")
        wanted = Wanted((), tuple(PREFIXES[kind] for kind in kinds or TYPES))
        return self._watch(wanted, lambda key: key.removeprefix("memory:"), since, timeout)

    def on_change(self, callback: Callback, *kinds: MemoryType, since: str | None = None) -> Watcher:
        """Have `callback` called with each change, in the background; see `Memory.on_change`."""
        return start(self._opener(), self.watch(*kinds, since=since), callback)


def _message(told: Told) -> bytes:
    message = {"action": told.action, "type": told.kind, "memory_id": told.memory_id, "agent_id": told.agent_id}
    return json.dumps(message).encode()
