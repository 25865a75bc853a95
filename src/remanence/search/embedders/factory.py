"""An embedder from what people write in settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeGuard

from remanence.errors import InvalidArgument
from remanence.search.embedders.contract import Embedder

KNOWN: Final = "static, minilm, ollama:MODEL, openai:MODEL, sentence-transformers:MODEL, none"


def embedder_from(
    spec: "str | Embedder | Callable[[list[str]], Any] | None" = "static", *, models: Path | None = None, **options: Any
) -> Embedder | None:
    """The embedder of a name, of a function, or itself; None for "none" and None: words alone.

    `models` is the folder of fetched models, that of the settings when None. `options` go to the embedders that are
    asked: `url`, `key`, `deadline`, `batch`, `dimensions`, `name`. Raises `InvalidArgument` for another name, and
    `Misconfigured` where the weights are not here.
    """
    if spec is None or spec == "none":
        return None
    if not isinstance(spec, str):
        return spec if _is_embedder(spec) else _function(spec, options)
    kind, _, model = spec.partition(":")
    if bool(model.strip()) != (kind in _MODELLED) or kind not in (*_MODELLED, *_PLAIN):
        raise InvalidArgument(f"there is no embedder named {spec!r:.60}: {KNOWN}")
    if kind in _MODELLED:
        try:
            return _MODELLED[kind](model, options)
        except TypeError as error:
            raise InvalidArgument(f"an embedder {kind}:MODEL has no such option: {', '.join(options)}") from error
    if options:
        raise InvalidArgument(f"the embedder {kind} has no options")
    return _PLAIN[kind](models)


def _is_embedder(spec: Any) -> TypeGuard[Embedder]:
    return isinstance(getattr(spec, "name", None), str) and hasattr(spec, "embed")


def _function(function: Any, options: dict[str, Any]) -> Embedder:
    from remanence.search.embedders.function import FunctionEmbedder

    return FunctionEmbedder(function, **options)


def _static(models: Path | None) -> Embedder:
    from remanence.search.embedders.static import StaticEmbedder

    return StaticEmbedder()


def _minilm(models: Path | None) -> Embedder:
    from remanence.search.embedders.minilm import MiniLMEmbedder
    from remanence.settings import Settings

    return MiniLMEmbedder((models or Settings.build().models_folder) / "minilm")


def _ollama(model: str, options: dict[str, Any]) -> Embedder:
    from remanence.search.embedders.ollama import OllamaEmbedder

    return OllamaEmbedder(model, **options)


def _openai(model: str, options: dict[str, Any]) -> Embedder:
    from remanence.search.embedders.openai import OpenAIEmbedder

    return OpenAIEmbedder(model, **options)


def _sentence_transformers(model: str, options: dict[str, Any]) -> Embedder:
    from remanence.search.embedders.sentence_transformers import SentenceTransformersEmbedder

    return SentenceTransformersEmbedder(model, **options)


_PLAIN: Final = {"static": _static, "minilm": _minilm}
_MODELLED: Final = {"ollama": _ollama, "openai": _openai, "sentence-transformers": _sentence_transformers}
