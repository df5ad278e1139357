"""The sum of the task vectors with one learned coefficient each.

Source: task arithmetic arXiv 2212.04089; coefficients by gradient as in AdaMerging (task-wise), arXiv 2310.02575.
"""

# Shapes: M weights, N task vectors.

import torch
from torch import Tensor

from phasor.merging.method import free
from phasor.merging.task_vector import TaskVectors


class TaskArithmetic:
    """The method `task_arithmetic`. Unlike with SLERP a coefficient may turn negative. Starts at the mean."""

    def __init__(self, vectors: TaskVectors) -> None:
        self.vectors = vectors
        num = len(vectors.tasks)
        self._c_N = free(torch.full((num,), 1 / num))
        self.parameters = [self._c_N]

    def coefficients(self) -> Tensor:
        """See `Method`."""
        return self._c_N.expand(len(self.vectors.names), -1)

    def scale(self) -> Tensor:
        """The sum of the coefficients' sizes: equals lambda where the method agrees with `Average`."""
        return self._c_N.abs().sum()

    def state(self) -> dict[str, float | list[float]]:
        """See `Method`."""
        return {}
