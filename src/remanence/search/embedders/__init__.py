"""How a text becomes a vector. The default is a table in the package; others are a step away."""

from remanence.search.embedders.contract import Embedder, TokenEmbedder, identity, tells_words

__all__ = ["Embedder", "TokenEmbedder", "identity", "tells_words"]
