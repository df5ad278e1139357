"""The recipe: one typed tree of every setting. YAML holds only what differs from the defaults written here."""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from phasor.config.base import Config, Role
from phasor.config.data import CollectConfig, FilterConfig, MineConfig, SynthesizeConfig
from phasor.config.evaluation import EvaluateConfig, PackageConfig
from phasor.config.merging import MergeConfig
from phasor.config.model import ModelsConfig
from phasor.config.tasks import RESERVED_NAMES, TaskConfig
from phasor.config.training import EnhanceConfig, TrainConfig, WarmupConfig
from phasor.errors import RecipeError

Settings = TypeVar("Settings", bound=Config)
TASK_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


class Recipe(Config):
    """Everything that decides a run, phase by phase."""

    name: str = Field("phasor", min_length=1, description="Name of the model that comes out.")
    seed: int = Field(0, ge=0)
    roles: tuple[Role, ...] = Field(("embed", "rerank"), min_length=1, description="rerank needs embed as its first stage.")
    tasks: dict[str, TaskConfig] = Field(min_length=1, description="Task name to task.")
    model: ModelsConfig = ModelsConfig()
    collect: CollectConfig = CollectConfig()
    synthesize: SynthesizeConfig = SynthesizeConfig()
    filter: FilterConfig = FilterConfig()
    mine: MineConfig = MineConfig()
    warmup: WarmupConfig = WarmupConfig()
    train: TrainConfig = TrainConfig()
    merge: MergeConfig = MergeConfig()
    enhance: EnhanceConfig = EnhanceConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    package: PackageConfig = PackageConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for task in self.tasks:
            if not TASK_NAME.fullmatch(task):
                raise ValueError(f"task name {task!r} must match {TASK_NAME.pattern}: it becomes a folder and a stage name")
            if task in RESERVED_NAMES:
                raise ValueError(f"a task cannot be called {task!r}: a prompt or a folder of the run has this name; choose another")
        numbers = self.synthesize.passages_per_task
        if unknown := sorted(numbers.keys() - self.tasks.keys()) if isinstance(numbers, dict) else []:
            raise ValueError(f"synthesize.passages_per_task names {unknown[0]!r}, but the tasks are {', '.join(self.tasks)}")
        if len(set(self.roles)) != len(self.roles):
            raise ValueError(f"roles lists a role twice: {list(self.roles)}")
        if "embed" not in self.roles:
            raise ValueError("roles must contain embed: the reranker reorders what the embedder finds")
        return self

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        alone = [name for name, task in self.tasks.items() if not task.in_batch_negatives]
        for name, phase in (("warmup", self.warmup), ("train", self.train), ("enhance", self.enhance)):
            if alone and not phase.embed.loss.num_hard_negatives:
                raise ValueError(
                    f"tasks.{alone[0]}.in_batch_negatives is false and {name}.embed.loss.num_hard_negatives is 0, which leaves "
                    "that task no negatives to learn from; change one of them"
                )
        for role in self.roles:
            first, again = self.warmup.of(role).max_examples, self.enhance.of(role).max_examples
            if first is not None and again is not None and again > first:
                raise ValueError(
                    f"enhance.{role}.max_examples {again} is more than warmup.{role}.max_examples {first}: enhance trains on "
                    "examples of warm-up once more; lower it or leave it out"
                )
        return self


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply `a.b=c` overrides, whose right sides are YAML.

    Raises:
        RecipeError: the file is missing, is not YAML, or a key or value is not allowed; the message names the
            file, the key, the value and the nearest allowed key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path} does not exist. Name a recipe with --recipe, or start a project with `phasor init`.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read: {error}. A recipe is a YAML text file in UTF-8.") from None
    return parse_recipe(text, overrides, origin=str(path))


def load_settings(kind: type[Settings], path: Path | None, overrides: Sequence[str] = ()) -> Settings:
    """As `load_recipe`, for the settings of a command that runs no phase; without a file, all are defaults."""
    try:
        text = path.read_text(encoding="utf-8") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read: {error}. Name a YAML text file in UTF-8.") from None
    return _parse(kind, text, overrides, str(path or "settings"))


def parse_recipe(text: str, overrides: Sequence[str] = (), origin: str = "recipe") -> Recipe:
    """As `load_recipe`, from YAML text; `origin` names it in messages."""
    return _parse(Recipe, text, overrides, origin)


