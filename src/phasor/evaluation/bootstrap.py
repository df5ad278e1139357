"""95% bootstrap intervals over queries. Efron 1979; percentile method.

All models of a test set are resampled with the same draws, so an interval of a difference is a paired one. The mean
over tasks resamples every task's queries by themselves, with draws of their own: tasks are fixed, queries are the sample.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

# Shapes: N queries of one task, S resamples.
Values = NDArray[np.float64]


class Score(BaseModel):
    """A mean with its 95% interval, as fractions; a single query has no interval (low = high = value)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    low: float
    high: float


def score(values_N: Values, samples: int, seed: int) -> Score:
    """Mean of one value per query."""
    return mean_score({"": values_N}, samples, seed)


def mean_score(values: Mapping[str, Values], samples: int, seed: int) -> Score:
    """Mean over tasks of the mean over queries; `values` maps task to one value per query [N]."""
    means_S = np.mean([_resample(values_N, samples, [seed, len(values_N), task]) for task, values_N in enumerate(values.values())], axis=0)
    low, high = np.quantile(means_S, (0.025, 0.975))
    center = np.mean([values_N.mean() for values_N in values.values()])
    return Score(value=_tidy(center), low=_tidy(low), high=_tidy(high))


def _resample(values_N: Values, samples: int, seed: Sequence[int]) -> Values:
    """Means of the resamples, [S]."""
    draws_SN = np.random.default_rng(seed).integers(0, len(values_N), (samples, len(values_N)))
    means_S: Values = values_N[draws_SN].mean(axis=1)
    return means_S


def _tidy(value: np.floating) -> float:
    return round(float(value), 6)
