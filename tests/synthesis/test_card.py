"""The data card: figures that can be counted by hand, and a difficulty check that agrees with scipy."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from phasor.synthesis.card import data_card, difficulty_check, spearman
from phasor.synthesis.filtering import Judged
from phasor.synthesis.rows import SyntheticRow

ROW = SyntheticRow("a", "p", "a cook", "factual", "high_school", "5-20", "en", "how does one read a file", "find", "extractive")
ROWS = [
    ROW,
    replace(ROW, id="b", type="keywords", length="<5", difficulty="phd", query="read file"),
    replace(ROW, id="c", difficulty="phd", query="too short", persona="a pilot"),
    replace(ROW, id="d", query="", error="invalid_json"),
    replace(ROW, id="e", difficulty="university", query="how does one read a file twice then"),
]


def judged(reasons: list[str], ranks: list[int], worst: int = 100) -> Judged:
    searched = sum(map(bool, ranks))
    return Judged(reasons, ranks, worst, np.eye(searched, 8, dtype=np.float32))


CARD = data_card(ROWS, judged(["", "", "", "invalid_json", "inconsistent"], [1, 2, 3, 0, 50]), [5, 7, 9, 0, 30])


def test_counts_and_retention() -> None:
    assert (CARD["raw"], CARD["kept"], CARD["retention"]) == (5, 3, 0.6)
    assert CARD["reasons"] == {"inconsistent": 1, "invalid_json": 1} and CARD["generators"] == {"extractive": 5}
    assert CARD["counts"]["type"] == {"factual": 2, "keywords": 1} and CARD["counts"]["language"] == {"en": 3}
    assert CARD["counts"]["difficulty"] == {"high_school": 1, "phd": 2} and CARD["counts"]["length"] == {
        "factual 5-20": 2,
        "keywords <5": 1,
    }
    assert CARD["retention_by"]["difficulty"] == {"high_school": 0.5, "phd": 1.0, "university": 0.0}


def test_lengths_and_diversity() -> None:
    assert CARD["length_compliance"] == {"keywords": 1.0, "factual": 0.5}  # `too short` has two words
    assert CARD["words"]["all"]["mean"] == pytest.approx((6 + 2 + 2) / 3, abs=0.01) and CARD["words"]["keywords"]["p50"] == 2
    assert CARD["tokens"]["all"]["mean"] == 7 and CARD["tokens"]["keywords"]["p50"] == 7
    assert CARD["personas"] == 2
    assert CARD["diversity"] == {"distinct_1": 0.8, "distinct_2": 1.0, "embedding_distance": 1.0}


def test_the_card_is_plain_json_and_an_empty_one_too() -> None:
    for card in (CARD, data_card([], judged([], []), None)):
        assert json.loads(json.dumps(card, allow_nan=False)) == card
    assert data_card([], judged([], []), None)["tokens"] is None


def test_a_harder_label_with_worse_ranks_is_confirmed_and_chance_is_not() -> None:
    rng = random.Random(0)
    rows = [replace(ROW, difficulty=name) for name in ("high_school", "university", "phd") for _ in range(60)]
    harder = difficulty_check(rows, judged([""] * 180, [1 + rng.randrange(10) + 5 * (i // 60) for i in range(180)]))
    assert harder["harder_is_worse"] is True and harder["spearman"] > 0.5 and harder["p_value"] < 1e-6
    assert list(harder["mean_rank"]) == ["high_school", "university", "phd"] and harder["rows"]["phd"] == 60
    chance = difficulty_check(rows, judged([""] * 180, [1 + rng.randrange(10) for _ in range(180)]))
    assert chance["harder_is_worse"] is False
    easier = difficulty_check(rows, judged([""] * 180, [20 + rng.randrange(10) - 5 * (i // 60) for i in range(180)]))
    assert easier["harder_is_worse"] is False and easier["spearman"] < -0.5


def test_one_label_or_one_rank_gives_no_verdict() -> None:
    assert difficulty_check([ROW] * 4, judged([""] * 4, [1, 2, 3, 4]))["harder_is_worse"] is None
    assert difficulty_check(ROWS[:3], judged([""] * 3, [1, 1, 1]))["spearman"] is None


@pytest.mark.parametrize("seed", range(4))
def test_spearman_agrees_with_scipy(seed: int) -> None:
    rng = random.Random(seed)
    first = [rng.randrange(3) for _ in range(3 + 50 * seed)] + [0, 1]
    second = [a + rng.randrange(5) for a in first]
    expected = spearmanr(first, second)
    assert spearman(first, second) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)
    assert spearman([1, 2, 3], [4, 5, 9])[0] == pytest.approx(1.0)
