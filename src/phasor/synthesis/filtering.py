"""Which synthetic rows are kept: well-formed, found by the teacher, new, and unlike anything that is evaluated on."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phasor.config.data import FilterConfig
from phasor.data.near_duplicates import duplicates_of, duplicates_within, words
from phasor.data.records import Example, Passage
from phasor.data.teachers import TeacherModel, Vectors
from phasor.data.templates import render_passage
from phasor.synthesis.checks import format_error
from phasor.synthesis.rows import SyntheticRow

_SEARCH_BATCH = 1024
_MAX_RANK = 1000
_SCORE_TIE = 1e-6  # two passages of the same text differ by rounding


@dataclass(frozen=True)
class Context:
    """What a row is judged against.

    Attributes:
        corpus: every passage of the task.
        train: its collected training examples.
        evaluated: its dev, held-out and test examples.
    """

    corpus: Sequence[Passage]
    train: Sequence[Example]
    evaluated: Sequence[Example]


@dataclass(frozen=True)
class Judged:
    """Result of the filter, row by row.

    Attributes:
        reasons: the first reason to drop each row; "" if it is kept.
        ranks: of a row's passage for its query, from 1; at most `worst_rank`. 0 if the row was not searched.
        worst_rank: stands for everything from there on.
        vectors: of the queries that were searched, in order of their rows.
    """

    reasons: list[str]
    ranks: list[int]
    worst_rank: int
    vectors: Vectors


def judge(rows: Sequence[SyntheticRow], context: Context, teacher: TeacherModel | None, config: FilterConfig) -> Judged:
    """Apply every check, in the order in which reasons take precedence.

    Args:
        rows: the raw queries.
        context: what they must agree with and differ from.
        teacher: ranks the corpus for the consistency check; may be None if no row is well-formed.
        config: thresholds.
    """
    passages = {p.id: p for p in context.corpus}
    reasons = [format_error(row, passages[row.passage_id], config) if row.passage_id in passages else "unknown_passage" for row in rows]
    searched = [i for i, reason in enumerate(reasons) if not reason]
    ranks = [0] * len(rows)
    worst_rank = min(len(context.corpus), max(_MAX_RANK, config.consistency_top_k)) + 1
    vectors: Vectors = np.zeros((0, 1), dtype=np.float32)
    if searched:
        assert teacher is not None
        vectors = teacher.encode_queries([rows[i].query for i in searched])
        position = {p.id: row for row, p in enumerate(context.corpus)}
        found = rank_passages(vectors, [position[rows[i].passage_id] for i in searched], context.corpus, teacher, worst_rank)
        for i, rank in zip(searched, found, strict=True):
            ranks[i] = rank
            reasons[i] = "inconsistent" if rank > config.consistency_top_k else ""
    for reason, repeated in _repetition_checks(context, passages, config):
        left = [i for i, found_reason in enumerate(reasons) if not found_reason]
        for i in repeated([rows[k] for k in left]):
            reasons[left[i]] = reason
    return Judged(reasons, ranks, worst_rank, vectors)


def rank_passages(vectors: Vectors, targets: Sequence[int], corpus: Sequence[Passage], teacher: TeacherModel, worst_rank: int) -> list[int]:
    """Rank of each query's own passage among the whole corpus.

    Args:
        vectors: queries [Q, D].
        targets: row of the own passage in the corpus, per query.
        worst_rank: given to every passage that is not found before it.

    Returns:
        1 + the number of passages with a higher score. A query with nothing in common with its passage gets `worst_rank`.
    """
    import faiss

    documents = np.ascontiguousarray(teacher.encode_documents([render_passage(p) for p in corpus]))
    index = faiss.IndexFlatIP(documents.shape[1])
    index.add(documents)
    ranks: list[int] = []
    for start in range(0, len(vectors), _SEARCH_BATCH):
        batch = np.ascontiguousarray(vectors[start : start + _SEARCH_BATCH])
        own = np.einsum("qd,qd->q", batch, documents[list(targets[start : start + len(batch)])])
        scores, _ = index.search(batch, worst_rank - 1)
        above = (scores > own[:, None] + _SCORE_TIE).sum(axis=1)
        ranks.extend(np.where(own > 0, above + 1, worst_rank).tolist())
    return ranks


Repeated = Callable[[Sequence[SyntheticRow]], Collection[int]]


def _repetition_checks(context: Context, passages: Mapping[str, Passage], config: FilterConfig) -> list[tuple[str, Repeated]]:
    """Reason and the function that names, of the rows still kept, the indices it applies to."""
    jaccard = config.near_duplicate_jaccard
    train = [e.query for e in context.train]
    evaluated = [e.query for e in context.evaluated]
    protected = [passages[p].text for p in dict.fromkeys(p for e in context.evaluated for p in e.positives if p in passages)]
    return [
        ("duplicate", lambda rows: _exact_repeats([row.query for row in rows])),
        ("near_duplicate", lambda rows: duplicates_within([row.query for row in rows], jaccard)),
        ("known_query", lambda rows: duplicates_of([row.query for row in rows], train, jaccard)),
        ("evaluation_query", lambda rows: duplicates_of([row.query for row in rows], evaluated, jaccard)),
        ("evaluation_passage", lambda rows: duplicates_of([passages[row.passage_id].text for row in rows], protected, jaccard)),
    ]


def _exact_repeats(queries: Sequence[str]) -> list[int]:
    seen: set[tuple[str, ...]] = set()
    repeats = []
    for i, query in enumerate(queries):
        key = tuple(words(query))
        if key in seen:
            repeats.append(i)
        seen.add(key)
    return repeats


def mean_distance(vectors: NDArray[np.float32]) -> float:
    """Mean cosine distance between two different rows of normalised vectors [N, D]; 0 for fewer than two."""
    number = len(vectors)
    if number < 2:
        return 0.0
    total = vectors.sum(axis=0, dtype=np.float64)
    own = float(np.square(vectors, dtype=np.float64).sum())
    return 1.0 - (float(total @ total) - own) / (number * (number - 1))
