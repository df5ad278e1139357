"""The mean of the task vectors times lambda."""

# Shapes: M weights, N task vectors.

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from phasor.merging.method import free, inverse_softplus
from phasor.merging.task_vector import TaskVectors


class Average:
    """The method `average`. With lambda fixed at 1 it is the mean of the specialists' weights (model soup, arXiv 2203.05482)."""

    def __init__(self, vectors: TaskVectors, search_lambda: bool) -> None:
        self.vectors = vectors
        self._raw = free(inverse_softplus(1.0))
        self.parameters = [self._raw] if search_lambda else []

    def coefficients(self) -> Tensor:
        """See `Method`."""
        num = len(self.vectors.tasks)
        return self.scale() / num * torch.ones(len(self.vectors.names), num, dtype=torch.float64)

    def scale(self) -> Tensor:
        """See `Method`."""
        return F.softplus(self._raw)

    def state(self) -> dict[str, float | list[float]]:
        """See `Method`."""
        return {"lambda": self.scale().item()}
