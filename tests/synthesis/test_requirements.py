"""Requirements: quotas are exact, and a model's choices are followed as far as they allow."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasor.synthesis.requirements import DIFFICULTIES, LENGTHS, TYPES, Length, balanced, length_of, settle

LANGUAGES = st.lists(st.sampled_from(["en", "de", "zh", "fr", "ja"]), min_size=1, max_size=4, unique=True)


@given(st.integers(0, 400), LANGUAGES, st.integers(0, 9))
def test_every_prefix_has_equal_shares_of_every_property(number: int, languages: list[str], seed: int) -> None:
    rows = balanced(number, languages, seed)
    for name, values in (("type", TYPES), ("difficulty", DIFFICULTIES), ("language", languages)):
        counts = Counter(getattr(row, name) for row in rows)
        shares = [counts[value] for value in values]
        assert max(shares) - min(shares) <= 1, name
    options = Counter(LENGTHS[row.type].index(length_of(row.type, row.length)) for row in rows)
    assert max(options.values(), default=0) - min((options[i] for i in range(3)), default=0) <= 1


def test_one_period_holds_every_combination_once() -> None:
    assert len(set(balanced(90, ["en", "zh"], seed=4))) == 90


def test_seed_decides_the_order() -> None:
    assert balanced(30, ["en"], 1) == balanced(30, ["en"], 1)
    assert balanced(30, ["en"], 1) != balanced(30, ["en"], 2)


CHOICES = st.lists(st.none() | st.tuples(st.sampled_from(TYPES), st.sampled_from(DIFFICULTIES)), max_size=80)


@given(CHOICES, st.integers(0, 3))
def test_settled_requirements_keep_the_quotas_whatever_was_chosen(choices: list[tuple[str, str] | None], seed: int) -> None:
    assert Counter(settle(choices, ["en"], seed)) == Counter(balanced(len(choices), ["en"], seed))


def test_a_choice_is_followed_while_its_quota_lasts_then_its_type() -> None:
    settled = settle([("factual", "phd")] * 45, ["en"], seed=0)
    assert sum((r.type, r.difficulty) == ("factual", "phd") for r in settled) == 3
    assert [r.type for r in settled[:9]] == ["factual"] * 9
    wishes = [(r.type, r.difficulty) for r in balanced(45, ["en"], seed=0)]
    assert [(r.type, r.difficulty) for r in settle(wishes[::-1], ["en"], seed=0)] == wishes[::-1]


@pytest.mark.parametrize(
    ("least", "most", "tolerance", "inside", "outside"),
    [(5, 20, 0.0, [5, 20], [4, 21]), (5, 20, 1.0, [3, 40], [2, 41]), (81, None, 0.0, [81, 9999], [80]), (81, None, 1.0, [41], [40])],
)
def test_length_ranges(least: int, most: int | None, tolerance: float, inside: list[int], outside: list[int]) -> None:
    length = Length("x", least, most)
    assert all(length.holds(n, tolerance) for n in inside)
    assert not any(length.holds(n, tolerance) for n in outside)
