"""Which examples form which step: decided before the first step, from the seed alone.

A step holds examples of one task and of one length bucket. The whole plan is a function of lengths, tasks, settings
and seed, so the state of the sampler is the number of steps done.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from phasor.config.training import BatchBucket, TrainingConfig

T = TypeVar("T")
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """One optimiser step over all ranks.

    Attributes:
        number: from 0.
        task: index of the task.
        examples: indices of its examples.
        mini_batch_tokens: tokens, padding included, that one forward pass may hold.
    """

    number: int
    task: int
    examples: Indices
    mini_batch_tokens: int


def choose(items: Sequence[T], limit: int | None, seed: int, name: str) -> list[T]:
    """The first `limit` items of a shuffle that depends on seed and name only; all of them if there is no limit.

    A smaller limit chooses a subset of what a larger one does: warm-up and enhance see the same examples.
    """
    order = np.random.default_rng(_entropy(seed, name)).permutation(len(items))
    return [items[i] for i in order[:limit]]


def plan_steps(task: Indices, lengths: Indices, config: TrainingConfig, seed: int, world_size: int = 1) -> list[Step]:
    """All steps of a run, in order.

    Args:
        task: [E] task index of each example.
        lengths: [E] tokens of each example's longest text.
        config: buckets and epochs; a part of an epoch is its first steps.
        seed: of the order.
        world_size: steps with fewer examples than ranks are left out.
    """
    steps: list[tuple[int, Indices, BatchBucket]] = []
    total = 0
    for epoch in range(math.ceil(config.epochs)):
        rng = np.random.default_rng(_entropy(seed, f"epoch {epoch}"))
        shuffled = {int(t): rng.permutation(np.flatnonzero(task == t)) for t in np.unique(task)}
        planned = [step for t, examples in shuffled.items() for step in _task_steps(t, examples, lengths, config.buckets)]
        planned = [planned[i] for i in rng.permutation(len(planned)) if len(planned[i][1]) >= world_size]
        steps += planned
        total += max(1, round(min(1.0, config.epochs - epoch) * len(planned)))
    return [Step(n, t, examples, bucket.mini_batch_tokens) for n, (t, examples, bucket) in enumerate(steps[:total])]


def _task_steps(task: int, examples: Indices, lengths: Indices, buckets: Sequence[BatchBucket]) -> list[tuple[int, Indices, BatchBucket]]:
    """Cut shuffled examples of a task into steps; what does not fill a step moves on to the next longer bucket."""
    limits = np.array([b.max_tokens for b in buckets[:-1]])
    place = np.searchsorted(limits, lengths[examples])
    steps, rest = [], examples[:0]
    for index, bucket in enumerate(buckets):
        mine = np.concatenate([rest, examples[place == index]])
        last = index == len(buckets) - 1
        full = len(mine) if last else len(mine) - len(mine) % bucket.batch_size
        steps += [(task, mine[i : min(i + bucket.batch_size, full)], bucket) for i in range(0, full, bucket.batch_size)]
        rest = mine[full:]
    return steps


def step_generator(seed: int, step: Step, name: str = "step") -> np.random.Generator:
    """Random numbers of one step for the use that `name` says, the same after every restart."""
    return np.random.default_rng([_entropy(seed, name), step.number])


def _entropy(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")
