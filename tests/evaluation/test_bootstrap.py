import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from phasor.evaluation.bootstrap import mean_score, score

UNIT = st.floats(0, 1)


def test_the_interval_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).beta(2, 3, 200)
    ours = score(values, 5000, seed=1)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(2)).confidence_interval
    assert ours.value == pytest.approx(values.mean(), abs=1e-6)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_the_mean_over_tasks_weighs_tasks_not_queries() -> None:
    values = {"a": np.zeros(1000), "b": np.ones(10)}
    assert mean_score(values, 100, 0).value == 0.5


def test_tasks_with_as_many_queries_are_resampled_independently() -> None:
    values = np.random.default_rng(0).random(200)
    single = score(values, 2000, 0)
    # With the same draws for both, every gain of one task would be a loss of the other, and nothing would seem to vary.
    both = mean_score({"a": values, "b": 1 - values}, 2000, 0)
    assert both.high - both.low == pytest.approx((single.high - single.low) / 2**0.5, rel=0.1)


def test_a_paired_difference_is_surer_than_two_single_scores() -> None:
    hard = np.random.default_rng(0).random(200)
    difference = score((hard + 0.05) - hard, 1000, 0)
    single = score(hard, 1000, 0)
    assert difference.high - difference.low < 0.1 * (single.high - single.low)
    assert difference.low > 0


def test_equal_seeds_give_equal_intervals_and_other_seeds_others() -> None:
    values = np.random.default_rng(0).random(50)
    assert score(values, 200, 1) == score(values, 200, 1) != score(values, 200, 2)


@given(st.lists(UNIT, min_size=1, max_size=30), st.integers(0, 5))
def test_the_interval_lies_within_the_values(values: list[float], seed: int) -> None:
    found = score(np.array(values), 50, seed)
    assert min(values) - 1e-6 <= found.low <= found.high <= max(values) + 1e-6
