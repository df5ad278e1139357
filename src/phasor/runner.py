"""Run one job: check inputs, write outputs aside, add manifest and cost, publish. Shared by CLI and KFP."""

import contextlib
import errno
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phasor.artifacts import (
    MANIFEST,
    Manifest,
    Report,
    alone,
    digest_artifact,
    digest_json,
    digest_tree,
    discard,
    library_versions,
    publish,
    write_json,
)
from phasor.code_rev import code_digest
from phasor.config.base import Role
from phasor.errors import ArtifactError, OutOfMemory, PhasorError, StorageError, first_line
from phasor.phases import Job, Paths, Phase, phase
from phasor.recipe import Recipe, narrowed
from phasor.settings import settings

_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.ENOTDIR)
# How torch says it, whose classes of errors differ by device and are not imported for phases that need no torch.
_NO_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")


def make_job(name: str, recipe: Recipe, work: Path, role: Role | None = None, task: str | None = None, root: Path = Path()) -> Job:
    """The job of a phase in a work folder.

    Raises:
        PhasorError: role or task is missing, not wanted by the phase, or not in the recipe.
    """
    chosen = phase(name)
    for flag, value, known, wanted in (
        ("role", role, list(recipe.roles), chosen.scope.startswith("role")),
        ("task", task, list(recipe.tasks), chosen.scope.endswith("task")),
    ):
        if wanted and value not in known:
            raise PhasorError(f"{name} needs --{flag}, one of {', '.join(known)} (got {value}).")
        if not wanted and value is not None:
            raise PhasorError(f"{name} takes no --{flag} (got {value}); it covers all of them at once.")
    job = Job(recipe, name, role, task, root)
    return Job(recipe, name, role, task, root, scratch=work / ".scratch" / job.name)


def execute(job: Job, work: Path) -> Report:
    """Run a job in the standard layout of a work folder and write `reports/<job>.json`."""
    chosen = phase(job.phase)
    inputs = chosen.paths("inputs", job.recipe, work, job.role, job.task)
    outputs = chosen.paths("outputs", job.recipe, work, job.role, job.task)
    return execute_paths(job, inputs, outputs, work / "reports" / f"{job.name}.json")


def execute_paths(job: Job, inputs: Paths, outputs: Paths, report_path: Path) -> Report:
    """Run a job on explicit paths. Outputs appear whole or not at all; checkpoints survive a failure.

    Only rank 0 of a distributed job publishes; the other ranks write nothing.

    Raises:
        ArtifactError: an input is missing, or another process runs the same job here.
        StorageError: the disk is full or refuses.
        OutOfMemory: of the machine or its GPU.
    """
    chosen = phase(job.phase)
    for name, path in inputs.flat().items():
        if not path.exists():
            raise ArtifactError(f"{job.name}: input {name} is missing at {path}. Run the phase that writes it, or `dvc repro`.")
    # The other ranks of a job work beside rank 0.
    held = alone(job.scratch.with_name(f"{job.scratch.name}.lock"), job.name) if settings().rank == 0 else contextlib.nullcontext()
    with _refusals(job, outputs), held:
        return _run(chosen, job, inputs, outputs, report_path)


def _run(chosen: Phase, job: Job, inputs: Paths, outputs: Paths, report_path: Path) -> Report:
    aside = Paths({name: _aside(path, job.scratch) for name, path in outputs.entries.items() if isinstance(path, Path)})
    start = time.perf_counter()
    try:
        for path in aside.flat().values():
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
        job.scratch.mkdir(parents=True, exist_ok=True)
        report = chosen.load()(job, inputs, aside)
        if settings().rank == 0:
            _finish(job, chosen, report, inputs, aside, outputs, time.perf_counter() - start)
            write_json(report, report_path)
            _clear_scratch(job)
        if settings().world_size > 1:
            from phasor.training import distributed  # with torch

            distributed.leave()
        return report
    finally:
        for path in aside.flat().values():
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _refusals(job: Job, outputs: Paths) -> Iterator[None]:
    """Say what the machine refuses: room on the disk, or memory."""
    try:
        yield
    except OSError as error:
        if error.errno in _REFUSED:
            place = error.filename or ", ".join(str(path) for path in outputs.flat().values())
            raise StorageError(f"{job.name}: {os.strerror(error.errno)} at {place}. Free space or choose another --work folder.") from None
        raise
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in _NO_MEMORY):
            raise OutOfMemory(
                f"{job.name}: memory is used up ({first_line(error)}). What a phase holds at once grows with mini_batch_size of "
                "training (also in merge) or batch_size (evaluate) and with the model; gradient_checkpointing of training makes it less. "
                "Other processes on the same GPU count as well: `phasor repro --jobs 1` runs one at a time."
            ) from error
        raise


def _clear_scratch(job: Job) -> None:
    if not job.kept.exists():
        discard(job.scratch)
        return
    for path in job.scratch.iterdir():
        if path.is_dir() and path != job.kept:
            discard(path)
        elif path.is_file():
            path.unlink(missing_ok=True)


def _aside(path: Path, scratch: Path) -> Path:
    suffix = f".rank{settings().rank}" if settings().rank else ""
    return path.with_name(f".{path.name}.partial{suffix}")


def _finish(job: Job, chosen: Phase, report: Report, inputs: Paths, aside: Paths, outputs: Paths, seconds: float) -> None:
    lineage = {
        "phase": job.phase, "role": job.role, "task": job.task, "seed": job.recipe.seed,
        "config": config_of(job, chosen),
        "inputs": {name: digest_artifact(path) for name, path in inputs.flat().items() if name != "reports"},
        "code_rev": code_digest(job.phase), "versions": library_versions(),
    }
    for name, path in aside.flat().items():
        files = digest_tree(path)
        write_json(Manifest(files=files, **lineage), path / MANIFEST)
        publish(path, outputs.flat()[name])
        report.outputs[name] = digest_json(files)
    report.phase, report.role, report.task = job.phase, job.role, job.task
    report.cost.seconds += seconds  # to what an interrupted run took for the work that this one went on from
    report.cost.peak_memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    report.machine = _machine()
    if torch := sys.modules.get("torch"):
        _add_gpu(report, torch)


def config_of(job: Job, chosen: Phase) -> dict[str, Any]:
    """The recipe values that the phase depends on, by dotted key, defaults included."""
    tree = job.recipe.model_dump(mode="json")
    if chosen.scope == "task":
        tree = narrowed(tree, job.task)
    config = {}
    for template in chosen.params:
        key = template.format(role=job.role, task=job.task)
        value: Any = tree
        for part in key.split("."):
            value = value[part]
        config[key] = value
    return config


def _machine() -> dict[str, Any]:
    return {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count(), "world_size": settings().world_size}


def _add_gpu(report: Report, torch: Any) -> None:
    if torch.cuda.is_available():
        report.machine["gpu"] = torch.cuda.get_device_name()
        report.cost.gpu_seconds = report.cost.seconds * settings().world_size
        report.cost.peak_gpu_memory_bytes = torch.cuda.max_memory_allocated()
