"""Forward and backward passes of one process: on a CPU several pieces at once, each with a thread of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor

from phasor.models.network import Network
from phasor.models.threads import side_by_side
from phasor.models.tokens import TokenBatch


class LocalPasses:
    """The `Passes` of a network that this process holds whole.

    Args:
        network: runs each piece.
        leaves: tensors whose gradients are accumulated, in the order of the pieces, so that threads change no bit.
    """

    def __init__(self, network: Network, leaves: Sequence[Tensor] = ()) -> None:
        self._network, self._leaves, self._threaded = network, leaves, network.threaded

    def forward(self, pieces: Sequence[TokenBatch]) -> list[Tensor]:
        """Rows of each piece."""
        enabled = torch.is_grad_enabled()

        def rows_of(piece: TokenBatch) -> Tensor:
            with torch.set_grad_enabled(enabled):  # of a thread, not of the process
                rows: Tensor = self._network(piece)
                return rows

        with side_by_side(self._at_once(pieces)) as run:
            return list(run(rows_of, pieces))

    def backward(self, rows: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Accumulate the gradients of the leaves."""
        at_once = self._at_once(rows)
        if at_once == 1:
            torch.autograd.backward(list(rows), list(gradients), inputs=list(self._leaves))
            return

        def gradients_of(part: Tensor, gradient: Tensor) -> tuple[Tensor | None, ...]:
            return torch.autograd.grad(part, self._leaves, gradient, allow_unused=True)

        with side_by_side(at_once) as run:
            for found in run(gradients_of, rows, gradients):
                for leaf, gradient in zip(self._leaves, found, strict=True):
                    if gradient is not None:
                        leaf.grad = gradient if leaf.grad is None else leaf.grad.add_(gradient)

    def _at_once(self, pieces: Sequence[object]) -> int:
        return len(pieces) if self._threaded else 1
