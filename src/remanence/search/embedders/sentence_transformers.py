"""Models that the sentence-transformers package runs in this process."""

import importlib
import threading
from typing import Any

from remanence.errors import Misconfigured, Unavailable
from remanence.search.embedders.asking import AskingEmbedder


class SentenceTransformersEmbedder(AskingEmbedder):
    """Loads a model, by its name or from a folder, when it is first needed."""

    def __init__(self, model: str, *, batch: int = 64, **options: Any) -> None:
        """`options` go to `SentenceTransformer` as they are."""
        super().__init__(f"sentence-transformers:{model}", None, batch)
        self._wanted = model
        self._options = options
        self._model: Any = None
        self._mutex = threading.Lock()

    def _asked(self, texts: list[str]) -> Any:
        return self._loaded().encode(texts, convert_to_numpy=True, show_progress_bar=False)

    def _loaded(self) -> Any:
        with self._mutex:
            if self._model is None:
                self._model = self._load()
            return self._model

    def _load(self) -> Any:
        try:
            package = importlib.import_module("sentence_transformers")
        except ImportError as error:
            raise Misconfigured(
                f"{self.name} needs a package: pip install 'remanence[sentence-transformers]'"
            ) from error
        try:
            return package.SentenceTransformer(self._wanted, **self._options)
        except Exception as error:  # the hub's errors are of many libraries, and change with them
            raise Unavailable(
                f"{self.name} cannot be loaded ({type(error).__name__}): name a folder that holds it, or let this "
                "machine reach the hub once"
            ) from error
