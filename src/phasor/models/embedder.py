"""The embedder: one normalised vector per query or passage; cosine is their dot product. Lychee paper section 3.1.

Shapes: N texts, D embedding size.
"""

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from phasor.config.model import ModelConfig
from phasor.data.templates import render_query
from phasor.models.network import Network, Vectors
from phasor.models.pooling import pool
from phasor.models.tokens import Affixes, Ids, Ragged, TokenBatch, end_of_text_id, special_affixes, tokenize


class Embedder(Network):
    """A backbone with pooling.

    With last-token pooling every text ends in an explicit EOS, appended after the text was cut, so that it is
    always there. Other poolings keep the tokens that the tokenizer itself adds.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, config: ModelConfig) -> None:
        super().__init__(model, tokenizer, config)
        self._affixes = Affixes(suffix=(end_of_text_id(tokenizer),)) if config.pooling == "last" else special_affixes(tokenizer)

    @property
    def dims(self) -> int:
        """Embedding size D."""
        return int(self.model.config.hidden_size)

    def forward(self, batch: TokenBatch) -> Tensor:
        """[N, D] float32, L2-normalised."""
        if self.config.pooling == "last":
            return F.normalize(self.final_states(batch).float(), dim=-1)
        return F.normalize(pool(self.hidden_states(batch), batch, self.config.pooling).float(), dim=-1)

    def query_tokens(self, queries: Sequence[str], instructions: Sequence[str]) -> Ragged:
        """Render and tokenise queries, one instruction each."""
        texts = [render_query(self.config.template, i, q) for i, q in zip(instructions, queries, strict=True)]
        return tokenize(self.tokenizer, texts, self.config.max_query_tokens, self._affixes)

    def document_tokens(self, texts: Sequence[str]) -> Ragged:
        """Tokenise passages that `render_document` already rendered."""
        return tokenize(self.tokenizer, texts, self.config.max_passage_tokens, self._affixes)

    def encode_queries(self, queries: Sequence[str], instructions: Sequence[str], batch_size: int = 64, what: str = "") -> Vectors:
        """[N, D] vectors of queries. `batch_size` counts texts of full length; shorter ones share the room."""
        return self.encode(self.query_tokens(queries, instructions), batch_size * self.config.max_query_tokens, what)

    def encode_documents(self, texts: Sequence[str], batch_size: int = 64, what: str = "") -> Vectors:
        """[N, D] vectors of rendered passages; arguments as in `encode_queries`."""
        return self.encode(self.document_tokens(texts), batch_size * self.config.max_passage_tokens, what)

    def encode(self, tokens: Ragged | Sequence[Ids], max_tokens: int, what: str = "") -> Vectors:
        """[N, D] vectors of token sequences in batches of at most `max_tokens`."""
        if not len(tokens):
            return np.empty((0, self.dims), np.float32)
        return self.infer(list(tokens), max_tokens, self, what)
