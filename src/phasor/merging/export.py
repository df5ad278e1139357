"""Write a merge into the warm-up model's weights, one weight at a time."""

# Shapes: M weights, N task vectors.

import torch
from torch import Tensor, nn

from phasor.merging.task_vector import Delta, LowRank, TaskVectors


@torch.no_grad()
def fold_into(model: nn.Module, vectors: TaskVectors, coefficients_MN: Tensor) -> None:
    """Add sum over k of c_k v_k to a model in place.

    Beside the model no more than one weight's change is dense at a time. The sum is rounded once to the weight's type.

    Args:
        model: the warm-up model that the vectors belong to.
        vectors: N vectors on M weights.
        coefficients_MN: one coefficient per weight and vector.
    """
    weights = dict(model.named_parameters())
    for name, c_N in zip(vectors.names, coefficients_MN.tolist(), strict=True):
        weights[name].copy_(weights[name] + combine(vectors.at(name), c_N))


def combine(changes: tuple[Delta | None, ...], c_N: list[float]) -> Tensor:
    """sum over k of c_k v_k on one weight, dense; at least one change is not None."""
    present = [(c, change) for c, change in zip(c_N, changes, strict=True) if change is not None]
    low_rank = [(c, change) for c, change in present if isinstance(change, LowRank)]
    if len(low_rank) == len(present):
        return torch.cat([c * change.b for c, change in low_rank], dim=1) @ torch.cat([change.a for _, change in low_rank])
    total = torch.zeros_like(present[0][1].dense())
    for c, change in present:
        total.add_(change.dense(), alpha=c)
    return total
