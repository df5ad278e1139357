"""GradCache gives the gradients of the whole batch, piece by piece."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from phasor.losses.gradcache import GradCache


def network(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 4)).double()


def contrast(rows: Tensor) -> Tensor:
    """A loss in which every row meets every other."""
    return torch.logsumexp(rows @ rows.T, dim=1).sum()


def pieces(number: int) -> list[Tensor]:
    rows = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return list(rows.tensor_split(number))


def groups(number: int) -> list[list[Tensor]]:
    """One piece each, but the first two pieces together where there are three or more."""
    first, *rest = pieces(number)
    return [[first, rest[0]], *([piece] for piece in rest[1:])] if number > 2 else [[first], *([piece] for piece in rest)]


class Plain:
    """Piece after piece by autograd, with what was seen of each."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.seen = model, list[bool]()

    def forward(self, some: Sequence[Tensor]) -> list[Tensor]:
        self.seen += [torch.is_grad_enabled()] * len(some)
        return [self.model(piece) for piece in some]

    def backward(self, rows: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        torch.autograd.backward(list(rows), list(gradients))


def gradients(model: nn.Module, run: Callable[[], float]) -> tuple[float, list[Tensor]]:
    model.zero_grad()
    value = run()
    return value, [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("number", [1, 2, 4, 9])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradcache_gradients_equal_the_plain_ones(number: int, dropout: float) -> None:
    model = network(dropout)

    def plain() -> float:
        torch.manual_seed(7)
        loss = contrast(torch.cat([model(piece) for piece in pieces(number)]))
        loss.backward()
        return loss.item()

    def cached() -> float:
        torch.manual_seed(7)
        return GradCache(Plain(model), replay_randomness=dropout > 0).step(groups(number), contrast)

    (expected, plain_gradients), (value, cached_gradients) = gradients(model, plain), gradients(model, cached)
    assert value == pytest.approx(expected, rel=1e-12)
    assert len(cached_gradients) == 4
    for mine, theirs in zip(cached_gradients, plain_gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_dropout_without_replay_would_give_other_gradients() -> None:
    model = network(0.4)
    torch.manual_seed(7)
    _, replayed = gradients(model, lambda: GradCache(Plain(model), replay_randomness=True).step(groups(3), contrast))
    torch.manual_seed(7)
    _, forgetful = gradients(model, lambda: GradCache(Plain(model)).step(groups(3), contrast))
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(replayed, forgetful, strict=True))


def test_random_numbers_go_on_as_without_gradcache() -> None:
    model = network(0.4)
    torch.manual_seed(7)
    for piece in pieces(3):
        model(piece)
    expected = torch.rand(1)
    torch.manual_seed(7)
    GradCache(Plain(model), replay_randomness=True).step(groups(3), contrast)
    assert torch.rand(1) == expected


@pytest.mark.parametrize(("number", "passes"), [(1, 1), (2, 3), (4, 7)])
def test_only_the_last_group_is_computed_once(number: int, passes: int) -> None:
    plain = Plain(network())
    GradCache(plain).step(groups(number), contrast)
    assert len(plain.seen) == passes
    assert sum(plain.seen) == number
