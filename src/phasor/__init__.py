"""Phasor: train an embedder and a reranker from your own documents, in phases, and serve them."""

__version__ = "0.1.0"
