"""Vectors of a smaller size, for models that were trained for it (Matryoshka)."""

import numpy as np

from phasor.models.network import Vectors


def truncate(vectors_ND: Vectors, dims: int) -> Vectors:
    """The first `dims` components, with norm 1 again: [N, dims]."""
    if dims == vectors_ND.shape[1]:
        return vectors_ND
    part = vectors_ND[:, :dims]
    return np.ascontiguousarray(part / np.linalg.norm(part, axis=1, keepdims=True))
