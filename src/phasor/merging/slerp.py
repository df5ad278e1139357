"""Folded SLERP of task vectors, computed from their inner products alone.

V_1 = v_1; V_i = slerp(V_{i-1}, v_i; t_i); merged = base + lambda V_N. Every V_i is a positive combination of the v_k, so its
coefficients follow from the Gram matrix and no vector is built. With one angle for all weights the t's and lambda reach exactly
the positive combinations; `unfold` is the inverse.

Source: Lychee paper section 3.3, eq. 3 to 5; Self-Positioning arXiv 2410.15035.
"""

# Shapes: M weights, N task vectors; "..." any leading dimensions.

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from phasor.merging.method import free, inverse_softplus
from phasor.merging.task_vector import TaskVectors

LERP_ABOVE = 0.9995
"""|cos| from which two vectors count as parallel and are mixed linearly, as in the code that the paper's footnote 1 names."""

_T_MARGIN = 1e-4


def fold(gram_NN: Tensor, t: Tensor) -> Tensor:
    """Coefficients of the folded SLERP in the task vectors.

    Args:
        gram_NN: inner products, float64 [..., N, N].
        t: fraction of each arc, [N - 1], between 0 and 1.

    Returns:
        [..., N], differentiable in t; the norm of the combination is not rescaled.
    """
    num = gram_NN.shape[-1]
    unit_NN = torch.eye(num, dtype=gram_NN.dtype)
    c = unit_NN[0].expand(gram_NN.shape[:-1])
    for i in range(1, num):
        left, right = _arc(_cosine(gram_NN, c, i), t[i - 1])
        c = left.unsqueeze(-1) * c + right.unsqueeze(-1) * unit_NN[i]
    return c


def unfold(gram_NN: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
    """The t's and lambda whose fold is a given positive combination: lambda * fold(gram, t) = target.

    Args:
        gram_NN: inner products, float64 [N, N].
        target_N: coefficients, all positive.

    Returns:
        t [N - 1] strictly between 0 and 1, and lambda, a positive scalar.

    Raises:
        ValueError: a target is not positive.
    """
    if not (target_N > 0).all():
        raise ValueError(f"only positive combinations are reachable, got {target_N.tolist()}")
    num = gram_NN.shape[-1]
    c = torch.eye(num, dtype=gram_NN.dtype)[0]
    t = torch.zeros(num - 1, dtype=gram_NN.dtype)
    for i in range(1, num):
        cosine = _cosine(gram_NN, c, i)
        # The wanted ratio of right to left weight; sin(t a) = ratio * sin((1 - t) a) solved for t.
        ratio = target_N[i] / target_N[0] * c[0]
        flat = cosine.abs() > LERP_ABOVE
        angle = torch.acos(cosine)
        t[i - 1] = ratio / (1 + ratio) if flat else torch.atan2(ratio * angle.sin(), 1 + ratio * angle.cos()) / angle
        left, right = _arc(cosine, t[i - 1])
        c = left * c
        c[i] = right
    return t, target_N[0] / c[0]


class Slerp:
    """The method `slerp`: N - 1 fractions through a sigmoid and lambda through a softplus.

    Starts at equal coefficients with lambda 1, which for orthogonal vectors of one norm are the fractions 1/2, 0.392, 1/3, ...
    """

    def __init__(self, vectors: TaskVectors, angle: Literal["global", "per_tensor"]) -> None:
        self.vectors = vectors
        self._gram = vectors.gram if angle == "global" else vectors.gram_MNN
        t, _ = unfold(vectors.gram, torch.ones(len(vectors.tasks), dtype=torch.float64))
        self._t_logit = free(torch.logit(t.clamp(_T_MARGIN, 1 - _T_MARGIN)))
        self._lambda_raw = free(inverse_softplus(1.0))
        self.parameters = [self._t_logit, self._lambda_raw]

    def coefficients(self) -> Tensor:
        """See `Method`."""
        c = self.scale() * fold(self._gram, self._t_logit.sigmoid())
        return c.expand(len(self.vectors.names), -1)

    def scale(self) -> Tensor:
        """See `Method`."""
        return F.softplus(self._lambda_raw)

    def state(self) -> dict[str, float | list[float]]:
        """See `Method`."""
        return {"t": self._t_logit.sigmoid().tolist(), "lambda": self.scale().item()}


def _cosine(gram_NN: Tensor, c_N: Tensor, i: int) -> Tensor:
    """Cosine between the combination c and vector i, [...]; 0 if either is zero."""
    products = (c_N.unsqueeze(-2) @ gram_NN).squeeze(-2)
    square = (products * c_N).sum(dim=-1) * gram_NN[..., i, i]
    # where() before the root as well: the gradient of an unused branch must be finite too.
    usable = square > 0
    cosine = products[..., i] / torch.where(usable, square, 1).sqrt()
    return torch.where(usable, cosine, 0).clamp(-1, 1)


def _arc(cosine: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the two ends at fraction t of the arc between them, each shaped like `cosine`."""
    flat = cosine.abs() > LERP_ABOVE
    angle = torch.acos(torch.where(flat, 0, cosine))
    left = torch.where(flat, 1 - t, torch.sin((1 - t) * angle) / angle.sin())
    right = torch.where(flat, t, torch.sin(t * angle) / angle.sin())
    return left, right
