"""Batches: right tokens, right owners, the same over any number of ranks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from phasor.config.training import InfoNCEConfig, YesNoConfig
from phasor.data.records import Passage, write_corpus, write_examples
from phasor.errors import DataError
from phasor.training.data import EmbedBatch, EmbedSet, RerankBatch, RerankSet, TaskData, heldout_batches, make_set, read_task

from .world import CONFIG, first_step, make_network, make_task, make_tasks

LOSS, YES_NO = InfoNCEConfig(num_hard_negatives=1), YesNoConfig(num_hard_negatives=1, num_random_negatives=2)


def embed_set(task: TaskData | None = None, **options: object) -> EmbedSet:
    tasks = {"birds": task} if task else make_tasks()
    found = make_set(make_network("embed"), tasks, LOSS.model_copy(update=options), 0)
    assert isinstance(found, EmbedSet)
    return found


def rerank_set(task: TaskData | None = None) -> RerankSet:
    found = make_set(make_network("rerank"), {"birds": task} if task else make_tasks(), YES_NO, 0)
    assert isinstance(found, RerankSet)
    return found


def test_embed_batch_holds_queries_then_each_passage_once() -> None:
    batch = embed_set().batch(first_step())
    assert len(batch.sequences) == len(batch.target) + len(batch.passage)
    assert batch.passage.tolist() == sorted(set(batch.passage.tolist()))
    assert set(batch.target) | set(batch.own.ravel()) - {-1} == set(batch.passage)
    assert (batch.positives == batch.target[:, None]).all()
    assert not (batch.own == batch.target[:, None]).any()
    assert batch.own.shape == (6, 1)
    assert batch.in_batch
    assert not embed_set().batch(first_step(6, 1)).in_batch


def test_every_text_ends_in_eos() -> None:
    network = make_network("embed")
    for sequence in embed_set().batch(first_step()).sequences:
        assert sequence[-1] == network.tokenizer.eos_token_id
        assert (sequence[:-1] != sequence[-1]).all()


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_a_step_of_the_embedder(ranks: int) -> None:
    data = embed_set()
    whole, parts = data.batch(first_step()), [data.batch(first_step(), rank, ranks) for rank in range(ranks)]
    assert sorted(np.concatenate([p.target for p in parts])) == sorted(whole.target)
    assert set(np.concatenate([p.passage for p in parts])) == set(whole.passage)
    assert {p.num_examples for p in parts} == {6}


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_a_step_of_the_reranker(ranks: int) -> None:
    data = rerank_set()
    whole, parts = data.batch(first_step()), [data.batch(first_step(), rank, ranks) for rank in range(ranks)]
    assert sorted(tuple(s) for p in parts for s in p.sequences) == sorted(tuple(s) for s in whole.sequences)
    assert {p.num_pairs for p in parts} == {whole.num_pairs} == {len(whole.sequences)}


def test_rerank_batch_has_one_yes_per_query_and_random_negatives_of_the_task() -> None:
    batch = rerank_set().batch(first_step())
    assert batch.relevant.sum() == 6
    assert batch.relevant[0] == 1
    assert 12 < len(batch.sequences) <= 24
    network = make_network("rerank")
    texts = [network.tokenizer.decode(s) for s in batch.sequences]
    assert all("birds" in text and "herbs" not in text for text in texts)


def test_pairs_are_cut_inside_the_document() -> None:
    task = make_task("birds")
    long = {i: replace(p, text=p.text * 30) for i, p in task.passages.items()}
    batch = rerank_set(TaskData(task.examples, long)).batch(first_step())
    tail = make_network("rerank").tokenizer("\nRelevant:").input_ids
    assert {len(s) for s in batch.sequences} == {CONFIG.max_pair_tokens}
    assert all(s[-len(tail) :].tolist() == tail for s in batch.sequences)


def test_hard_negatives_change_from_step_to_step() -> None:
    data = embed_set(make_task("birds", negatives=5))
    drawn = [data.batch(replace(first_step(), number=n)).own.tolist() for n in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]


def test_equal_questions_share_their_positives() -> None:
    task = make_task("birds", 4)
    first, second, *others = task.examples
    twin = replace(second, query=first.query, negatives=[first.positives[0], "birds3"])
    batch = embed_set(TaskData([first, twin, *others], task.passages), num_hard_negatives=5).batch(first_step(2))
    assert batch.positives.shape == (2, 2)
    assert (np.sort(batch.positives, axis=1) == np.sort(batch.target)).all()
    assert batch.own[1].tolist().count(-1) == 1  # the other one's positive is no negative of the twin


def test_equal_texts_are_one_passage() -> None:
    task = make_task("birds", 4)
    passages = task.passages | {"copy": Passage("copy", task.passages["birds0"].text)}
    examples = [replace(task.examples[0], positives=["copy"], negatives=["birds0", "birds1"]), *task.examples[1:]]
    batch = embed_set(TaskData(examples, passages), num_hard_negatives=5).batch(first_step(1))
    assert len(batch.passage) == 2


def test_a_missing_passage_is_named() -> None:
    task = make_task("birds", 4)
    examples = [replace(task.examples[0], negatives=["gone"])]
    with pytest.raises(DataError, match="task 'birds': example 'q0' names passage 'gone'"):
        embed_set(TaskData(examples, task.passages))


def test_lengths_are_those_of_the_longest_text() -> None:
    data, longest = embed_set(), 0
    for example in range(len(data)):
        batch = data.batch(replace(first_step(), task=int(data.task[example]), examples=np.array([example])))
        assert max(len(s) for s in batch.sequences) <= data.lengths[example]
        longest = max(longest, int(data.lengths[example]))
    assert 10 < longest <= CONFIG.max_passage_tokens


def test_heldout_batches_take_every_example_once() -> None:
    batches = heldout_batches(make_network("embed"), make_tasks(10), LOSS, 4, 0)
    assert {task: [b.num_examples for b in found] for task, found in batches.items()} == {"birds": [4, 4, 2], "herbs": [4, 4, 2]}
    assert all(isinstance(b, EmbedBatch) for found in batches.values() for b in found)
    pairs = heldout_batches(make_network("rerank"), make_tasks(4), YES_NO, 4, 0)
    assert all(isinstance(b, RerankBatch) for found in pairs.values() for b in found)


def test_read_task_keeps_a_limited_choice(tmp_path: Path) -> None:
    task = make_task("birds")
    write_corpus(task.passages.values(), tmp_path / "corpus.parquet")
    write_examples(task.examples, tmp_path / "train.parquet")
    few, many = (read_task(tmp_path / "train.parquet", tmp_path / "corpus.parquet", True, limit, 0) for limit in (3, 7))
    assert few.examples == many.examples[:3]
    assert many.passages == task.passages


def test_no_examples_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    write_examples([], tmp_path / "train.parquet")
    with pytest.raises(DataError, match="holds no examples.*Add sources"):
        read_task(tmp_path / "train.parquet", tmp_path / "corpus.parquet", True)


def test_a_task_with_one_example_makes_a_batch() -> None:
    task = make_task("birds", 3)
    single = TaskData(task.examples[:1], task.passages)
    assert embed_set(single).batch(first_step(1)).num_examples == 1
    assert rerank_set(single).batch(first_step(1)).relevant.tolist()[0] == 1


def test_passages_known_from_other_splits_are_no_negatives_and_no_text_of_a_batch() -> None:
    task = make_task("birds", 6)
    first, second, *others = task.examples
    first = replace(first, known=[second.positives[0], "alone"], negatives=[second.positives[0], "birds3"])
    passages = task.passages | {"alone": Passage("alone", "a passage that no example names")}
    data = embed_set(TaskData([first, second, *others], passages), num_hard_negatives=5)
    batch = data.batch(first_step(2))
    assert len(batch.own[0][batch.own[0] >= 0]) == 1  # birds3
    assert batch.positives[0].tolist() == sorted([*batch.target])  # the other's positive is masked for the first
    network = make_network("embed")
    assert not any("no example names" in network.tokenizer.decode(data.batch(first_step(6)).sequences[i]) for i in range(6))
