import math

import numpy as np
import pytest

from phasor.data.records import Example
from phasor.evaluation.metrics import Pair, ndcg_at_10, pairs_of, qrels_of


def test_ndcg_at_10_is_the_hand_computed_value() -> None:
    qrels = {"q": {"a": 1, "b": 1}}
    run = {"q": {"x": 3.0, "a": 2.0, "y": 1.5, "b": 1.0}}
    ideal = 1 + 1 / math.log2(3)
    assert ndcg_at_10(qrels, run)[0] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / ideal)


def test_a_query_without_a_run_scores_zero_and_keeps_its_place() -> None:
    qrels = {"q1": {"a": 1}, "q2": {"b": 1}, "q3": {"c": 1}}
    np.testing.assert_array_equal(ndcg_at_10(qrels, {"q1": {}, "q3": {"c": 1.0}}), [0, 0, 1])


def test_qrels_grade_every_positive_one() -> None:
    assert qrels_of([Example("q", "x", "", ["a", "b"])]) == {"q": {"a": 1, "b": 1}}


def test_a_pair_is_scored_by_the_passages_that_the_change_drops() -> None:
    rows = [
        Example("1-changed", "x", "", ["a", "new"], pair_id="1"), Example("1-og", "x", "", ["a", "b"], pair_id="1"),
        Example("2-og", "x", "", ["a"], pair_id="2"), Example("2-changed", "x", "", ["a", "c"], pair_id="2"),
        Example("3-og", "x", "", ["a"], pair_id="3"), Example("4", "x", "", ["a"]),
    ]
    assert pairs_of(rows) == [Pair("1-og", "1-changed", ("b",))]
