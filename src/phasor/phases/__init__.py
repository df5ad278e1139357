"""The phases in order: the only place where order, inputs and outputs are written.

| phase | reads | writes |
|---|---|---|
| collect | the task's sources | corpus and train/dev/heldout/test examples |
| synthesize | corpus, personas | synthetic queries |
| filter | synthetic queries, corpus, test set | kept pairs, reasons, data card |
| mine | all pairs, corpus | training and held-out examples with hard negatives |
| warmup | equal shares of every task | backbone (if built) and warm-up model |
| train | warm-up model, one task's examples | specialist adapter |
| merge | warm-up model, all specialists, held-out examples | merged model, search trace |
| enhance | merged model, the warm-up data | final model |
| evaluate | every model of the role, test sets | scores, runs, gate verdict |
| package | final models, scores, phase reports | bundle, report page |

The command line, the DVC stage and the KFP component each look a phase up here and call its `run`.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from phasor.config.base import Role

if TYPE_CHECKING:
    from phasor.artifacts import Report
    from phasor.recipe import Recipe

Scope = Literal["task", "role", "role_task", "run"]


@dataclass(frozen=True)
class Paths:
    """Where a phase finds its inputs or puts its outputs. A name with several parts maps part to path."""

    entries: dict[str, Path | dict[str, Path]]

    def one(self, name: str) -> Path:
        """The path of a single artifact."""
        entry = self.entries[name]
        assert isinstance(entry, Path), f"{name} has several parts"
        return entry

    def parts(self, name: str) -> dict[str, Path]:
        """The paths of an artifact with one part per task or role, in recipe order."""
        entry = self.entries[name]
        assert isinstance(entry, dict), f"{name} is a single artifact"
        return entry

    def has(self, name: str) -> bool:
        """Whether this phase, in this scope, has that artifact."""
        return name in self.entries

    def flat(self) -> dict[str, Path]:
        """Every path by `name` or `name/part`."""
        flat: dict[str, Path] = {}
        for name, entry in self.entries.items():
            if isinstance(entry, Path):
                flat[name] = entry
            else:
                flat |= {f"{name}/{part}": path for part, path in entry.items()}
        return flat


def job_name(phase: str, role: str | None, task: str | None) -> str:
    """Stage name of a phase in one scope, for example `train-embed-code`."""
    return "-".join(part for part in (phase, role, task) if part)


@dataclass(frozen=True)
class Job:
    """One phase applied to one scope of one recipe: all that decides what `run` does, besides its inputs.

    Attributes:
        recipe: the whole recipe.
        phase: name of the phase.
        role: set for the scopes role and role_task.
        task: set for the scopes task and role_task.
        root: folder against which relative paths in the recipe are resolved.
        scratch: folder that survives an interruption, for checkpoints; removed on success, except what is in `kept`.
    """

    recipe: "Recipe"
    phase: str
    role: Role | None = None
    task: str | None = None
    root: Path = Path()
    scratch: Path = Path()

    @property
    def name(self) -> str:
        """Stage name, for example `train-embed-code`."""
        return job_name(self.phase, self.role, self.task)

    @property
    def kept(self) -> Path:
        """Folder for what was paid for and serves later runs of the same job too. Whoever uses it keys it by all that decides it."""
        return self.scratch / "kept"


@dataclass(frozen=True)
class Phase:
    """One row of the table above.

    Attributes:
        name: also the module in `phasor.phases`, the command and the DVC stage.
        scope: what one execution covers.
        inputs, outputs: artifact name to path template under the work folder. A name ending in `*` has one part
            per task, in `+` one per role of the recipe. The prefix `rerank:` limits an entry to that role, `grown:`
            to a reranker that starts from the embedder.
        params: dotted recipe keys that the phase depends on, as templates.
        summary: one line for --help.
    """

    name: str
    scope: Scope
    summary: str
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    params: tuple[str, ...] = ()

    def load(self) -> "Callable[[Job, Paths, Paths], Report]":
        """Import the phase's module, late, because most phases do not need torch."""
        run: Callable[[Job, Paths, Paths], Report] = importlib.import_module(f"phasor.phases.{self.name}").run
        return run

    def jobs(self, recipe: "Recipe") -> list[tuple[Role | None, str | None]]:
        """Every (role, task) this phase runs for, in order."""
        roles: list[Role | None] = list(recipe.roles) if self.scope.startswith("role") else [None]
        tasks: list[str | None] = list(recipe.tasks) if self.scope.endswith("task") else [None]
        return [(role, task) for role in roles for task in tasks]

    def paths(self, kind: Literal["inputs", "outputs"], recipe: "Recipe", work: Path, role: Role | None, task: str | None) -> Paths:
        """Resolve the templates of one side for one scope."""
        entries: dict[str, Path | dict[str, Path]] = {}
        for key, template in (self.inputs if kind == "inputs" else self.outputs).items():
            limit, _, name = key.rpartition(":")
            if limit and not _applies(limit, recipe, role):
                continue
            if name.endswith("*"):
                entries[name[:-1]] = {t: work / template.format(role=role, task=t) for t in recipe.tasks}
            elif name.endswith("+"):
                entries[name[:-1]] = {r: work / template.format(role=r, task=task) for r in recipe.roles}
            else:
                entries[name] = work / template.format(role=role, task=task)
        return Paths(entries)


