"""Losses over truncated vectors."""

import torch
import torch.nn.functional as F

from phasor.losses.matryoshka import matryoshka


def vectors() -> torch.Tensor:
    return F.normalize(torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=-1)


def spread(rows: torch.Tensor) -> torch.Tensor:
    """Some loss; it also checks what it is given."""
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(len(rows), dtype=rows.dtype))
    return (rows @ rows.T).exp().sum()


def test_sums_the_loss_of_every_size() -> None:
    rows = vectors()
    expected = spread(rows) + sum(spread(F.normalize(rows[:, :size], dim=-1)) for size in (6, 2))
    torch.testing.assert_close(matryoshka(spread, rows, (6, 2)), expected)


def test_the_full_size_counts_once() -> None:
    rows = vectors()
    assert matryoshka(spread, rows, (64, 8)) == matryoshka(spread, rows, ()) == spread(rows)


def test_a_small_size_pushes_on_the_first_dimensions() -> None:
    rows = vectors().requires_grad_()
    full, both = (torch.autograd.grad(matryoshka(spread, rows, dims), rows)[0] for dims in ((), (3,)))
    torch.testing.assert_close(full[:, 3:], both[:, 3:])
    assert (full[:, :3] - both[:, :3]).abs().min() > 0
