"""The schema of report.json: all that a run says about itself."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import Field

from phasor.artifacts import Cost, Record, Report, library_versions, read_record
from phasor.code_rev import code_digest
from phasor.config.base import Role
from phasor.evaluation.scores import Contamination, Scores
from phasor.phases import PHASES, Job, job_name, jobs
from phasor.recipe import Recipe, dump_recipe


class RunReport(Record):
    """Everything the report page shows.

    Attributes:
        name, seed: of the recipe.
        recipe: YAML of what differs from the defaults.
        tasks: in recipe order.
        code_rev, versions: what computed it.
        roles: role to scores.
        contamination: test passages that training may have seen, by task.
        phases: the report of every job that ran, in order of the phases.
        total: cost of all of them, synthesis and mining included.
    """

    schema_version: int = 1
    name: str
    seed: int
    recipe: str
    tasks: list[str]
    code_rev: str
    versions: dict[str, str]
    roles: dict[Role, Scores]
    contamination: Contamination | None
    phases: list[Report]
    total: Cost = Field(description="Peaks are the highest of any phase; the rest are sums.")

    @property
    def passed(self) -> bool:
        """Whether every required check and every gate holds."""
        required = [check.passed for scores in self.roles.values() for check in scores.checks if check.kind == "required"]
        return all(required) and all(scores.gate.passed for scores in self.roles.values())


def collect_report(job: Job, evaluations: dict[str, Path], reports: Path) -> RunReport:
    """Read the scores of every role and the report of every job of the recipe.

    Raises:
        ArtifactError: a file is not of this version.
    """
    recipe = job.recipe
    roles = {role: read_record(Scores, evaluations[role] / "scores.json") for role in recipe.roles}
    phases = [read_record(Report, path) for path in _job_reports(recipe, reports)]
    return RunReport(
        name=recipe.name, seed=recipe.seed, recipe=dump_recipe(recipe), tasks=list(recipe.tasks),
        code_rev=code_digest(), versions=library_versions(), roles=roles,
        contamination=next((scores.contamination for scores in roles.values()), None),
        phases=phases, total=total_cost(report.cost for report in phases),
    )


def name_of(report: Report) -> str:
    """Name of the job that a report is of."""
    return job_name(report.phase, report.role, report.task)


def total_cost(costs: Iterable[Cost]) -> Cost:
    """Sums, and the highest peaks."""
    total = Cost()
    for cost in costs:
        total.seconds += cost.seconds
        total.examples += cost.examples
        total.tokens += cost.tokens
        total.gpu_seconds += cost.gpu_seconds
        total.peak_memory_bytes = max(total.peak_memory_bytes, cost.peak_memory_bytes)
        total.peak_gpu_memory_bytes = max(total.peak_gpu_memory_bytes, cost.peak_gpu_memory_bytes)
    return total


def _job_reports(recipe: Recipe, reports: Path) -> Iterator[Path]:
    """Reports of the recipe's jobs that exist; package's own, being written now, is left out."""
    for phase, job in jobs(recipe):
        path = reports / f"{job.name}.json"
        if phase is not PHASES[-1] and path.is_file():
            yield path
