"""What a demo run reports, made up: curves with noise in the shapes that the phases write."""

from pathlib import Path
from typing import Any

import numpy as np

from phasor.artifacts import Cost, Report
from phasor.config.base import Role
from phasor.evaluation.comparisons import Table, checks, comparisons
from phasor.evaluation.scores import Bm25Setting, Contamination, GateTask, GateVerdict, Scores, TaskInfo
from phasor.reporting.document import RunReport, total_cost
from phasor.reporting.page import run_page

TASKS = ("basic", "code", "tool", "instruction")
LEVELS = {"bm25": 0.55, "initial": 0.15, "warmup": 0.5, "specialists": 0.58, "merged": 0.57, "enhanced": 0.62}
QUERIES = 200


def run_report(chance: np.random.Generator) -> RunReport:
    """Four tasks, both roles, every phase."""
    roles: dict[Role, Scores] = {"embed": _scores("embed", chance), "rerank": _scores("rerank", chance)}
    phases = _phases(chance)
    return RunReport(
        name="phasor-quickstart", seed=0, recipe="name: phasor-quickstart\ntasks:\n  basic: {instruction: find the passage}\n",
        tasks=list(TASKS), code_rev="0123456789abcdef", versions={"python": "3.11.9", "torch": "2.15.0", "transformers": "5.24.0"},
        roles=roles, contamination=roles["embed"].contamination, phases=phases, total=total_cost(p.cost for p in phases),
    )


def write_page(report: RunReport, folder: Path) -> Path:
    """report.html in a folder."""
    path = folder / "report.html"
    path.write_text(run_page(report), encoding="utf-8")
    return path


def _scores(role: Role, chance: np.random.Generator) -> Scores:
    levels = dict(LEVELS)
    if role == "rerank":
        reranked = {name: value + 0.05 for name, value in LEVELS.items() if name != "bm25"}
        levels = {"bm25": 0.55, "first_stage": 0.6, "oracle": 0.93} | reranked
    values = {name: {task: _per_query(level + 0.06 * i, task, chance) for i, task in enumerate(TASKS)} for name, level in levels.items()}
    table = Table(TASKS, values, samples=200, seed=0)
    rows, found = [table.row(name) for name in values], comparisons(table, role)
    tasks = {task: TaskInfo(num_queries=QUERIES, num_passages=4000, num_pairs=90 if task == "instruction" else 0) for task in TASKS}
    gate = GateVerdict(
        baseline="accepted/report.json", max_drop=0.01, passed=role == "embed",
        tasks={task: GateTask(baseline=0.6, current=0.61 if role == "embed" else 0.5, passed=role == "embed") for task in TASKS},
    )
    bm25 = {t: Bm25Setting(k1=1.2, b=0.8, with_instruction=False, dev_ndcg_at_10=0.6) for t in TASKS} if role == "embed" else {}
    leaks = Contamination(
        jaccard=0.8, num_test_passages=dict.fromkeys(TASKS, 200), near_duplicates={t: dict.fromkeys(TASKS, 3) for t in TASKS}
    )
    benchmarks = {"BRIGHT": {"BrightRetrieval": 0.213}} if role == "embed" else {}
    return Scores(
        role=role, tasks=tasks, models=rows, comparisons=found, checks=checks(rows, found, TASKS, role), bm25=bm25,
        contamination=leaks, gate=gate, benchmarks=benchmarks,
    )


def _per_query(level: float, task: str, chance: np.random.Generator) -> dict[str, Any]:
    metrics = {name: np.clip(chance.normal(level + shift, 0.3, QUERIES), 0, 1) for name, shift in
               (("ndcg_at_10", 0.0), ("recall_at_100", 0.25), ("mrr_at_10", -0.05))}
    return metrics | ({"p_mrr": np.clip(chance.normal(0.05, 0.2, 90), -1, 1)} if task == "instruction" else {})


def _phases(chance: np.random.Generator) -> list[Report]:
    found = []
    for phase, seconds in (("collect", 6.0), ("synthesize", 3.0), ("filter", 5.0), ("mine", 4.0)):
        counts = {"passages": 4000, "near_duplicates_dropped": 12, "test": QUERIES}
        found += [_report(phase, None, task, seconds, counts=counts) for task in TASKS]
    roles: tuple[Role, ...] = ("embed", "rerank")
    for role in roles:
        found.append(_report("warmup", role, None, 30.0, _training(150, chance)))
        found += [_report("train", role, task, 12.0, _training(60, chance)) for task in TASKS]
        kinds = {"slerp": "tuned", "average": "tuned", "ties": "tuned", "average-fixed": "fixed", "warmup": "baseline"}
        rows = [{"name": name, "kind": kind, "loss": 1.2 + 0.1 * i} for i, (name, kind) in enumerate(kinds.items())]
        rows += [{"name": task, "kind": "specialist", "loss": 1.7 + 0.05 * i} for i, task in enumerate(TASKS)]
        found.append(_report("merge", role, None, 9.0, _searching(60, chance), {"comparison": rows}))
        found += [_report("enhance", role, None, 20.0, _training(80, chance)), _report("evaluate", role, None, 25.0)]
    return found


def _report(
    phase: str, role: Role | None, task: str | None, seconds: float, trace: list[dict[str, Any]] | None = None,
    details: dict[str, Any] | None = None, counts: dict[str, int] | None = None,
) -> Report:
    cost = Cost(seconds=seconds, examples=6400, tokens=512_000, peak_memory_bytes=900 * 2**20)
    outputs = {"data" if role is None else "model": "ab" * 32}
    return Report(
        phase=phase, role=role, task=task, trace=trace or [], details=details or {}, counts=counts or {}, cost=cost, outputs=outputs
    )


def _training(steps: int, chance: np.random.Generator) -> list[dict[str, Any]]:
    losses = 1.5 + 2.5 * np.exp(-np.arange(steps) / 30) + chance.normal(0, 0.15, steps)
    rows: list[dict[str, Any]] = [{"step": i + 1, "loss": float(loss), "learning_rate": 1e-3} for i, loss in enumerate(losses)]
    return [*rows, {"step": steps, "dev_ndcg_at_10": 0.5}]


def _searching(steps: int, chance: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for i in range(steps):
        weights = {task: 0.25 + 0.1 * (k - 1.5) * i / steps for k, task in enumerate(TASKS)}
        rows.append({"step": i, "loss": float(1.4 - 0.2 * i / steps + chance.normal(0, 0.01)), "coefficients": weights})
    return rows
