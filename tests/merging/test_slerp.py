from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phasor.merging.slerp import LERP_ABOVE, Slerp, fold, unfold
from phasor.merging.task_vector import Dense, TaskVector, TaskVectors

Make = Callable[..., TaskVector]
Flat = Callable[..., torch.Tensor]


def slerp64(left: torch.Tensor, right: torch.Tensor, t: float) -> torch.Tensor:
    """Textbook SLERP of two dense vectors."""
    angle = torch.acos(left @ right / left.norm() / right.norm())
    return (torch.sin((1 - t) * angle) * left + torch.sin(t * angle) * right) / torch.sin(angle)


def folded(rows: torch.Tensor, t: list[float]) -> torch.Tensor:
    total = rows[0]
    for row, fraction in zip(rows[1:], t, strict=True):
        total = slerp64(total, row, fraction)
    return total


@st.composite
def problems(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated task vectors of very different norms, and a positive combination of them."""
    num, dims = draw(st.integers(1, 6)), draw(st.integers(8, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shared = draw(st.floats(-3, 3)) * torch.randn(dims, generator=generator, dtype=torch.float64)
    norms = torch.tensor(draw(st.lists(st.floats(1e-3, 1e3), min_size=num, max_size=num)), dtype=torch.float64)
    rows = (torch.randn(num, dims, generator=generator, dtype=torch.float64) + shared) * norms[:, None]
    target = torch.tensor(draw(st.lists(st.floats(0.01, 100), min_size=num, max_size=num)), dtype=torch.float64)
    return rows, target


@pytest.mark.parametrize("dense", [False, True])
def test_fold_from_inner_products_equals_slerp_of_dense_vectors(make_vector: Make, flat: Flat, dense: bool) -> None:
    vectors = TaskVectors([make_vector(f"task{k}", k, dense) for k in range(4)])
    t = [0.3, 0.6, 0.45]
    rows = flat(vectors)
    torch.testing.assert_close(fold(vectors.gram, torch.tensor(t)) @ rows, folded(rows, t))


def test_per_tensor_fold_takes_each_weights_own_angle(make_vector: Make, flat: Flat) -> None:
    vectors = TaskVectors([make_vector(f"task{k}", k) for k in range(3)])
    c_MN = fold(vectors.gram_MNN, torch.tensor([0.2, 0.7]))
    for c_N, name in zip(c_MN, vectors.names, strict=True):
        torch.testing.assert_close(c_N @ flat(vectors, name), folded(flat(vectors, name), [0.2, 0.7]))
    assert not torch.allclose(c_MN[0], c_MN[1], atol=1e-3)


@settings(max_examples=150, deadline=None)
@given(problems())
def test_every_positive_combination_is_reached_exactly(problem: tuple[torch.Tensor, torch.Tensor]) -> None:
    rows, target = problem
    t, scale = unfold(rows @ rows.T, target)
    assert scale > 0
    assert ((t > 0) & (t < 1)).all()
    torch.testing.assert_close(scale * fold(rows @ rows.T, t), target, rtol=1e-6, atol=0)


@settings(max_examples=150, deadline=None)
@given(problems(), st.data())
def test_only_positive_combinations_are_reached(problem: tuple[torch.Tensor, torch.Tensor], data: st.DataObject) -> None:
    rows, _ = problem
    t = torch.tensor(data.draw(st.lists(st.floats(0.001, 0.999), min_size=len(rows) - 1, max_size=len(rows) - 1)), dtype=torch.float64)
    assert (fold(rows @ rows.T, t) > 0).all()


@settings(max_examples=60, deadline=None)
@given(problems(), st.permutations(range(4)))
def test_the_reachable_set_does_not_depend_on_the_order(problem: tuple[torch.Tensor, torch.Tensor], order: list[int]) -> None:
    rows, target = problem
    index = torch.tensor([k for k in order if k < len(rows)] + list(range(4, len(rows))))
    t, scale = unfold(rows[index] @ rows[index].T, target[index])
    torch.testing.assert_close(scale * fold(rows[index] @ rows[index].T, t) @ rows[index], target @ rows, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_nearly_parallel_vectors_are_mixed_linearly(sign: int) -> None:
    left = torch.tensor([1.0, 0], dtype=torch.float64)
    for angle, linear in ((0.9 * torch.acos(torch.tensor(LERP_ABOVE)), True), (1.1 * torch.acos(torch.tensor(LERP_ABOVE)), False)):
        right = sign * torch.tensor([torch.cos(angle), torch.sin(angle)], dtype=torch.float64)
        rows = torch.stack([left, right])
        c = fold(rows @ rows.T, torch.tensor([0.25], dtype=torch.float64))
        expected = torch.tensor([0.75, 0.25], dtype=torch.float64)
        assert torch.equal(c, expected) == linear
        assert linear or torch.allclose(c @ rows, slerp64(left, right, 0.25), atol=1e-9)


def test_parallel_vectors_are_inverted_too() -> None:
    rows = torch.tensor([[1.0, 2, 3], [2, 4, 6], [1, 0, 0]], dtype=torch.float64)
    target = torch.tensor([0.2, 0.7, 3.0], dtype=torch.float64)
    t, scale = unfold(rows @ rows.T, target)
    torch.testing.assert_close(scale * fold(rows @ rows.T, t), target)


def test_gradient_of_the_fold_equals_finite_differences(make_vector: Make) -> None:
    vectors = TaskVectors([make_vector(f"task{k}", k) for k in range(4)])
    t = torch.tensor([0.3, 0.5, 0.8], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: fold(vectors.gram, t), [t])
    assert torch.autograd.gradcheck(lambda t: fold(vectors.gram_MNN, t), [t])


def test_degenerate_vectors_have_finite_gradients() -> None:
    ones = Dense(torch.ones(2))
    cases = [TaskVector("a", {"w": ones}), TaskVector("b", {"w": ones, "v": ones}), TaskVector("c", {"w": Dense(-torch.ones(2))})]
    method = Slerp(TaskVectors(cases), "per_tensor")
    method.coefficients().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in method.parameters)
    assert method.coefficients().isfinite().all()


def test_orthogonal_vectors_of_one_norm_start_at_the_known_fractions() -> None:
    vectors = TaskVectors([TaskVector(f"task{k}", {"w": Dense(3 * torch.eye(4)[k])}) for k in range(4)])
    method = Slerp(vectors, "global")
    torch.testing.assert_close(torch.tensor(method.state()["t"]), torch.tensor([0.5, 0.392, 0.3333]), atol=5e-4, rtol=0)
    assert method.state()["lambda"] == pytest.approx(1)
    torch.testing.assert_close(method.coefficients(), torch.full((1, 4), 0.5, dtype=torch.float64))


@pytest.mark.parametrize("angle", ["global", "per_tensor"])
def test_any_vectors_start_at_equal_coefficients_over_the_whole(make_vector: Make, angle: str) -> None:
    method = Slerp(TaskVectors([make_vector(f"task{k}", k) for k in range(4)]), angle)
    c_MN = method.coefficients()
    assert c_MN.shape == (2, 4)
    if angle == "global":
        torch.testing.assert_close(c_MN, c_MN[:1, :1].expand(2, 4))


def test_one_task_has_lambda_only(make_vector: Make) -> None:
    method = Slerp(TaskVectors([make_vector("code", 0)]), "global")
    assert method.state() == {"t": [], "lambda": pytest.approx(1)}
    torch.testing.assert_close(method.coefficients(), torch.ones(2, 1, dtype=torch.float64))


def test_target_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="only positive combinations"):
        unfold(torch.eye(2, dtype=torch.float64), torch.tensor([1.0, 0.0]))
