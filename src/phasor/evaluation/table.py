"""The results as text: Markdown beside the scores, and the table that ends `make demo`."""

from collections.abc import Sequence
from pathlib import Path

from phasor.artifacts import read_record
from phasor.errors import ArtifactError
from phasor.evaluation.bootstrap import Score
from phasor.evaluation.metrics import MAIN_METRIC, METRICS
from phasor.evaluation.scores import Scores

ROLE_TITLES = {"embed": "Embedder", "rerank": "Reranker"}
_LABELS = {
    "bm25": "BM25", "first_stage": "first stage (final embedder)", "oracle": "best order possible", "initial": "untrained",
    "warmup": "warm-up", "specialists": "specialists (own task)",
}


def label(model: str) -> str:
    """How a model is called in a table."""
    return _LABELS.get(model, model.replace("-", " "))


def percent(value: float) -> str:
    """A fraction times 100, one decimal."""
    return f"{100 * value:.1f}"


def interval(score: Score) -> str:
    """A score with its 95% interval, times 100."""
    return f"{percent(score.value)} [{percent(score.low)}, {percent(score.high)}]"


def markdown(scores: Scores) -> str:
    """table.md: one table per metric, then the checks."""
    parts = [f"# {ROLE_TITLES[scores.role]}: scores x 100 with 95% bootstrap intervals over queries\n"]
    for metric, title in METRICS.items():
        tasks = [task for task in scores.tasks if any(metric in model.tasks.get(task, {}) for model in scores.models)]
        if tasks:
            parts.append(f"## {title}\n\n" + _markdown_table(scores, metric, tasks))
    parts.append("## Checks\n\n" + "\n".join(f"- {verdict}" for verdict in _verdicts(scores)) + "\n")
    return "\n".join(parts)


def results_text(work: Path) -> str:
    """Both roles' nDCG@10 by model and task, the checks, and where the report is.

    Raises:
        ArtifactError: nothing has been evaluated in this work folder.
    """
    parts = []
    for role in ROLE_TITLES:
        path = work / role / "evaluation" / "scores.json"
        if path.is_file():
            scores = read_record(Scores, path)
            parts += [_text_table(scores), "\n".join(f"  {verdict}" for verdict in _verdicts(scores))]
    if not parts:
        raise ArtifactError(f"{work} holds no scores yet. Run `dvc repro`, or `phasor evaluate --role embed`, first.")
    page = work / "report" / "report.html"
    parts.append(f"Report: {page if page.is_file() else 'not written yet (phasor package)'}")
    return "\n\n".join(parts)


def _markdown_table(scores: Scores, metric: str, tasks: Sequence[str]) -> str:
    lines = [f"| | {' | '.join(tasks)} | mean |", "|---" * (len(tasks) + 2) + "|"]
    for model in scores.models:
        cells = [interval(model.tasks[t][metric]) if metric in model.tasks.get(t, {}) else "" for t in tasks]
        mean = interval(model.mean[metric]) if metric in model.mean else ""
        lines.append(f"| {label(model.name)} | {' | '.join(cells)} | {mean} |")
    return "\n".join(lines) + "\n"


def _text_table(scores: Scores) -> str:
    head = [f"{ROLE_TITLES[scores.role]}, nDCG@10 x 100", *scores.tasks, "mean", "95% interval"]
    rows = [head]
    for model in scores.models:
        cells = [percent(model.tasks[t][MAIN_METRIC].value) if t in model.tasks else "" for t in scores.tasks]
        mean = model.mean.get(MAIN_METRIC)
        cells += [percent(mean.value), f"{percent(mean.low)} to {percent(mean.high)}"] if mean else ["", ""]
        rows.append([label(model.name), *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "  ".join([cells[0].ljust(widths[0]), *numbers]).rstrip()


def _verdicts(scores: Scores) -> list[str]:
    lines = [f"[{'pass' if c.passed else 'MISS'}] {c.text}{' (aim)' if c.kind == 'aim' else ''}: {c.measured}" for c in scores.checks]
    if scores.gate.baseline is not None:
        verdict = "pass" if scores.gate.passed else "MISS"
        lines.append(f"[{verdict}] gate: no task lost more than {percent(scores.gate.max_drop)} against {scores.gate.baseline}")
    return lines
