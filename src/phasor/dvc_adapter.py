"""The phases as DVC stages: `dvc.yaml` is rendered from `PHASES`, one stage per job, and DVC runs it.

Stages are written out one by one instead of with `matrix`, because a merge must name exactly the specialists of
the recipe: DVC leaves the folder of a removed task on disk, and a dependency on the parent folder would see it.
"""

import contextlib
import io
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import psutil
import yaml
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from phasor.artifacts import write_text
from phasor.config.tasks import BeirSource, FolderSource, HuggingFaceSource, JsonlSource, Source
from phasor.errors import DataError, PhasorError, first_line
from phasor.phases import Job, Phase, jobs
from phasor.recipe import Recipe
from phasor.runner import config_of
from phasor.settings import prefer_own_commands, threads_for, use_threads
from phasor.standby import standby

WORK = Path("work")
PARAMS = "params.yaml"
_DVC_YAML = "dvc.yaml"
_COMMAND = "phasor"
_HEADER = "# Rendered from params.yaml by `phasor dvc`: change the recipe and render again.\n"

log = logging.getLogger(__name__)


def stages(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Every stage of a recipe, in order: command, dependencies, parameters and outputs."""
    return {job.name: _stage(phase, job) for phase, job in jobs(recipe)}


def render(recipe: Recipe) -> str:
    """The text of `dvc.yaml`: the stages, and what `dvc metrics` and `dvc plots` show."""
    plots = WORK / "report" / "plots"
    tree = {
        "stages": stages(recipe),
        "metrics": [(WORK / role / "evaluation" / "metrics.json").as_posix() for role in recipe.roles],
        "plots": [
            {"loss": {"title": "Loss by phase", "x": "step", "y": {(plots / "loss.csv").as_posix(): "loss"}}},
            {"merge": {"title": "Merge search", "x": "step", "y": {(plots / "merge.csv").as_posix(): "loss"}}},
            {"scores": {"title": "nDCG@10", "template": "bar_horizontal", "x": "ndcg_at_10",
                        "y": {(plots / "scores.csv").as_posix(): "model"}}},
        ],
    }
    return _HEADER + yaml.safe_dump(tree, sort_keys=False, width=140)


def write_dvc_yaml(recipe: Recipe, recipe_path: Path) -> Path:
    """Write `dvc.yaml` beside the recipe, and add to the recipe the (empty) blocks that DVC must find in it.

    Raises:
        PhasorError: the recipe is not called params.yaml, the only name that DVC looks up by itself.
    """
    if recipe_path.name != PARAMS:
        raise PhasorError(f"DVC reads its parameters from {PARAMS}; copy {recipe_path} there and run `phasor dvc` again.")
    _complete(recipe, recipe_path)
    target = recipe_path.with_name(_DVC_YAML)
    write_text(render(recipe), target)
    return target


def reproduce(recipe: Recipe, root: Path, workers: int, keep_warmup: bool = False) -> None:
    """Bring every stage up to date, `workers` at a time, each by `dvc repro --single-item`.

    DVC alone runs one stage after the other; here independent ones, such as the specialists, run side by side. A dvc.yaml that
    was rendered from another recipe would watch other files than those that are read: it is rendered anew first.

    Args:
        recipe: that of the params.yaml in `root`.
        root: folder of params.yaml and dvc.yaml.
        workers: stages at once.
        keep_warmup: warm-up models that exist stay as they are though a task's data changed, so that only this task's
            specialist is trained again. Paper section 4.3: the cost of a later change.

    Raises:
        PhasorError: a stage failed. Stages under way are finished first, and DVC keeps everything that is done. Or a warm-up
            model that is to be kept was made with other settings.
    """
    known = stages(recipe)
    _refresh(recipe, root, known)
    kept = _kept(known, root) if keep_warmup else frozenset()
    before = predecessors(known)
    needed = ancestors(before)
    waiting, sharing = dependants(needed), side_by_side(needed)
    sorter = TopologicalSorter(before)
    sorter.prepare()
    ready: list[str] = []
    running: dict[Future[int], str] = {}
    failed: list[str] = []
    passes = threads_for(1)
    prefer_own_commands()
    # Workers that stay: starting DVC takes longer than many a stage.
    with standby(), ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_live_for_parent) as pool:
        while running or (sorter.is_active() and not failed):
            ready = sorted([*ready, *sorter.get_ready()], key=lambda name: -waiting[name])
            while ready and len(running) < workers and not failed:
                name = ready.pop(0)
                arguments = ["commit", "--force"] if name in kept else ["repro", "--single-item"]
                threads = threads_for(min(workers, sharing[name]))
                arguments = ["--wait-for-lock", "--cd", str(root.resolve()), *arguments, "--quiet", name]
                running[pool.submit(_dvc, arguments, threads, passes)] = name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                if _failed(future):
                    failed.append(name)
                else:
                    sorter.done(name)
    if failed:
        raise PhasorError(f"stage {', '.join(failed)} failed; its message stands above. Mend it and run the same command to go on.")


def _refresh(recipe: Recipe, root: Path, known: Mapping[str, dict[str, Any]]) -> None:
    """Render dvc.yaml anew if its stages are not those of the recipe. Raises PhasorError if that would lose stages of the user."""
    path = root / _DVC_YAML
    try:
        written = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"] if path.exists() else {}
        foreign = {name for name, stage in written.items() if not stage.get("cmd", "").startswith(_COMMAND)}
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise PhasorError(f"{path} cannot be read ({first_line(error)}). `phasor dvc` renders it anew.") from None
    if {name: stage for name, stage in written.items() if name not in foreign} == known:
        return
    if foreign:
        raise PhasorError(
            f"{path} does not fit {PARAMS}, and has stages of your own ({', '.join(sorted(foreign))}). Put them into a dvc.yaml in "
            "another folder; then `phasor dvc` renders this one anew."
        )
    write_dvc_yaml(recipe, root / PARAMS)
    log.warning("%s did not fit %s and is rendered anew", path, PARAMS)


def _kept(known: Mapping[str, dict[str, Any]], root: Path) -> frozenset[str]:
    """Warm-up stages whose model exists. Raises PhasorError if one was made with other settings than the present ones."""
    kept = [name for name in known if name.startswith("warmup-") and all((root / out).exists() for out in known[name]["outs"])]
    params = read_yaml(root / PARAMS, "Mend it.")
    recorded = recorded_stages(root)
    for name in kept:
        before = recorded.get(name, {}).get("params", {}).get(PARAMS, {})
        if changed := [key for key in known[name]["params"] if key not in before or before[key] != _value(params, key)]:
            raise PhasorError(
                f"--keep-warmup: {name} was not made with the present {', '.join(changed)}, as far as dvc.lock knows. "
                "Run without --keep-warmup to train it again, or take the change back."
            )
    return frozenset(kept)


def recorded_stages(root: Path) -> dict[str, dict[str, Any]]:
    """What dvc.lock says of every stage that ran, by its name. Raises DataError if it cannot be read."""
    lock = root / "dvc.lock"
    if not lock.exists():
        return {}
    found = read_yaml(lock, "Take one side's with `git checkout`, or delete it: the next run writes it anew.").get("stages")
    return found if isinstance(found, dict) else {}


def read_yaml(path: Path, remedy: str) -> dict[str, Any]:
    """A mapping that DVC reads too, with numbers as it reads them.

    Args:
        path: the file.
        remedy: what to do if it cannot be read, in a sentence.

    Raises:
        DataError: it is none, for example because a merge left its marks in it.
    """
    try:
        tree = YAML(typ="safe").load(path)
    except (UnicodeDecodeError, YAMLError) as error:
        raise DataError(f"{path} is no YAML: {first_line(error)}. {remedy}") from None
    if not isinstance(tree, dict):
        raise DataError(f"{path} is empty or no mapping. {remedy}")
    return tree


def _value(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def predecessors(known: dict[str, dict[str, Any]]) -> dict[str, set[str]]:
    """Stages whose outputs each stage reads."""
    producer = {out: name for name, stage in known.items() for out in stage["outs"]}
    return {name: {producer[dep] for dep in stage.get("deps", []) if dep in producer} for name, stage in known.items()}


def ancestors(before: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Every stage that each stage needs, directly or not."""
    needed: dict[str, set[str]] = {}
    for name in TopologicalSorter(before).static_order():
        needed[name] = before[name].union(*(needed[other] for other in before[name]))
    return needed


def dependants(needed: Mapping[str, set[str]]) -> dict[str, int]:
    """How many stages need each stage, directly or not. The one that most others wait for goes first."""
    return {name: sum(name in others for others in needed.values()) for name in needed}


def side_by_side(needed: Mapping[str, set[str]]) -> dict[str, int]:
    """How many stages could run at the same time as each stage, itself among them: those that neither need it nor are needed."""
    return {name: sum(other not in needed[name] and name not in others for other, others in needed.items()) for name in needed}


def _live_for_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent speaks for all
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in the pool's workers"
    parent.join()
    # It was killed alone, by a supervisor or for its memory: what works for it would go on, and then wait for work for ever.
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()
    os._exit(1)


def _dvc(arguments: list[str], threads: str, passes: str) -> int:
    from dvc.cli import main

    use_threads(threads, passes)
    code: int = main(arguments)
    return code


def _failed(future: Future[int]) -> bool:
    try:
        return future.result() != 0
    except BrokenProcessPool:
        return True


def run_dvc(arguments: Sequence[str], root: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the DVC installed beside us in a folder; its stages find our own `phasor` first."""
    prefer_own_commands()
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, text=True, **options)


def _stage(phase: Phase, job: Job) -> dict[str, Any]:
    command = [_COMMAND, phase.name, *(["--role", job.role] if job.role else []), *(["--task", job.task] if job.task else [])]
    inputs = phase.paths("inputs", job.recipe, WORK, job.role, job.task).flat()
    deps = [path.as_posix() for name, path in inputs.items() if name != "reports"]
    if "reports" in inputs:
        # The folder grows while stages run; its files, one per job before this phase, are what is read.
        deps += [_report(other) for earlier, other in jobs(job.recipe) if earlier is not phase]
    deps += own_files(phase, job)
    outs = [path.as_posix() for path in phase.paths("outputs", job.recipe, WORK, job.role, job.task).flat().values()]
    params = [key.format(role=job.role, task=job.task) for key in phase.params]
    return {"cmd": " ".join(command), **({"deps": deps} if deps else {}), "params": params, "outs": [*outs, _report(job)]}


def own_files(phase: Phase, job: Job) -> list[str]:
    """Files of the user that a phase reads because the recipe names them, so that a change of theirs is noticed."""
    match phase.name:
        case "collect":
            assert job.task is not None
            return [path for source in job.recipe.tasks[job.task].sources for path in _source_files(source)]
        case "synthesize":
            return [job.recipe.synthesize.personas] if job.recipe.synthesize.personas else []
        case "evaluate":
            return [job.recipe.evaluate.gate.baseline] if job.recipe.evaluate.gate.baseline else []
        case _:
            return []


def _source_files(source: Source) -> list[str]:
    match source:
        case FolderSource() | BeirSource():
            return [source.path]
        case JsonlSource():
            return [source.corpus, *([source.examples] if source.examples else [])]
        case HuggingFaceSource() if source.is_local:
            return [Path(source.name).as_posix()]
        case _:
            return []


def _report(job: Job) -> str:
    return (WORK / "reports" / f"{job.name}.json").as_posix()


def yaml_editor() -> YAML:
    """Reads and writes YAML with the user's comments, order and quotes kept."""
    editor = YAML()
    editor.width = 120
    editor.preserve_quotes = True  # it writes YAML 1.2, and a recipe is read as YAML 1.1: "no" without its quotes would be false
    editor.representer.add_representer(type(None), lambda to, _: to.represent_scalar("tag:yaml.org,2002:null", "null"))
    return editor


def _complete(recipe: Recipe, path: Path) -> None:
    editor = yaml_editor()
    tree = editor.load(path.read_text(encoding="utf-8"))
    added = False
    for phase, job in jobs(recipe):
        for key, value in config_of(job, phase).items():
            *parents, last = key.split(".")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            if last not in node:
                node[last] = {} if isinstance(value, dict) else value
                added = True
    if added:
        stream = io.StringIO()
        editor.dump(tree, stream)
        write_text(stream.getvalue(), path)
