"""The tables of the page, as plain cells; the template draws them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from phasor.artifacts import Report
from phasor.evaluation.bootstrap import Score
from phasor.evaluation.metrics import MAIN_METRIC, METRICS
from phasor.evaluation.scores import Contamination, Scores
from phasor.evaluation.table import ROLE_TITLES, label, percent
from phasor.reporting.document import RunReport, name_of


@dataclass(frozen=True)
class Cell:
    """A value, with a smaller line under it."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class Grid:
    """One table; the first cell of each row is its heading.

    Attributes:
        caption: what it shows.
        head: column headings.
        rows: one cell per column.
        strong: indices of rows to stress.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    strong: frozenset[int] = field(default_factory=frozenset)


def score_tables(scores: Scores) -> list[Grid]:
    """One table per metric, nDCG@10 first."""
    tasks = {metric: [task for task in scores.tasks if any(metric in m.tasks.get(task, {}) for m in scores.models)] for metric in METRICS}
    return [_score_table(scores, metric, found) for metric, found in tasks.items() if found]


def _score_table(scores: Scores, metric: str, tasks: Sequence[str]) -> Grid:
    rows = [
        [Cell(label(model.name)), *(_scored(model.tasks.get(task, {}).get(metric)) for task in tasks), _scored(model.mean.get(metric))]
        for model in scores.models if any(metric in model.tasks.get(task, {}) for task in tasks)
    ]
    queries = ", ".join(f"{task} {info.num_queries:,} queries over {info.num_passages:,} passages" for task, info in scores.tasks.items())
    caption = f"{ROLE_TITLES[scores.role]}: {METRICS[metric]} × 100, 95% interval below. Test sets: {queries}."
    strong = frozenset(i for i, row in enumerate(rows) if row[0].text == "enhanced")
    return Grid(caption, ["model", *tasks, "mean"], rows, strong)


def comparison_table(scores: Scores) -> Grid:
    """Paired differences; one row per pair of models."""
    pairs = list(dict.fromkeys((c.model, c.baseline) for c in scores.comparisons))
    found = {(c.model, c.baseline, c.task): c.difference for c in scores.comparisons}
    rows = [
        [Cell(f"{_short(a)} − {_short(b)}"), *(_difference(found.get((a, b, task))) for task in [*scores.tasks, None])] for a, b in pairs
    ]
    caption = f"{ROLE_TITLES[scores.role]}: paired differences in {METRICS[MAIN_METRIC]} × 100; * where the 95% interval leaves out zero."
    return Grid(caption, ["models", *scores.tasks, "mean"], rows)


def _short(model: str) -> str:
    return label(model).split(" (")[0]


def bm25_table(scores: Scores) -> Grid | None:
    """What BM25 was tuned to."""
    rows = [
        [Cell(task), Cell(f"{s.k1:g}"), Cell(f"{s.b:g}"), Cell("yes" if s.with_instruction else "no"), Cell(percent(s.dev_ndcg_at_10))]
        for task, s in scores.bm25.items()
    ]
    head = ["task", "k1", "b", "instruction in query", "dev nDCG@10"]
    caption = "BM25 (Lucene variant, identifiers split, stop words, stemming), tuned per task on dev queries."
    return Grid(caption, head, rows) if rows else None


def benchmark_table(scores: Scores) -> Grid | None:
    """Published benchmarks of the final model."""
    rows = [[Cell(name), Cell(task), Cell(percent(value))] for name, tasks in scores.benchmarks.items() for task, value in tasks.items()]
    return Grid(f"{ROLE_TITLES[scores.role]}: mteb benchmarks, main score × 100.", ["benchmark", "task", "score"], rows) if rows else None


def gate_table(scores: Scores) -> Grid | None:
    """The gate, task by task."""
    gate = scores.gate
    rows = [
        [Cell(text) for text in (
            task, percent(t.baseline), "none" if t.current is None else percent(t.current), "pass" if t.passed else "miss",
        )]
        for task, t in gate.tasks.items()
    ]
    caption = f"{ROLE_TITLES[scores.role]}: gate against {gate.baseline}; no task may lose more than {percent(gate.max_drop)}."
    return Grid(caption, ["task", "before", "now", "verdict"], rows) if gate.baseline is not None else None


def contamination_table(found: Contamination) -> Grid:
    """Near-duplicates between test and training passages, task by task."""
    trains = list(next(iter(found.near_duplicates.values()), {}))
    rows = [
        [Cell(test), Cell(f"{found.num_test_passages[test]:,}"), *(Cell(f"{row[train]:,}") for train in trains)]
        for test, row in found.near_duplicates.items()
    ]
    caption = f"Test passages that nearly repeat a training positive (Jaccard ≥ {found.jaccard:g} of word 5-shingles), by training task."
    return Grid(caption, ["test set", "test passages", *(f"in {train}" for train in trains)], rows)


def cost_table(report: RunReport) -> Grid:
    """What every job used."""
    rows = [[Cell(name_of(phase)), *_cost(phase)] for phase in report.phases]
    total = Report(cost=report.total)
    rows.append([Cell("total"), *_cost(total)])
    head = ["job", "seconds", "examples", "tokens", "GPU seconds", "peak memory"]
    return Grid("Cost of every job; the total of peak memory is its maximum.", head, rows, frozenset({len(rows) - 1}))


def data_tables(report: RunReport) -> list[Grid]:
    """Counts of the data phases, one table per phase, one column per task."""
    return [grid for phase in ("collect", "synthesize", "filter", "mine") if (grid := _counts(report, phase)) is not None]


def lineage_table(report: RunReport) -> Grid:
    """Digest of every output."""
    rows = [[Cell(f"{name_of(phase)} / {name}"), Cell(digest)] for phase in report.phases for name, digest in phase.outputs.items()]
    return Grid("Digest of every output folder.", ["output", "sha256 of its file table"], rows)


def version_table(report: RunReport) -> Grid:
    """What computed the run."""
    rows = [[Cell("phasor code"), Cell(report.code_rev)], *([Cell(name), Cell(version)] for name, version in report.versions.items())]
    return Grid("Versions.", ["library", "version"], rows)


def _counts(report: RunReport, phase: str) -> Grid | None:
    counts = {p.task: p.counts for p in report.phases if p.phase == phase and p.task and p.counts}
    names = list(dict.fromkeys(name for found in counts.values() for name in found))
    rows = [
        [Cell(name.replace("_", " ")), *(Cell(f"{found[name]:,}" if name in found else "") for found in counts.values())]
        for name in names
    ]
    return Grid(f"{phase.capitalize()}: counts per task.", ["count", *(task or "" for task in counts)], rows) if rows else None


def _cost(phase: Report) -> list[Cell]:
    c = phase.cost
    return [
        Cell(f"{c.seconds:,.1f}"), Cell(f"{c.examples:,}"), Cell(f"{c.tokens:,}"), Cell(f"{c.gpu_seconds:,.1f}"),
        Cell(f"{c.peak_memory_bytes / 2**20:,.0f} MiB"),
    ]


def _scored(score: Score | None) -> Cell:
    return Cell(percent(score.value), f"{percent(score.low)} to {percent(score.high)}") if score else Cell("")


def _difference(score: Score | None) -> Cell:
    if score is None:
        return Cell("")
    sure = score.low > 0 or score.high < 0
    return Cell(f"{100 * score.value:+.1f}{' *' if sure else ''}", f"{100 * score.low:+.1f} to {100 * score.high:+.1f}")
