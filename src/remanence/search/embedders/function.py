"""Any function from texts to vectors as an embedder."""

from collections.abc import Callable
from typing import Any

from remanence.errors import InvalidArgument, Misconfigured, Unavailable
from remanence.search.embedders.asking import AskingEmbedder

Function = Callable[[list[str]], Any]
"""Texts to rows of numbers: lists, an array, or anything that NumPy takes for one."""


class FunctionEmbedder(AskingEmbedder):
    """Asks a function. Its `name` tells its vectors apart from others': give it another when it changes."""

    def __init__(
        self, function: Function, *, name: str | None = None, dimensions: int | None = None, batch: int = 256
    ) -> None:
        """`name` defaults to where the function was defined. Raises `InvalidArgument` for what cannot be called."""
        if not callable(function):
            raise InvalidArgument("an embedder is a name, an Embedder, or a function from texts to vectors")
        kind = function if hasattr(function, "__qualname__") else type(function)
        super().__init__(name or f"function:{kind.__module__}.{kind.__qualname__}", dimensions, batch)
        self._function = function

    def _asked(self, texts: list[str]) -> Any:
        try:
            return self._function(texts)
        except (Unavailable, Misconfigured):
            raise
        except Exception as error:  # whatever it is made of: a memory must not be lost for it
            raise Unavailable(f"{self.name} failed with {type(error).__name__}; see this error's cause") from error
