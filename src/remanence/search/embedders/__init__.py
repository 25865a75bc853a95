"""How a text becomes a vector. The default is a table in the package; others are a step away."""

from remanence.search.embedders.contract import Embedder, identity

__all__ = ["Embedder", "identity"]
