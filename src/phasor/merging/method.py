"""What every way of merging has in common: a few free scalars that decide one coefficient per weight and task vector."""

# Shapes: M weights, N task vectors.

from typing import Protocol

import torch
from torch import Tensor

from phasor.merging.task_vector import TaskVectors


class Method(Protocol):
    """A family of merges of the form base + sum over k of c_k v_k.

    Attributes:
        vectors: the v_k. Methods that are not linear in the task vectors (TIES, DARE) offer one vector made from them.
        parameters: leaf tensors that the search moves; empty if nothing is free.
    """

    vectors: TaskVectors
    parameters: list[Tensor]

    def coefficients(self) -> Tensor:
        """c as a differentiable function of the parameters, float64 [M, N]."""
        ...

    def scale(self) -> Tensor:
        """The size of the step away from the warm-up model that the search penalises, scalar (lambda in the paper)."""
        ...

    def state(self) -> dict[str, float | list[float]]:
        """The parameters in the terms of the method's paper, for the trace."""
        ...


def free(values: Tensor) -> Tensor:
    """A leaf tensor for the search to move, float64 on the CPU."""
    return values.detach().clone().to(torch.float64).requires_grad_()


def inverse_softplus(value: float) -> Tensor:
    """The x with softplus(x) = value > 0, scalar."""
    return torch.tensor(value, dtype=torch.float64).expm1().log()
