"""How a text becomes a vector. The default is a table in the package; others are a step away."""

from remanence.search.embedders.contract import Embedder, TokenEmbedder, identity, tells_words
from remanence.search.embedders.factory import embedder_from

__all__ = ["Embedder", "TokenEmbedder", "embedder_from", "identity", "tells_words"]
