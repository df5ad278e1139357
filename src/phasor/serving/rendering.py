"""From a caller's texts to what the models read: template, tokens and cut, the same for every engine."""

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerFast

from phasor.data.templates import render_pair, render_query
from phasor.models.tokens import Ragged, special_affixes, tokenize
from phasor.serving.bundle import Bundle
from phasor.serving.engine import Pairs


class Renderer:
    """Templates and tokenizers of a bundle. Its methods may be called from several threads."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._embed = PreTrainedTokenizerFast.from_pretrained(str(bundle.folder / "embed"))
        # The exported tokenizer itself ends a text in the token whose state is the vector.
        self._affixes = special_affixes(self._embed)
        if bundle.rerank is not None:
            self._rerank = PreTrainedTokenizerFast.from_pretrained(str(bundle.folder / "rerank"))
            self._tail = tokenize(self._rerank, [render_pair(bundle.rerank.template, "", "", "")[2]])[0]

    def queries(self, queries: Sequence[str], instruction: str) -> Ragged:
        """Queries for the embedder, after the instruction."""
        config = self._bundle.embed
        texts = [render_query(config.template, instruction, query) for query in queries]
        return tokenize(self._embed, texts, config.max_query_tokens, self._affixes)

    def documents(self, texts: Sequence[str]) -> Ragged:
        """Passages for the embedder, as they are."""
        return tokenize(self._embed, texts, self._bundle.embed.max_passage_tokens, self._affixes)

    def pairs(self, instruction: str, query: str, documents: Sequence[str], max_document_tokens: int | None = None) -> Pairs:
        """A query with documents for the reranker. A query that alone fills the input is cut, as in training."""
        config = self._bundle.rerank
        assert config is not None, "callers look whether there is a reranker"
        most = config.max_pair_tokens - len(self._tail)
        head = tokenize(self._rerank, [render_pair(config.template, instruction, query, "")[0]], most)[0]
        room = min(most - len(head), max_document_tokens or most)
        sequences = [np.concatenate([head, rest[:room], self._tail]) for rest in tokenize(self._rerank, documents, max(room, 1))]
        return Pairs(Ragged.of(sequences), len(head))
