"""The bridge that every KFP component calls: artifacts to paths, the same `execute_paths` as the command line, digests back.

KFP's artifacts are taken as they come (a path and a metadata mapping), so that a pod needs no more of kfp than its executor.
"""

import shutil
import tempfile
from collections import namedtuple
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, get_args

from phasor.artifacts import MANIFEST, Report, digest_artifact, digest_json, read_manifest, read_record, verify, write_text
from phasor.code_rev import code_digest
from phasor.config.base import Role
from phasor.errors import RecipeError
from phasor.packaging.verification import verify_bundle
from phasor.phases import Job, Paths, job_name, phase
from phasor.pipeline.form import check_form, read_form
from phasor.pipeline.launch import launch, told
from phasor.pipeline.plan import Slice, make_plan
from phasor.pipeline.result import make_result, publish_result
from phasor.recipe import Recipe
from phasor.settings import pod_settings, store_settings
from phasor.storage.dvc import bring, check
from phasor.storage.mirror import forget_finished, mirrored
from phasor.storage.store import reach

GATHERED = ("data", "mined")
"""Inputs that the gathered folder holds, in the layout of a work folder."""


class Artifact(Protocol):
    """What is used of a KFP artifact."""

    path: str
    uri: str
    metadata: dict[str, Any]


Given = Artifact | Sequence[Artifact] | None


def run_fetch(
    recipe: str, overrides: Sequence[str], data_rev: Mapping[str, str], code_rev: str, roles: Sequence[str], run_note: str, card: Artifact
) -> Any:
    """Check a run's form and the object store, and find every file of its data revision whole in the remote.

    Args:
        recipe, overrides, data_rev, code_rev, roles, run_note: the pipeline's parameters.
        card: Markdown artifact that shows what will run.

    Returns:
        What the component's outputs are called: `Output`, and the slice of every phase and role outside the loops.
    """
    with told("fetch"):
        own = code_digest()
        if code_rev not in ("", own):
            raise RecipeError(
                f"code_rev: this image holds the code {own}, the run asks for {code_rev}. Name an image built from it, or "
                "leave code_rev empty (`phasor pipeline submit --any-code`) to run the image's."
            )
        check_form(overrides, data_rev)
        form = read_form(recipe, overrides, roles)
        plan = make_plan(form, data_rev, code_digest)
        reach(store_settings())
        check(plan.files())
        title = [f"# {form.name}", run_note, f"Code `{own}`, roles {', '.join(form.roles)}, tasks {', '.join(form.tasks)}."]
        rows = [f"- `{path}` at `{digest}`" for path, digest in sorted(data_rev.items())]
        write_text("\n\n".join(filter(None, [*title, "\n".join(rows)])) + "\n", Path(card.path))
        kind: Any = namedtuple  # the executor looks outputs up by name in a tuple that has names
        return kind("Plan", ["Output", *plan.slices])(plan.branches, **plan.slices)


def run_gather(folders: Sequence[Artifact], tasks: Artifact) -> None:
    """Copy every task's outputs into one folder, in the layout of a work folder; each keeps its own manifest."""
    with told("gather"):
        for folder in folders:
            manifest = verify(Path(folder.path))
            template = next(iter(phase(manifest.phase).outputs.values()))
            target = Path(tasks.path) / template.format(task=manifest.task)
            shutil.copytree(folder.path, target, dirs_exist_ok=True)
        tasks.metadata["digest"] = digest_artifact(Path(tasks.path))


def run_publish(run: str, bundle: Artifact, report: Artifact) -> None:
    """Check the bundle, write where it lies and what the gate says to the store, and clear up what tasks kept for further tries.

    Args:
        run: KFP's id of the run.
        bundle, report: outputs of package.
    """
    with told("publish"):
        verify_bundle(Path(bundle.path))
        verify(Path(report.path))
        publish_result(make_result(run, bundle.uri, Path(bundle.path), Path(report.path)))
        forget_finished()


def run_phase(
    name: str, settings: str, *, inputs: Mapping[str, Given], outputs: Mapping[str, Artifact], metrics: Artifact,
    role: str | None = None, shown: Mapping[str, Artifact] | None = None,
) -> None:  # fmt: skip
    """Run one phase in a pod.

    Args:
        name: of the phase.
        settings: its slice; empty: the role is not trained, and every output stays a note that says so.
        inputs: by the phase's names; `tasks` is the gathered folder. Lists hold one artifact per task or role.
        outputs: by the phase's names. Digests and costs go into their metadata.
        metrics: gets the report, and its numbers as metadata.
        role: which model, where there is one per role.
        shown: artifacts for the UI: `OUTPUT/FILE` is copied, `trace` is the page of a merge.
    """
    shown = shown or {}
    with told(job_name(name, role, None)):
        if not settings:
            for artifact in (*outputs.values(), metrics, *shown.values()):
                write_text(f"The recipe trains no {role} model.\n", Path(artifact.path))
            return
        part = Slice.parse(settings)
        with tempfile.TemporaryDirectory(prefix="phasor-") as folder:
            job = _job(part.load(), name, role, part.task, Path(folder))
            bring(part.files, job.root)
            given, made = _inputs(job, inputs, Path(folder)), Paths({key: Path(artifact.path) for key, artifact in outputs.items()})
            key = digest_json([settings, job.name, {n: digest_artifact(p) for n, p in given.flat().items() if n != "reports"}])
            with mirrored(job.scratch, f"{job.name}-{key[:16]}"):
                report = launch(job, given, made, Path(metrics.path))
        _describe(report, outputs, metrics)
        _show(report, outputs, shown)


