"""What is scored, as mteb search models: the embedder, the reranker over a first stage, BM25, and the best order possible."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from mteb.models import ModelMeta

from phasor.data.templates import render_document
from phasor.evaluation.bm25 import Bm25
from phasor.evaluation.metrics import Qrels, Run

if TYPE_CHECKING:
    from datasets import Dataset

    from phasor.models.embedder import Embedder
    from phasor.models.network import Network
    from phasor.models.reranker import Reranker
    from phasor.models.tokens import Ragged

TopRanked = Mapping[str, list[str]]
"""Query id to candidate passage ids, best first."""
_QUERIES_AT_ONCE = 50
"""Queries of a reranker whose pairs are sorted by length together, so that little is padding."""


class CorpusTokens:
    """A corpus as token sequences, tokenised once for all models of a role: that takes as long as a small model's pass."""

    def __init__(self) -> None:
        self._tokenizer = ""
        self._tokens: Ragged | None = None

    def of(self, network: "Network", texts: Sequence[str]) -> "Ragged":
        """Tokens of rendered passages, always the same texts; tokenised anew for a network with another tokenizer."""
        backend: Any = network.tokenizer.backend_tokenizer
        tokenizer = backend.to_str()
        if self._tokens is None or tokenizer != self._tokenizer:
            self._tokenizer, self._tokens = tokenizer, network.document_tokens(texts)
        return self._tokens


class Searcher(ABC):
    """An mteb `SearchProtocol` over texts: mteb hands in a corpus, then queries, and gets a run.

    Args:
        name: of the model.
    """

    def __init__(self, name: str) -> None:
        self.mteb_model_meta = ModelMeta.create_empty({"name": f"phasor/{name}"})
        self._ids: list[str] = []
        self._texts: list[str] = []

    def index(self, corpus: "Dataset", **_: Any) -> None:
        """Take the corpus. Called by mteb."""
        columns = corpus[:]
        self._ids = columns["id"]
        self._texts = [render_document(title, text) for title, text in zip(columns["title"], columns["text"], strict=True)]

    def search(self, queries: "Dataset", *, top_k: int, top_ranked: TopRanked | None = None, **_: Any) -> Run:
        """Search the corpus, or each query's candidates. Called by mteb."""
        columns = queries[:]
        return self.rank(columns["id"], columns["text"], columns["instruction"], top_k, top_ranked)

    @abstractmethod
    def rank(self, ids: list[str], queries: list[str], instructions: list[str], top_k: int, top_ranked: TopRanked | None) -> Run:
        """Scores of at most `top_k` passages per query."""


class EmbedderSearcher(Searcher):
    """Exact search by cosine over the whole corpus.

    Args:
        batch_size: texts of full length at once.
        tokens: of the corpus, shared with other models.
    """

    def __init__(self, name: str, embedder: "Embedder", batch_size: int, tokens: CorpusTokens) -> None:
        super().__init__(name)
        self._embedder, self._batch_size, self._tokens = embedder, batch_size, tokens

    def rank(self, ids: list[str], queries: list[str], instructions: list[str], top_k: int, top_ranked: TopRanked | None) -> Run:
        """Scores of the nearest passages."""
        assert top_ranked is None, "the embedder is the first stage"
        tokens = self._tokens.of(self._embedder, self._texts)
        documents_PD = self._embedder.encode(tokens, self._batch_size * self._embedder.config.max_passage_tokens)
        queries_QD = self._embedder.encode_queries(queries, instructions, self._batch_size)
        scores_QK, rows_QK = faiss.knn(queries_QD, documents_PD, min(top_k, len(documents_PD)), faiss.METRIC_INNER_PRODUCT)
        return {
            query: {self._ids[row]: float(score) for row, score in zip(rows, scores, strict=True)}
            for query, rows, scores in zip(ids, rows_QK, scores_QK, strict=True)
        }


class RerankerSearcher(Searcher):
    """Reorders the head of a first-stage list; the rest follows in its old order.

    Args:
        batch_size: pairs of full length at once.
        depth: passages of each list that are reordered.
        tokens: of the corpus, shared with other models.
        tick: called with the number of queries done since the last call.
    """

    def __init__(
        self, name: str, reranker: "Reranker", batch_size: int, depth: int, tokens: CorpusTokens, tick: Callable[[int], object]
    ) -> None:
        super().__init__(name)
        self._reranker, self._batch_size, self._depth, self._tokens, self._tick = reranker, batch_size, depth, tokens, tick

    def rank(self, ids: list[str], queries: list[str], instructions: list[str], top_k: int, top_ranked: TopRanked | None) -> Run:
        """Logit of yes for the head, as many probabilities would be 1; the rest below, in its order."""
        assert top_ranked is not None, "a reranker needs a first stage"
        scores = self._scores([top_ranked[query][: self._depth] for query in ids], self._reranker.head_tokens(queries, instructions))
        rests = [top_ranked[query][self._depth : top_k] for query in ids]
        return {query: _below(found, rest) for query, found, rest in zip(ids, scores, rests, strict=True)}

    def _scores(self, candidates: Sequence[Sequence[str]], heads: "Ragged") -> list[dict[str, float]]:
        """Scores of the candidates of every query."""
        tokens, rows = self._tokens.of(self._reranker, self._texts), {passage: row for row, passage in enumerate(self._ids)}
        found: list[dict[str, float]] = [{} for _ in candidates]
        # Queries of similar length together: what they share with their passages is padded to the longest of a group.
        order = np.argsort(heads.lengths, kind="stable")
        for start in range(0, len(order), _QUERIES_AT_ONCE):
            group = order[start : start + _QUERIES_AT_ONCE]
            documents = [[tokens[rows[p]] for p in candidates[query]] for query in group]
            scores = iter(self._reranker.logit_lists([heads[query] for query in group], documents, self._batch_size).tolist())
            for query in group:
                found[query] = {p: next(scores) for p in candidates[query]}
            self._tick(len(group))
        return found


def _below(found: dict[str, float], rest: Sequence[str]) -> dict[str, float]:
    lowest = min(found.values(), default=0.0)
    return found | {passage: lowest - 1.0 - number for number, passage in enumerate(rest)}


class Bm25Searcher(Searcher):
    """BM25 with the setting tuned on the task's dev queries."""

    def __init__(self, bm25: Bm25) -> None:
        super().__init__("bm25")
        self._bm25 = bm25

    def rank(self, ids: list[str], queries: list[str], instructions: list[str], top_k: int, top_ranked: TopRanked | None) -> Run:
        """BM25 scores of the passages that share a term with the query."""
        return dict(zip(ids, self._bm25.search(queries, instructions, top_k), strict=True))


class OracleSearcher(Searcher):
    """The best order of a first-stage list: what no reranker can beat."""

    def __init__(self, qrels: Qrels) -> None:
        super().__init__("oracle")
        self._qrels = qrels

    def rank(self, ids: list[str], queries: list[str], instructions: list[str], top_k: int, top_ranked: TopRanked | None) -> Run:
        """1 for relevant passages, 0 for others."""
        assert top_ranked is not None, "the oracle orders a first stage's passages"
        return {query: {p: float(self._qrels[query].get(p, 0)) for p in top_ranked[query][:top_k]} for query in ids}
