"""Models behind any HTTP server that speaks as OpenAI's does: vLLM, LM Studio, llama.cpp, a cloud's own."""

from typing import Any, Final

from remanence.errors import Misconfigured
from remanence.search.embedders.asking import AskingEmbedder
from remanence.search.embedders.http import Endpoint

ADDRESS: Final = "https://api.openai.com/v1"


class OpenAIEmbedder(AskingEmbedder):
    """Asks `/embeddings` below `url`, which mostly ends in /v1."""

    def __init__(
        self,
        model: str,
        *,
        url: str = ADDRESS,
        key: str | None = None,
        deadline: float = 5.0,
        batch: int = 128,
        dimensions: int | None = None,
    ) -> None:
        """`deadline` is in seconds, for each batch of texts. The key is sent and never shown. Nothing is asked yet."""
        super().__init__(f"openai:{model}", dimensions, batch)
        self._model = model
        self._endpoint = Endpoint(f"{url.rstrip('/')}/embeddings", deadline=deadline, key=key)

    def _asked(self, texts: list[str]) -> Any:
        answer = self._endpoint.ask({"model": self._model, "input": texts, "encoding_format": "float"})
        try:
            rows = {int(entry["index"]): entry["embedding"] for entry in answer["data"]}
            return [rows[number] for number in range(len(texts))]
        except (TypeError, KeyError, ValueError) as error:
            raise Misconfigured(f"{self.name} answers without one embedding for each text") from error
