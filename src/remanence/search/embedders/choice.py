"""Which embedder a setting names."""

from typing import Any

from remanence.errors import InvalidSetting
from remanence.search.embedders.contract import Embedder
from remanence.search.embedders.static import StaticEmbedder


def embedder_from(spec: Any) -> Embedder | None:
    """The embedder of this name, or the one that is given. Raises `InvalidSetting`."""
    if spec is None or spec == "static":
        return StaticEmbedder()
    if spec == "none":
        return None
    if isinstance(spec, str):
        raise InvalidSetting(f"there is no embedder {spec!r:.60}")
    found: Embedder = spec
    return found
