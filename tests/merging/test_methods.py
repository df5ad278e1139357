"""Average, task arithmetic, TIES and DARE against dense float64 references written out here."""

from collections.abc import Callable

import pytest
import torch

from phasor.config.merging import ArithmeticMerge, AverageMerge, DareMerge, Merge, SlerpMerge, TiesMerge
from phasor.merging.average import Average
from phasor.merging.dare import dare_vector
from phasor.merging.export import combine
from phasor.merging.method import Method
from phasor.merging.methods import build_method
from phasor.merging.slerp import Slerp
from phasor.merging.task_arithmetic import TaskArithmetic
from phasor.merging.task_vector import Dense, TaskVector, TaskVectors
from phasor.merging.ties import ties_vector

Make = Callable[..., TaskVector]
Flat = Callable[..., torch.Tensor]


@pytest.fixture
def vectors(make_vector: Make) -> TaskVectors:
    return TaskVectors([make_vector("basic", 0), make_vector("code", 1, dense=True), make_vector("tool", 2)])


def merged(method: Method) -> torch.Tensor:
    """What the method adds to the weights, dense, in order of names."""
    c_MN = method.coefficients().detach()
    parts = [combine(method.vectors.at(name), c_N.tolist()).flatten() for name, c_N in zip(method.vectors.names, c_MN, strict=True)]
    return torch.cat(parts).double()


def ties64(rows: torch.Tensor, density: float) -> torch.Tensor:
    kept = torch.zeros_like(rows)
    for k, row in enumerate(rows):
        top = row.abs().argsort(descending=True)[: int(density * len(row))]
        kept[k, top] = row[top]
    result = torch.zeros(rows.shape[1], dtype=torch.float64)
    for i, column in enumerate(kept.T):
        elected = 1.0 if column.sum() >= 0 else -1.0
        agreeing = [value for value in column.tolist() if value * elected > 0]
        result[i] = sum(agreeing) / len(agreeing) if agreeing else 0.0
    return result


def test_average_is_the_mean_of_the_dense_vectors(vectors: TaskVectors, flat: Flat) -> None:
    torch.testing.assert_close(merged(Average(vectors, search_lambda=False)), flat(vectors).mean(dim=0), atol=1e-6, rtol=0)


def test_average_without_search_has_nothing_to_search(vectors: TaskVectors) -> None:
    assert Average(vectors, search_lambda=False).parameters == []
    assert len(Average(vectors, search_lambda=True).parameters) == 1


def test_average_scales_with_lambda(vectors: TaskVectors, flat: Flat) -> None:
    method = Average(vectors, search_lambda=True)
    with torch.no_grad():
        method.parameters[0].fill_(2.5)
    scale = torch.tensor(2.5, dtype=torch.float64).exp().log1p()
    torch.testing.assert_close(merged(method), scale * flat(vectors).mean(dim=0), atol=1e-6, rtol=0)
    assert method.state() == {"lambda": pytest.approx(scale.item())}


def test_task_arithmetic_takes_any_coefficients(vectors: TaskVectors, flat: Flat) -> None:
    method = TaskArithmetic(vectors)
    wanted = torch.tensor([0.9, -0.4, 2.0], dtype=torch.float64)
    with torch.no_grad():
        method.parameters[0].copy_(wanted)
    torch.testing.assert_close(merged(method), wanted @ flat(vectors), atol=1e-5, rtol=0)
    assert method.scale().item() == pytest.approx(3.3)


@pytest.mark.parametrize("density", [0.2, 0.5, 0.9])
def test_ties_equals_dense_float64(vectors: TaskVectors, flat: Flat, density: float) -> None:
    vector = ties_vector(vectors, density)
    for name in vectors.names:
        torch.testing.assert_close(vector.deltas[name].dense().double().flatten(), ties64(flat(vectors, name), density), atol=1e-6, rtol=0)


def test_dare_keeps_the_share_and_the_expectation() -> None:
    rows = torch.randn(2, 300, 200, generator=torch.Generator().manual_seed(0))
    vectors = TaskVectors([TaskVector("a", {"w": Dense(rows[0])}), TaskVector("b", {"w": Dense(rows[1])})])
    found = torch.stack([dare_vector(vectors, 0.25, seed).deltas["w"].dense() for seed in range(60)])
    # Each of two entries is kept with probability 1/4; kept ones count four times, then the mean over tasks is taken.
    expected = {0.0, 1.0, 2.0}
    ones = TaskVectors([TaskVector("a", {"w": Dense(torch.ones(300, 200))}), TaskVector("b", {"w": Dense(torch.ones(300, 200))})])
    kinds = dare_vector(ones, 0.25, 0).deltas["w"].dense()
    assert set((kinds / 2).unique().tolist()) == expected
    assert (kinds == 0).double().mean().item() == pytest.approx(0.75**2, abs=0.01)
    torch.testing.assert_close(found.mean(dim=0), rows.mean(dim=0), atol=1.5, rtol=0)
    assert (found.mean(dim=0) - rows.mean(dim=0)).mean().abs() < 0.01


def test_dare_is_repeatable_by_seed_and_leaves_the_global_generator_alone(vectors: TaskVectors) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (dare_vector(vectors, 0.5, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first.deltas[name].dense(), again.deltas[name].dense()) for name in vectors.names)
    assert any(not torch.equal(first.deltas[name].dense(), other.deltas[name].dense()) for name in vectors.names)


@pytest.mark.parametrize(
    ("config", "kind", "num_vectors"),
    [
        (SlerpMerge(), Slerp, 3), (AverageMerge(), Average, 3), (ArithmeticMerge(), TaskArithmetic, 3),
        (TiesMerge(), Average, 1), (DareMerge(), Average, 1),
    ],
)
def test_recipe_names_lead_to_methods_with_gradients(vectors: TaskVectors, config: Merge, kind: type, num_vectors: int) -> None:
    method = build_method(config, vectors, seed=0)
    assert type(method) is kind
    assert len(method.vectors.tasks) == num_vectors
    c_MN = method.coefficients()
    assert c_MN.shape == (2, num_vectors)
    assert c_MN.dtype == torch.float64
    (c_MN.sum() + method.scale()).backward()
    assert all(parameter.grad is not None for parameter in method.parameters)
