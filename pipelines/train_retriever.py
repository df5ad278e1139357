"""The recipe as a Kubeflow pipeline: wiring only. What a phase does is in phasor.phases, where its pod runs in the profile.

The graph is flat: one loop over tasks up to their examples, `gather`, then per role warm-up, one loop over tasks for the
specialists, merge, enhance, evaluate; `package` takes everything, `publish` tells of it. Roles are written out when compiling.
"""

from dataclasses import dataclass
from typing import Any, get_args

from kfp import dsl
from kfp.dsl import Collected, PipelineTask

from components.collect.component import collect
from components.enhance.component import enhance
from components.evaluate.component import evaluate
from components.fetch.component import fetch
from components.filter.component import filter
from components.gather.component import gather
from components.merge.component import merge
from components.mine.component import mine
from components.package.component import package
from components.publish.component import publish
from components.synthesize.component import synthesize
from components.train.component import train
from components.warmup.component import warmup
from phasor.config.base import Role
from phasor.pipeline.placement import place
from phasor.pipeline.profile import Profile
from phasor.recipe import Recipe

NAME = "phasor-train-retriever"
ROLES = list(Recipe.model_fields["roles"].default)
DEMO = "quickstart"
Pipeline = Any  # kfp has no public name for it


@dataclass(frozen=True)
class RoleTasks:
    """The tasks of one role."""

    warmup: PipelineTask
    train: PipelineTask
    merge: PipelineTask
    enhance: PipelineTask
    evaluate: PipelineTask


def build(profile: Profile) -> Pipeline:
    """The pipeline for one platform."""

    @dsl.pipeline(
        name=NAME, display_name="Phasor: train a retriever",
        description="Documents become an embedder and a reranker: data, warm-up, a specialist per task, merge, enhance, evaluate, package.",
    )
    def train_retriever(
        recipe: str = DEMO, overrides: list = [], data_rev: dict = {}, code_rev: str = "",  # noqa: B006
        roles: list = ROLES, run_note: str = "",
    ) -> None:  # fmt: skip
        """Train both models of a recipe.

        Args:
            recipe: Name of a recipe that comes with Phasor, the YAML text of one, or s3://BUCKET/KEY of a YAML file.
            overrides: Single settings that differ from it, for example ["merge.search_steps=50"].
            data_rev: Tracked path to DVC digest, as `phasor data rev` prints it. Empty if the recipe reads no files.
            code_rev: Code that the image must hold, as `phasor pipeline compile` prints it. Empty for any.
            roles: Which of the recipe's models to train. The reranker needs the embedder.
            run_note: Why this run; shown on its card.
        """
        plan = fetch(recipe=recipe, overrides=overrides, data_rev=data_rev, code_rev=code_rev, roles=roles, run_note=run_note)
        place(plan, "fetch", profile)
        with dsl.ParallelFor(plan.outputs["Output"], parallelism=profile.parallelism) as branch:
            data = _data(branch, profile)
        gathered = gather(data=Collected(data["collect"].outputs["data"]), mined=Collected(data["mine"].outputs["mined"]))
        tasks = place(gathered, "gather", profile).outputs["tasks"]
        trained: dict[str, RoleTasks] = {}
        for role in get_args(Role):
            trained[role] = _role(role, plan, tasks, trained.get("embed"), profile)
        packed = _package(plan, tasks, data, trained, profile)
        told = publish(run=dsl.PIPELINE_JOB_ID_PLACEHOLDER, bundle=packed.outputs["bundle"], report=packed.outputs["report"])
        place(told, "publish", profile)

    return train_retriever


def _data(branch: Any, profile: Profile) -> dict[str, PipelineTask]:
    """One task's branch, from its sources to its examples."""
    collected = place(collect(settings=branch.collect), "collect", profile)
    data = collected.outputs["data"]
    written = place(synthesize(settings=branch.synthesize, data=data), "synthesize", profile)
    kept = place(filter(settings=branch.filter, data=data, synthetic=written.outputs["synthetic"]), "filter", profile)
    mined = place(mine(settings=branch.mine, data=data, filtered=kept.outputs["filtered"]), "mine", profile)
    return {"collect": collected, "synthesize": written, "filter": kept, "mine": mined}


def _role(role: str, plan: PipelineTask, tasks: Any, embed: RoleTasks | None, profile: Profile) -> RoleTasks:
    """One model, from warm-up to scores. The reranker takes the embedder's warm-up model and what it finds."""
    settings = {phase: plan.outputs[f"{phase}_{role}"] for phase in ("warmup", "merge", "enhance", "evaluate")}
    grown = {"embedder": embed.warmup.outputs["model"]} if embed else {}
    ranked = {"first_stage": embed.evaluate.outputs["evaluation"]} if embed else {}

    def put(task: PipelineTask, phase: str) -> PipelineTask:
        return place(task, phase, profile, f"{phase} {role}")

    warm = put(warmup(role=role, settings=settings["warmup"], tasks=tasks, **grown), "warmup")
    start = warm.outputs["model"]
    with dsl.ParallelFor(plan.outputs["Output"], parallelism=profile.parallelism) as branch:
        special = put(train(role=role, settings=getattr(branch, f"train_{role}"), tasks=tasks, warmup=start), "train")

    def specialists() -> Collected:
        return Collected(special.outputs["specialist"])  # kfp changes the object it is given, so each use needs its own

    merged = put(merge(role=role, settings=settings["merge"], tasks=tasks, warmup=start, specialists=specialists()), "merge")
    final = put(enhance(role=role, settings=settings["enhance"], tasks=tasks, merged=merged.outputs["model"]), "enhance")
    scored = evaluate(
        role=role, settings=settings["evaluate"], tasks=tasks, warmup=start, specialists=specialists(), merged=merged.outputs["model"],
        enhanced=final.outputs["model"], **ranked,
    )  # fmt: skip
    return RoleTasks(warm, special, merged, final, put(scored, "evaluate"))


def _package(
    plan: PipelineTask, tasks: Any, data: dict[str, PipelineTask], trained: dict[str, RoleTasks], profile: Profile
) -> PipelineTask:
    given = {f"{phase}_metrics": Collected(task.outputs["metrics"]) for phase, task in data.items()}
    for role, of in trained.items():
        given |= {f"{role}_enhanced": of.enhance.outputs["model"], f"{role}_evaluation": of.evaluate.outputs["evaluation"]}
        given |= {f"{role}_{phase}_metrics": getattr(of, phase).outputs["metrics"] for phase in ("warmup", "merge", "enhance", "evaluate")}
        given[f"{role}_train_metrics"] = Collected(of.train.outputs["metrics"])
    return place(package(settings=plan.outputs["package"], tasks=tasks, **given), "package", profile)
