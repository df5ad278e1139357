"""The gate: may this run's final model replace that of the last accepted run?"""

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from phasor.artifacts import first_problem
from phasor.config.base import Role
from phasor.config.evaluation import GateConfig
from phasor.errors import ArtifactError, GateFailed
from phasor.evaluation.scores import GateTask, GateVerdict, ModelScores, Scores


def judge(config: GateConfig, root: Path, role: Role, final: ModelScores) -> GateVerdict:
    """Compare the final model with the baseline report, task by task.

    A task that the baseline does not know is new and cannot fall; one that only the baseline knows has fallen. Without a
    baseline the gate passes.

    Raises:
        ArtifactError: the baseline is missing or is not a report.
    """
    if config.baseline is None:
        return GateVerdict(baseline=None, max_drop=config.max_drop, passed=True, tasks={})
    tasks = {}
    for task, old in read_baseline(config, root, role).items():
        new = final.value(task)
        tasks[task] = GateTask(baseline=old, current=new, passed=new is not None and new >= old - config.max_drop)
    return GateVerdict(baseline=config.baseline, max_drop=config.max_drop, passed=all(t.passed for t in tasks.values()), tasks=tasks)


def enforce(verdict: GateVerdict, role: Role) -> None:
    """Raise GateFailed with every task that fell too far or is gone."""
    if verdict.passed:
        return
    raise GateFailed(
        f"the {role} model lost more nDCG@10 than evaluate.gate.max_drop = {verdict.max_drop} allows against {verdict.baseline}: "
        f"{_fallen(verdict)}. Mend the data or settings of these tasks, or accept the loss with evaluate.gate.enforce=false."
    )


def in_words(verdict: GateVerdict) -> str:
    """One line for people: green or red, against what, and which tasks fell too far."""
    if verdict.baseline is None:
        return "green, as evaluate.gate.baseline names nothing to compare with"
    if verdict.passed:
        return f"green against {verdict.baseline}"
    return f"red against {verdict.baseline}, nDCG@10 x 100 fell by more than {100 * verdict.max_drop:.1f}: {_fallen(verdict)}"


def _fallen(verdict: GateVerdict) -> str:
    return ", ".join(f"{task} {100 * t.baseline:.1f} to {_now(t)}" for task, t in verdict.tasks.items() if not t.passed)


def _now(task: GateTask) -> str:
    return "nothing, as this run has no such task" if task.current is None else f"{100 * task.current:.1f}"


def read_baseline(config: GateConfig, root: Path, role: Role) -> Mapping[str, float]:
    """Task to nDCG@10 of the last accepted final model; empty without a baseline. Raises ArtifactError as `judge` does."""
    if config.baseline is None:
        return {}
    path = root / config.baseline
    where, remedy = f"evaluate.gate.baseline: {path}", "Name the report.json of an accepted run, or null."
    try:
        tree = json.loads(path.read_bytes())
        scores = Scores.model_validate(tree["roles"][role])
    except FileNotFoundError:
        raise ArtifactError(f"{where} does not exist. {remedy}") from None
    except KeyError as error:
        raise ArtifactError(f"{where} has no scores of the {role} role (missing key {error}). {remedy}") from None
    except ValidationError as error:
        raise ArtifactError(f"{where} is not a report.json of this version ({first_problem(error)}). {remedy}") from None
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(f"{where} is not a report.json of this version ({error}). {remedy}") from None
    final = scores.model("enhanced")
    found = {task: final.value(task) for task in final.tasks} if final else {}
    if not found:
        raise ArtifactError(f"{where} scores no final {role} model on any task. {remedy}")
    return {task: value for task, value in found.items() if value is not None}
