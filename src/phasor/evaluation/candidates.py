"""Which models of a role are scored, on which tasks, and how each is loaded: one at a time, because they may be large."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from phasor.config.base import Role
from phasor.models.loading import load_backbone, load_model, load_specialist, make_network
from phasor.models.network import Network
from phasor.phases import Job, Paths

FINAL = "enhanced"


@dataclass(frozen=True)
class Candidate:
    """A model to score.

    Attributes:
        name: initial, warmup, merged, enhanced, or `specialist-TASK`.
        tasks: test sets it is scored on.
        load: makes the network, on the GPU if there is one.
    """

    name: str
    tasks: Sequence[str]
    load: Callable[[], Network]


def specialist(task: str) -> str:
    """Name of a task's specialist."""
    return f"specialist-{task}"


def candidates(job: Job, role: Role, inputs: Paths) -> list[Candidate]:
    """Every model of the role in the order of the phases."""
    tasks = list(job.recipe.tasks)
    model = job.recipe.model.of(role)
    warmup = inputs.one("warmup")

    def network(load: Callable[[], Any]) -> Network:
        weights, tokenizer = load()
        return make_network(weights, tokenizer, model, role)

    def stored(folder: Path) -> Callable[[], Network]:
        return partial(network, partial(load_model, folder, role))

    initial = stored(warmup / "initial")
    if not (warmup / "initial").exists():  # it exists already as pretrained weights
        initial = partial(network, partial(load_backbone, model, role, (), job.recipe.seed))
    cross = job.recipe.evaluate.cross_task
    specialists = [
        Candidate(specialist(task), tasks if cross else [task], partial(network, partial(load_specialist, warmup, folder, role)))
        for task, folder in inputs.parts("specialists").items()
    ]
    return [
        Candidate("initial", tasks, initial), Candidate("warmup", tasks, stored(warmup)), *specialists,
        Candidate("merged", tasks, stored(inputs.one("merged"))), Candidate(FINAL, tasks, stored(inputs.one("enhanced"))),
    ]
