from typing import Any

import numpy as np
import pytest
from mteb._evaluators.retrieval_metrics import calculate_pmrr

from phasor.data.records import Example, Passage
from phasor.evaluation.metrics import Pair, Run
from phasor.evaluation.searchers import OracleSearcher, Searcher, TopRanked
from phasor.evaluation.tasks import RetrievalTask, TestSet, p_mrr

CORPUS = [Passage(f"d{i}", f"text {i}", title="" if i % 2 else f"title {i}") for i in range(150)]


class Fixed(Searcher):
    """Gives a run made beforehand and remembers what it was asked."""

    def __init__(self, run: Run) -> None:
        super().__init__("fixed")
        self.given, self.asked, self.texts = run, [], []  # type: ignore[var-annotated]

    def rank(self, ids: list[str], queries: list[str], instructions: list[str], top_k: int, top_ranked: TopRanked | None) -> Run:
        self.asked.append((ids, queries, instructions, top_k, top_ranked))
        self.texts = self._texts
        return self.given


def _test_set() -> TestSet:
    queries = [
        Example("p-og", "find", "both", ["d1", "d2"], pair_id="p"),
        Example("p-changed", "find", "not the second", ["d1"], pair_id="p"),
        Example("q", "other", "any", ["d3"]),
    ]
    return TestSet("basic", CORPUS, queries)


def _ranking(*best: str) -> dict[str, float]:
    return {passage: float(-i) for i, passage in enumerate(best)}


def test_the_metrics_are_the_hand_computed_ones_per_query_in_order() -> None:
    run = {"q": _ranking("d9", "d3"), "p-changed": _ranking("d7", "d8", "d2", "d1"), "p-og": _ranking("d2", "d1")}
    found = RetrievalTask(_test_set()).measure(Fixed(run)).metrics
    np.testing.assert_allclose(found["ndcg_at_10"], [1, 1 / np.log2(5), 1 / np.log2(3)], rtol=1e-6)
    np.testing.assert_allclose(found["mrr_at_10"], [1, 0.25, 0.5])
    np.testing.assert_array_equal(found["recall_at_100"], [1, 1, 1])
    # d2 falls from rank 1 to rank 3: 1 - (1/3) / (1/1) with FollowIR's formula.
    np.testing.assert_allclose(found["p_mrr"], [1 - 1 / 3])


def test_a_query_that_finds_nothing_scores_zero() -> None:
    run: Run = {"p-og": {}, "p-changed": _ranking("d1"), "q": {}}
    found = RetrievalTask(_test_set()).measure(Fixed(run)).metrics
    np.testing.assert_array_equal(found["ndcg_at_10"], [0, 1, 0])
    np.testing.assert_array_equal(found["mrr_at_10"], [0, 1, 0])


def test_what_is_relevant_but_lost_to_another_split_is_not_judged() -> None:
    lost = Example("q", "other", "any", ["d3"], known=["d9", "d8"])
    plain = Example("r", "third", "any", ["d4"])
    run = {"q": _ranking("d9", "d5", "d8", "d3", "d6"), "r": _ranking("d9", "d4", "d1", "d2", "d5", "d6")}
    searcher = Fixed(run)
    result = RetrievalTask(TestSet("basic", CORPUS, [lost, plain]), top_k=3).measure(searcher)
    np.testing.assert_allclose(result.metrics["ndcg_at_10"], [1 / np.log2(3), 1 / np.log2(3)], rtol=1e-6)
    assert {query: list(scores) for query, scores in result.run.items()} == {"q": ["d5", "d3", "d6"], "r": ["d9", "d4", "d1"]}
    assert searcher.asked[0][3] == 5, "two more are asked for than the list shall have"


def test_a_searcher_gets_rendered_passages_instructions_and_candidates() -> None:
    task, searcher = RetrievalTask(_test_set(), top_k=120), Fixed({q: _ranking("d1") for q in ("p-og", "p-changed", "q")})
    candidates = {"p-og": ["d1"], "p-changed": ["d1"], "q": ["d1"]}
    task.measure(searcher)
    task.measure(searcher, candidates)
    assert searcher.texts[:2] == ["title 0\ntext 0", "text 1"]
    assert searcher.asked[0] == (["p-og", "p-changed", "q"], ["find", "find", "other"], ["both", "not the second", "any"], 120, None)
    assert searcher.asked[1][4] == candidates


def test_p_mrr_is_mteb_s() -> None:
    chance = np.random.default_rng(0)
    run = {f"{i}-{half}": dict(zip(chance.permutation([f"d{j}" for j in range(9)]), chance.random(9), strict=True))
           for i in range(20) for half in ("og", "changed")}
    dropped = {str(i): [str(d) for d in chance.choice([f"d{j}" for j in range(12)], 2, replace=False)] for i in range(20)}
    ours = [p_mrr(Pair(f"{i}-og", f"{i}-changed", tuple(docs)), run) for i, docs in dropped.items()]
    halves: Any = [{k: v for k, v in run.items() if k.endswith(half)} for half in ("-og", "-changed")]
    assert np.mean(ours) == pytest.approx(calculate_pmrr(*halves, dropped))


def test_the_oracle_is_the_best_order_of_the_candidates_and_no_better() -> None:
    test = _test_set()
    candidates = {"p-og": ["d9", "d1"], "p-changed": ["d8", "d1"], "q": ["d7", "d6"]}
    found = RetrievalTask(test).measure(OracleSearcher(test.qrels), candidates).metrics
    np.testing.assert_allclose(found["ndcg_at_10"], [1 / (1 + 1 / np.log2(3)), 1, 0], rtol=1e-6)
    np.testing.assert_array_equal(found["recall_at_100"], [0.5, 1, 0])
