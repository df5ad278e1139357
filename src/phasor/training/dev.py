"""nDCG@10 during training, on a small fixed corpus: the positives and negatives of a few dev queries.

It tells whether training goes the right way; it is not comparable with scores on a whole corpus.
"""

from collections.abc import Mapping

from phasor.data.templates import render_passage
from phasor.evaluation.metrics import Run, ndcg_at_10, qrels_of
from phasor.models.embedder import Embedder
from phasor.models.network import Network
from phasor.models.reranker import Reranker
from phasor.training.data import TaskData

_BATCH = 32


class DevSet:
    """Dev queries of every task with their passages."""

    def __init__(self, tasks: Mapping[str, TaskData]) -> None:
        self._tasks = {name: data for name, data in tasks.items() if data.examples}

    def ndcg_at_10(self, network: Network) -> dict[str, float]:
        """Mean nDCG@10 per task."""
        return {name: self._score(network, data) for name, data in self._tasks.items()}

    def _score(self, network: Network, data: TaskData) -> float:
        run = _retrieve(network, data) if isinstance(network, Embedder) else _rerank(network, data)
        return float(ndcg_at_10(qrels_of(data.examples), run).mean())


def _retrieve(embedder: Embedder, data: TaskData) -> Run:
    ids = list(dict.fromkeys(p for e in data.examples for p in (*e.positives, *e.negatives)))
    p_PD = embedder.encode_documents([render_passage(data.passages[i]) for i in ids], _BATCH)
    q_QD = embedder.encode_queries([e.query for e in data.examples], [e.instruction for e in data.examples], _BATCH)
    scores = q_QD @ p_PD.T
    return {e.id: dict(zip(ids, row.tolist(), strict=True)) for e, row in zip(data.examples, scores, strict=True)}


def _rerank(network: Network, data: TaskData) -> Run:
    assert isinstance(network, Reranker), "there are two kinds of network"
    heads = network.head_tokens([e.query for e in data.examples], [e.instruction for e in data.examples])
    candidates = [list(dict.fromkeys((*e.positives, *e.negatives))) for e in data.examples]
    tokens = [network.document_tokens([render_passage(data.passages[i]) for i in ids]) for ids in candidates]
    scores = iter(network.logit_lists(list(heads), [list(part) for part in tokens], _BATCH).tolist())
    return {e.id: {candidate: next(scores) for candidate in ids} for e, ids in zip(data.examples, candidates, strict=True)}
