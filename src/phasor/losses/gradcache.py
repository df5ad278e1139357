"""GradCache: gradients of a loss over a big batch in the memory of a small one.

A contrastive loss needs all vectors at once, but not all activations. Vectors are computed piece by piece without a
graph; the loss gives the gradient of each vector; each piece is then computed again with a graph and the cached
gradient is sent through it. The last piece keeps its graph from the first pass, so a batch of one piece costs one
forward pass, as without GradCache.

Shapes: N rows of the whole batch, D row size.
"""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

Piece = TypeVar("Piece")


class GradCache(Generic[Piece]):
    """Runs the two passes.

    Args:
        forward: a piece to its [n, D] rows; called with and without gradient.
        backward: receives a scalar whose gradient is to be accumulated, for example `Tensor.backward`.
        replay_randomness: remember random states, for a network with dropout.

    Source:
        Gao et al. 2021 (arXiv:2101.06983).
    """

    def __init__(self, forward: Callable[[Piece], Tensor], backward: Callable[[Tensor], None], *, replay_randomness: bool = False) -> None:
        self._forward = forward
        self._backward = backward
        self._replay = replay_randomness

    def step(self, pieces: Sequence[Piece], loss: Callable[[Tensor], Tensor]) -> float:
        """Accumulate the gradients of `loss` over all pieces and return its value.

        Args:
            pieces: at least one; their rows are concatenated in this order.
            loss: [N, D] rows to a scalar.
        """
        states, rows = [], []
        for piece in pieces[:-1]:
            states.append(_RandomState() if self._replay else None)
            with torch.no_grad():
                rows.append(self._forward(piece))
        last = self._forward(pieces[-1])
        leaf_ND = torch.cat([*rows, last.detach()]).requires_grad_()
        value = loss(leaf_ND)
        (gradient_ND,) = torch.autograd.grad(value, leaf_ND)
        gradients = gradient_ND.split([len(part) for part in rows] + [len(last)])
        self._backward((last * gradients[-1]).sum())
        after = _RandomState() if self._replay else None
        for piece, state, gradient in zip(pieces, states, gradients, strict=False):
            if state is not None:
                state.restore()
            self._backward((self._forward(piece) * gradient).sum())
        if after is not None:
            after.restore()
        return float(value.detach())


class _RandomState:
    """The generators of the processor and of the current GPU, as they are now."""

    def __init__(self) -> None:
        self._cpu = torch.get_rng_state()
        self._gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None

    def restore(self) -> None:
        """Put the generators back."""
        torch.set_rng_state(self._cpu)
        if self._gpu is not None:
            torch.cuda.set_rng_state(self._gpu)
