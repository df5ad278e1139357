import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from phasor.merging.export import fold_into
from phasor.merging.mixer import mixed
from phasor.merging.task_vector import Dense, TaskVector, TaskVectors, read_adapter, subtract

Adapt = Callable[..., Path]


def other_weights(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A copy of the model in which every weight was trained, the tied embeddings too."""
    trained = copy.deepcopy(model)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in trained.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return trained


@pytest.fixture(params=["low_rank", "dense", "mixture"])
def any_vectors(request: pytest.FixtureRequest, model: PreTrainedModel, vectors: TaskVectors, adapt: Adapt) -> TaskVectors:
    weights = dict(model.named_parameters())
    if request.param == "low_rank":
        return vectors
    first = subtract("basic", dict(other_weights(model, 1).named_parameters()), weights)
    if request.param == "dense":
        return TaskVectors([first, subtract("code", dict(other_weights(model, 2).named_parameters()), weights)])
    return TaskVectors([first, read_adapter(adapt(5), "code", weights)])


def coefficients(vectors: TaskVectors) -> torch.Tensor:
    """Different for every weight and vector, one of them negative."""
    return torch.randn(len(vectors.names), len(vectors.tasks), generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def test_mixed_model_computes_what_the_folded_model_computes(model: PreTrainedModel, any_vectors: TaskVectors, ids: torch.Tensor) -> None:
    folded = copy.deepcopy(model)
    fold_into(folded, any_vectors, coefficients(any_vectors))
    with mixed(model, any_vectors) as mixer:
        untouched = model(ids).logits
        mixer.put(coefficients(any_vectors))
        found = model(ids).logits
    torch.testing.assert_close(found, folded(ids).logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(untouched, model(ids).logits, atol=1e-6, rtol=0)
    assert (found - untouched).abs().max() > 0.01


def test_gradient_equals_that_of_dense_float64(model: PreTrainedModel, any_vectors: TaskVectors, ids: torch.Tensor) -> None:
    model.double()
    names, c_MN = any_vectors.names, coefficients(any_vectors).requires_grad_()
    dense = {}
    for c_N, name in zip(c_MN, names, strict=True):
        dense[name] = model.get_parameter(name).detach() + sum(c * d.double() for c, d in zip(c_N, any_vectors.dense(name), strict=True))
    torch.func.functional_call(model, dense, (ids,), tie_weights=True).logits.square().mean().backward()
    with mixed(model, any_vectors) as mixer:
        leaf = mixer.put(coefficients(any_vectors)).requires_grad_()
        model(ids).logits.square().mean().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, c_MN.grad, atol=1e-6, rtol=1e-5)


def test_model_is_as_before_afterwards(model: PreTrainedModel, any_vectors: TaskVectors, ids: torch.Tensor) -> None:
    model.train()
    model.lm_head.weight.requires_grad_(False)
    flags = {name: weight.requires_grad for name, weight in model.named_parameters()}
    before = copy.deepcopy(model.state_dict())
    expected = model(ids).logits
    with pytest.raises(RuntimeError, match="interrupted"), mixed(model, any_vectors) as mixer:
        mixer.put(coefficients(any_vectors))
        assert not model.training
        assert not any(weight.requires_grad for weight in model.parameters())
        raise RuntimeError("interrupted")
    assert torch.equal(model(ids).logits, expected)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {name: weight.requires_grad for name, weight in model.named_parameters()} == flags
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.training


class _Computed(TorchDispatchMode):
    """Shapes of everything that is computed, views apart."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[torch.Size] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not func.is_view:
            self.shapes.add(result.shape)
        return result


def computed_shapes(model: PreTrainedModel, vectors: TaskVectors, ids: torch.Tensor) -> set[torch.Size]:
    with mixed(model, vectors) as mixer, _Computed() as computed:
        mixer.put(torch.ones(len(vectors.names), len(vectors.tasks))).requires_grad_()
        model(ids).logits.sum().backward()
    return computed.shapes


def test_low_rank_vectors_never_make_a_dense_weight(model: PreTrainedModel, vectors: TaskVectors, ids: torch.Tensor) -> None:
    adapted = {model.get_parameter(name).shape for name in vectors.names}
    assert not adapted & computed_shapes(model, vectors, ids)
    dense = TaskVectors([TaskVector("all", {name: Dense(vectors.dense(name)[0]) for name in vectors.names})])
    assert adapted <= computed_shapes(model, dense, ids)


def test_bfloat16_model_follows_coefficients_finer_than_bfloat16(model: PreTrainedModel, vectors: TaskVectors, ids: torch.Tensor) -> None:
    model.bfloat16()
    with mixed(model, vectors) as mixer:
        leaf = mixer.put(torch.full((len(vectors.names), len(vectors.tasks)), 1.001)).requires_grad_()
        assert leaf.dtype == torch.float32
        assert leaf[0, 0].item() == pytest.approx(1.001, abs=1e-6)
        model(ids).logits.float().sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


def test_vector_of_one_weight_leaves_the_others_alone(model: PreTrainedModel, ids: torch.Tensor) -> None:
    norm = TaskVectors([TaskVector("code", {"model.norm.weight": Dense(torch.ones(16))})])
    with mixed(model, norm) as mixer:
        before = model(ids).logits
        mixer.put(torch.ones(1, 1))
        torch.testing.assert_close(model(ids).logits, 2 * before)
