"""How many test passages a model may have seen in training, under any task. Counted, not removed: collect removes."""

from collections.abc import Mapping, Sequence

from phasor.data.near_duplicates import duplicates_of
from phasor.data.records import Example, Passage
from phasor.data.templates import render_passage
from phasor.evaluation.scores import Contamination


def contamination(
    corpora: Mapping[str, Sequence[Passage]], tests: Mapping[str, Sequence[Example]],
    trains: Mapping[str, Sequence[Example]], jaccard: float,
) -> Contamination:
    """Compare every task's test positives with every task's training positives, own task included.

    Args:
        corpora, tests, trains: task to corpus, test examples and mined training examples.
        jaccard: similarity of word 5-shingles from which two texts are near-duplicates.

    Returns:
        Counts; a test passage that resembles several training passages counts once, for the most similar.
    """
    test_owners, test_texts = _positives(corpora, tests)
    train_owners, train_texts = _positives(corpora, trains)
    counts = {test: dict.fromkeys(trains, 0) for test in tests}
    for test_row, train_row in duplicates_of(test_texts, train_texts, jaccard).items():
        counts[test_owners[test_row]][train_owners[train_row]] += 1
    sizes = {task: test_owners.count(task) for task in tests}
    return Contamination(jaccard=jaccard, num_test_passages=sizes, near_duplicates=counts)


def _positives(corpora: Mapping[str, Sequence[Passage]], examples: Mapping[str, Sequence[Example]]) -> tuple[list[str], list[str]]:
    """Owning task and text of every distinct positive."""
    owners, texts = [], []
    for task, rows in examples.items():
        wanted = {passage for example in rows for passage in example.positives}
        for passage in corpora[task]:
            if passage.id in wanted:
                owners.append(task)
                texts.append(render_passage(passage))
    return owners, texts
