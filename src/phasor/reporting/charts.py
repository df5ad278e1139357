"""The plots of the page. Each returns a Chart, or None when there is nothing to draw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from phasor.artifacts import Report
from phasor.evaluation.metrics import MAIN_METRIC
from phasor.evaluation.scores import ModelScores, Scores
from phasor.evaluation.table import ROLE_TITLES, label
from phasor.reporting.document import name_of
from phasor.reporting.svg import INK, MUTED, SERIES, figure, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ACROSS = ("bm25", "first_stage")  # drawn as lines through the panel
_ALONG = ("initial", "warmup", "specialists", "merged", "enhanced")  # drawn as points, in order of the phases
_KINDS = {
    "tuned": ("merged, searched", SERIES[0]), "fixed": ("merged, nothing tuned", SERIES[1]), "specialist": ("one specialist", SERIES[2]),
    "baseline": ("warm-up model", MUTED),
}
_DASHES = {"bm25": "--", "first_stage": ":"}
TRAINING = ("warmup", "train", "enhance")
"""Phases whose trace is a training loss."""


@dataclass(frozen=True)
class Chart:
    """One plot.

    Attributes:
        name: id on the page.
        caption: what to see in it.
        svg: the drawing.
    """

    name: str
    caption: str
    svg: str


def score_chart(scores: Scores) -> Chart:
    """nDCG@10 of every phase, one panel per task and one for the mean, with BM25 as a line."""
    panels: list[str | None] = [*scores.tasks, None] if len(scores.tasks) > 1 else list(scores.tasks)
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    title = f"{ROLE_TITLES[scores.role]}: nDCG@10 by phase and task, with 95% intervals"
    with figure(height=0.5 + 1.75 * rows) as chart:
        grid = list(chart.subplots(rows, columns, squeeze=False).flat)
        for axes, task in zip(grid, panels, strict=False):
            _score_panel(axes, scores, task)
        for axes in grid[len(panels) :]:
            axes.remove()
        handles, labels = chart.axes[0].get_legend_handles_labels()
        chart.legend(handles, labels, loc="outside upper left", ncols=3)
        return Chart(f"scores-{scores.role}", title, render(chart, f"scores-{scores.role}", title))


def _score_panel(axes: "Axes", scores: Scores, task: str | None) -> None:
    found = [model for name in _ALONG if (model := scores.model(name)) is not None and model.value(task) is not None]
    values = np.array([_main(model, task) for model in found]) * 100  # [models, (value, low, high)]
    x = np.arange(len(found))
    if len(found):
        errors = np.abs(values[:, 1:].T - values[:, 0])
        name = ROLE_TITLES[scores.role].lower()
        axes.errorbar(x, values[:, 0], yerr=errors, fmt="o-", color=SERIES[0], markersize=4, capsize=2.5, label=name)
    for i, name in enumerate(_ACROSS):
        model = scores.model(name)
        if model is not None and (value := model.value(task)) is not None:
            axes.axhline(100 * value, color=SERIES[i + 1], linestyle=_DASHES[name], label=label(name))
    axes.set_title("mean over tasks" if task is None else task, fontweight="bold")
    axes.set_xticks(x, [label(model.name).split(" (")[0] for model in found], rotation=30, ha="right")
    axes.set_ylim(bottom=0)
    axes.grid(visible=False, axis="x")


def _main(model: ModelScores, task: str | None) -> tuple[float, float, float]:
    score = (model.mean if task is None else model.tasks[task])[MAIN_METRIC]
    return score.value, score.low, score.high


def loss_chart(reports: Sequence[Report], role: str) -> Chart | None:
    """Training loss of warm-up, every specialist and enhance, as running means."""
    trained = [report for report in reports if report.role == role and report.phase in TRAINING]
    curves = {name_of(report): curve for report in trained if (curve := loss_curve(report))}
    if not curves:
        return None
    title = f"{ROLE_TITLES[role]}: training loss by phase (running mean)"
    with figure(height=3.0) as chart:
        axes = chart.add_subplot()
        for i, (name, curve) in enumerate(curves.items()):
            steps, losses = np.array(curve).T
            window = max(1, len(losses) // 25)
            smooth = np.convolve(losses, np.full(window, 1 / window), mode="valid")
            axes.plot(steps[window - 1 :], smooth, color=SERIES[i % len(SERIES)], label=name.replace(f"-{role}", "").replace("-", " "))
        axes.set(xlabel="optimiser step", ylabel="loss")
        axes.legend(ncols=2)
        return Chart(f"loss-{role}", title, render(chart, f"loss-{role}", title))


def loss_curve(report: Report) -> list[tuple[float, float]]:
    """(step, loss) of every trace row that has both."""
    return [(float(row["step"]), float(row["loss"])) for row in report.trace if "step" in row and "loss" in row]


def merge_chart(report: Report) -> Chart | None:
    """The merge search: objective and coefficients per step."""
    curve = loss_curve(report)
    if not curve or report.role is None:
        return None
    title = f"{ROLE_TITLES[report.role]}: merge search, objective and coefficient of each specialist"
    steps, losses = np.array(curve).T
    with figure(height=2.8) as chart:
        left, right = chart.subplots(1, 2)
        left.plot(steps, losses, color=SERIES[0])
        left.set(title="objective", xlabel="search step")
        tracks = _coefficients(report.trace)
        for i, (task, values) in enumerate(tracks.items()):
            right.plot(steps[: len(values)], values, color=SERIES[i % len(SERIES)], label=task)
        right.set(title="coefficients", xlabel="search step")
        if tracks:
            chart.legend(*right.get_legend_handles_labels(), loc="outside upper right", ncols=4)
        return Chart(f"merge-{report.role}", title, render(chart, f"merge-{report.role}", title))


def _coefficients(trace: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    tracks: dict[str, list[float]] = {}
    for row in trace:
        for task, value in row.get("coefficients", {}).items():
            tracks.setdefault(task, []).append(float(value))
    return tracks


def methods_chart(report: Report) -> Chart | None:
    """Held-out loss of the merge methods, of the warm-up model and of every specialist; shorter is better."""
    rows = sorted(report.details.get("comparison", []), key=lambda row: float(row["loss"]), reverse=True)
    if not rows or report.role is None:
        return None
    title = f"{ROLE_TITLES[report.role]}: held-out loss of merge methods and single models, lower is better"
    with figure(height=1.2 + 0.24 * len(rows)) as chart:
        axes = chart.add_subplot()
        for kind, (name, color) in _KINDS.items():
            places = [y for y, row in enumerate(rows) if row["kind"] == kind]
            if places:
                bars = axes.barh(places, [rows[y]["loss"] for y in places], height=0.6, color=color, label=name)
                axes.bar_label(bars, fmt="%.3f", padding=3, color=INK, fontsize=8)
        axes.set_yticks(range(len(rows)), [row["name"].replace("_", " ") for row in rows])
        chart.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2)
        axes.set(xlabel="mean held-out loss")
        axes.margins(x=0.15)
        axes.grid(visible=False, axis="y")
        return Chart(f"methods-{report.role}", title, render(chart, f"methods-{report.role}", title))


def cost_chart(reports: Sequence[Report]) -> Chart | None:
    """Seconds per phase, summed over tasks."""
    seconds: dict[str, float] = {}
    for report in reports:
        name = " ".join(part for part in (report.phase, report.role) if part)
        seconds[name] = seconds.get(name, 0.0) + report.cost.seconds
    if not seconds:
        return None
    title = "Cost: seconds per phase, summed over tasks"
    with figure(height=0.8 + 0.22 * len(seconds)) as chart:
        axes = chart.add_subplot()
        bars = axes.barh(list(seconds), list(seconds.values()), height=0.6, color=SERIES[0])
        axes.bar_label(bars, fmt="%.1f", padding=3, color=INK, fontsize=8)
        axes.invert_yaxis()
        axes.set(xlabel="seconds")
        axes.margins(x=0.12)
        axes.grid(visible=False, axis="y")
        return Chart("cost", title, render(chart, "cost", title))
