"""The reranker's loss."""

import numpy as np
import pytest
import torch

from phasor.losses.yes_no import yes_no


def test_equals_a_float64_reference() -> None:
    rng = np.random.default_rng(0)
    logits, relevant = rng.standard_normal((9, 2)) * 5, rng.integers(0, 2, 9)
    margin = logits[:, 1] - logits[:, 0]
    expected = np.log1p(np.exp(np.where(relevant == 1, -margin, margin))).sum()
    assert yes_no(torch.from_numpy(logits), torch.from_numpy(relevant)).item() == pytest.approx(expected, rel=1e-12)


def test_undecided_pairs_cost_ln_2_each() -> None:
    assert yes_no(torch.zeros(3, 2), torch.tensor([0, 1, 1])).item() == pytest.approx(3 * np.log(2), rel=1e-6)


def test_the_second_logit_means_yes() -> None:
    sure = torch.tensor([[0.0, 8.0]])
    assert yes_no(sure, torch.tensor([1])).item() < 0.001 < 7 < yes_no(sure, torch.tensor([0])).item()
