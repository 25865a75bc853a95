"""Events as records of the standard library's logger "remanence", silent until somebody asks for them.

Every engine is attached to it. To hear it:

    logging.basicConfig(level=logging.INFO)

Who uses loguru needs one line instead, for each memory:

    memory.engine.observe(lambda event: loguru.logger.log(event.level, "{}", event))
"""

import logging
from collections.abc import Callable
from typing import Final, Protocol

from remanence.events import Event, Events

logger: Final = logging.getLogger("remanence")
logger.addHandler(logging.NullHandler())

_LEVELS: Final = {name: getattr(logging, name) for name in ("DEBUG", "INFO", "WARNING", "ERROR")}


class Observed(Protocol):
    """An engine."""

    @property
    def events(self) -> Events:
        """Where its events are told."""


def wanted(kind: type[Event]) -> bool:
    """Whether the logger takes events of this kind now; a level changed later counts at once."""
    return logger.isEnabledFor(_LEVELS[kind.level])


def log_event(event: Event) -> None:
    """Log an event at its level; its text is made only where a handler takes it. It is `record.args[0]`."""
    level = _LEVELS[event.level]
    if logger.isEnabledFor(level):
        logger.log(level, "%s", event)


def attach(engine: Observed) -> Callable[[], None]:
    """Log the events of `engine`; returns what ends it."""
    return engine.events.observe(log_event, wanted)
