"""From values per query to rows, paired differences and the checks of the recipe's promises."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from phasor.config.base import Role
from phasor.evaluation.bootstrap import Score, mean_score, score
from phasor.evaluation.metrics import MAIN_METRIC, METRICS, PerQuery
from phasor.evaluation.scores import Check, Comparison, ModelScores

SPECIALISTS = "specialists"
"""The virtual row that holds every specialist on its own task."""
_KEPT_SHARE = 0.95  # of the specialists' mean, after merging
_MIN_TASKS = 2  # on which the reranker must beat its first stage, and the embedder should beat BM25

PerTask = Mapping[str, PerQuery]


@dataclass(frozen=True)
class Table:
    """Values per query of every model of a role.

    Attributes:
        tasks: every task, in recipe order.
        models: model name to task to metric values; not every model has every task.
        samples, seed: of the bootstrap.
    """

    tasks: Sequence[str]
    models: Mapping[str, PerTask]
    samples: int
    seed: int

    def row(self, name: str) -> ModelScores:
        """Means and intervals of one model."""
        per_task = self.models[name]
        tasks = {
            t: {m: score(per_task[t][m], self.samples, self.seed) for m in METRICS if m in per_task[t]}
            for t in self.tasks if t in per_task
        }
        mean: dict[str, Score] = {}
        if len(tasks) == len(self.tasks):
            shared = [m for m in METRICS if all(m in per_task[t] for t in self.tasks)]
            mean = {m: self._mean({t: per_task[t][m] for t in self.tasks}) for m in shared}
        return ModelScores(name=name, tasks=tasks, mean=mean)

    def compare(self, name: str, baseline: str, per_task: bool = True) -> list[Comparison]:
        """Paired differences in nDCG@10, mean first; empty if either model is absent."""
        if name not in self.models or baseline not in self.models:
            return []
        both = [t for t in self.tasks if t in self.models[name] and t in self.models[baseline]]
        differences = {t: self.models[name][t][MAIN_METRIC] - self.models[baseline][t][MAIN_METRIC] for t in both}
        found = []
        if len(both) == len(self.tasks):
            found.append(Comparison(model=name, baseline=baseline, task=None, difference=self._mean(differences)))
        if per_task:
            for task, values in differences.items():
                found.append(Comparison(model=name, baseline=baseline, task=task, difference=score(values, self.samples, self.seed)))
        return found

    def _mean(self, values: PerQuery) -> Score:
        return mean_score(values, self.samples, self.seed)


def comparisons(table: Table, role: Role) -> list[Comparison]:
    """The differences that a reader asks for."""
    wanted = [("enhanced", "warmup"), (SPECIALISTS, "warmup"), ("merged", SPECIALISTS), ("enhanced", "merged"), ("enhanced", "initial")]
    if role == "rerank":
        wanted.append(("enhanced", "first_stage"))
    wanted.append(("enhanced", "bm25"))
    return [found for name, baseline in wanted for found in table.compare(name, baseline)]


def checks(rows: Sequence[ModelScores], found: Sequence[Comparison], tasks: Sequence[str], role: Role) -> list[Check]:
    """The promises of the recipe with what was measured; a promise about a missing model is left out."""
    means = {row.name: row.value(None) for row in rows}
    by_pair: dict[tuple[str, str], dict[str | None, Score]] = {}
    for c in found:
        by_pair.setdefault((c.model, c.baseline), {})[c.task] = c.difference
    results = [
        _difference("The enhanced model beats the warm-up model in mean nDCG@10", by_pair.get(("enhanced", "warmup"), {}).get(None)),
        _every_task("Each specialist beats the warm-up model on its own task", by_pair.get((SPECIALISTS, "warmup"), {})),
        _kept(means.get("merged"), means.get(SPECIALISTS)),
    ]
    needed = min(_MIN_TASKS, len(tasks))
    if role == "rerank":
        results.append(_some_tasks("The reranker beats its first stage", "required", by_pair.get(("enhanced", "first_stage"), {}), needed))
    else:
        results.append(_some_tasks("The embedder beats BM25", "aim", by_pair.get(("enhanced", "bm25"), {}), needed))
    return [check for check in results if check is not None]


def _difference(text: str, difference: Score | None) -> Check | None:
    if difference is None:
        return None
    return Check(text=text, kind="required", passed=difference.value > 0, measured=_signed(difference))


def _every_task(text: str, differences: Mapping[str | None, Score]) -> Check | None:
    return _counted(text, "required", differences, lambda won, of: won == of)


def _some_tasks(text: str, kind: str, differences: Mapping[str | None, Score], needed: int) -> Check | None:
    plural = "task" if needed == 1 else "tasks"
    return _counted(f"{text} on at least {needed} {plural}", kind, differences, lambda won, _: won >= needed)


def _counted(text: str, kind: str, differences: Mapping[str | None, Score], holds: Callable[[int, int], bool]) -> Check | None:
    per_task = {task: d for task, d in differences.items() if task is not None}
    if not per_task:
        return None
    won = sum(d.value > 0 for d in per_task.values())
    details = ", ".join(f"{task} {100 * d.value:+.1f}" for task, d in per_task.items())
    return Check(text=text, kind=kind, passed=holds(won, len(per_task)), measured=f"{won} of {len(per_task)} ({details})")


def _kept(merged: float | None, specialists: float | None) -> Check | None:
    if merged is None or specialists is None:
        return None
    share = merged / specialists if specialists else 1.0
    text = f"The merged model keeps at least {_KEPT_SHARE:.0%} of the specialists' mean nDCG@10"
    measured = f"{share:.1%} ({100 * merged:.1f} of {100 * specialists:.1f})"
    return Check(text=text, kind="required", passed=share >= _KEPT_SHARE, measured=measured)


def _signed(d: Score) -> str:
    return f"{100 * d.value:+.1f} (95% interval {100 * d.low:+.1f} to {100 * d.high:+.1f})"
