"""Better than random first weights for a backbone that starts from nothing.

Token vectors come from which tokens occur near each other, and every layer starts as a mean over the tokens before
it that weights rare ones higher: the model begins as a bag of words, and training only has to improve on one.

Shapes: V vocabulary, D hidden size, H heads, E size of a head.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
import torch
from sklearn.utils.extmath import randomized_svd
from torch import Tensor
from transformers import PreTrainedModel

from phasor.models.tokens import Ids

_WINDOW = 8
_MAX_TOKENS = 2_000_000
# Size of token vectors, and of the identity that values pass through, in units of the deviation of random weights.
_GAIN = 11.3
# Share of a token vector's size that its first coordinate, the rarity, may take.
_RARITY = 0.7


@torch.no_grad()
def initialise(network: PreTrainedModel, sequences: Sequence[Ids], seed: int) -> None:
    """Set token embeddings and attention of a Qwen2 model from tokenised texts.

    Args:
        network: with random weights; its MLPs and norms stay as they are, as do rows of tokens that never occur.
        sequences: texts as the model will see them.
        seed: of the decomposition.
    """
    base: Any = network.base_model
    table = base.embed_tokens.weight
    scale = _GAIN * float(network.config.initializer_range)
    vectors = cooccurrence_embeddings(sequences, vocab_size=table.shape[0], dims=table.shape[1], seed=seed)
    rarity, used = _rarity(sequences, len(table))
    vectors *= scale
    vectors[:, 0] = rarity * scale * _RARITY
    table.copy_(torch.where(used[:, None], vectors, table))
    slope = _slope(vectors[used], rarity[used])
    for layer in base.layers:
        _pool_by_rarity(layer.self_attn, math.log(len(sequences)) / slope)
        for projection in (layer.self_attn.v_proj, layer.self_attn.o_proj):
            projection.weight.copy_(torch.eye(*projection.weight.shape) * scale)


def cooccurrence_embeddings(sequences: Sequence[Ids], vocab_size: int, dims: int, seed: int) -> Tensor:
    """[V, D] unit token vectors: left singular vectors of the positive pointwise mutual information, times sqrt(S).

    Counts tokens within a window of each other, the nearer the more. Tokens that never occur get zero.

    Source:
        Levy and Goldberg 2014, Neural Word Embedding as Implicit Matrix Factorization; Levy et al. 2015 for sqrt(S).
    """
    counts = _cooccurrences(sequences, vocab_size)
    row = np.asarray(counts.sum(1)).ravel()
    # Context counts to the power 0.75 keep rare contexts from dominating (Levy et al. 2015, section 3.2).
    context = row**0.75
    context /= context.sum()
    entries = counts.tocoo()
    pmi = np.log(entries.data / np.maximum(row[entries.row] * context[entries.col], 1e-12))
    keep = pmi > 0
    matrix = scipy.sparse.csr_matrix((pmi[keep], (entries.row[keep], entries.col[keep])), shape=counts.shape, dtype=np.float32)
    rank = min(dims, vocab_size - 1)
    u, s, _ = randomized_svd(matrix, n_components=rank, n_iter=2, n_oversamples=8, random_state=seed)
    vectors = np.zeros((vocab_size, dims), np.float32)
    vectors[:, :rank] = u * np.sqrt(s)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return torch.from_numpy(vectors)


def _cooccurrences(sequences: Sequence[Ids], vocab_size: int) -> scipy.sparse.csr_matrix:
    """Symmetric [V, V] weighted counts of tokens at distance 1 to the window, within a sequence."""
    values = np.concatenate(sequences)[:_MAX_TOKENS].astype(np.int64)
    owner = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences])[:_MAX_TOKENS]
    counts = scipy.sparse.csr_matrix((vocab_size, vocab_size), dtype=np.float32)
    for distance in range(1, _WINDOW + 1):
        same = owner[:-distance] == owner[distance:]
        left, right = values[:-distance][same], values[distance:][same]
        weight = np.full(len(left), 1.0 / distance, np.float32)
        counts = counts + scipy.sparse.csr_matrix((weight, (left, right)), shape=counts.shape)
    return (counts + counts.T).tocsr()


def _rarity(sequences: Sequence[Ids], vocab_size: int) -> tuple[Tensor, Tensor]:
    """[V] inverse document frequency between 0 (in every text) and 1 (in one), and [V] whether a token occurs."""
    frequency = np.bincount(np.concatenate([np.unique(s) for s in sequences]), minlength=vocab_size)
    rarity = 1.0 - np.log(np.maximum(frequency, 1)) / math.log(max(len(sequences), 2))
    return torch.from_numpy(rarity.astype(np.float32)), torch.from_numpy(frequency > 0)


def _slope(vectors_VD: Tensor, rarity_V: Tensor) -> float:
    """How much the first coordinate of a normalised token vector grows per unit of rarity, by least squares."""
    coordinate = vectors_VD[:, 0] / vectors_VD.pow(2).mean(1).sqrt()
    return float((coordinate * rarity_V).sum() / rarity_V.pow(2).sum().clamp_min(1e-6))


def slowest_rows(attention: Any) -> Tensor:
    """[H] rows of the query and key projections that turn slowest with the position, so that distance hardly matters."""
    size = attention.head_dim
    return torch.arange(size // 2 - 1, attention.q_proj.weight.shape[0], size)


def _pool_by_rarity(attention: Any, gain: float) -> None:
    """Make every query's attention to a token proportional to the exponential of `gain` times its first coordinate.

    With the gain at the logarithm of the number of texts, a token's weight is one over its document frequency.

    Source:
        Arora et al. 2017, A Simple but Tough-to-Beat Baseline for Sentence Embeddings, for the weighting.
    """
    root = math.sqrt(gain * math.sqrt(attention.head_dim))
    rows = slowest_rows(attention)
    attention.q_proj.bias[rows] = root
    attention.k_proj.weight[rows] = 0.0
    attention.k_proj.weight[rows, 0] = root
