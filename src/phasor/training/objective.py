"""From a batch to its loss, whole or piece by piece.

Shapes: N sequences of a rank's batch, Q queries and P passages among them, D embedding size.
"""

import contextlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from phasor.config.training import InfoNCEConfig
from phasor.losses.gradcache import GradCache, Passes
from phasor.losses.infonce import Candidates, infonce
from phasor.losses.matryoshka import matryoshka
from phasor.losses.yes_no import yes_no
from phasor.models.network import Network
from phasor.models.threads import are_shared, passes_of, steady
from phasor.models.tokens import Order, TokenBatch, plan_batches, plan_evenly
from phasor.training.data import Batch, EmbedBatch, LossConfig, RerankBatch
from phasor.training.distributed import gather_ids, gather_rows, most, world_size
from phasor.training.passes import LocalPasses


def batch_loss(network: Network, batch: Batch, loss: LossConfig, max_tokens: int = 65_536) -> Tensor:
    """The training loss of a batch as a differentiable scalar, in nats, mean over queries or pairs.

    Args:
        network: embedder or reranker; gradients reach whatever its forward pass depends on.
        batch: from a `TrainingSet` of the same role.
        loss: settings of the role's loss.
        max_tokens: tokens, padding included, per forward pass.
    """
    pieces = [piece for group in _groups(network, batch, max_tokens) for piece in group]
    rows = torch.cat(LocalPasses(network).forward(_tokens(network, batch, pieces)))
    return _loss(rows[_inverse(pieces, rows.device)], batch, loss)


def backward_loss(network: Network, passes: Passes[TokenBatch], batch: Batch, loss: LossConfig, max_tokens: int) -> float:
    """Accumulate the gradients of `batch_loss` with at most `max_tokens` tokens of activations; return the loss.

    Args:
        network: pads the sequences.
        passes: runs the network, or what wraps it in a distributed run.
        batch, loss: as in `batch_loss`.
        max_tokens: tokens, padding included, in memory at once.
    """
    groups = _groups(network, batch, max_tokens)
    tokens = [_tokens(network, batch, group) for group in groups]
    # Sharded weights are gathered in every pass, so all ranks make equally many; the extra ones count nothing.
    extra = tokens[-1:] * (most(len(tokens)) - len(tokens))
    cache = GradCache(passes, replay_randomness=network.is_random)
    if isinstance(batch, RerankBatch):
        return _separate(cache, batch, groups, tokens, extra)
    inverse = _inverse([piece for group in groups for piece in group], network.device)
    before = sum(len(piece.ids) for group in extra for piece in group)
    return cache.step(extra + tokens, lambda rows: _loss(rows[before:][inverse], batch, loss))


def steady_loss(network: Network, max_tokens: int) -> contextlib.AbstractContextManager[None]:
    """Inside, results do not depend on the number of threads, if losses with so many tokens in memory run side by side."""
    return steady() if _are_shared(network, max_tokens) else contextlib.nullcontext()


def _separate(
    cache: GradCache[TokenBatch], batch: RerankBatch, groups: Sequence[Sequence[Order]],
    tokens: Sequence[Sequence[TokenBatch]], extra: Sequence[Sequence[TokenBatch]],
) -> float:
    """Pairs do not meet in the loss, so each group's gradient is complete by itself and one pass is enough."""
    total = 0.0
    for group, part in zip(groups, tokens, strict=True):
        order = np.concatenate(group)
        total += cache.step([part], lambda rows, order=order: _yes_no(rows, batch, order))  # type: ignore[misc]
    for part in extra:
        cache.step([part], lambda rows: rows.sum() * 0.0)
    return total


def _loss(rows: Tensor, batch: Batch, loss: LossConfig) -> Tensor:
    if isinstance(batch, RerankBatch):
        return _yes_no(rows, batch, np.arange(len(batch.relevant)))
    assert isinstance(loss, InfoNCEConfig), "InfoNCE settings belong to embedder batches"
    return _infonce(rows, batch, loss)


def _yes_no(logits_N2: Tensor, batch: RerankBatch, piece: Order) -> Tensor:
    relevant = torch.from_numpy(batch.relevant[piece]).to(logits_N2.device)
    return yes_no(logits_N2, relevant) * (world_size() / batch.num_pairs)


def _infonce(rows_ND: Tensor, batch: EmbedBatch, loss: InfoNCEConfig) -> Tensor:
    """Mean over the step's queries; several ranks share their passages, each once."""
    device, queries = rows_ND.device, len(batch.target)
    spread = batch.in_batch and loss.in_batch != "none"
    q_QD, p_PD, passage = rows_ND[:queries], rows_ND[queries:], batch.passage
    g_GD, positive_G = q_QD[:0], batch.target[:0]
    if spread:
        passage, first = np.unique(gather_ids(batch.passage, device), return_index=True)
        p_PD = gather_rows(p_PD)[torch.from_numpy(first).to(device)]
    if spread and loss.in_batch == "docs+queries":
        g_GD, positive_G = gather_rows(q_QD), gather_ids(batch.target, device)
    candidates = Candidates(*(torch.from_numpy(ids).to(device) for ids in (passage, batch.target, batch.own, batch.positives)))
    others_G = torch.from_numpy(positive_G).to(device)
    sizes = [queries, len(p_PD), len(g_GD)]

    def value(vectors: Tensor) -> Tensor:
        q, p, g = vectors.split(sizes)
        return infonce(q, p, candidates, loss, in_batch=batch.in_batch, others=(g, others_G))

    total = matryoshka(value, torch.cat([q_QD, p_PD, g_GD]), loss.matryoshka_dims)
    return total * (world_size() / batch.num_examples)


def _groups(network: Network, batch: Batch, max_tokens: int) -> list[list[Order]]:
    """Sequences of each pass, grouped by which may be in memory at once: several small passes side by side, or one."""
    lengths = np.fromiter((len(s) for s in batch.sequences), np.int64, len(batch.sequences))
    if not _are_shared(network, max_tokens):
        return [[piece] for piece in plan_batches(lengths, max_tokens)]
    groups: list[list[Order]] = []
    room = 0
    for piece in plan_evenly(lengths, passes_of(int(lengths.sum()), max_tokens), max_tokens):
        size = len(piece) * int(lengths[piece[0]])
        if size > room:
            groups.append([])
            room = max_tokens
        groups[-1].append(piece)
        room -= size
    return groups


def _are_shared(network: Network, max_tokens: int) -> bool:
    """Whether passes run side by side: not among several processes, nor where they would be too small."""
    return network.threaded and world_size() == 1 and are_shared(max_tokens)


def _tokens(network: Network, batch: Batch, pieces: Sequence[Order]) -> list[TokenBatch]:
    return [network.batch([batch.sequences[i] for i in piece]) for piece in pieces]


def _inverse(pieces: Sequence[Order], device: torch.device) -> Tensor:
    """[N] where each sequence's row stands after the pieces were put together."""
    return torch.from_numpy(np.argsort(np.concatenate(pieces))).to(device)
