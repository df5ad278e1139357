"""Hard-negative mining: what may be a negative, in which order, and that memory and batches do not change it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasor.config.data import MineConfig
from phasor.data.mining import Mined, Miner
from phasor.data.records import Example, Passage
from phasor.errors import DataError


class AngleTeacher:
    """Vectors on the unit circle: the score of two texts is the cosine of the angle between them, in degrees."""

    def __init__(self, angles: Mapping[str, float]) -> None:
        self._angles = angles
        self.corpus_passes = 0
        self.longest_batch = 0

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
        self.corpus_passes += 1
        return self._vectors(texts)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        self.longest_batch = max(self.longest_batch, len(texts))
        return self._vectors(texts)

    def _vectors(self, texts: Sequence[str]) -> np.ndarray:
        radians = np.radians([self._angles[text] for text in texts])
        return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def ask(
    example_id: str, *positives: str, query: str = "q", instruction: str = "find", pair: str = "", negatives: Sequence[str] = ()
) -> Example:
    return Example(example_id, query, instruction, list(positives), list(negatives), pair_id=pair)


def mine(angles: Mapping[str, float], examples: Sequence[Example], queries: Mapping[str, float] | None = None, **settings: object) -> Mined:
    """Mine in a corpus whose passages are named by their text."""
    config = MineConfig.model_validate({"num_negatives": 3, "max_rank": 20} | settings)
    teacher = AngleTeacher(dict(angles) | dict(queries or {"q": 0.0}))
    return Miner([Passage(name, name) for name in angles], teacher, config, seed=7).mine(examples)


FAN = {"p": 20.0, "near": 10.0, "close": 22.0, "a": 40.0, "b": 50.0, "c": 60.0, "d": 70.0}


def test_negatives_are_below_the_margin_and_hardest_first() -> None:
    mined = mine(FAN, [ask("1", "p")])
    assert mined.examples[0].negatives == ["a", "b", "c"]
    assert mined.counts == {"negatives": 3, "given": 0, "skipped_margin": 2, "short": 0, "bare": 0}


def test_margin_is_relative_to_the_weakest_positive() -> None:
    assert mine(FAN, [ask("1", "near", "b")]).examples[0].negatives == ["c", "d"]


def test_margin_also_lowers_a_negative_positive_score() -> None:
    behind = {"p": 120.0, "slightly": 121.0, "far": 150.0}
    assert mine(behind, [ask("1", "p")]).examples[0].negatives == ["far"]


def test_known_positives_of_the_same_query_are_no_negatives() -> None:
    mined = mine(FAN, [ask("1", "p"), ask("2", "a")])
    assert "a" not in mined.examples[0].negatives


def test_labels_of_another_split_are_known_too() -> None:
    config = MineConfig(num_negatives=3)
    miner = Miner([Passage(name, name) for name in FAN], AngleTeacher(FAN | {"q": 0.0}), config, seed=7)
    assert "a" not in miner.mine([ask("1", "p")], labels=[ask("2", "a")]).examples[0].negatives


def test_positives_that_an_example_lost_to_another_split_are_no_negatives() -> None:
    lost = replace(ask("1", "p", negatives=["b", "c"]), known=["a", "b"])
    assert mine(FAN, [lost]).examples[0].negatives == ["c", "d"]
    assert mine(FAN, [lost, ask("2", "p")]).examples[1].negatives == ["c", "d"]


def test_a_passage_with_the_text_of_a_positive_is_no_negative_and_equal_texts_count_once() -> None:
    passages = [Passage("p", "p"), Passage("twin", "p", title="other"), Passage("a", "a"), Passage("a2", "a"), Passage("b", "b")]
    teacher = AngleTeacher({"p": 20.0, "other\np": 20.0, "a": 40.0, "b": 50.0, "q": 0.0})
    mined = Miner(passages, teacher, MineConfig(relative_margin=0, num_negatives=5), seed=0).mine([ask("1", "p"), ask("2", "twin")])
    assert [e.negatives for e in mined.examples] == [["a", "b"], ["a", "b"]]


def test_rank_window_counts_only_passages_that_are_no_positives() -> None:
    mined = mine(FAN, [ask("1", "p")], min_rank=3, max_rank=5, num_negatives=2)
    assert mined.examples[0].negatives == ["b", "c"]  # near, close and a are ranks 1 to 3
    assert mined.counts["skipped_margin"] == 0


def test_given_negatives_stay_in_front_without_repeats() -> None:
    mined = mine(FAN, [ask("1", "p", negatives=["d", "near", "p"])])
    assert mined.examples[0].negatives == ["d", "near", "a"]
    assert mined.counts["given"] == 2


def test_given_negatives_are_kept_beyond_the_wanted_number() -> None:
    mined = mine(FAN, [ask("1", "p", negatives=["a", "b", "c", "d"])])
    assert mined.examples[0].negatives == ["a", "b", "c", "d"]


def test_what_only_the_other_instruction_wants_comes_first() -> None:
    original = ask("1-og", "p", "d", instruction="all", pair="1")
    changed = ask("1-changed", "p", instruction="narrow", pair="1", negatives=["c"])
    mined = mine(FAN, [original, changed]).examples
    assert mined[1].negatives == ["d", "c", "a"]
    assert "p" not in mined[0].negatives and "d" not in mined[0].negatives


def test_two_queries_of_a_pair_with_one_instruction_share_their_positives() -> None:
    mined = mine(FAN, [ask("1", "p", pair="1"), ask("2", "a", query="r", pair="1")], {"q": 0.0, "r": 0.0})
    assert "a" not in mined.examples[0].negatives


def test_queries_with_fewer_or_no_negatives_are_counted() -> None:
    mined = mine({"p": 20.0, "a": 40.0}, [ask("1", "p"), ask("2", "a", query="r")], {"q": 0.0, "r": 0.0})
    assert [e.negatives for e in mined.examples] == [["a"], []]
    assert (mined.counts["short"], mined.counts["bare"]) == (2, 1)


def test_random_sampling_depends_on_seed_and_example_but_not_on_order() -> None:
    ring = {f"p{angle}": float(angle) for angle in range(0, 90, 2)}
    examples = [ask(str(i), "p0", query=f"q{i}") for i in range(6)]
    queries = {f"q{i}": 0.0 for i in range(6)}
    forward = mine(ring, examples, queries, sampling="random").examples
    backward = mine(ring, examples[::-1], queries, sampling="random").examples[::-1]
    assert forward == backward
    assert len({tuple(e.negatives) for e in forward}) > 1
    assert all(e.negatives == sorted(e.negatives, key=lambda name: ring[name]) for e in forward)


def test_corpus_is_encoded_once_and_queries_in_batches_of_the_search() -> None:
    teacher = AngleTeacher(FAN | {"q": 0.0})
    miner = Miner([Passage(name, name) for name in FAN], teacher, MineConfig(num_negatives=3, search_batch_size=4), seed=0)
    miner.mine([ask(str(i), "p") for i in range(10)])
    miner.mine([ask(str(i), "a") for i in range(10)])
    assert (teacher.corpus_passes, teacher.longest_batch) == (1, 4)


def test_an_unknown_passage_is_named() -> None:
    with pytest.raises(DataError, match="example '1' names passage 'lost'"):
        mine(FAN, [ask("1", "lost")])


def test_no_examples_give_no_negatives() -> None:
    assert mine(FAN, []).examples == []


def test_window_smaller_than_the_wanted_number_is_refused() -> None:
    with pytest.raises(ValueError, match="raise max_rank"):
        MineConfig(num_negatives=10, min_rank=95, max_rank=100)


def by_hand(angles: Mapping[str, float], query: float, positive: str, config: MineConfig) -> list[str]:
    """The definition, one passage at a time."""
    score = {name: float(np.cos(np.radians(angle - query))) for name, angle in angles.items()}
    ranked = sorted((name for name in angles if name != positive), key=lambda name: -score[name])
    window = ranked[config.min_rank : config.max_rank]
    bar = score[positive] - abs(score[positive]) * config.relative_margin
    return [name for name in window if score[name] < bar][: config.num_negatives]


@given(
    angles=st.lists(st.integers(0, 179), min_size=2, max_size=40, unique=True), query=st.integers(-3, 3), batch=st.integers(1, 5),
    window=st.tuples(st.integers(0, 5), st.integers(1, 10)), margin=st.sampled_from([0.0, 0.03, 0.2]),
)
def test_mining_equals_its_definition(angles: list[int], query: int, batch: int, window: tuple[int, int], margin: float) -> None:
    # Irrational offset: no two passages tie, and no score sits on the threshold.
    corpus = {f"p{angle}": angle + 0.0137 * i for i, angle in enumerate(angles)}
    config = MineConfig(num_negatives=window[1], min_rank=window[0], max_rank=sum(window), relative_margin=margin, search_batch_size=batch)
    queries = {f"q{i}": query + 0.31 * i + 0.123 for i in range(7)}
    examples = [ask(name, list(corpus)[i % len(corpus)], query=name) for i, name in enumerate(queries)]
    miner = Miner([Passage(name, name) for name in corpus], AngleTeacher(corpus | queries), config, seed=0)
    for example in miner.mine(examples).examples:
        assert example.negatives == by_hand(corpus, queries[example.query], example.positives[0], config)
