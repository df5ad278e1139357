"""A task's test set as an mteb retrieval task, built in memory from our tables. The metrics are mteb's.

`mteb.evaluate` adds caching, model cards and multilingual merging that a test set of ours does not need; we call the
task's own `evaluate`, which is what it ends in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from mteb import TaskMetadata
from mteb._evaluators.retrieval_metrics import get_rank_from_dict, mrr, rank_score  # where mteb's own FollowIR tasks take them from
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.models import SearchProtocol

from phasor.data.records import Example, Passage, read_corpus, read_examples
from phasor.evaluation.metrics import Pair, PerQuery, Qrels, Run, pairs_of, qrels_of


@dataclass(frozen=True)
class TestSet:
    """A corpus with judged queries.

    Attributes:
        task: name of the task.
        passages: the whole corpus of the task; every split searches it.
        examples: queries in their fixed order.
    """

    __test__ = False  # not for pytest to collect

    task: str
    passages: Sequence[Passage]
    examples: Sequence[Example]

    @classmethod
    def read(cls, task: str, folder: Path, split: str = "test") -> "TestSet":
        """Read one split of a collect output."""
        return cls(task, read_corpus(folder / "corpus.parquet"), read_examples(folder / f"{split}.parquet"))

    @cached_property
    def qrels(self) -> Qrels:
        """Binary judgements."""
        return qrels_of(self.examples)

    @cached_property
    def pairs(self) -> list[Pair]:
        """Instruction pairs, for p-MRR."""
        return pairs_of(self.examples)


@dataclass(frozen=True)
class Result:
    """What one model did on one test set.

    Attributes:
        metrics: values per query, in the order of the test set.
        run: the scores it gave.
    """

    metrics: PerQuery
    run: Run = field(repr=False)


class RetrievalTask(AbsTaskRetrieval):  # type: ignore[misc, unused-ignore]
    """An mteb task over a test set of ours.

    Args:
        test: corpus and judged queries.
        top_k: passages a run holds per query.
    """

    def __init__(self, test: TestSet, top_k: int = 100) -> None:
        self.metadata = TaskMetadata(
            name=f"Phasor-{test.task}", description="Test set of a Phasor run.", type="Retrieval", category="t2t",
            dataset={"path": "phasor", "revision": "1"}, eval_splits=["test"], eval_langs=["eng-Latn"], main_score="ndcg_at_10",
        )
        super().__init__()
        self.k_values = tuple(sorted({1, 10, 100, top_k}))
        self._top_k = top_k
        self.test = test
        self.dataset = {"default": {"test": _split(test)}}
        self.data_loaded = True
        self._result: Result | None = None

    def measure(self, searcher: SearchProtocol, top_ranked: Mapping[str, list[str]] | None = None) -> Result:
        """Run a searcher over the test set; `top_ranked` limits every query to a first stage's passages."""
        known = {example.id: example.known for example in self.test.examples if example.known}
        self.dataset["default"]["test"]["top_ranked"] = top_ranked
        self.evaluate(_Unjudging(searcher, known) if known else searcher, "test", encode_kwargs={})
        assert self._result is not None
        return self._result

    def task_specific_scores(
        self, scores: dict[str, dict[str, float]], qrels: Any, results: Run, hf_split: str, hf_subset: str
    ) -> dict[str, float]:
        """Keep what mteb would average away: values per query, and the run. Called by mteb."""
        reciprocal = dict(zip(results, mrr(qrels, results, [10])["MRR@10"], strict=True))
        order = [example.id for example in self.test.examples]
        metrics = {
            "ndcg_at_10": _values(order, scores, "ndcg_cut_10"),
            "recall_at_100": _values(order, scores, "recall_100"),
            "mrr_at_10": np.array([reciprocal[query] for query in order]),
        }
        if self.test.pairs:
            metrics["p_mrr"] = np.array([p_mrr(pair, results) for pair in self.test.pairs])
        self._result = Result(metrics, results)
        return {"p_mrr": float(metrics["p_mrr"].mean())} if self.test.pairs else {}


class _Unjudging:
    """A searcher whose lists leave out what is known to be relevant and cannot be judged.

    Args:
        searcher: makes the lists.
        known: per query id, relevant passages of other splits: right to find, but models may have learned them.
    """

    def __init__(self, searcher: SearchProtocol, known: Mapping[str, Sequence[str]]) -> None:
        self._searcher, self._known = searcher, known
        self._most = max(map(len, known.values()))
        self.mteb_model_meta = searcher.mteb_model_meta
        self.index = searcher.index

    def search(self, queries: Any, *, top_k: int, **rest: Any) -> Run:
        """At most `top_k` passages per query, best first. Called by mteb."""
        run: Run = self._searcher.search(queries, top_k=top_k + self._most, **rest)
        return {query: self._judged(scores, self._known.get(query, ()), top_k) for query, scores in run.items()}

    @staticmethod
    def _judged(scores: Mapping[str, float], known: Sequence[str], top_k: int) -> dict[str, float]:
        best = sorted(scores.items(), key=lambda found: -found[1])
        return dict([(passage, score) for passage, score in best if passage not in known][:top_k])


def p_mrr(pair: Pair, run: Run) -> float:
    """Mean of FollowIR's rank score over the passages that a changed instruction makes irrelevant, in [-1, 1].

    Positive when they fall, negative when they rise, 0 when the instruction is ignored.

    Source:
        Weller et al. 2024 (arXiv:2403.15246), eq. 1, as computed by mteb.
    """
    changes = []
    for passage in pair.dropped:
        before, _ = get_rank_from_dict(run[pair.original], passage)
        after, _ = get_rank_from_dict(run[pair.changed], passage)
        changes.append(rank_score({"og_rank": before, "new_rank": after}))
    return float(np.mean(changes))


def _values(order: Sequence[str], scores: Mapping[str, Mapping[str, float]], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    # trec_eval leaves out a query whose run is empty; nothing found is 0, not nothing asked.
    return np.array([scores[query][name] if query in scores else 0.0 for query in order])


def _split(test: TestSet) -> RetrievalSplitData:
    return RetrievalSplitData(
        corpus=Dataset.from_dict({
            "id": [p.id for p in test.passages], "title": [p.title for p in test.passages], "text": [p.text for p in test.passages],
        }),
        queries=Dataset.from_dict({
            "id": [e.id for e in test.examples], "text": [e.query for e in test.examples],
            "instruction": [e.instruction for e in test.examples],
        }),
        relevant_docs=test.qrels,
        top_ranked=None,
    )
