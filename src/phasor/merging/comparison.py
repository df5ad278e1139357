"""The other ways to merge the same specialists, judged on the same held-out examples."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from phasor.config.merging import ArithmeticMerge, AverageMerge, DareMerge, Merge, SlerpMerge, TiesMerge
from phasor.merging.methods import build_method
from phasor.merging.mixer import Mixer, mixed
from phasor.merging.search import Batch, HeldOut, Losses, Schedule, mean, search
from phasor.merging.task_vector import TaskVectors

# By gradient: several scalars. By lambda: one, for which a bounded search needs fewer forward passes.
_BY_GRADIENT: tuple[Merge, ...] = (SlerpMerge(), ArithmeticMerge())
_BY_LAMBDA: tuple[Merge, ...] = (AverageMerge(), TiesMerge(), DareMerge())
_LAMBDAS = (0.25, 8.0)
_LAMBDA_TRIES = 8


@dataclass(frozen=True)
class Row:
    """One line of the comparison.

    Attributes:
        name: of the method or of the specialist.
        kind: baseline (the warm-up model), specialist, fixed (nothing tuned) or tuned (on these very examples).
        losses: held-out loss per task.
        scale: lambda where the method has one.
    """

    name: str
    kind: str
    losses: Losses
    scale: float | None = None

    @property
    def loss(self) -> float:
        """Mean over tasks."""
        return mean(self.losses)

    def as_json(self) -> dict[str, Any]:
        """The row in the trace file."""
        return {"name": self.name, "kind": self.kind, "loss": self.loss, "losses": self.losses, "lambda": self.scale}


def compare(model: nn.Module, vectors: TaskVectors, held_out: HeldOut[Batch], schedule: Schedule, seed: int, skip: str) -> list[Row]:
    """Judge the warm-up model, every specialist and the other methods with their default settings.

    Args:
        model: the warm-up model, run by `held_out.loss`; unchanged afterwards.
        vectors: the specialists'.
        held_out: what all are judged on; tuned rows were also tuned on it.
        schedule: of the methods that are searched by gradient.
        seed: for DARE.
        skip: name of a method that has been judged already.
    """
    with mixed(model, vectors) as mixer:
        rows = list(_fixed(mixer, vectors, held_out))
        for config in _BY_GRADIENT:
            if config.method != skip:
                best = search(build_method(config, vectors, seed), mixer, held_out, schedule, f"compare {config.method}").best
                rows.append(Row(config.method, "tuned", best.losses, best.scale))
    for config in _BY_LAMBDA:
        if config.method != skip:
            rows.append(_by_lambda(config, model, vectors, held_out, seed))
    return rows


def tune_lambda(mixer: Mixer, coefficients_MN: Tensor, held_out: HeldOut[Batch]) -> tuple[float, Losses]:
    """The factor of some coefficients with the least held-out loss, and its losses.

    Bounded search (Brent) over log lambda between 1/4 and 8, with lambda 1 measured as well.
    """
    seen: dict[float, Losses] = {}

    def loss(log_lambda: float) -> float:
        scale = math.exp(log_lambda)
        mixer.put(scale * coefficients_MN)
        seen[scale] = held_out.measure()
        return mean(seen[scale])

    loss(0.0)
    minimize_scalar(loss, bounds=[math.log(end) for end in _LAMBDAS], method="bounded", options={"maxiter": _LAMBDA_TRIES})
    best = min(seen, key=lambda scale: mean(seen[scale]))
    return best, seen[best]


def _by_lambda(config: Merge, model: nn.Module, vectors: TaskVectors, held_out: HeldOut[Batch], seed: int) -> Row:
    """The row of one method. A function, so that its vector, dense and as large as the model, is gone before the next is made."""
    method = build_method(config, vectors, seed)
    with mixed(model, method.vectors) as mixer:
        scale, losses = tune_lambda(mixer, method.coefficients().detach(), held_out)
    return Row(config.method, "tuned", losses, scale)


def _fixed(mixer: Mixer, vectors: TaskVectors, held_out: HeldOut[Batch]) -> Iterator[Row]:
    """The rows in which nothing is tuned."""
    num = len(vectors.tasks)
    plans = [("warmup", "baseline", torch.zeros(num)), ("average-fixed", "fixed", torch.full((num,), 1 / num))]
    plans += [(task, "specialist", torch.eye(num)[k]) for k, task in enumerate(vectors.tasks)]
    for name, kind, c_N in plans:
        mixer.put(c_N.expand(len(vectors.names), -1))
        yield Row(name, kind, held_out.measure())
