"""One engine for all faces of a deployment in a process, what happens to it at a fork, and at the process's end."""

import atexit
import os
import threading
import time
from contextlib import ExitStack

from remanence.engine.engines import AsyncEngine, BlockingEngine
from remanence.engine.opening import TOLD_OF_FORKS, Engine, engines, left_to_parent
from remanence.settings import Settings

_shared: dict[tuple[type[Engine], Settings], Engine] = {}
_users: dict[int, int] = {}
_registry = threading.Lock()


def shared_blocking(settings: Settings) -> BlockingEngine:
    """The process's engine for these settings; `release` it when done."""
    engine = _share(BlockingEngine, settings)
    assert isinstance(engine, BlockingEngine)  # by its key
    return engine


def shared_async(settings: Settings) -> AsyncEngine:
    """As `shared_blocking`, for asyncio."""
    engine = _share(AsyncEngine, settings)
    assert isinstance(engine, AsyncEngine)  # by its key
    return engine


def _share(kind: type[Engine], settings: Settings) -> Engine:
    settings = settings.deployment()
    with _registry:
        engine = _shared.get((kind, settings))
        if engine is None:
            engine = _shared[kind, settings] = kind(settings)
        _users[id(engine)] = _users.get(id(engine), 0) + 1
        return engine


def released(engine: Engine) -> bool:
    """One user less; True when it was the last and the engine is to be closed."""
    with _registry:
        left = _users.get(id(engine), 0) - 1
        if left > 0:
            _users[id(engine)] = left
            return False
        _users.pop(id(engine), None)
        for key in [key for key, each in _shared.items() if each is engine]:
            del _shared[key]
        return True


@atexit.register
def _close_all() -> None:
    """At the interpreter's exit: let pending writes go out, no longer than the setting allows."""
    with _registry:
        engines = list(_shared.values())
    started = time.monotonic()
    for engine in engines:  # one after the other, and yet together within their time
        if isinstance(engine, BlockingEngine):
            engine.close(max(0.0, engine.settings.close_timeout - (time.monotonic() - started)))


_held: list[ExitStack] = []


def _before_fork() -> None:
    """SQLite's own locks, too, must not be held by a thread that the child does not have."""
    _held.extend([engine.hold() for engine in list(engines)])


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop().close()


def _after_fork_in_child() -> None:
    """The child's registry lock may have been held by a thread that does not exist here."""
    global _registry
    left_to_parent.append(_held[:])
    _held.clear()
    _registry = threading.Lock()
    for engine in engines:
        engine.leave_to_parent()


if TOLD_OF_FORKS:
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
