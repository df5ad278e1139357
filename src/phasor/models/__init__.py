"""What is trained: tokens in, vectors or judgements out. Loading, building from nothing, embedder, reranker."""
