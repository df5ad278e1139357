"""Positive-aware hard negatives by exact search, with memory bounded by one batch of queries.

A mined negative is a passage that the teacher ranks high for a query, that is no known positive of it, and that
scores clearly below the weakest positive. Passages with the same text count as one.

Source: NV-Retriever (arXiv 2407.15831) section 3, method TopK-PercPos.
"""

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import faiss
import numpy as np
from numpy.typing import NDArray

from phasor.config.data import MineConfig
from phasor.data.records import Example, Passage
from phasor.data.templates import render_passage
from phasor.errors import DataError
from phasor.progress import progress

if TYPE_CHECKING:
    from phasor.data.teachers import TeacherModel

# Shapes: B queries of one search batch, K candidates of a query, N distinct texts, D embedding size.
Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Mined:
    """Examples with negatives, hardest first, and what happened on the way.

    Attributes:
        examples: as given, in order, with `negatives` filled.
        counts: `negatives` in all, of which `given`; `skipped_margin` candidates too close to a positive;
            `short` queries with fewer negatives than wanted, of which `bare` have none.
    """

    examples: list[Example]
    counts: dict[str, int]


@dataclass(frozen=True)
class _Known:
    """What the labels already say about one example, as rows of distinct texts."""

    positives: list[int]
    given: list[int]
    excluded: set[int]


