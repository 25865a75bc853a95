"""Models that an Ollama server runs."""

from typing import Any, Final

from remanence.errors import Misconfigured
from remanence.search.embedders.asking import AskingEmbedder
from remanence.search.embedders.http import Endpoint

ADDRESS: Final = "http://127.0.0.1:11434"


class OllamaEmbedder(AskingEmbedder):
    """Asks `/api/embed` of an Ollama server."""

    def __init__(
        self,
        model: str,
        *,
        url: str = ADDRESS,
        deadline: float = 5.0,
        batch: int = 64,
        dimensions: int | None = None,
    ) -> None:
        """`deadline` is in seconds, for each batch of texts. Nothing is asked yet."""
        super().__init__(f"ollama:{model}", dimensions, batch)
        self._model = model
        self._endpoint = Endpoint(
            f"{url.rstrip('/')}/api/embed", deadline=deadline, hint=f"is the model there? ollama pull {model}"
        )

    def _asked(self, texts: list[str]) -> Any:
        answer = self._endpoint.ask({"model": self._model, "input": texts, "truncate": True})
        if not isinstance(answer, dict) or "embeddings" not in answer:
            raise Misconfigured(f"{self.name} answers without embeddings: is that an Ollama server?")
        return answer["embeddings"]