def _applies(limit: str, recipe: "Recipe", role: Role | None) -> bool:
    if limit == "grown":
        return role == "rerank" and recipe.model.rerank.backbone.kind == "embedder"
    return limit == role


_TRAINING = ("seed", "model.{role}")

PHASES: tuple[Phase, ...] = (
    Phase(
        "collect", "task", "Read a task's sources into a corpus and split examples.",
        outputs={"data": "{task}/collect"},
        params=("seed", "tasks.{task}", "collect"),
    ),
    Phase(
        "synthesize", "task", "Write queries from passages, by persona.",
        inputs={"data": "{task}/collect"}, outputs={"synthetic": "{task}/synthetic"},
        params=("seed", "tasks.{task}.instruction", "synthesize"),
    ),
    Phase(
        "filter", "task", "Keep synthetic pairs that are well-formed, answerable and new.",
        inputs={"data": "{task}/collect", "synthetic": "{task}/synthetic"}, outputs={"filtered": "{task}/filtered"},
        params=("seed", "filter"),
    ),
    Phase(
        "mine", "task", "Find hard negatives for every pair.",
        inputs={"data": "{task}/collect", "filtered": "{task}/filtered"}, outputs={"mined": "{task}/mined"},
        params=("seed", "mine"),
    ),
    Phase(
        "warmup", "role", "Train one model on equal shares of every task.",
        inputs={"data*": "{task}/collect", "mined*": "{task}/mined", "grown:embedder": "embed/warmup"},
        outputs={"model": "{role}/warmup"},
        params=(*_TRAINING, "warmup.{role}"),
    ),
    Phase(
        "train", "role_task", "Train one task's specialist from the warm-up model.",
        inputs={"data": "{task}/collect", "mined": "{task}/mined", "warmup": "{role}/warmup"},
        outputs={"specialist": "{role}/specialists/{task}"},
        params=(*_TRAINING, "train.{role}"),
    ),
    Phase(
        "merge", "role", "Combine the specialists by a searched merge of their task vectors.",
        inputs={"data*": "{task}/collect", "mined*": "{task}/mined", "warmup": "{role}/warmup",
                "specialists*": "{role}/specialists/{task}"},
        outputs={"model": "{role}/merged"},
        params=(*_TRAINING, "train.{role}", "merge"),
    ),
    Phase(
        "enhance", "role", "Train the merged model on the warm-up data once more.",
        inputs={"data*": "{task}/collect", "mined*": "{task}/mined", "merged": "{role}/merged"},
        outputs={"model": "{role}/enhanced"},
        params=(*_TRAINING, "warmup.{role}", "enhance.{role}"),
    ),
    Phase(
        "evaluate", "role", "Score every model of the role on the test sets.",
        inputs={"data*": "{task}/collect", "mined*": "{task}/mined", "warmup": "{role}/warmup",
                "specialists*": "{role}/specialists/{task}", "merged": "{role}/merged", "enhanced": "{role}/enhanced",
                "rerank:first_stage": "embed/evaluation"},
        outputs={"evaluation": "{role}/evaluation"},
        params=("seed", "model.{role}", "evaluate"),
    ),
    Phase(
        "package", "run", "Write the bundle, its model card and the report page.",
        inputs={"data*": "{task}/collect", "enhanced+": "{role}/enhanced", "evaluation+": "{role}/evaluation",
                "reports": "reports"},
        outputs={"bundle": "bundle", "report": "report"},
        params=("name", "seed", "model", "package"),
    ),
)


def phase(name: str) -> Phase:
    """Look a phase up by name."""
    return next(p for p in PHASES if p.name == name)


def jobs(recipe: "Recipe") -> list[tuple[Phase, Job]]:
    """Every job of a recipe with its phase, in order."""
    return [(phase, Job(recipe, phase.name, role, task)) for phase in PHASES for role, task in phase.jobs(recipe)]
