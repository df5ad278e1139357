"""report.html: one file, no script, no network; readable on a phone, in the dark and aloud."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from phasor.evaluation.scores import Scores
from phasor.evaluation.table import ROLE_TITLES
from phasor.reporting import charts, tables
from phasor.reporting.document import RunReport

_HEADLINE_TABLES = 1  # the first score table is open, the others fold


def role_page(scores: Scores) -> str:
    """The page of one role's evaluation."""
    return _render(title=f"Phasor evaluation: {ROLE_TITLES[scores.role].lower()}", roles=[_role(scores, None)], run=None)


def run_page(report: RunReport) -> str:
    """The page of a whole run."""
    return _render(title=f"{report.name}: run report", roles=[_role(scores, report) for scores in report.roles.values()], run=_run(report))


def _role(scores: Scores, report: RunReport | None) -> dict[str, Any]:
    """What the template shows of one role."""
    phases = [p for p in report.phases if p.role == scores.role] if report else []
    merges = [p for p in phases if p.phase == "merge"]
    plots = [charts.loss_chart(phases, scores.role), *map(charts.merge_chart, merges), *map(charts.methods_chart, merges)]
    metrics = tables.score_tables(scores)
    folded = [*metrics[_HEADLINE_TABLES:], tables.bm25_table(scores), tables.gate_table(scores), tables.benchmark_table(scores)]
    return {
        "key": scores.role,
        "title": ROLE_TITLES[scores.role],
        "checks": scores.checks,
        "gate": scores.gate,
        "scores": charts.score_chart(scores),
        "tables": metrics[:_HEADLINE_TABLES],
        "comparison": tables.comparison_table(scores),
        "folded": [grid for grid in folded if grid is not None],
        "charts": [plot for plot in plots if plot is not None],
    }


def _run(report: RunReport) -> dict[str, Any]:
    """What the template shows of the run as a whole."""
    leaks = report.contamination
    return {
        "report": report,
        "cost_chart": charts.cost_chart(report.phases),
        "cost": tables.cost_table(report),
        "data": tables.data_tables(report),
        "contamination": tables.contamination_table(leaks) if leaks else None,
        "lineage": [tables.version_table(report), tables.lineage_table(report)],
    }


def _render(**values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("phasor.reporting", "templates"), autoescape=select_autoescape(default=True), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )
    required = [check for role in values["roles"] for check in role["checks"] if check.kind == "required"]
    missed = sum(not check.passed for check in required) + sum(not role["gate"].passed for role in values["roles"])
    return environment.get_template("report.html.jinja").render(missed=missed, num_required=len(required), **values) + "\n"
