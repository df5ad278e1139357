"""The reranker: the probability that a language model answers yes. Lychee paper section 3.1.

Shapes: N pairs, L tokens of the longest, D hidden size.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from phasor.config.model import ModelConfig
from phasor.data.templates import render_pair
from phasor.errors import ModelError
from phasor.models import decoder
from phasor.models.network import Network, Vectors
from phasor.models.tokens import Ids, Ragged, Shared, TokenBatch, single_token, tokenize

Logits = npt.NDArray[np.float64]
_MAX_CACHED = 100_000


class Reranker(Network):
    """A causal language model of which only two output rows are ever used: those of `no` and `yes`."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, config: ModelConfig) -> None:
        super().__init__(model, tokenizer, config)
        if model.get_output_embeddings() is None or not self.causal:
            raise ModelError(
                f"{type(model).__name__} has no language-model head, so it cannot answer yes or no. "
                "Choose a causal backbone for model.rerank."
            )
        self.answers = (single_token(tokenizer, "no"), single_token(tokenizer, "yes"))
        self.tail = tokenize(tokenizer, [render_pair(config.template, "", "", "")[2]])[0]
        self._documents: dict[str, Ids] = {}

    def forward(self, batch: TokenBatch, prefixes: decoder.Prefixes | None = None) -> Tensor:
        """[N, 2] float32 logits of (no, yes) after the last token of each sequence."""
        # Two rows of the head instead of all: full logits would be L x vocabulary for nothing.
        head: Any = self.model.get_output_embeddings()
        rows_2D: Tensor = head.weight[torch.tensor(self.answers, device=head.weight.device)]
        return self.final_states(batch, prefixes).float() @ rows_2D.float().T

    def head_tokens(self, queries: Sequence[str], instructions: Sequence[str]) -> Ragged:
        """Tokens of everything before the document, one sequence per query; cut only where they alone fill the pair."""
        heads = [render_pair(self.config.template, i, q, "")[0] for i, q in zip(instructions, queries, strict=True)]
        return tokenize(self.tokenizer, heads, self.config.max_pair_tokens - len(self.tail))

    def document_tokens(self, texts: Sequence[str]) -> Ragged:
        """Tokens of rendered passages."""
        return tokenize(self.tokenizer, texts, self.config.max_pair_tokens)

    def pair(self, head: Ids, document: Ids) -> Ids:
        """One input: the document is cut so that head and tail arrive whole within `max_pair_tokens`."""
        room = self.config.max_pair_tokens - len(head) - len(self.tail)
        return np.concatenate([head, document[:room], self.tail])

    def score(self, instruction: str, query: str, documents: Sequence[str], batch_size: int = 64) -> Vectors:
        """[N] probability of yes for each rendered document, 1 from logits of 17 on; arguments as of `logits`."""
        # Softmax over (no, yes), second entry; written as a sigmoid of the difference.
        return (1.0 / (1.0 + np.exp(-self.logits(instruction, query, documents, batch_size)))).astype(np.float32)

    def logits(self, instruction: str, query: str, documents: Sequence[str], batch_size: int = 64) -> Logits:
        """[N] by how much yes is likelier than no for each rendered document, in nats; `batch_size` as in `logit_lists`."""
        return self.logit_lists(list(self.head_tokens([query], [instruction])), [self._cached_tokens(documents)], batch_size)

    def logit_lists(self, heads: Sequence[Ids], lists: Sequence[Sequence[Ids]], batch_size: int = 64) -> Logits:
        """[N] by how much yes is likelier than no, in nats, for the documents of every list, list by list.

        Args:
            heads: tokens of everything before the document, one sequence per list.
            lists: tokens of the documents.
            batch_size: pairs of full length at once; shorter ones share the room.
        """
        pairs = [self.pair(heads[number], document) for number, documents in enumerate(lists) for document in documents]
        if not pairs:
            return np.empty(0, np.float64)
        owners = np.repeat(np.arange(len(lists)), [len(documents) for documents in lists])
        shared = Shared(owners, np.array([len(head) for head in heads])[owners])
        logits_N2 = self.infer_shared(pairs, shared, batch_size * self.config.max_pair_tokens).astype(np.float64)
        return np.asarray(logits_N2[:, 1] - logits_N2[:, 0])

    def _cached_tokens(self, documents: Sequence[str]) -> list[Ids]:
        # The same passages are candidates of many queries; tokenising them again would cost as much as scoring.
        if len(self._documents) > _MAX_CACHED:
            self._documents.clear()
        missing = [d for d in dict.fromkeys(documents) if d not in self._documents]
        tokens = self.document_tokens(missing)
        self._documents.update((document, tokens[i]) for i, document in enumerate(missing))
        return [self._documents[d] for d in documents]
