"""Working memory: what an agent does in its session, step by step, and the chain of its sessions.

Steps are a list, so that they keep their order whoever appends, and are read from its end. An episode that is saved
leaves its mark behind its steps: the next one begins there. A session's record names those before it.
"""

import threading
from collections import deque
from typing import Any, Final

from remanence.errors import Conflict, CorruptRecord, InvalidArgument, InvalidValue, WorldError
from remanence.events import RecordSkipped
from remanence.faces.access import ttl_ms
from remanence.faces.agents import records
from remanence.faces.agents.base import Memories
from remanence.faces.agents.types import WorkingMemoryStep
from remanence.model import ABSENT, Put, Record
from remanence.model import Append as Appending
from remanence.protocols import Fetch, Tail
from remanence.wire import codec
from remanence.wire.keys import final

MOST_SESSIONS: Final = 1000
"""Sessions that a chain remembers."""
_BACK: Final = 5
"""Sessions of a chain that are looked through for steps."""


class Working(Memories):
    """The verbs of steps and sessions."""

    _history: list[str]
    _number = 0
    _begun = False

    def _start(self, session_id: str | None) -> None:
        self._session = final(session_id, "session_id") if session_id is not None else ""
        self._unnamed = session_id is None
        self._recent: deque[WorkingMemoryStep | str] = deque(maxlen=self._who.working_capacity)
        self._mutex = threading.Lock()  # callers on several threads, and tasks that begin at once

    async def initialize(self) -> None:
        """Take up the session where it was left: its steps are counted on. Other calls do so by themselves."""
        if self._begun:
            return
        with self._mutex:
            self._session = self._session or self._id()
        recent: list[WorkingMemoryStep | str] = []
        try:
            self._history = await self._told_history([] if self._unnamed else None)
            if not self._unnamed:
                recent = await self._lately()
        except WorldError:  # it is away and this machine knows nothing of the session: it begins here
            self._history = [self._session]
        with self._mutex:
            if not self._begun:
                self._begun = True
                self._recent.extend(recent)
                self._number = max((each.step_number for each in recent if not isinstance(each, str)), default=0)

    # --- steps ------------------------------------------------------------------------------------

    async def add_step(
        self,
        action: str,
        observation: str,
        reasoning: str = "",
        tool_calls: list[Any] | None = None,
        success: bool = True,
        error: str | None = None,
    ) -> WorkingMemoryStep:
        """Note what was done and seen. The session's steps live anew for `working_ttl` seconds.

        `tool_calls` is what JSON can hold: texts, or dicts with a `name`. Raises `InvalidArgument` and `InvalidValue`.
        """
        await self.initialize()
        with self._mutex:
            step: WorkingMemoryStep = records.made(
                WorkingMemoryStep,
                step_number=self._number + 1,
                action=action,
                observation=observation,
                timestamp=self._now(),
                reasoning=reasoning,
                tool_calls=_calls(tool_calls, self._settings),
                success=success,
                error=error,
            )
            item = records.step_item(step, self._settings)
            self._number = step.step_number
        await self._write(Appending(self._steps_key(self._session), (item,), ttl_ms(self._settings.working_ttl)))
        self._recent.append(step)
        return step

    async def get_recent_steps(self, n: int = 10) -> list[WorkingMemoryStep]:
        """The last `n` steps, oldest first, at most `working_capacity`; across sessions that were rotated."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise InvalidArgument("n must be a whole number, 0 or more")
        await self.initialize()
        found = [each for each in await self._lately() if not isinstance(each, str)]
        return found[-n:] if n else []

    def _steps_key(self, session_id: str) -> str:
        return records.steps_key(self.agent_id, session_id, self._settings.key_bytes)

    async def _lately(self) -> list[WorkingMemoryStep | str]:
        """The last steps, with the ids of episodes behind theirs; what this process knows where the store is away."""
        capacity = self._who.working_capacity
        keys = [self._steps_key(each) for each in self._history[-_BACK:]]
        try:
            told = await self._tell(*(Tail(key, -capacity, -1) for key in keys))
        except WorldError:
            return list(self._recent)
        found = [each for key, one in zip(keys, told, strict=True) for each in self._parsed(key, one.value)]
        return found[-capacity:]

    def _parsed(self, key: str, items: list[bytes]) -> list[WorkingMemoryStep | str]:
        found: list[WorkingMemoryStep | str] = []
        for position, item in enumerate(items):
            try:
                found.append(records.step_of(item, key))
            except CorruptRecord as error:
                self._report(RecordSkipped(key, position - len(items), str(error)))
        return found

    async def _steps_of_episode(self) -> list[WorkingMemoryStep]:
        """The steps since the last episode: of the latest, as many as half a memory has room for."""
        await self.initialize()
        steps: list[WorkingMemoryStep] = []
        room = self._settings.value_bytes // 2
        for each in reversed(await self._lately()):
            room -= 0 if isinstance(each, str) else len(records.step_item(each, self._settings))
            if isinstance(each, str) or room < 0:
                break
            steps.append(each)
        return steps[::-1]

    def _marked(self, episode: str) -> Appending:
        """What ends the steps of an episode."""
        self._recent.append(episode)
        key = self._steps_key(self._session)
        return Appending(key, (records.marker(episode),), ttl_ms(self._settings.working_ttl))

    # --- sessions ---------------------------------------------------------------------------------

    async def rotate_session(self, new_session_id: str | None = None) -> str:
        """Go on in a new session, which remembers those before it; its id.

        Steps go on where they were. One that exists already is taken up with its own history.
        """
        await self.initialize()
        new = self._id() if new_session_id is None else final(new_session_id, "session_id")
        if new == self._session:
            raise InvalidArgument("the session goes on already: give another session_id, or none")
        self._steps_key(new)  # one that no key can have is told of here
        self._history = await self._told_history([*self._history, new][-MOST_SESSIONS:], new)
        self._session = new
        return new

    async def get_session_history(self) -> list[str]:
        """The ids of the sessions of this chain, oldest first, the present one last."""
        await self.initialize()
        try:
            record = (await self._tell(Fetch(self._session_key(self._session))))[0].value
        except WorldError:
            return list(self._history)
        return list(self._history) if record is None else _history(record)

    def _session_key(self, session_id: str) -> str:
        return records.session_key(session_id, self._settings.key_bytes)

    async def _told_history(self, history: list[str] | None, session_id: str = "") -> list[str]:
        """The history that a session's record tells; where there is none, it is made of `history`."""
        session = session_id or self._session
        key = self._session_key(session)
        if history is None or session_id:
            try:
                record = (await self._tell(Fetch(key)))[0].value
            except WorldError:  # as far as this machine knows there is none
                if history is None:
                    raise
                record = None
            if record is not None:
                return _history(record)
        told = history or [session]
        document = {
            "session_id": session,
            "agent_id": self.agent_id,
            "created_at": self._now().isoformat(),
            "history": told,
        }
        body = codec.encode(document, limit=self._settings.value_bytes, path="session")
        try:
            await self._write(Put(key, body, ttl_ms(self._settings.episodic_ttl), ABSENT))
        except Conflict:  # another process began it at the same moment
            record = (await self._tell(Fetch(key)))[0].value
            return told if record is None else _history(record)
        return told


def _history(record: Record) -> list[str]:
    document = codec.decode(record.body, record.key)
    found = document.get("history") if isinstance(document, dict) else None
    if not isinstance(found, list) or not found or not all(isinstance(each, str) for each in found):
        raise CorruptRecord(f"{record.key!r} holds no session: repair or delete it")
    return list(found)


def _calls(value: list[Any] | None, settings: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise InvalidValue("tool_calls must be a list")
    return list(records.checked(list(value), "tool_calls", settings))


def tools_used(steps: list[WorkingMemoryStep]) -> list[str]:
    """The names of the tools that were called, each once, in the order of their first call."""
    found = [name for step in steps for call in step.tool_calls if (name := _tool(call))]
    return list(dict.fromkeys(found))


def _tool(call: Any) -> str:
    """A call's tool: the text itself, or what agents' frameworks call it."""
    if isinstance(call, str):
        return call
    if not isinstance(call, dict):
        return ""
    function = call.get("function")
    told = call.get("name") or call.get("tool") or (function.get("name") if isinstance(function, dict) else function)
    return told if isinstance(told, str) else ""
