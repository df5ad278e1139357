"""GradCache: gradients of a loss over a big batch in the memory of a small one.

A contrastive loss needs all vectors at once, but not all activations. Vectors are computed group by group without a
graph; the loss gives the gradient of each vector; each group is then computed again with a graph and the cached
gradient is sent through it. The last group keeps its graph from the first pass, so a batch of one group costs one
forward pass, as without GradCache.

Shapes: N rows of the whole batch, n of one piece, D row size.
"""

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

Piece = TypeVar("Piece")
Pieces = TypeVar("Pieces", contravariant=True)


class Passes(Protocol[Pieces]):
    """What runs the network on a group of pieces, which may be in memory at once."""

    def forward(self, pieces: Sequence[Pieces]) -> list[Tensor]:
        """[n, D] rows of each piece, with a graph where gradients are enabled."""

    def backward(self, rows: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Accumulate what the gradients of these rows give for the weights."""


class GradCache(Generic[Piece]):
    """Runs the two passes.

    Args:
        passes: called with and without gradient.
        replay_randomness: remember random states, for a network with dropout.

    Source:
        Gao et al. 2021 (arXiv:2101.06983).
    """

    def __init__(self, passes: Passes[Piece], *, replay_randomness: bool = False) -> None:
        self._passes = passes
        self._replay = replay_randomness

    def step(self, groups: Sequence[Sequence[Piece]], loss: Callable[[Tensor], Tensor]) -> float:
        """Accumulate the gradients of `loss` over all groups and return its value.

        Args:
            groups: at least one; the rows of their pieces are concatenated in this order.
            loss: [N, D] rows to a scalar.
        """
        states, rows = [], []
        for group in groups[:-1]:
            states.append(_RandomState() if self._replay else None)
            with torch.no_grad():
                rows.append(self._passes.forward(group))
        last = self._passes.forward(groups[-1])
        rows.append([part.detach() for part in last])
        leaf_ND = torch.cat([part for parts in rows for part in parts]).requires_grad_()
        value = loss(leaf_ND)
        (gradient_ND,) = torch.autograd.grad(value, leaf_ND)
        split = iter(gradient_ND.split([len(part) for parts in rows for part in parts]))
        gradients = [[next(split) for _ in parts] for parts in rows]
        self._passes.backward(last, gradients[-1])
        after = _RandomState() if self._replay else None
        for group, state, cached in zip(groups, states, gradients, strict=False):
            if state is not None:
                state.restore()
            self._passes.backward(self._passes.forward(group), cached)
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
