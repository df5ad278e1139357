"""Task vectors: what a specialist changed in the warm-up model, kept as LoRA factors where it is an adapter.

Source: Lychee paper section 3.3; task vectors arXiv 2212.04089.
"""

# Shapes: O outputs and I inputs of a linear layer, R adapter rank, M weights, N task vectors.

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from phasor.errors import ArtifactError, ModelError

ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_UNSUPPORTED = ("use_dora", "use_rslora", "alpha_pattern", "rank_pattern", "fan_in_fan_out", "lora_bias", "layer_replication")


@dataclass(frozen=True)
class LowRank:
    """Change of one linear layer's weight as the product of two thin matrices.

    Attributes:
        b: [O, R], the adapter's scale (alpha / rank) already multiplied in.
        a: [R, I].
    """

    b: Tensor
    a: Tensor

    def dense(self) -> Tensor:
        """The change itself, [O, I]."""
        return self.b @ self.a


@dataclass(frozen=True)
class Dense:
    """Change of any weight, in the weight's own shape."""

    delta: Tensor

    def dense(self) -> Tensor:
        """The change itself."""
        return self.delta


Delta = LowRank | Dense


@dataclass(frozen=True)
class TaskVector:
    """What one specialist changed: change by weight name. A weight that is not named did not change."""

    task: str
    deltas: Mapping[str, Delta]


class TaskVectors:
    """Several task vectors over the same weights, with all their inner products.

    Attributes:
        tasks: N names.
        names: M names of the weights that any of them changes, sorted.
        gram_MNN: float64 on the CPU; entry (m, i, j) is the inner product of vectors i and j on weight m.
    """

    def __init__(self, vectors: Sequence[TaskVector]) -> None:
        """Compute the inner products.

        Raises:
            ModelError: a vector holds a value that is not finite, or is zero everywhere.
        """
        self.tasks = tuple(vector.task for vector in vectors)
        self.names = tuple(sorted({name for vector in vectors for name in vector.deltas}))
        self._deltas = {name: tuple(vector.deltas.get(name) for vector in vectors) for name in self.names}
        self.gram_MNN = torch.zeros(len(self.names), len(vectors), len(vectors), dtype=torch.float64)
        for m, name in enumerate(self.names):
            self.gram_MNN[m] = _gram(self._deltas[name])
        self._check()

    def at(self, name: str) -> tuple[Delta | None, ...]:
        """The N changes of one weight; None where a vector does not change it."""
        return self._deltas[name]

    def dense(self, name: str) -> list[Tensor]:
        """The N changes of one weight as full matrices, zero where a vector does not change it."""
        full = [None if delta is None else delta.dense() for delta in self._deltas[name]]
        like = next(tensor for tensor in full if tensor is not None)
        return [torch.zeros_like(like) if tensor is None else tensor for tensor in full]

    @property
    def gram(self) -> Tensor:
        """Inner products of the whole vectors, float64 [N, N]."""
        return self.gram_MNN.sum(dim=0)

    def _check(self) -> None:
        for k, task in enumerate(self.tasks):
            norms = self.gram_MNN[:, k, k]
            if (bad := (~norms.isfinite()).nonzero()).numel():
                raise ModelError(
                    f"The specialist of task {task!r} holds values that are not finite, first in {self.names[int(bad[0])]}. "
                    "Train it again with a lower learning rate."
                )
            if not norms.any():
                raise ModelError(
                    f"The specialist of task {task!r} does not differ from the warm-up model, so it has no direction to merge. "
                    "Check that the task has training examples, or leave it out of the recipe."
                )


def inner(x: Delta, y: Delta) -> Tensor:
    """Inner product of two changes of the same weight, float64 scalar on the CPU.

    Of two low-rank changes it is the sum of (Bx^T By) * (Ax Ay^T), so nothing of the weight's size is built.
    """
    if isinstance(x, LowRank) and isinstance(y, LowRank):
        return ((x.b.double().T @ y.b.double()) * (x.a.double() @ y.a.double().T)).sum().cpu()
    if isinstance(x, LowRank):
        x, y = y, x
    full = x.dense().double()
    if isinstance(y, LowRank):
        return ((y.b.double().T @ full) * y.a.double()).sum().cpu()
    return (full * y.dense().double()).sum().cpu()