def _parse(kind: type[Settings], text: str, overrides: Sequence[str], origin: str) -> Settings:
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise RecipeError(f"{origin} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise RecipeError(f"{origin} must be a mapping of settings, got {type(tree).__name__}.")
    for override in overrides:
        _apply(tree, override)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(_explain(error, kind, origin)) from None


def dump_recipe(recipe: Recipe) -> str:
    """YAML of everything that differs from the defaults; loads back to an equal recipe."""
    tree = recipe.model_dump(mode="json", exclude_defaults=True)
    _restore_tags(recipe, tree)
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(yaml.SafeDumper):
    """Quotes the line breaks of Unicode, which PyYAML would write as they are and read back as a space."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if set(data) & set("\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def _restore_tags(value: Any, tree: Any) -> None:
    """Put back the discriminators (`kind`, `method`) that exclude_defaults removes from union members."""
    if isinstance(value, BaseModel) and isinstance(tree, dict):
        for name in type(value).model_fields:
            child = getattr(value, name)
            if name in ("kind", "method"):
                tree[name] = child
            elif name in tree:
                _restore_tags(child, tree[name])
    elif isinstance(value, Mapping) and isinstance(tree, dict):
        for key, child in value.items():
            _restore_tags(child, tree.get(key))
    elif isinstance(value, tuple) and isinstance(tree, list):
        for child, subtree in zip(value, tree, strict=True):
            _restore_tags(child, subtree)


def narrowed(tree: Mapping[str, Any], task: str | None) -> dict[str, Any]:
    """A recipe's tree for a phase of one task: of numbers per task only its own, as the others say nothing about it."""
    synthesize = tree.get("synthesize", {})
    if not isinstance(numbers := synthesize.get("passages_per_task"), Mapping):
        return dict(tree)
    own = {name: number for name, number in numbers.items() if name == task}
    return {**tree, "synthesize": {**synthesize, "passages_per_task": own}}


def _apply(tree: dict[str, Any], override: str) -> None:
    key, sign, value = override.partition("=")
    if not sign or not all(key.split(".")):
        raise RecipeError(f"--set {override!r} is not of the form a.b=c, for example --set warmup.embed.learning_rate=0.001.")
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        child = node.get(parent, {})
        if not isinstance(child, dict):
            raise RecipeError(f"--set {override!r}: {parent!r} holds {child!r}, which has no keys. Set the whole value instead.")
        node[parent] = dict(child)  # YAML's aliases share one mapping; the others keep their value
        node = node[parent]
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override!r}: {value!r} is not valid YAML: {error}") from None


def _explain(error: ValidationError, kind: type[Config], origin: str) -> str:
    lines = []
    for issue in error.errors():
        where = ".".join(str(part) for part in issue["loc"])
        if issue["type"] == "extra_forbidden":
            lines.append(f"unknown key {where!r}" + _nearest(kind, str(issue["loc"][-1]), issue["loc"]))
        elif issue["type"] == "missing":
            lines.append(f"required key {where!r} is missing")
        else:
            shown = repr(issue["input"])
            value = f" (got {shown if len(shown) <= 60 else shown[:57] + '...'})"
            lines.append(f"{where or 'recipe'}: {issue['msg']}{value}")
    return f"{origin}: " + "; ".join(lines) + "."


def _nearest(kind: type[Config], key: str, location: tuple[int | str, ...]) -> str:
    candidates = _allowed_keys(kind, location[:-1])
    near = difflib.get_close_matches(key, candidates, n=1, cutoff=0.4)
    return f"; did you mean {near[0]!r}?" if near else f"; allowed here: {', '.join(sorted(candidates))}"


def _allowed_keys(kind: Any, location: tuple[int | str, ...]) -> list[str]:
    """Field names at a pydantic error location, which walks fields, mapping keys, indices and union tags."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if not location:
            return list(kind.model_fields)
        if location[0] in kind.model_fields:
            return _allowed_keys(kind.model_fields[str(location[0])].annotation, location[1:])
        tags = [kind.model_fields[name].default for name in ("kind", "method") if name in kind.model_fields]
        return _allowed_keys(kind, location[1:]) if location[0] in tags else []
    arguments = [a for a in get_args(kind) if a is not Ellipsis]
    if getattr(kind, "__origin__", None) in (tuple, dict):
        return _allowed_keys(arguments[-1], location[1:])
    return [key for argument in arguments for key in _allowed_keys(argument, location)]
