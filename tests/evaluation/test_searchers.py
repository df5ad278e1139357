import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.evaluation.world import passages

from phasor.data.templates import render_document
from phasor.evaluation.searchers import CorpusTokens, RerankerSearcher
from phasor.models.loading import load_model
from phasor.models.reranker import Reranker
from phasor.models.tokenizer import train_tokenizer
from phasor.recipe import Recipe

World = tuple[Path, Recipe]
CORPUS = passages("basic")
TEXTS = [render_document(p.title, p.text) for p in CORPUS]


@pytest.fixture(scope="module")
def rerankers(finished: World) -> dict[str, Reranker]:
    work, recipe = finished
    return {name: Reranker(*load_model(work / "rerank" / name, "rerank"), recipe.model.rerank) for name in ("warmup", "enhanced")}


def test_the_corpus_is_tokenised_once_for_models_with_one_tokenizer(rerankers: dict[str, Reranker], finished: World) -> None:
    shared = CorpusTokens()
    first = shared.of(rerankers["warmup"], TEXTS)
    assert shared.of(rerankers["enhanced"], TEXTS) is first
    other = Reranker(rerankers["warmup"].model, train_tokenizer(["yes no other words"] * 3, 330), finished[1].model.rerank)
    again = shared.of(other, TEXTS)
    assert not np.array_equal(again.values, first.values)
    np.testing.assert_array_equal(again[3], other.document_tokens(TEXTS[3:4])[0])


def test_pairs_batched_across_queries_score_as_one_query_at_a_time(rerankers: dict[str, Reranker]) -> None:
    reranker, done = rerankers["enhanced"], []
    queries, instructions = [f"about {p.title}" for p in CORPUS[:30]], [f"find page {i % 4}" for i in range(30)]
    ids = [f"q{i}" for i in range(30)]
    candidates = {q: [p.id for p in CORPUS[i % 7 : i % 7 + i % 9]] for i, q in enumerate(ids)}  # from none to eight
    searcher = RerankerSearcher("x", reranker, 4, 5, CorpusTokens(), done.append)
    searcher._ids, searcher._texts = [p.id for p in CORPUS], TEXTS
    run = searcher.rank(ids, queries, instructions, 7, candidates)
    text = dict(zip(searcher._ids, TEXTS, strict=True))
    for query_id, query, instruction in zip(ids, queries, instructions, strict=True):
        head = candidates[query_id][:5]
        alone = reranker.logits(instruction, query, [text[p] for p in head])
        np.testing.assert_allclose([run[query_id][p] for p in head], alone, atol=1e-5)
        assert [p for p in sorted(run[query_id], key=run[query_id].__getitem__, reverse=True) if p not in head] == candidates[query_id][5:7]
        assert all(run[query_id][p] < min(alone) for p in candidates[query_id][5:7])
    assert sum(done) == 30


def test_pairs_that_are_all_but_certain_keep_their_order(rerankers: dict[str, Reranker]) -> None:
    """As probabilities in float32 they are all 1, and a tie is ordered by name."""
    reranker = copy.deepcopy(rerankers["enhanced"])
    with torch.no_grad():
        reranker.model.get_output_embeddings().weight.mul_(1000)
    searcher = RerankerSearcher("x", reranker, 4, 8, CorpusTokens(), lambda _: None)
    searcher._ids, searcher._texts = [p.id for p in CORPUS], TEXTS
    candidates = [p.id for p in CORPUS[:8]]
    run = searcher.rank(["q"], ["about it"], ["find"], 8, {"q": candidates})["q"]
    assert min(abs(logit) for logit in run.values()) > 20 and len(set(run.values())) == 8
