"""Write the report folder: page, document, schema, and the data that `dvc plots` draws."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from phasor.artifacts import write_json
from phasor.evaluation.metrics import MAIN_METRIC
from phasor.phases import Job, Paths
from phasor.reporting.charts import TRAINING, loss_curve
from phasor.reporting.document import RunReport, collect_report, name_of
from phasor.reporting.page import run_page


def write_report(job: Job, inputs: Paths, out_dir: Path) -> RunReport:
    """Write report.json, report.schema.json, report.html and plots/{loss,scores,merge}.csv.

    Args:
        job: the package job.
        inputs: its inputs; `evaluation` (one folder per role) and `reports` are read.
        out_dir: an existing folder.

    Raises:
        ArtifactError: scores or reports are missing or of another version.
    """
    report = collect_report(job, inputs.parts("evaluation"), inputs.one("reports"))
    write_json(report, out_dir / "report.json")
    write_json(RunReport.model_json_schema(), out_dir / "report.schema.json")
    (out_dir / "report.html").write_text(run_page(report), encoding="utf-8")
    plots = out_dir / "plots"
    plots.mkdir()
    _write_csv(plots / "loss.csv", ("job", "role", "step", "loss"), _losses(report))
    _write_csv(plots / "scores.csv", ("model", "role", "task", "ndcg_at_10", "low", "high"), _scores(report))
    _write_csv(plots / "merge.csv", ("role", "step", "loss", "coefficients"), _merges(report))
    return report


def _losses(report: RunReport) -> Iterable[Sequence[Any]]:
    for phase in report.phases:
        if phase.phase in TRAINING:
            yield from ((name_of(phase), phase.role, f"{step:g}", loss) for step, loss in loss_curve(phase))


def _scores(report: RunReport) -> Iterable[Sequence[Any]]:
    for role, scores in report.roles.items():
        for model in scores.models:
            for task, metrics in {**model.tasks, "mean": model.mean}.items():
                if MAIN_METRIC in metrics:
                    yield model.name, role, task, metrics[MAIN_METRIC].value, metrics[MAIN_METRIC].low, metrics[MAIN_METRIC].high


def _merges(report: RunReport) -> Iterable[Sequence[Any]]:
    for phase in report.phases:
        if phase.phase == "merge":
            for row in phase.trace:
                if "step" in row and "loss" in row:
                    yield phase.role, row["step"], row["loss"], json.dumps(row.get("coefficients", {}))


def _write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)
