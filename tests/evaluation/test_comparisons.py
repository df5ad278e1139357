import numpy as np

from phasor.config.base import Role
from phasor.evaluation.comparisons import SPECIALISTS, Table, checks, comparisons
from phasor.evaluation.scores import Check

TASKS = ("code", "tool")


def _table(**means: float | tuple[float, float]) -> Table:
    noise = np.linspace(-0.05, 0.05, 20)
    models = {}
    for name, mean in means.items():
        pair = mean if isinstance(mean, tuple) else (mean, mean)
        models[name] = {task: {"ndcg_at_10": noise + value} for task, value in zip(TASKS, pair, strict=True)}
    return Table(TASKS, models, samples=50, seed=0)


def _checks(table: Table, role: Role = "embed") -> dict[str, Check]:
    rows = [table.row(name) for name in table.models]
    return {check.text.split(" beats")[0].split(" keeps")[0]: check for check in checks(rows, comparisons(table, role), TASKS, role)}


def test_a_run_that_keeps_every_promise_passes() -> None:
    found = _checks(_table(bm25=0.4, initial=0.1, warmup=0.5, specialists=(0.6, 0.7), merged=0.63, enhanced=0.66))
    assert len(found) == 4 and all(check.passed for check in found.values())
    assert "+16.0" in found["The enhanced model"].measured
    assert found["The merged model"].measured == "96.9% (63.0 of 65.0)"


def test_each_broken_promise_is_found_and_measured() -> None:
    found = _checks(_table(bm25=(0.7, 0.2), initial=0.1, warmup=0.5, specialists=(0.6, 0.45), merged=0.4, enhanced=0.49))
    assert not any(check.passed for check in found.values())
    assert found["Each specialist"].measured == "1 of 2 (code +10.0, tool -5.0)"
    assert found["The embedder"].kind == "aim" and found["The embedder"].measured == "1 of 2 (code -21.0, tool +29.0)"


def test_the_reranker_is_held_against_its_first_stage() -> None:
    found = _checks(_table(bm25=0.4, first_stage=(0.5, 0.6), warmup=0.5, specialists=0.5, merged=0.5, enhanced=(0.55, 0.61)), "rerank")
    assert found["The reranker"].passed and found["The reranker"].kind == "required"


def test_a_promise_about_a_missing_model_is_left_out() -> None:
    assert list(_checks(_table(warmup=0.5, enhanced=0.6))) == ["The enhanced model"]


def test_a_metric_of_some_tasks_has_no_mean_and_a_partial_model_neither() -> None:
    table = _table(warmup=0.5, enhanced=0.6)
    table.models["enhanced"]["code"]["p_mrr"] = np.array([0.1, 0.3])  # type: ignore[index]
    partial = Table(TASKS, {**table.models, "one": {"code": table.models["warmup"]["code"]}}, 50, 0)
    assert set(partial.row("enhanced").mean) == {"ndcg_at_10"}
    assert partial.row("enhanced").tasks["code"]["p_mrr"].value == 0.2
    assert partial.row("one").mean == {} and partial.row("one").value(None) is None
    assert [c.task for c in partial.compare("one", "warmup")] == ["code"]


def test_comparisons_are_paired() -> None:
    found = _table(warmup=0.5, **{SPECIALISTS: 0.6}).compare(SPECIALISTS, "warmup")
    assert [c.task for c in found] == [None, "code", "tool"]
    assert all(abs(c.difference.high - c.difference.low) < 1e-5 for c in found)
