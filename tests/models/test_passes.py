import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasor.models.threads import passes_of
from phasor.models.tokens import plan_batches, plan_evenly


@pytest.mark.parametrize(("tokens", "max_tokens", "expected"), [
    (900, 4608, 1),  # halves would be too small
    (2900, 4608, 2),
    (4200, 4608, 4),
    (2900, 1000, 4),  # three would fit, but leave a thread without one
    (16_000, 32_768, 4),
    (20_000, 32_768, 8),
])
def test_a_step_makes_a_pass_for_each_thread_unless_they_get_too_small(tokens: int, max_tokens: int, expected: int) -> None:
    assert passes_of(tokens, max_tokens) == expected


@given(st.lists(st.integers(1, 72), min_size=1, max_size=60), st.integers(1, 6), st.integers(72, 3000))
def test_passes_are_alike_and_lose_no_sequence(lengths: list[int], number: int, max_tokens: int) -> None:
    found = np.array(lengths)
    groups = plan_evenly(found, number, max_tokens)
    assert sorted(np.concatenate(groups)) == list(range(len(lengths)))
    sizes = [len(group) * max(lengths[i] for i in group) for group in groups]
    assert max(sizes) <= max_tokens
    if len(groups) > number:
        assert len(plan_batches(found, max_tokens)) > number, "they would have fitted"
    else:
        assert len(plan_batches(found, max(sizes) - 1)) > number or max(sizes) <= max(max(lengths), -(-sum(lengths) // number))
