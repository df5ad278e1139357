"""Better than random first weights for a backbone that starts from nothing.

Shapes: V vocabulary, D hidden size, H heads, E size of a head.
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse
import torch
from sklearn.utils.extmath import randomized_svd
from torch import Tensor
from transformers import PreTrainedModel

from phasor.models.tokens import Ids

_WINDOW = 8
_MAX_TOKENS = 2_000_000
# W_q W_k^T = ALPHA * noise + BETA * identity, as in the source; W_v W_o is the identity with a plus sign, because
# the state that is read must collect the tokens before it, not sharpen them.
_ALPHA, _BETA = 0.7, 0.7


def cooccurrence_embeddings(sequences: Sequence[Ids], vocab_size: int, dims: int, seed: int) -> Tensor:
    """[V, D] token vectors: left singular vectors of the positive pointwise mutual information, times sqrt(S).

    Counts tokens within a window of each other, the nearer the more. Rows have root mean square 1 over all tokens
    that occur; tokens that never occur get zero.

    Source:
        Levy and Goldberg 2014, Neural Word Embedding as Implicit Matrix Factorization; Levy et al. 2015 for sqrt(S).
    """
    counts = _cooccurrences(sequences, vocab_size)
    total = counts.sum()
    row = np.asarray(counts.sum(1)).ravel()
    # Context counts to the power 0.75 keep rare contexts from dominating (Levy et al. 2015, section 3.2).
    context = row**0.75
    context /= context.sum()
    entries = counts.tocoo()
    pmi = np.log(entries.data / np.maximum(row[entries.row] * context[entries.col], 1e-12))
    keep = pmi > 0
    matrix = scipy.sparse.csr_matrix((pmi[keep], (entries.row[keep], entries.col[keep])), shape=counts.shape, dtype=np.float32)
    assert total > 0, "no two tokens occur together"
    rank = min(dims, vocab_size - 1)
    u, s, _ = randomized_svd(matrix, n_components=rank, n_iter=2, n_oversamples=8, random_state=seed)
    vectors = np.zeros((vocab_size, dims), np.float32)
    vectors[:, :rank] = u * np.sqrt(s)
    used = row > 0
    vectors /= np.sqrt(np.mean(vectors[used] ** 2))
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


@torch.no_grad()
def mimetic_attention(model: PreTrainedModel, seed: int) -> None:
    """Set the attention weights of a Qwen2 model so that tokens attend to their like and values pass through.

    Source:
        Trockman and Kolter 2023, Mimetic Initialization of Self-Attention Layers (arXiv:2305.09828), section 4.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in model.base_model.layers:
        attention = layer.self_attn
        size, head = attention.q_proj.weight.shape[1], attention.head_dim
        for start in range(0, attention.q_proj.weight.shape[0], head):
            noise_DD = torch.randn(size, size, generator=generator) / size**0.5
            u, s, vt = torch.linalg.svd(_ALPHA * noise_DD + _BETA * torch.eye(size))
            root_E = s[:head].sqrt()
            attention.q_proj.weight[start : start + head] = (u[:, :head] * root_E).T
            attention.k_proj.weight[start : start + head] = vt[:head] * root_E[:, None]
        orthogonal = torch.linalg.qr(torch.randn(size, size, generator=generator))[0]
        attention.v_proj.weight.copy_(orthogonal)
        attention.o_proj.weight.copy_(orthogonal.T)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            projection.bias.zero_()
