"""The mteb adapters on mteb's own mock tasks, and on ours, where they must agree with the lean path."""

from pathlib import Path

import numpy as np
import pytest
from mteb.mocks.mock_tasks.classification import MockClassificationTask
from mteb.mocks.mock_tasks.reranking import MockInstructionReranking, MockRerankingTask
from mteb.mocks.mock_tasks.retrieval import MockInstructionRetrieval, MockRetrievalTask
from mteb.mocks.mock_tasks.sts import MockSTSTask

from phasor.errors import DataError
from phasor.evaluation.benchmarks import MtebEmbedder, MtebReranker, find_tasks, score_tasks
from phasor.evaluation.searchers import CorpusTokens, EmbedderSearcher, RerankerSearcher
from phasor.evaluation.tasks import RetrievalTask, TestSet
from phasor.models.embedder import Embedder
from phasor.models.loading import load_model
from phasor.models.reranker import Reranker
from phasor.recipe import Recipe

World = tuple[Path, Recipe]


@pytest.fixture(scope="session")
def embedder(finished: World) -> Embedder:
    work, recipe = finished
    return Embedder(*load_model(work / "embed" / "enhanced", "embed"), recipe.model.embed)


@pytest.fixture(scope="session")
def reranker(finished: World) -> Reranker:
    work, recipe = finished
    return Reranker(*load_model(work / "rerank" / "enhanced", "rerank"), recipe.model.rerank)


def _task(finished: World) -> RetrievalTask:
    return RetrievalTask(TestSet.read("instruction", finished[0] / "instruction" / "collect"))


def test_mteb_s_own_search_gives_the_runs_of_the_lean_path(finished: World, embedder: Embedder) -> None:
    task = _task(finished)
    lean = task.measure(EmbedderSearcher("x", embedder, 16, CorpusTokens()))
    task.evaluate(MtebEmbedder(embedder, 16), "test", encode_kwargs={"batch_size": 16})
    assert task._result is not None and task._result is not lean
    for query, scores in lean.run.items():
        assert task._result.run[query] == pytest.approx(scores, abs=1e-5)


def test_mteb_s_own_reranking_gives_the_scores_of_the_lean_path(finished: World, reranker: Reranker) -> None:
    task = _task(finished)
    candidates = {e.id: [p.id for p in task.test.passages[i : i + 5]] for i, e in enumerate(task.test.examples)}
    lean = task.measure(RerankerSearcher("x", reranker, 16, 5, CorpusTokens(), lambda n: None), candidates)
    task.evaluate(MtebReranker(reranker, 16), "test", encode_kwargs={"batch_size": 16})
    assert task._result is not None and task._result is not lean
    for query, scores in lean.run.items():
        assert task._result.run[query] == pytest.approx(scores, abs=1e-5)


def test_every_task_type_runs_on_the_embedder(embedder: Embedder, tmp_path: Path) -> None:
    tasks = [MockRetrievalTask(), MockInstructionReranking(), MockSTSTask(), MockClassificationTask()]
    scores = score_tasks(tasks, MtebEmbedder(embedder, 8), tmp_path, None, 8, 10)
    assert list(scores) == [task.metadata.name for task in tasks]
    assert all(np.isfinite(value) for value in scores.values())


def test_the_reranker_takes_own_candidates_or_the_first_stage_and_leaves_other_tasks_out(
    embedder: Embedder, reranker: Reranker, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    score_tasks([MockRetrievalTask()], MtebEmbedder(embedder, 8), first, None, 8, 10)
    tasks = [MockRetrievalTask(), MockRerankingTask(), MockSTSTask(), MockInstructionRetrieval()]
    scores = score_tasks(tasks, MtebReranker(reranker, 8), tmp_path / "second", first, 8, 10)
    assert set(scores) == {"MockRetrievalTask", "MockRerankingTask"}


@pytest.mark.parametrize("name", ["MTEB(eng, v2)", "BRIGHT", "FollowIR", "MTEB(Code, v1)", "ToolRetrieval"])
def test_the_benchmarks_of_the_paper_are_known(name: str) -> None:
    assert find_tasks(name)


def test_an_unknown_benchmark_is_told_with_the_nearest() -> None:
    with pytest.raises(DataError, match="mteb knows no 'FollowUR'.*FollowIR"):
        find_tasks("FollowUR")


def test_unreachable_data_is_told(embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="News21InstructionRetrieval cannot be loaded.*fill its cache"):
        score_tasks(find_tasks("News21InstructionRetrieval"), MtebEmbedder(embedder, 8), tmp_path, None, 8, 10)