def _job(recipe: Recipe, name: str, role: str | None, task: str | None, folder: Path) -> Job:
    assert role is None or role in get_args(Role)
    chosen: Role | None = role  # type: ignore[assignment]
    root, scratch = folder / "root", folder / "scratch"
    root.mkdir()
    return Job(with_checkpoints(recipe, name, chosen), name, chosen, task, root, scratch)


def with_checkpoints(recipe: Recipe, name: str, role: Role | None) -> Recipe:
    """A pod may go at any time: where the recipe wants no checkpoints, the platform's distance applies. It changes no weights."""
    steps, training = pod_settings().checkpoint_steps, getattr(recipe, name)
    if not steps or role is None or not hasattr(training, "of") or training.of(role).checkpoint_steps is not None:
        return recipe
    config = training.of(role).model_copy(update={"checkpoint_steps": steps})
    return recipe.model_copy(update={name: training.model_copy(update={role: config})})


def _inputs(job: Job, given: Mapping[str, Given], folder: Path) -> Paths:
    """Where the phase's inputs lie in this pod; every folder is checked against its manifest first."""
    chosen = phase(job.phase)
    tasks = given.get("tasks")
    expected = chosen.paths("inputs", job.recipe, Path(), job.role, job.task)
    entries: dict[str, Path | dict[str, Path]] = {}
    for name, place in expected.entries.items():
        if name == "reports":
            entries[name] = _reports(_many(given[name]), folder / "reports")
        elif tasks is not None and name in GATHERED:
            assert not isinstance(tasks, Sequence)
            root = Path(tasks.path)
            entries[name] = root / place if isinstance(place, Path) else {part: root / path for part, path in place.items()}
        elif isinstance(place, Path):
            entries[name] = Path(_many(given[name])[0].path)
        else:
            found = {_part(Path(artifact.path)): Path(artifact.path) for artifact in _many(given[name])}
            entries[name] = {part: found[part] for part in place if part in found}
    paths = Paths(entries)
    for name, path in paths.flat().items():
        if name != "reports":
            verify(path)
    return paths


def _many(given: Given) -> Sequence[Artifact]:
    assert given is not None
    return given if isinstance(given, Sequence) else [given]


def _part(folder: Path) -> str:
    """Whose part of an input a folder is: a task's or a role's. A note about an untrained role is nobody's."""
    if not (folder / MANIFEST).exists():
        return ""
    manifest = read_manifest(folder)
    return manifest.task or manifest.role or ""


def _reports(metrics: Sequence[Artifact], folder: Path) -> Path:
    """The reports of all jobs as a phase expects them: one file per job. Notes about an untrained role are left out."""
    folder.mkdir()
    for artifact in metrics:
        if not Path(artifact.path).read_text(encoding="utf-8").startswith("{"):
            continue
        report = read_record(Report, Path(artifact.path))
        shutil.copyfile(artifact.path, folder / f"{job_name(report.phase, report.role, report.task)}.json")
    return folder


def _describe(report: Report, outputs: Mapping[str, Artifact], metrics: Artifact) -> None:
    """What the UI and the lineage show: digests beside the outputs, numbers beside the report."""
    scope = {key: value for key, value in (("role", report.role), ("task", report.task)) if value}
    for name, artifact in outputs.items():
        artifact.metadata.update({"phase": report.phase, **scope, "digest": report.outputs[name]})
    numbers: dict[str, float] = {**report.metrics, **report.counts, "seconds": report.cost.seconds, "gpu_seconds": report.cost.gpu_seconds}
    metrics.metadata.update({**scope, **numbers})


def _show(report: Report, outputs: Mapping[str, Artifact], shown: Mapping[str, Artifact]) -> None:
    for name, artifact in shown.items():
        output, _, file = name.partition("/")
        if file:
            shutil.copyfile(Path(outputs[output].path) / file, artifact.path)
        else:
            from phasor.reporting.merge import merge_page  # late: matplotlib

            write_text(merge_page(report), Path(artifact.path))
