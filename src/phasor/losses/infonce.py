"""Contrastive loss of the embedder, with hard and in-batch negatives and a mask for false ones.

Shapes: Q queries of this rank, P passages of all ranks, G queries of all ranks, M most known positives and K most
hard negatives of a query, D embedding size.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from phasor.config.training import InfoNCEConfig

# Similarities at once. The loss holds about ten numbers for each of them until its gradient is known: 160 MiB, where a batch of 4,096
# queries with a hard negative each would take 1.3 GiB.
_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Candidates:
    """What each query is compared with, by passage id. Equal ids are the same text.

    Attributes:
        passage: [P] int64 ids, ascending, each once.
        target: [Q] int64 id of each query's positive; one of `passage`.
        own: [Q, K] int64 ids of the query's hard negatives, filled up with -1.
        positives: [Q, M] int64 ids of every passage known to be relevant to the query, filled up with -1.
    """

    passage: Tensor
    target: Tensor
    own: Tensor
    positives: Tensor

    def of(self, queries: slice) -> "Candidates":
        """Those of some of the queries."""
        return replace(self, target=self.target[queries], own=self.own[queries], positives=self.positives[queries])

    def relevant(self, passage_K: Tensor) -> Tensor:
        """[Q, K] bool: whether each of some passages is known to be relevant to each query."""
        return _members(self.positives, passage_K)


def infonce(
    q_QD: Tensor, p_PD: Tensor, candidates: Candidates, config: InfoNCEConfig, *,
    in_batch: bool = True, others: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Sum over queries of -log softmax of the positive among its candidates.

    Candidates of a query are its positive, its hard negatives and, if allowed, the other passages of the batch.
    With `docs+queries` the other queries, and the passages near its positive, repel as well. Never a negative: a
    passage known to be relevant or, with a margin set, anything that scores above the positive plus the margin.
    Many queries come in parts that are computed again for the gradient, so that memory does not grow with their square.

    Args:
        q_QD, p_PD: L2-normalised float32; cosine similarity is their dot product.
        candidates: what belongs to which query.
        config: temperature and switches.
        in_batch: False for a task whose other passages may be relevant too; overrides `config.in_batch`.
        others: for `docs+queries`, (g_GD, positive_G): all queries of the batch and the id of each one's positive.

    Returns:
        Scalar sum in nats; divide by the number of queries of the whole batch for the mean.

    Source:
        Lychee paper eq. 1; in-batch terms and mask: Qwen3-Embedding (arXiv:2506.05176) eq. 1 and 2.
    """
    size = max(1, _AT_ONCE // len(p_PD))
    if len(q_QD) <= size:
        return _some(q_QD, p_PD, candidates, config, in_batch, others)
    total = q_QD.new_zeros(())
    for start in range(0, len(q_QD), size):
        part = slice(start, start + size)
        some = (q_QD[part], p_PD, candidates.of(part), config, in_batch, others)
        total = total + checkpoint(_some, *some, use_reentrant=False, preserve_rng_state=False)
    return total


def _some(
    q_QD: Tensor, p_PD: Tensor, candidates: Candidates, config: InfoNCEConfig, in_batch: bool, others: tuple[Tensor, Tensor] | None
) -> Tensor:
    """`infonce` for queries that fit into memory."""
    spread = in_batch and config.in_batch != "none"
    similarity_QP = q_QD @ p_PD.T
    target_Q = torch.searchsorted(candidates.passage, candidates.target)
    positive_Q = similarity_QP.gather(1, target_Q[:, None]).squeeze(1)
    irrelevant_QP = ~candidates.relevant(candidates.passage)
    allowed_QP = irrelevant_QP if spread else irrelevant_QP & _members(candidates.own, candidates.passage)
    logits = [_logits(similarity_QP, positive_Q, allowed_QP, config)]
    if spread and config.in_batch == "docs+queries":
        assert others is not None, "docs+queries needs the other queries"
        g_GD, positive_G = others
        logits.append(_logits(q_QD @ g_GD.T, positive_Q, ~candidates.relevant(positive_G), config))
        logits.append(_logits(p_PD[target_Q] @ p_PD.T, positive_Q, irrelevant_QP, config))
    scaled_Q = positive_Q / config.temperature
    everything = torch.cat([scaled_Q[:, None], *logits], dim=1)
    return (torch.logsumexp(everything, dim=1) - scaled_Q).sum()


def _members(sets_QM: Tensor, ids_K: Tensor) -> Tensor:
    """[Q, K] bool: whether each id is in each query's set."""
    found_QK = torch.zeros(len(sets_QM), len(ids_K), dtype=torch.bool, device=ids_K.device)
    for column_Q in sets_QM.T:
        found_QK |= column_Q[:, None] == ids_K[None, :]
    return found_QK


def _logits(similarity_QK: Tensor, positive_Q: Tensor, allowed_QK: Tensor, config: InfoNCEConfig) -> Tensor:
    """[Q, K] similarities over the temperature, -inf where not allowed or likely a false negative."""
    if config.false_negative_margin is not None:
        allowed_QK = allowed_QK & (similarity_QK <= positive_Q[:, None] + config.false_negative_margin)
    return (similarity_QK / config.temperature).masked_fill(~allowed_QK, -torch.inf)
