"""Near-duplicates: against brute force, at the edges, and for order."""

import itertools
import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phasor.data.near_duplicates import SHINGLE_WORDS, duplicates_of, duplicates_within, words


def shingles(text: str) -> set[tuple[str, ...]]:
    tokens = words(text) or [text]
    if len(tokens) < SHINGLE_WORDS:
        return {tuple(tokens)}
    return {tuple(tokens[i : i + SHINGLE_WORDS]) for i in range(len(tokens) - SHINGLE_WORDS + 1)}


def similarity(a: str, b: str) -> float:
    return len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))


def edited(rng: random.Random, tokens: list[str], num_edits: int) -> str:
    copy = list(tokens)
    for _ in range(num_edits):
        copy[rng.randrange(len(copy))] = f"new{rng.randrange(10**6)}"
    return " ".join(copy)


@pytest.mark.parametrize("jaccard", [0.1, 0.5, 0.8, 0.95])
def test_same_pairs_as_brute_force_on_edited_texts(jaccard: float) -> None:
    rng = random.Random(7)
    originals = [[f"w{rng.randrange(400)}" for _ in range(rng.randrange(20, 120))] for _ in range(120)]
    references = [" ".join(tokens) for tokens in originals]
    texts = [edited(rng, tokens, rng.randrange(6)) for tokens in originals]
    expected = {i for i, text in enumerate(texts) if any(similarity(text, reference) >= jaccard for reference in references)}
    found = duplicates_of(texts, references, jaccard)
    assert found.keys() == expected and len(expected) > 20
    assert all(similarity(texts[i], references[twin]) >= jaccard for i, twin in found.items())


def test_within_keeps_the_first_of_each_group_and_names_it() -> None:
    a = "open the file, read every line and close the file again"
    b = "a quite different sentence about something else, with enough words"
    assert duplicates_within([a, b, a.upper() + "!", b, a], 0.8) == {2: 0, 3: 1, 4: 0}


def test_chains_are_not_dropped_through_a_dropped_text() -> None:
    texts = [" ".join(f"w{i}" for i in range(start, start + 40)) for start in (0, 4, 8)]
    assert similarity(texts[0], texts[1]) > 0.7 > similarity(texts[0], texts[2])
    assert duplicates_within(texts, 0.7) == {1: 0}


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("Read a file", "read A file?", True),
        ("read a file", "read a line", False),
        ("", "", True),
        ("???", "!!!", False),
        ("read", "read a", False),
        ("打开文件并读取所有行", "打开文件并读取所有行。", True),
        ("打开文件并读取所有行", "关闭网络连接后重新启动", False),
        ("naïve café au lait", "NAÏVE café au lait", True),
    ],
)
def test_short_and_foreign_texts(a: str, b: str, same: bool) -> None:
    assert (duplicates_within([a, b], 0.8) == {1: 0}) is same
    assert (duplicates_of([b], [a], 0.8) == {0: 0}) is same


def test_nothing_to_compare() -> None:
    assert duplicates_within([], 0.8) == {}
    assert duplicates_of([], ["a"], 0.8) == {}
    assert duplicates_of(["a"], [], 0.8) == {}


@pytest.mark.parametrize("bounds", [{}, {"_BLOCK": 3, "_KEPT": 2}, {"_BLOCK": 7, "_KEPT": 1000, "_MAX_CELLS": 3}])
def test_bounded_memory_changes_no_result(bounds: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in bounds.items():
        monkeypatch.setattr(f"phasor.data.near_duplicates.{name}", value)
    rng = random.Random(3)
    originals = [[f"w{rng.randrange(60)}" for _ in range(rng.randrange(3, 40))] for _ in range(40)]
    texts = [edited(rng, rng.choice(originals), rng.choice([0, 0, 1, 2, 3])) for _ in range(150)]
    kept: list[int] = []
    expected = {}
    for i, text in enumerate(texts):
        best, twin = max(((similarity(text, texts[k]), -k) for k in kept), default=(0.0, 0))
        if best >= 0.6:
            expected[i] = -twin
        else:
            kept.append(i)
    assert duplicates_within(texts, 0.6) == expected and 20 < len(expected) < 130
    nearest = {i: max((similarity(text, other), -k) for k, other in enumerate(texts[:60])) for i, text in enumerate(texts[60:])}
    assert duplicates_of(texts[60:], texts[:60], 0.6) == {i: -k for i, (best, k) in nearest.items() if best >= 0.6}


@pytest.mark.slow
def test_memory_of_many_texts_is_a_fraction_of_their_shingles() -> None:
    rng = random.Random(5)
    texts = [" ".join(f"w{rng.randrange(20_000)}" for _ in range(120)) for _ in range(8_000)]
    texts += texts[:100]
    tracemalloc.start()
    found = duplicates_within(texts, 0.8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == {8_000 + i: i for i in range(100)}
    assert peak / len(texts) < 4000  # those of so few are kept: 116 shingles of 8 bytes, and an array around them


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="ab 文\n", max_size=12), max_size=12), st.sampled_from([0.3, 0.8, 1.0]))
def test_kept_texts_are_never_exact_repeats_and_drops_are_similar(texts: list[str], jaccard: float) -> None:
    found = duplicates_within(texts, jaccard)
    assert found == duplicates_within(texts, jaccard)
    assert not set(found) & set(found.values())
    assert all(twin < i and similarity(texts[i], texts[twin]) >= jaccard for i, twin in found.items())
    kept = [shingles(text) for i, text in enumerate(texts) if i not in found]
    assert all(a != b for a, b in itertools.combinations(kept, 2))
