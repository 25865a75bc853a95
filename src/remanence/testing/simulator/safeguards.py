"""Ways to take a safeguard out of the engine, so that a history is seen to go wrong without it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest


def replaced(owner: Any, name: str, value: Any) -> Callable[["pytest.MonkeyPatch"], None]:
    """What puts `value` in the place of an attribute of `owner`."""
    return lambda patch: patch.setattr(owner, name, value, raising=not isinstance(value, property))


def nothing(*_: Any, **__: Any) -> None:
    """In the place of what does something."""
    return None
