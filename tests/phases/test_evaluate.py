"""The phase evaluate through the runner, on pico models of both roles."""

import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import pytrec_eval
from tests.evaluation import world

from phasor.artifacts import Report, verify
from phasor.cli import main
from phasor.config.base import Role
from phasor.data.records import Example, read_corpus, read_examples
from phasor.data.templates import render_document
from phasor.errors import ArtifactError, DataError
from phasor.evaluation import candidates
from phasor.evaluation.scores import Check, Scores
from phasor.models.embedder import Embedder
from phasor.models.loading import load_model, load_specialist, make_network
from phasor.models.network import Network
from phasor.recipe import Recipe, dump_recipe, parse_recipe

World = tuple[Path, Recipe]
TASKS = ("basic", "instruction")
TREC = {"ndcg_at_10": "ndcg_cut_10", "recall_at_100": "recall_100"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> World:
    """An evaluated run. Not to be changed."""
    return world.finished(tmp_path_factory)


@pytest.fixture
def work(finished: World, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(finished[0], tmp_path / "work"))


def scores_of(work: Path, role: Role) -> Scores:
    return Scores.model_validate_json((work / role / "evaluation" / "scores.json").read_bytes())


def run_of(work: Path, role: Role, model: str, task: str) -> dict[str, dict[str, float]]:
    """A stored run, read without our code."""
    rows = pq.read_table(work / role / "evaluation" / "runs" / model / f"{task}.parquet").to_pylist()
    return {row["query_id"]: dict(zip(row["passage_ids"], row["scores"], strict=True)) for row in rows}


def judged_queries(work: Path, task: str) -> list[Example]:
    return read_examples(work / task / "collect" / "test.parquet")


def evaluate(work: Path, role: Role = "embed", *overrides: str) -> Report:
    return world.run_evaluate(work, parse_recipe(world.RECIPE, overrides), role)


def test_every_model_of_the_recipe_has_a_row(finished: World) -> None:
    phases = ["initial", "warmup", "specialists", "merged", "enhanced"]
    assert [m.name for m in scores_of(finished[0], "embed").models] == ["bm25", *phases]
    assert [m.name for m in scores_of(finished[0], "rerank").models] == ["bm25", "first_stage", "oracle", *phases]
    assert all(set(m.tasks) == set(TASKS) for role in finished[1].roles for m in scores_of(finished[0], role).models)


@pytest.mark.parametrize("role", ["embed", "rerank"])
def test_one_model_is_in_memory_at_a_time(work: Path, role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Network]] = []

    def make(*args: Any) -> Network:
        network = make_network(*args)
        made.append(weakref.ref(network))
        return network

    def alone(load: Callable[..., Any]) -> Callable[..., Any]:
        def loaded(*args: Any) -> Any:
            assert all(one() is None for one in made)
            return load(*args)

        return loaded

    monkeypatch.setattr(candidates, "make_network", make)
    for load in (load_model, load_specialist):
        monkeypatch.setattr(candidates, load.__name__, alone(load))
    evaluate(work, role, "evaluate.bootstrap_samples=20")
    assert len(made) == 6


@pytest.mark.parametrize("role", ["embed", "rerank"])
@pytest.mark.parametrize("task", TASKS)
def test_scores_are_those_of_trec_eval_on_the_stored_run(finished: World, role: Role, task: str) -> None:
    qrels = {e.id: dict.fromkeys(e.positives, 1) for e in judged_queries(finished[0], task)}
    run = run_of(finished[0], role, "enhanced", task)
    judged = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.100"}).evaluate(run)
    row = scores_of(finished[0], role).model("enhanced")
    assert row is not None
    for ours, theirs in TREC.items():
        assert row.tasks[task][ours].value == pytest.approx(np.mean([values[theirs] for values in judged.values()]), abs=1e-6)
    assert row.tasks[task]["mrr_at_10"].value == pytest.approx(np.mean([_reciprocal(run[q], set(qrels[q])) for q in qrels]), abs=1e-6)


