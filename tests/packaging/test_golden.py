from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from phasor.data.records import Example, Passage
from phasor.errors import ArtifactError, DataError, ModelError
from phasor.packaging.golden import GOLDEN, Probe, choose_probes, decode_vector, encode_vector, make_golden, read_golden
from phasor.packaging.parity import check_parity

from .conftest import PROBES, Built

Make = Callable[..., Built]


def _task(name: str, count: int) -> tuple[list[Passage], list[Example]]:
    corpus = [Passage(f"{name}{i}", f"text {name} {i}", title="head") for i in range(count)]
    return corpus, [Example(f"e{name}{i}", f"query {i}", "find", [f"{name}{i}"]) for i in range(count)]


def test_the_tasks_take_turns_and_the_choice_is_seeded() -> None:
    tasks = {"a": _task("a", 9), "b": _task("b", 2)}
    chosen = choose_probes(tasks, 6, seed=1)
    assert [p.document.split()[2] for p in chosen] == ["a", "b", "a", "b", "a", "a"]
    assert chosen[0].document.startswith("head\ntext a")
    assert chosen == choose_probes(tasks, 6, seed=1) != choose_probes(tasks, 6, seed=2)


def test_without_any_dev_example_there_is_nothing_to_compare() -> None:
    with pytest.raises(DataError, match="no task has a dev example"):
        choose_probes({"a": ([], [])}, 4, seed=0)


def test_a_vector_comes_back_bit_by_bit() -> None:
    vector = np.random.default_rng(0).standard_normal(7).astype(np.float32)
    np.testing.assert_array_equal(decode_vector(encode_vector(vector)), vector)


def test_long_texts_are_shortened_until_every_runtime_reads_them_whole(make_bundle: Make) -> None:
    built = make_bundle("qwen2")
    long = Probe("Find it.", "which words " * 400, " the answer in words \n" * 400)
    golden = make_golden([long, *PROBES], built.embedder, built.reranker)
    assert built.reranker is not None
    for query in golden.queries:
        assert len(built.embedder.query_tokens([query.query], [query.instruction])[0]) < 100
    for pair in golden.pairs:
        head = built.reranker.head_tokens([pair.query], [pair.instruction])[0]
        assert len(head) + len(built.reranker.document_tokens([pair.document])[0]) + len(built.reranker.tail) < 200
    texts = [d.text for d in golden.documents] + [q.query for q in golden.queries]
    assert all(text == text.strip() for text in texts)


def test_missing_or_foreign_golden_answers_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"{GOLDEN} is missing"):
        read_golden(tmp_path)
    (tmp_path / GOLDEN).write_text("{}")
    with pytest.raises(ArtifactError, match=f"{GOLDEN} was not written by this version"):
        read_golden(tmp_path)


@pytest.mark.parametrize("part", ["vector", "score"])
def test_a_bundle_that_means_something_else_is_refused(make_bundle: Make, part: str) -> None:
    built = make_bundle("qwen2")
    golden = read_golden(built.folder)
    if part == "vector":
        golden.queries[0].vector = golden.queries[1].vector
    else:
        golden.pairs[0].score = float("nan")
    with pytest.raises(ModelError, match=f"{part}_difference"):
        check_parity(built.folder, golden)
