"""How much of exact search an index finds, measured on itself.

Shapes: Q queries, N passages, D vector size, K results.
"""

import faiss
import numpy as np
from numpy.typing import NDArray

from phasor.indexing.backend import VectorBackend

_K = 10
_CHUNK = 65_536
_TIE = 1e-5  # scores this near are equal: which of them is among the first ten is chance


def recall_at_10(
    backend: VectorBackend, vectors_ND: NDArray[np.float32], queries_QD: NDArray[np.float32], own_Q: NDArray[np.int64]
) -> float:
    """Share of the ten nearest passages that the backend finds, mean over queries.

    Args:
        backend: what is measured.
        vectors_ND: every vector, usually mapped from a file; read in pieces.
        queries_QD: what is searched for.
        own_Q: row of the passage that a query is, which does not count; -1 for none.
    """
    k = min(_K + 1, len(vectors_ND))
    best_QK = np.full((len(queries_QD), k), -np.inf, np.float32)
    rows_QK = np.full((len(queries_QD), k), -1, np.int64)
    for start in range(0, len(vectors_ND), _CHUNK):
        chunk = np.ascontiguousarray(vectors_ND[start : start + _CHUNK])
        scores, rows = faiss.knn(queries_QD, chunk, min(k, len(chunk)), metric=faiss.METRIC_INNER_PRODUCT)
        joined, names = np.concatenate([best_QK, scores], axis=1), np.concatenate([rows_QK, rows + start], axis=1)
        order = np.argsort(-joined, axis=1, kind="stable")[:, :k]
        best_QK, rows_QK = np.take_along_axis(joined, order, 1), np.take_along_axis(names, order, 1)
    shares = []
    for query, own, best, rows in zip(queries_QD, own_Q, best_QK, rows_QK, strict=True):
        exact = best[rows != own][:_K]
        if not len(exact):
            continue
        found = backend.search(query, k, {})
        others = found.rows[found.rows != own][:_K]
        hits = int((vectors_ND[others] @ query >= exact[-1] - _TIE).sum())
        shares.append(min(hits, len(exact)) / len(exact))
    return float(np.mean(shares)) if shares else 1.0
