"""Run a model as base + sum over k of c_k v_k without building that model.

A low-rank change acts beside its linear layer, from a forward hook, as peft's own LoRA does; only a dense change alters the weight.
"""

# Shapes: O outputs and I inputs of a linear layer, R sum of the adapters' ranks, M weights, N task vectors; "..." batch.

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils import parametrize

from phasor.merging.task_vector import LowRank, TaskVectors


@dataclass
class Mixer:
    """The coefficients in force.

    Attributes:
        coefficients: at least float32, [M, N] on the model's device. Gradients of what the model computes reach this tensor.
    """

    coefficients: Tensor

    def put(self, coefficients_MN: Tensor) -> Tensor:
        """Let other coefficients take effect. Returns the copy in use, on the model's device."""
        self.coefficients = coefficients_MN.detach().to(self.coefficients).clone()
        return self.coefficients


class _LowRankSide:
    """Forward hook of one linear layer: adds sum over k of c_k B_k A_k x to its output."""

    def __init__(self, mixer: Mixer, row: int, changes: Sequence[LowRank | None], dtype: torch.dtype) -> None:
        present = [(k, change) for k, change in enumerate(changes) if change is not None]
        self._mixer, self._row = mixer, row
        self._a_RI = torch.cat([change.a for _, change in present]).to(dtype)
        self._b_OR = torch.cat([change.b for _, change in present], dim=1).to(dtype)
        owners = [k for k, change in present for _ in range(change.a.shape[0])]
        self._owner_R = torch.tensor(owners, device=self._a_RI.device)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        c_R = self._mixer.coefficients[self._row, self._owner_R]
        hidden = F.linear(inputs[0], self._a_RI)
        # c stays float32: rounded to bfloat16 it could not follow the search's small steps.
        return output + F.linear((hidden * c_R).to(hidden.dtype), self._b_OR)


class _DenseShift(nn.Module):
    """Parametrization of one weight: weight + sum over k of c_k D_k."""

    def __init__(self, mixer: Mixer, row: int, changes: Sequence[Tensor]) -> None:
        super().__init__()
        self._mixer, self._row, self._changes = mixer, row, changes

    def forward(self, weight: Tensor) -> Tensor:
        c_N = self._mixer.coefficients[self._row]
        shift = sum((c * change for c, change in zip(c_N, self._changes, strict=True)), start=torch.zeros((), device=weight.device))
        return (weight + shift).to(weight.dtype)


@contextmanager
def mixed(model: nn.Module, vectors: TaskVectors) -> Iterator[Mixer]:
    """Let a model run as a mix of itself and the task vectors until the block ends.

    Inside, its weights are frozen and dropout is off; coefficients start at zero, which is the model itself.

    Args:
        model: the warm-up model.
        vectors: name weights of this model.
    """
    weights = dict(model.named_parameters())
    device = next(iter(weights.values())).device
    dtype = torch.promote_types(torch.float32, next(iter(weights.values())).dtype)
    mixer = Mixer(torch.zeros(len(vectors.names), len(vectors.tasks), device=device, dtype=dtype))
    with ExitStack() as stack:
        stack.enter_context(_resting(model))
        for row, name in enumerate(vectors.names):
            stack.enter_context(_attached(model, vectors, mixer, row, name, weights[name]))
        yield mixer


@contextmanager
def _resting(model: nn.Module) -> Iterator[None]:
    """No gradients for the weights, no dropout."""
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    training = model.training
    model.requires_grad_(False).eval()
    try:
        yield
    finally:
        model.train(training)
        for weight in trainable:
            weight.requires_grad_()


@contextmanager
def _attached(model: nn.Module, vectors: TaskVectors, mixer: Mixer, row: int, name: str, weight: Tensor) -> Iterator[None]:
    """One weight's part of `mixed`."""
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    changes = vectors.at(name)
    low_rank = [change for change in changes if change is None or isinstance(change, LowRank)]
    if len(low_rank) == len(changes) and type(module) is nn.Linear:
        handle = module.register_forward_hook(_LowRankSide(mixer, row, low_rank, weight.dtype))
        try:
            yield
        finally:
            handle.remove()
        return
    shift = _DenseShift(mixer, row, vectors.dense(name))
    owners = _owners(model, weight)
    for owner, attribute in owners:
        parametrize.register_parametrization(owner, attribute, shift)
    try:
        yield
    finally:
        for owner, attribute in owners:
            parametrize.remove_parametrizations(owner, attribute, leave_parametrized=False)


def _owners(model: nn.Module, weight: Tensor) -> list[tuple[nn.Module, str]]:
    """Every (module, attribute) that holds a weight; more than one where embeddings are tied."""
    return [
        (module, attribute)
        for module in model.modules()
        for attribute, parameter in module.named_parameters(recurse=False)
        if parameter is weight
    ]
