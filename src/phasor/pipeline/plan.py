"""What each component is told: the slice of the recipe that its phase, or one before it, depends on.

KFP decides by the values of a task's inputs whether it has to run. So a slice holds neither more nor less than what
counts: a change of one task's data or settings alters this branch's slice alone.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from phasor.artifacts import first_problem
from phasor.config.base import Role
from phasor.dvc_adapter import own_files
from phasor.errors import DataError, RecipeError
from phasor.phases import PHASES, Job, Phase, jobs
from phasor.recipe import Recipe, dump_recipe, narrowed, parse_recipe


class Slice(BaseModel):
    """What one execution of a phase is told, as JSON text.

    Attributes:
        code_rev: digest of the code of its phase, so that other code never meets old results.
        recipe: settings that differ from their defaults.
        files: tracked path to its DVC digest.
        task: that it covers, if it covers one.
    """

    model_config = ConfigDict(extra="forbid")

    code_rev: str
    recipe: dict[str, Any]
    files: dict[str, str] = {}
    task: str | None = None

    def text(self) -> str:
        """Equal slices have equal text."""
        return json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True, ensure_ascii=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a slice back. Raises RecipeError if it is none of ours."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise RecipeError(f"these settings were not written by fetch ({first_problem(error)}). Pass on what fetch hands out.") from None

    def load(self) -> Recipe:
        """The recipe; what the slice leaves out has its default."""
        return parse_recipe(yaml.safe_dump(self.recipe), origin="recipe")


class Plan(BaseModel):
    """A run's form, resolved.

    Attributes:
        recipe: as it will run.
        branches: per task, the slice of every phase that runs for it, by phase or phase_role.
        slices: of the other phases, by the same names; empty for a role that is not trained.
    """

    recipe: Recipe
    branches: list[dict[str, str]]
    slices: dict[str, str]

    def files(self) -> dict[str, str]:
        """Everything that some phase brings: tracked path to DVC digest."""
        texts = [text for group in (*self.branches, self.slices) for text in group.values() if text]
        return {path: digest for text in texts for path, digest in Slice.parse(text).files.items()}


def choose_roles(recipe: Recipe, roles: Sequence[str]) -> Recipe:
    """The recipe with only those of its roles. Raises RecipeError for a role that does not exist or if none is left."""
    known = get_args(Role)
    if unknown := [role for role in roles if role not in known]:
        raise RecipeError(f"roles: {unknown[0]!r} is no role. Name {' or '.join(known)}.")
    kept = [role for role in recipe.roles if role in roles]
    return parse_recipe(dump_recipe(recipe), [f"roles={json.dumps(kept)}"], origin="roles")


def make_plan(recipe: Recipe, tracked: Mapping[str, str], code_of: Callable[[str], str]) -> Plan:
    """Cut a recipe into slices.

    Args:
        recipe: as it will run.
        tracked: data revision: path of a file or folder under DVC, relative to the recipe, to its digest.
        code_of: phase to digest of its code.

    Raises:
        DataError: the recipe reads a file that the data revision does not name.
    """
    keys, tree = settings_keys(recipe), yaml.safe_load(dump_recipe(recipe))
    branches: dict[str, dict[str, str]] = {task: {} for task in recipe.tasks}
    slices: dict[str, str] = {}
    for phase in PHASES:
        for role in get_args(Role) if phase.scope.startswith("role") else (None,):
            name = f"{phase.name}_{role}" if role else phase.name
            for task in recipe.tasks if phase.scope.endswith("task") else (None,):
                job = Job(recipe, phase.name, role, task)
                absent = role is not None and role not in recipe.roles
                text = "" if absent else _slice(phase, job, keys[job.name], tree, tracked, code_of(phase.name)).text()
                (slices if task is None else branches[task])[name] = text
    return Plan(recipe=recipe, branches=list(branches.values()), slices=slices)


def _slice(phase: Phase, job: Job, keys: frozenset[str], tree: dict[str, Any], tracked: Mapping[str, str], code_rev: str) -> Slice:
    files = _digests(own_files(phase, job), tracked, job.name)
    if phase.scope == "run":
        return Slice(code_rev=code_rev, recipe=tree, files=files)  # the bundle holds the whole recipe
    wanted = {f"tasks.{job.task}"} if phase.scope == "task" else {"tasks"}
    wanted |= {key for key in keys if not key.startswith("tasks.")}
    own = narrowed(tree, job.task) if phase.scope == "task" else tree
    return Slice(code_rev=code_rev, recipe=_pick(own, sorted(wanted)), files=files, task=job.task)


def settings_keys(recipe: Recipe) -> dict[str, frozenset[str]]:
    """Job name to the dotted recipe keys that it or a job before it depends on.

    A phase may look at a setting that an earlier phase names, because a change of it comes to the phase anyway.
    """
    own: dict[str, set[str]] = {}
    before: dict[str, set[str]] = {}
    producer: dict[Path, str] = {}
    for phase, job in jobs(recipe):
        producer |= dict.fromkeys(phase.paths("outputs", recipe, Path(), job.role, job.task).flat().values(), job.name)
        own[job.name] = {key.format(role=job.role, task=job.task) for key in phase.params}
    for phase, job in jobs(recipe):
        inputs = phase.paths("inputs", recipe, Path(), job.role, job.task).flat()
        before[job.name] = {producer[path] for name, path in inputs.items() if name != "reports"}
    found: dict[str, frozenset[str]] = {}
    for name in TopologicalSorter(before).static_order():
        found[name] = frozenset(own[name]).union(*(found[earlier] for earlier in before[name]))
    return found


def _pick(tree: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """The parts of a tree under dotted keys; a key that is not there has its default."""
    picked: dict[str, Any] = {}
    for key in keys:
        *parents, last = key.split(".")
        source, target = tree, picked
        for parent in parents:
            source = source.get(parent, {})
            target = target.setdefault(parent, {})
        if last in source:
            target[last] = source[last]
    return {key: value for key, value in picked.items() if value != {}}


def _digests(paths: Sequence[str], tracked: Mapping[str, str], job: str) -> dict[str, str]:
    """Digest of the tracked file or folder that holds each path."""
    found = {}
    for path in paths:
        candidates = [p.as_posix() for p in (Path(path), *Path(path).parents)]
        holder = next((name for name in candidates if name in tracked), None)
        if holder is None or Path(path).is_absolute() or ".." in Path(path).parts:
            raise DataError(
                f"{job}: the data revision names no {path}, which the recipe reads. Put it below the recipe's folder, track it with "
                f"`dvc add {path}`, run `dvc push`, and pass what `phasor data rev` prints as data_rev."
            )
        found[holder] = tracked[holder]
    return found
