"""The names of the metrics, and a light way to nDCG@10 for loops that cannot afford to import mteb."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pytrec_eval
from numpy.typing import NDArray

from phasor.data.records import Example

Qrels = dict[str, dict[str, int]]
"""Query id to passage id to grade."""
Run = dict[str, dict[str, float]]
"""Query id to passage id to score."""
PerQuery = dict[str, NDArray[np.float64]]
"""Metric to one value per query (per pair for p_mrr), in the order of the test set."""

METRICS = {"ndcg_at_10": "nDCG@10", "recall_at_100": "Recall@100", "mrr_at_10": "MRR@10", "p_mrr": "p-MRR"}
"""Key to printed name. Fractions; p_mrr lies in [-1, 1] and exists only where queries come in pairs."""
MAIN_METRIC = "ndcg_at_10"


@dataclass(frozen=True)
class Pair:
    """Two queries that differ only in instruction, and what the change makes irrelevant. FollowIR, arXiv 2403.15246.

    Attributes:
        original, changed: query ids.
        dropped: passages relevant to the original query and not to the changed one.
    """

    original: str
    changed: str
    dropped: tuple[str, ...]


def qrels_of(examples: Iterable[Example]) -> Qrels:
    """Binary judgements of an example table."""
    return {example.id: dict.fromkeys(example.positives, 1) for example in examples}


def pairs_of(examples: Iterable[Example]) -> list[Pair]:
    """The instruction pairs of a test set, in order; a pair that drops no passage cannot be scored and is left out."""
    halves: dict[str, dict[str, Example]] = {}
    for example in examples:
        if example.pair_id:
            halves.setdefault(example.pair_id, {})["original" if example.id.endswith("-og") else "changed"] = example
    pairs = []
    for half in halves.values():
        if len(half) == 2:
            dropped = [p for p in half["original"].positives if p not in half["changed"].positives]
            if dropped:
                pairs.append(Pair(half["original"].id, half["changed"].id, tuple(dropped)))
    return pairs


def ndcg_at_10(qrels: Qrels, run: Mapping[str, Mapping[str, float]]) -> NDArray[np.float64]:
    """nDCG@10 of every judged query by trec_eval, in the order of `qrels`; a query without a run scores 0."""
    judged = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"}).evaluate(run)
    return np.array([judged[query]["ndcg_cut_10"] if query in judged else 0.0 for query in qrels])
