"""Search indexes: built from a corpus with a bundle's embedder, updated by id, swapped while they are served."""
