"""Hearing what changes: `watch` and `on_change` of every face.

Who listens costs the server nothing more: one reader per process follows the change log (`remanence.feed`).
"""

import inspect
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from remanence.errors import WorldError
from remanence.model import RESYNC, Notice
from remanence.protocols import Gateway, Runtime, Watching

KINDS: Final = {"put": "set", "delete": "deleted", "append": "appended", "touch": "touched", RESYNC: RESYNC}
"""What a listener is told, by what the change log says. A patch is logged as what it came to: a put."""
Named = Callable[[str], str | None]
"""The name behind a key, as the face spells it; None for a key of others."""
RETRY: Final = 0.5
"""Seconds until a listener that reads the past tries a server again that is away."""


class Changed(msgspec.Struct, frozen=True):
    """Something changed: `name` is what the face calls it, `key` where the server keeps it.

    `kind` is "set", "deleted", "appended", "touched" (another lifetime) or "resync": then what was heard may not
    hold, of this name or, where `name` is "", of all: read again. `cursor` is where to go on with `since`.
    """

    name: str
    kind: str
    key: str
    cursor: str


class Watcher:
    """What changes, one after the other: `async for changed in memory.watch(…)`.

    Ends with `close`, with its memory's, or after `timeout` seconds without a change. `async with` waits until
    it is ready, at most the memory's deadline.
    """

    def __init__(self, watch: Watching, named: Named, timeout: float | None, runtime: Runtime, deadline: float) -> None:
        self._watch = watch
        self._named = named
        self._timeout = timeout
        self._runtime = runtime
        self._deadline = deadline

    @property
    def cursor(self) -> str:
        """Where to go on with `since`; "" before the server was heard."""
        return self._watch.cursor

    async def ready(self, timeout: float) -> bool:
        """Wait until nothing that changes from now on is missed; False after `timeout` seconds."""
        return await self._watch.ready(timeout)

    async def next(self, timeout: float | None = None) -> Changed | None:
        """The next change; None after `timeout` seconds without one, or when closed.

        Raises `WorldError` where the server goes away while the past (`since`) is read.
        """
        clock = self._runtime.monotonic
        limit = None if timeout is None else clock() + timeout
        while True:  # what other faces keep under the same prefix must not put the end off
            notice = await self._watch.next(None if limit is None else max(0.0, limit - clock()))
            if notice is None:
                return None
            changed = self._changed(notice)
            if changed is not None:
                return changed

    def _changed(self, notice: Notice) -> Changed | None:
        name = self._named(notice.key) if notice.key else ""
        return None if name is None else Changed(name, KINDS[notice.kind], notice.key, self._watch.cursor)

    def close(self) -> None:
        """Hear no more; who waits for the next change is told that there is none."""
        self._watch.close()

    @property
    def closed(self) -> bool:
        """Whether there is nothing more to come."""
        return self._watch.closed

    def failed(self, error: str) -> None:
        """Tell observers that a callback raised an error of this type."""
        self._watch.failed(error)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Changed:
        changed = await self.next(self._timeout)
        if changed is None:
            raise StopAsyncIteration
        return changed

    async def __aenter__(self) -> Self:
        await self.ready(self._deadline)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


Callback = Callable[[Changed], Awaitable[Any] | Any]


async def call(watcher: Watcher, callback: Callback, runtime: Runtime) -> None:
    """Call `callback` with each change until the watcher is closed, whatever it does."""
    while not watcher.closed:
        try:
            changed = await watcher.next()
        except WorldError:  # while it read the past: it goes on there when the server is back
            await runtime.sleep(RETRY)
            continue
        if changed is None:
            continue
        try:
            told = callback(changed)
            if inspect.isawaitable(told):
                await told
        except Exception as error:  # a listener's fault is its own; the type says enough without a value
            watcher.failed(type(error).__name__)


def start(gateway: Gateway, watcher: Watcher, callback: Callback) -> Watcher:
    """Have `callback` called in the background, apart from every other listener; closing the watcher ends it."""
    gateway.runtime.spawn("remanence-listener", lambda: call(watcher, callback, gateway.runtime))
    return watcher
