"""The model card: how to use the bundle, what it was made from, how well it does, what it cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from phasor.artifacts import digest_artifact, sha256_file
from phasor.config.model import Backbone, EmbedderBackbone, PretrainedBackbone
from phasor.data.records import Passage
from phasor.packaging.embed import prompts
from phasor.packaging.golden import Golden
from phasor.recipe import Recipe
from phasor.reporting import RunReport


@dataclass(frozen=True)
class TaskFacts:
    """What a card says about a task.

    Attributes:
        folder: the collected data, for its digest.
        corpus: its passages.
        counts: split to number of examples.
    """

    folder: Path
    corpus: Sequence[Passage]
    counts: Mapping[str, int]


def render_card(
    recipe: Recipe, report: RunReport, golden: Golden, tasks: Mapping[str, TaskFacts], tables: Mapping[str, str], bundle: Path
) -> str:
    """Markdown with a Hugging Face header.

    Args:
        recipe: of the run.
        report: scores, contamination and cost.
        golden: an example query is taken from it.
        tasks: task name to its data.
        tables: role to the score tables in Markdown.
        bundle: folder with the finished model folders.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False,
    )
    instructions = {name: task.instruction for name, task in recipe.tasks.items()}
    example = golden.queries[0]
    return environment.get_template("card.md.jinja").render(
        name=recipe.name, seed=recipe.seed, roles=recipe.roles, instructions=instructions, golden=golden, tables=tables, example=example,
        prompt=example.text.removesuffix(example.query), prompts=list(prompts(recipe.model.embed, instructions)),
        languages=sorted({passage.language for facts in tasks.values() for passage in facts.corpus}),
        base_models=_base_models(recipe), model_rows=_model_rows(recipe), data_rows=_data_rows(recipe, tasks),
        contamination=report.contamination, cost_rows=_cost_rows(report), code_rev=report.code_rev, versions=report.versions,
        digests={path.relative_to(bundle).as_posix(): sha256_file(path) for path in sorted(bundle.glob("*/model.safetensors"))},
    )


def _base_models(recipe: Recipe) -> list[str]:
    backbones = [recipe.model.of(role).backbone for role in recipe.roles]
    return sorted({backbone.name for backbone in backbones if isinstance(backbone, PretrainedBackbone)})


def _model_rows(recipe: Recipe) -> list[list[str]]:
    models = {role: recipe.model.of(role) for role in recipe.roles}
    rows = [["backbone", *(describe(model.backbone) for model in models.values())]]
    for name in ("template", "pooling", "max_query_tokens", "max_passage_tokens", "max_pair_tokens", "dtype"):
        rows.append([name, *(str(getattr(model, name)) if _applies(name, role) else "" for role, model in models.items())])
    dims = ", ".join(map(str, recipe.enhance.embed.loss.matryoshka_dims)) or "none"
    return [*rows, ["Matryoshka sizes", *(dims if role == "embed" else "" for role in models)]]


def _applies(setting: str, role: str) -> bool:
    return setting in ("template", "dtype") or (setting == "max_pair_tokens") == (role == "rerank")


def describe(backbone: Backbone) -> str:
    """Where a model came from, in a few words."""
    if isinstance(backbone, PretrainedBackbone):
        return backbone.name + (f" at {backbone.revision}" if backbone.revision else "")
    if isinstance(backbone, EmbedderBackbone):
        return "grown from the warmed-up embedder by two layers"
    return f"built from config: {backbone.num_layers} layers of size {backbone.hidden_size}"


def _data_rows(recipe: Recipe, tasks: Mapping[str, TaskFacts]) -> list[list[str]]:
    rows = []
    for name, facts in tasks.items():
        sources = ", ".join(sorted({source.kind for source in recipe.tasks[name].sources}))
        counts = [f"{facts.counts[split]:,}" for split in ("train", "dev", "heldout", "test")]
        rows.append([name, f"{len(facts.corpus):,}", *counts, sources, f"`{digest_artifact(facts.folder)[:16]}`"])
    return rows


def _cost_rows(report: RunReport) -> list[list[str]]:
    totals: dict[str, list[int]] = {}
    for phase in report.phases:
        total = totals.setdefault(phase.phase, [0, 0, 0])
        for place, amount in enumerate((1, phase.cost.examples, phase.cost.tokens)):
            total[place] += amount
    return [[name, *(f"{amount:,}" for amount in total)] for name, total in totals.items()]
