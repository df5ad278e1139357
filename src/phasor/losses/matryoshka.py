"""Make the first dimensions of a vector useful on their own.

Shapes: N vectors, D full size.
"""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor


def matryoshka(loss: Callable[[Tensor], Tensor], vectors_ND: Tensor, dims: Sequence[int]) -> Tensor:
    """Sum of a loss over the full vectors and over each truncated, renormalised size.

    Args:
        loss: takes [N, d] normalised vectors, returns a scalar.
        vectors_ND: L2-normalised.
        dims: truncated sizes; those of at least D are skipped, the full size always counts once.

    Source:
        Kusupati et al. 2022 (arXiv:2205.13147); Lychee paper A.2 uses it in the enhance phase only.
    """
    total = loss(vectors_ND)
    for size in dims:
        if size < vectors_ND.shape[1]:
            total = total + loss(F.normalize(vectors_ND[:, :size], dim=-1))
    return total
