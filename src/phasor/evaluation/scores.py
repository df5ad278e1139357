"""The schema of scores.json: everything the evaluate phase found out about one role."""

from collections.abc import Iterable

from pydantic import Field

from phasor.artifacts import Record
from phasor.config.base import Role
from phasor.evaluation.bootstrap import Score
from phasor.evaluation.metrics import MAIN_METRIC


class TaskInfo(Record):
    """Size of a test set."""

    num_queries: int
    num_passages: int
    num_pairs: int = Field(description="Instruction pairs, for p-MRR.")


class ModelScores(Record):
    """One row of the table."""

    name: str
    tasks: dict[str, dict[str, Score]] = Field(description="Task to metric to score.")
    mean: dict[str, Score] = Field(description="Metric to mean over tasks; empty unless every task was scored.")

    def value(self, task: str | None) -> float | None:
        """nDCG@10 on a task, or the mean over tasks for None; None if not scored."""
        scores = self.mean if task is None else self.tasks.get(task, {})
        return scores[MAIN_METRIC].value if MAIN_METRIC in scores else None


class Comparison(Record):
    """A paired difference in nDCG@10: positive means that `model` is better."""

    model: str
    baseline: str
    task: str | None = Field(description="None: mean over tasks.")
    difference: Score


class Check(Record):
    """One promise of the recipe, measured."""

    text: str
    kind: str = Field(pattern="^(required|aim)$")
    passed: bool
    measured: str


class Bm25Setting(Record):
    """What was chosen on dev queries."""

    k1: float
    b: float
    with_instruction: bool
    dev_ndcg_at_10: float


class Contamination(Record):
    """Test passages (positives of test queries) that nearly repeat a training positive of any task."""

    jaccard: float
    num_test_passages: dict[str, int]
    near_duplicates: dict[str, dict[str, int]] = Field(description="Test task to training task to count; zeros included.")


class GateTask(Record):
    """One task of the gate: nDCG@10 of the final model before and now."""

    baseline: float
    current: float | None = Field(description="None: this run has no such task, which is red.")
    passed: bool


class GateVerdict(Record):
    """Whether the final model may replace the one before."""

    baseline: str | None = Field(description="The report compared with; None: there was none, and the gate passes.")
    max_drop: float
    passed: bool
    tasks: dict[str, GateTask]


class Scores(Record):
    """Scores of every model of one role, on every task's test set."""

    schema_version: int = 1
    role: Role
    tasks: dict[str, TaskInfo]
    models: list[ModelScores] = Field(description="In order of the recipe, baselines first.")
    comparisons: list[Comparison]
    checks: list[Check]
    bm25: dict[str, Bm25Setting] = Field(description="Task to setting; empty for the reranker, which shares the embedder's.")
    contamination: Contamination
    gate: GateVerdict
    benchmarks: dict[str, dict[str, float]] = Field(description="mteb benchmark to task to main score of the final model.")

    def model(self, name: str) -> ModelScores | None:
        """The row of a model, or None."""
        return next((m for m in self.models if m.name == name), None)

    def flat(self) -> dict[str, float]:
        """model.task.metric to value, for `dvc metrics`."""
        return dict(_flat(self.models))


def _flat(models: Iterable[ModelScores]) -> Iterable[tuple[str, float]]:
    for model in models:
        for task, metrics in {**model.tasks, "mean": model.mean}.items():
            for metric, score in metrics.items():
                yield f"{model.name}.{task}.{metric}", score.value