class Miner:
    """Finds hard negatives in one corpus, which is encoded once.

    Args:
        passages: the corpus.
        teacher: model whose ranking decides what is hard.
        config: margin, rank window and numbers.
        seed: for `sampling="random"`; each example draws from its own stream, so order does not matter.
    """

    def __init__(self, passages: Sequence[Passage], teacher: "TeacherModel", config: MineConfig, seed: int) -> None:
        self._teacher, self._config, self._seed = teacher, config, seed
        distinct: dict[str, int] = {}
        self._row_of = {p.id: distinct.setdefault(p.text, len(distinct)) for p in passages}
        self._id_of = [""] * len(distinct)
        for passage in reversed(passages):
            self._id_of[self._row_of[passage.id]] = passage.id
        texts = {self._row_of[p.id]: render_passage(p) for p in reversed(passages)}
        vectors_ND = np.ascontiguousarray(teacher.encode_documents([texts[row] for row in range(len(texts))]), dtype=np.float32)
        self._index = faiss.IndexFlatIP(vectors_ND.shape[1])
        self._index.add(vectors_ND)
        # A view of the index's own copy: the corpus is held once.
        self._vectors_ND = faiss.rev_swig_ptr(self._index.get_xb(), vectors_ND.size).reshape(vectors_ND.shape)

    def mine(self, examples: Sequence[Example], labels: Sequence[Example] = ()) -> Mined:
        """Fill the negatives of all examples.

        In front stand the negatives given by the labels: what only the other instruction of a pair wants, then the
        example's own. Mined ones follow until there are `num_negatives`.

        Args:
            examples: what gets negatives.
            labels: further examples whose positives are known too, for example other splits.

        Raises:
            DataError: an example names a passage that the corpus does not hold.
        """
        known = self._known(examples, labels)
        counts: Counter[str] = Counter(negatives=0, given=0, skipped_margin=0, short=0, bare=0)
        mined: list[Example] = []
        with progress(len(examples), "mine", "query") as bar:
            for start in range(0, len(examples), self._config.search_batch_size):
                batch = examples[start : start + self._config.search_batch_size]
                about = known[start : start + len(batch)]
                for example, facts, rows in zip(batch, about, self._search(batch, about, counts), strict=True):
                    negatives = [self._id_of[row] for row in [*facts.given, *rows]]
                    counts["negatives"] += len(negatives)
                    counts["given"] += len(facts.given)
                    counts["short"] += len(negatives) < self._config.num_negatives
                    counts["bare"] += not negatives
                    mined.append(replace(example, negatives=negatives))
                bar.update(len(batch))
        return Mined(mined, dict(counts))

    def _known(self, examples: Sequence[Example], labels: Sequence[Example]) -> list[_Known]:
        by_query: dict[str, set[int]] = defaultdict(set)
        by_pair: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for example in [*examples, *labels]:
            rows = self._rows(example, example.positives)
            by_query[example.query].update(rows, self._rows(example, example.known))
            if example.pair_id:
                by_pair[example.pair_id][example.instruction].extend(rows)
        known = []
        for example in examples:
            rows = self._rows(example, example.positives)
            others = by_pair[example.pair_id] if example.pair_id else {}
            wanted = {*rows, *self._rows(example, example.known), *others.get(example.instruction, ())}
            elsewhere = [row for instruction, found in others.items() if instruction != example.instruction for row in found]
            own = self._rows(example, example.negatives)
            given = list(dict.fromkeys(row for row in [*elsewhere, *own] if row not in wanted))
            known.append(_Known(rows, given, by_query[example.query] | wanted | set(given)))
        return known

    def _rows(self, example: Example, ids: Sequence[str]) -> list[int]:
        try:
            return [self._row_of[passage_id] for passage_id in ids]
        except KeyError as error:
            raise DataError(
                f"mine: example {example.id!r} names passage {error}, which the corpus does not hold. Run collect again."
            ) from None

    def _search(self, batch: Sequence[Example], known: Sequence[_Known], counts: Counter[str]) -> Iterator[list[int]]:
        """Rows of the mined negatives of every query of the batch, hardest first."""
        queries_BD = np.ascontiguousarray(self._teacher.encode_queries([e.query for e in batch]), dtype=np.float32)
        depth = min(len(self._id_of), self._config.max_rank + max(len(k.excluded) for k in known))
        scores_BK, rows_BK = self._index.search(queries_BD, depth)
        free_BK = ~_is_excluded(rows_BK, known, len(self._id_of))
        rank_BK = np.cumsum(free_BK, axis=1)
        window_BK = free_BK & (rank_BK > self._config.min_rank) & (rank_BK <= self._config.max_rank)
        clear_BK = scores_BK < self._thresholds(queries_BD, known)[:, None]
        counts["skipped_margin"] += int((window_BK & ~clear_BK).sum())
        candidates_BK = window_BK & clear_BK
        for example, facts, rows_K, allowed_K in zip(batch, known, rows_BK, candidates_BK, strict=True):
            wanted = max(self._config.num_negatives - len(facts.given), 0)
            yield self._choose(example, rows_K[allowed_K], wanted)

    def _thresholds(self, queries_BD: Floats, known: Sequence[_Known]) -> Floats:
        """Score [B] that a negative must stay below: the weakest positive's, less the margin."""
        owner = np.repeat(np.arange(len(known)), [len(k.positives) for k in known])
        flat = np.array([row for k in known for row in k.positives])
        scores = np.einsum("pd,pd->p", queries_BD[owner], self._vectors_ND[flat])
        weakest_B: Floats = np.full(len(known), np.inf, dtype=np.float32)
        np.minimum.at(weakest_B, owner, scores)
        # Less |score| * margin, not times (1 - margin): that would raise the bar for a negative score.
        thresholds_B: Floats = (weakest_B - np.abs(weakest_B) * self._config.relative_margin).astype(np.float32)
        return thresholds_B

    def _choose(self, example: Example, rows: Rows, wanted: int) -> list[int]:
        if self._config.sampling == "random" and len(rows) > wanted:
            stream = np.random.default_rng([self._seed, zlib.crc32(example.id.encode())])
            rows = rows[np.sort(stream.choice(len(rows), size=wanted, replace=False))]
        chosen: list[int] = rows[:wanted].tolist()
        return chosen


def _is_excluded(rows_BK: Rows, known: Sequence[_Known], num_rows: int) -> NDArray[np.bool_]:
    """Whether a candidate is excluded for its query, [B, K]; one sorted list of (query, row) keys serves the batch."""
    keys_BK = rows_BK + np.arange(len(known))[:, None] * num_rows
    excluded = np.array(sorted(b * num_rows + row for b, k in enumerate(known) for row in k.excluded))
    place_BK = np.minimum(np.searchsorted(excluded, keys_BK), len(excluded) - 1)
    found: NDArray[np.bool_] = excluded[place_BK] == keys_BK
    return found