def _reciprocal(ranking: dict[str, float], relevant: set[str]) -> float:
    best = sorted(ranking, key=lambda p: -ranking[p])[:10]
    return next((1 / rank for rank, passage in enumerate(best, start=1) if passage in relevant), 0.0)


def test_each_specialist_is_scored_on_its_own_task(finished: World) -> None:
    work, recipe = finished
    row = scores_of(work, "embed").model("specialists")
    assert row is not None
    for task in TASKS:
        model = Embedder(*load_specialist(work / "embed/warmup", work / "embed/specialists" / task, "embed"), recipe.model.embed)
        corpus, queries = read_corpus(work / task / "collect" / "corpus.parquet"), judged_queries(work, task)
        found = model.encode_queries([e.query for e in queries], [e.instruction for e in queries])
        found = found @ model.encode_documents([render_document(p.title, p.text) for p in corpus]).T
        run = {e.id: {p.id: float(s) for p, s in zip(corpus, line, strict=True)} for e, line in zip(queries, found, strict=True)}
        qrels = {e.id: dict.fromkeys(e.positives, 1) for e in queries}
        judged = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"}).evaluate(run)
        assert row.tasks[task]["ndcg_at_10"].value == pytest.approx(np.mean([v["ndcg_cut_10"] for v in judged.values()]), abs=1e-6)


@pytest.mark.parametrize("role", ["embed", "rerank"])
def test_every_score_lies_in_its_interval_and_the_interval_is_none_too_wide(finished: World, role: Role) -> None:
    scores = scores_of(finished[0], role)
    cells = [score for model in scores.models for metrics in [*model.tasks.values(), model.mean] for score in metrics.values()]
    assert all(score.low <= score.value <= score.high for score in cells)
    assert any(0 < score.high - score.low < 0.6 for score in cells)


def test_the_reranker_only_reorders_the_saved_first_stage(finished: World) -> None:
    work, recipe = finished
    depth = recipe.evaluate.rerank_top_k
    moved = 0
    for task in TASKS:
        before, after = run_of(work, "embed", "enhanced", task), run_of(work, "rerank", "enhanced", task)
        assert before.keys() == after.keys()
        for query in before:
            old, new = list(before[query]), list(after[query])
            assert set(new[:depth]) == set(old[:depth]) and new[depth:] == old[depth:]
            moved += new != old
    assert moved
    embedder, first = scores_of(work, "embed").model("enhanced"), scores_of(work, "rerank").model("first_stage")
    assert embedder is not None and first is not None and first.tasks == embedder.tasks


def test_p_mrr_stands_where_instructions_come_in_pairs_and_follows_its_formula(finished: World) -> None:
    work = finished[0]
    row = scores_of(work, "embed").model("enhanced")
    assert row is not None and "p_mrr" not in row.tasks["basic"] and "p_mrr" not in row.mean
    run, by_id = run_of(work, "embed", "enhanced", "instruction"), {e.id: e for e in judged_queries(work, "instruction")}
    values = []
    for query in [q for q in by_id if q.endswith("-og")]:
        changed = query.replace("-og", "-changed")
        [dropped] = set(by_id[query].positives) - set(by_id[changed].positives)
        old, new = (list(run[q]).index(dropped) + 1 for q in (query, changed))
        values.append(1 - old / new if new >= old else new / old - 1)
    assert row.tasks["instruction"]["p_mrr"].value == pytest.approx(np.mean(values), abs=1e-6)


def _first_check(work: Path) -> Check:
    return next(c for c in scores_of(work, "embed").checks if "enhanced model beats the warm-up" in c.text)


def test_the_promises_are_measured_both_ways(work: Path) -> None:
    before = _first_check(work)
    (work / "embed/warmup").rename(work / "embed/other")
    (work / "embed/enhanced").rename(work / "embed/warmup")
    (work / "embed/other").rename(work / "embed/enhanced")
    shutil.move(work / "embed/enhanced/initial", work / "embed/warmup/initial")
    evaluate(work)
    after = _first_check(work)
    assert before.passed is not after.passed
    assert {before.measured[0], after.measured[0]} == {"+", "-"} and before.measured[1:5] == after.measured[1:5]


