"""Score every model of a role on the test sets, compare them, and pass the gate's verdict."""

from phasor.artifacts import Cost, Report, write_json
from phasor.evaluation.gate import enforce
from phasor.phases import Job, Paths


def run(job: Job, inputs: Paths, outputs: Paths) -> Report:
    """Score the models, then write scores.json, metrics.json, table.md, the runs and the page.

    Raises:
        GateFailed: evaluate.gate.enforce is set and a task fell by more than max_drop; nothing is written then.
    """
    # Late: torch and mteb take seconds to import, and a missing input should be told at once.
    from phasor.evaluation.role import SCORES, evaluate_role
    from phasor.evaluation.table import markdown
    from phasor.reporting import role_page

    assert job.role is not None
    out = outputs.one("evaluation")
    scores, tokens = evaluate_role(job, job.role, inputs, out)
    if job.recipe.evaluate.gate.enforce:
        enforce(scores.gate, job.role)
    write_json(scores, out / SCORES)
    write_json(scores.flat(), out / "metrics.json")
    (out / "table.md").write_text(markdown(scores), encoding="utf-8")
    (out / "report.html").write_text(role_page(scores), encoding="utf-8")
    scored = sum(scores.tasks[task].num_queries for model in scores.models for task in model.tasks)
    return Report(
        metrics=scores.flat(), cost=Cost(examples=scored, tokens=tokens),
        counts={f"checks_{'passed' if passed else 'failed'}": sum(c.passed is passed for c in scores.checks) for passed in (True, False)},
        details={"gate": scores.gate.model_dump(), "checks": [check.model_dump() for check in scores.checks]},
    )