def read_adapter(folder: Path, task: str, weights: Mapping[str, Tensor]) -> TaskVector:
    """Read a peft LoRA folder as a task vector against the model that it was trained on.

    Weights that the adapter saved whole (`modules_to_save`) become dense changes, a tied one under the one name that it has.

    Args:
        folder: holds adapter_config.json and adapter_model.safetensors.
        task: name of the vector, for messages and the trace.
        weights: the warm-up model's weights by name; the factors go to their device.

    Raises:
        ArtifactError: a file is missing or unreadable.
        ModelError: the adapter is of another kind, or does not fit the weights in name or shape.
    """
    scale, tensors = _read(folder, task)
    deltas: dict[str, Delta] = {}
    for module in sorted({key.removesuffix(_A).removesuffix(_B) for key in tensors}):
        whole, a_RI, b_OR = tensors.get(module), tensors.get(module + _A), tensors.get(module + _B)
        if whole is not None:
            name = module.removeprefix(_PREFIX)
            if name not in weights and _has_own_name(whole, tensors, weights):
                continue
            weight = _fitting(weights, name, whole.shape, task)
            deltas[name] = Dense(_beside(whole, weight) - _beside(weight.detach(), weight))
        elif a_RI is not None and b_OR is not None:
            name = module.removeprefix(_PREFIX) + ".weight"
            weight = _fitting(weights, name, torch.Size((b_OR.shape[0], a_RI.shape[1])), task)
            deltas[name] = LowRank(scale * _beside(b_OR, weight), _beside(a_RI, weight))
        else:
            raise ModelError(f"The specialist of task {task!r} has only one of two LoRA factors of {module}. Train it again.")
    return TaskVector(task, deltas)


def subtract(task: str, specialist: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> TaskVector:
    """The task vector of a specialist whose weights were all trained: one dense change per weight that differs.

    Args:
        task: name of the vector.
        specialist: the specialist's weights by name.
        weights: the warm-up model's weights by name.

    Raises:
        ModelError: the two do not have the same weights.
    """
    if missing := sorted(weights.keys() - specialist.keys()):
        raise ModelError(
            f"The specialist of task {task!r} lacks {missing[0]}: it was trained from another backbone. Run its train phase again."
        )
    deltas: dict[str, Delta] = {}
    for name, tensor in specialist.items():
        weight = _fitting(weights, name, tensor.shape, task)
        delta = _beside(tensor.detach(), weight) - _beside(weight.detach(), weight)
        if delta.any():
            deltas[name] = Dense(delta)
    return TaskVector(task, deltas)


def _gram(deltas: Sequence[Delta | None]) -> Tensor:
    gram_NN = torch.zeros(len(deltas), len(deltas), dtype=torch.float64)
    for i, x in enumerate(deltas):
        for j, y in enumerate(deltas[: i + 1]):
            if x is not None and y is not None:
                gram_NN[i, j] = gram_NN[j, i] = inner(x, y)
    return gram_NN


def _read(folder: Path, task: str) -> tuple[float, dict[str, Tensor]]:
    try:
        config: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_bytes())
        tensors = load_file(folder / _ADAPTER_WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"The specialist of task {task!r} at {folder} cannot be read: {error}. Run its train phase again.") from None
    if used := [key for key in _UNSUPPORTED if config.get(key)]:
        raise ModelError(f"The specialist of task {task!r} was trained with {used[0]}={config[used[0]]}; only plain LoRA can be merged.")
    return config["lora_alpha"] / config["r"], tensors


def _has_own_name(whole: Tensor, tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> bool:
    """Whether the adapter holds the same values under the one name that the model's tied weight has."""
    return any(key.removeprefix(_PREFIX) in weights and torch.equal(tensor, whole) for key, tensor in tensors.items())


def _fitting(weights: Mapping[str, Tensor], name: str, shape: torch.Size, task: str) -> Tensor:
    """The warm-up weight of that name, which must have that shape."""
    if name not in weights:
        raise ModelError(
            f"The specialist of task {task!r} changes {name}, which the warm-up model does not have: it was trained from another "
            "backbone. Run its train phase again on this warm-up model."
        )
    if weights[name].shape != shape:
        raise ModelError(
            f"The specialist of task {task!r} has shape {tuple(shape)} for {name}, the warm-up model {tuple(weights[name].shape)}: it was "
            "trained from another backbone. Run its train phase again on this warm-up model."
        )
    return weights[name]


def _beside(tensor: Tensor, weight: Tensor) -> Tensor:
    # float32 at least: a difference of two bfloat16 weights needs more digits than either.
    return tensor.to(weight.device, torch.promote_types(torch.float32, weight.dtype))
