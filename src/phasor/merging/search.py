"""Find a method's few scalars by gradient on held-out examples.

Objective: mean over tasks of the task's mean loss, plus mu times lambda. Averaging per task first keeps a task whose losses are
large in scale from deciding alone. Only the scalars get gradients; the specialists' factors and the model stay frozen.

Source: Lychee paper section 3.3 and A.2; Self-Positioning arXiv 2410.15035.
"""

# Shapes: M weights, N task vectors.

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from phasor.errors import TrainingError
from phasor.merging.method import Method
from phasor.merging.mixer import Mixer
from phasor.progress import progress

Batch = TypeVar("Batch")
Losses = dict[str, float]


@dataclass(frozen=True)
class HeldOut(Generic[Batch]):
    """D_t, cut into batches once, and the loss it is judged by.

    Attributes:
        batches: by task, at least one each; those of one task of nearly equal size.
        loss: training loss of one batch under whatever model is patched in, a scalar; called without gradients.
        backward: as `loss`, and adds the gradient of that loss to the `grad` of the coefficients in force, which it is given. A
            separate function so that it may work piece by piece in bounded memory.
    """

    batches: Mapping[str, Sequence[Batch]]
    loss: Callable[[Batch], Tensor]
    backward: Callable[[Batch, Tensor], float]

    def measure(self) -> Losses:
        """Mean loss per task over all batches, without gradients. Raises TrainingError if one is not finite."""
        with torch.no_grad():
            losses = {
                task: math.fsum(self.loss(batch).item() for batch in batches) / len(batches) for task, batches in self.batches.items()
            }
        check_finite(losses, "on the held-out examples")
        return losses


@dataclass(frozen=True)
class Point:
    """One setting of the scalars, with its losses on all held-out examples.

    Attributes:
        step: optimiser steps before it.
        losses: by task.
        coefficients: float64 [M, N], detached.
        scale: lambda, or what the method has in its place.
        state: the method's parameters by name.
    """

    step: int
    losses: Losses
    coefficients: Tensor
    scale: float
    state: dict[str, float | list[float]]

    @property
    def loss(self) -> float:
        """Mean over tasks, without the penalty."""
        return mean(self.losses)


@dataclass
class Search:
    """What a search saw.

    Attributes:
        points: measured on all held-out examples, in order of steps; the first is the start.
        steps: one row per optimiser step: objective and losses of its batches at the scalars before the step.
    """

    points: list[Point] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)

    @property
    def best(self) -> Point:
        """The point with the least held-out loss; the earlier one of equals."""
        return min(self.points, key=lambda point: point.loss)


@dataclass(frozen=True)
class Schedule:
    """How to search; see `phasor.config.merging.MergeConfig`."""

    steps: int
    learning_rate: float
    penalty: float
    eval_steps: int


def search(method: Method, mixer: Mixer, held_out: HeldOut[Batch], schedule: Schedule, what: str = "merge") -> Search:
    """Move a method's parameters down the held-out loss by Adam.

    Args:
        method: its parameters are changed in place.
        mixer: of the model that `held_out.loss` runs, over `method.vectors`.
        held_out: batch i % count of every task is used in step i.
        schedule: number of steps and so on; nothing is searched if the method has no parameters.
        what: name of the progress bar.

    Raises:
        TrainingError: a loss is not finite.
    """
    found = Search()
    _measure(found, method, mixer, held_out, step=0)
    if not method.parameters or not schedule.steps:
        return found
    optimizer = torch.optim.Adam(method.parameters, lr=schedule.learning_rate)
    with progress(schedule.steps, what, "step") as bar:
        for step in range(schedule.steps):
            optimizer.zero_grad()
            found.steps.append(_descend(method, mixer, held_out, schedule.penalty, step))
            optimizer.step()
            bar.update()
            bar.set_postfix(loss=f"{found.steps[-1]['loss']:.4f}")
            if (step + 1) % schedule.eval_steps == 0 or step + 1 == schedule.steps:
                _measure(found, method, mixer, held_out, step + 1)
    return found


def mean(losses: Losses) -> float:
    """Mean over tasks, each with equal weight."""
    return math.fsum(losses.values()) / len(losses)


def check_finite(losses: Losses, where: str) -> None:
    """Raise TrainingError naming the first task whose loss is not a number."""
    for task, loss in losses.items():
        if not math.isfinite(loss):
            raise TrainingError(
                f"merge: the loss of task {task!r} is {loss} {where}. Lower merge.learning_rate, "
                "or look for specialists that diverged in training."
            )


def describe(coefficients_MN: Tensor, tasks: Sequence[str]) -> dict[str, float]:
    """Coefficient per task, the mean over the weights where they differ."""
    return dict(zip(tasks, coefficients_MN.mean(dim=0).tolist(), strict=True))


def _descend(method: Method, mixer: Mixer, held_out: HeldOut[Batch], penalty: float, step: int) -> dict[str, Any]:
    """Gradients of one step, and its row of the trace."""
    c_MN, scale = method.coefficients(), method.scale()
    # A leaf in between: each batch is differentiated, and its activations freed, before the next one runs.
    leaf_MN = mixer.put(c_MN).requires_grad_()
    losses: Losses = {}
    for task, batches in held_out.batches.items():
        losses[task] = held_out.backward(batches[step % len(batches)], leaf_MN)
    check_finite(losses, f"at search step {step}")
    row = {"step": step, "loss": mean(losses) + penalty * scale.item(), "losses": losses, **method.state()}
    assert leaf_MN.grad is not None
    torch.autograd.backward([c_MN, penalty * scale], [leaf_MN.grad.to(c_MN) / len(losses), None])
    return row | {"coefficients": describe(c_MN.detach(), method.vectors.tasks)}


def _measure(found: Search, method: Method, mixer: Mixer, held_out: HeldOut[Batch], step: int) -> None:
    c_MN = method.coefficients().detach()
    mixer.put(c_MN)
    found.points.append(Point(step, held_out.measure(), c_MN, method.scale().item(), method.state()))