def _baseline(work: Path, shift: float) -> Path:
    """A report.json whose embedder scored `shift` better on one task."""
    scores = scores_of(work, "embed").model_dump()
    final = next(m for m in scores["models"] if m["name"] == "enhanced")
    final["tasks"]["basic"]["ndcg_at_10"]["value"] += shift
    path = work / "accepted.json"
    path.write_text(json.dumps({"roles": {"embed": scores}}))
    return path


def test_a_green_gate_is_written_down(work: Path) -> None:
    _baseline(work, 0.005)
    evaluate(work, "embed", "evaluate.gate.baseline=accepted.json", "evaluate.gate.enforce=true")
    gate = scores_of(work, "embed").gate
    assert gate.passed and gate.baseline == "accepted.json" and set(gate.tasks) == set(TASKS)


def test_a_red_gate_is_a_verdict_and_with_enforce_an_exit_code(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _baseline(work, 0.2)
    report = evaluate(work, "embed", "evaluate.gate.baseline=accepted.json")
    assert report.details["gate"]["passed"] is False
    assert {task: t.passed for task, t in scores_of(work, "embed").gate.tasks.items()} == {"basic": False, "instruction": True}
    before = verify(work / "embed/evaluation").files
    recipe = work / "params.yaml"
    recipe.write_text(dump_recipe(world.recipe()))
    gate = ["--set", "evaluate.gate={baseline: accepted.json, enforce: true}", "--set", "evaluate.bootstrap_samples=20"]
    assert main(["evaluate", "--role", "embed", "--recipe", str(recipe), "--work", str(work), *gate]) == 2
    message = capsys.readouterr().err
    assert "basic" in message and "evaluate.gate.max_drop" in message and "Traceback" not in message
    assert verify(work / "embed/evaluation").files == before
    assert not list((work / "embed").glob(".evaluation*"))


def test_equal_work_has_equal_bytes(finished: World, work: Path) -> None:
    evaluate(work)
    assert verify(work / "embed/evaluation").files == verify(finished[0] / "embed/evaluation").files


def test_the_report_counts_queries_and_tokens(work: Path) -> None:
    report = evaluate(work, "rerank")
    # initial, warmup, merged, enhanced on both tasks, two specialists on one each, and what stands beside them.
    assert report.cost.examples == 8 * (12 + 24)
    assert report.cost.tokens > 5 * (12 + 24) * 10 * 20
    flat = json.loads((work / "rerank/evaluation/metrics.json").read_text())
    assert report.metrics["enhanced.basic.ndcg_at_10"] == flat["enhanced.basic.ndcg_at_10"]


def test_cross_task_keeps_every_specialist_as_a_row(work: Path) -> None:
    evaluate(work, "embed", "evaluate.cross_task=true")
    rows = {m.name: m for m in scores_of(work, "embed").models}
    assert set(rows["specialist-basic"].tasks) == set(TASKS)
    assert rows["specialists"].tasks["basic"] == rows["specialist-basic"].tasks["basic"]


def test_the_reranker_needs_the_embedder_s_evaluation(work: Path) -> None:
    shutil.rmtree(work / "embed/evaluation")
    with pytest.raises(ArtifactError, match=r"evaluate-rerank: input first_stage is missing at .*embed/evaluation\. Run the phase"):
        evaluate(work, "rerank")


def test_an_unknown_benchmark_is_told_before_anything_is_scored(work: Path) -> None:
    shutil.rmtree(work / "embed/evaluation")
    shutil.rmtree(work / "embed/warmup/initial")
    (work / "embed/warmup/config.json").unlink()
    with pytest.raises(DataError, match="mteb knows no 'FollowUR'.*FollowIR"):
        evaluate(work, "embed", "evaluate.benchmarks=[FollowUR]")
    assert not list((work / "embed").glob("*evaluation*"))


def test_a_missing_baseline_is_told_before_anything_is_scored(work: Path) -> None:
    (work / "embed/warmup/config.json").unlink()
    with pytest.raises(ArtifactError, match=r"evaluate.gate.baseline: .*accepted.json does not exist.*or null"):
        evaluate(work, "embed", "evaluate.gate.baseline=accepted.json")
