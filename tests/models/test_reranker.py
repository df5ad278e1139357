"""The reranker against plain `model(...)` of transformers, pair by pair."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from phasor.config.model import ModelConfig
from phasor.data.templates import render_pair
from phasor.errors import ModelError
from phasor.models.reranker import Reranker

from .conftest import TEXTS, MakeModel

CONFIG = ModelConfig(template="brief", max_pair_tokens=40)


def plain(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, instruction: str, query: str, document: str) -> float:
    """Probability of yes from the whole vocabulary's logits at the last token of one pair."""
    head, body, tail = (tokenizer(part, add_special_tokens=False).input_ids for part in render_pair("brief", instruction, query, document))
    ids = head + body[: CONFIG.max_pair_tokens - len(head) - len(tail)] + tail
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
    answers = [tokenizer.convert_tokens_to_ids(word) for word in ("no", "yes")]
    return float(logits[answers].softmax(0)[1])


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
@pytest.mark.parametrize("layers", [1, 3])
def test_shared_prefixes_equal_whole_pairs_of_the_plain_model(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, kind: str, layers: int
) -> None:
    model = make_model(kind, head=True, layers=layers)
    reranker = Reranker(model, tokenizer, CONFIG)
    queries, documents = ["tin", "where is the orchid"], list(reranker.document_tokens(TEXTS))
    expected = [[plain(model, tokenizer, "find it", query, text) for text in TEXTS] for query in queries]
    for query, row in zip(queries, expected, strict=True):
        np.testing.assert_allclose(reranker.score("find it", query, TEXTS), row, atol=1e-5)
        assert np.ptp(row) > 0.01
    heads = list(reranker.head_tokens(queries, ["find it"] * 2))
    chances = 1 / (1 + np.exp(-reranker.logit_lists(heads, [documents, documents[:1]])))
    np.testing.assert_allclose(chances, [*expected[0], expected[1][0]], atol=1e-5)


def test_an_unsupported_architecture_gives_the_same_scores(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    fast = Reranker(make_model("qwen2", head=True), tokenizer, CONFIG)
    slow = Reranker(make_model("qwen2", head=True, attention_dropout=0.5), tokenizer, CONFIG)  # dropout needs the library's own attention
    np.testing.assert_allclose(slow.score("find", "tin", TEXTS), fast.score("find", "tin", TEXTS), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_a_score_does_not_depend_on_the_other_documents(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, batch_size: int) -> None:
    reranker = Reranker(make_model("qwen2", head=True), tokenizer, CONFIG)
    together = reranker.score("find", "tin", TEXTS, batch_size)
    alone = [float(reranker.score("find", "tin", [text])[0]) for text in TEXTS]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(reranker.score("find", "tin", TEXTS[::-1], batch_size), together[::-1], atol=1e-5)


def test_a_query_as_long_as_the_pair_still_gets_a_score(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("qwen2", head=True)
    scores = Reranker(model, tokenizer, CONFIG).score("find", "pepper " * 200, TEXTS)
    assert np.ptp(scores) < 1e-6  # sums of equal rows may be taken in another order
    assert 0 < scores[0] < 1


def test_only_the_document_is_cut(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    reranker = Reranker(make_model("qwen2", head=True), tokenizer, CONFIG)
    head, document = reranker.head_tokens(["tin"], ["find"])[0], reranker.document_tokens(["lantern " * 90])[0]
    pair = reranker.pair(head, document)
    assert len(pair) == CONFIG.max_pair_tokens
    assert pair[: len(head)].tolist() == head.tolist()
    assert pair[-len(reranker.tail) :].tolist() == reranker.tail.tolist()


def test_yes_and_no_are_single_tokens(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    reranker = Reranker(make_model("qwen2", head=True), tokenizer, CONFIG)
    assert [tokenizer.decode([i]) for i in reranker.answers] == ["no", "yes"]
    assert [len(tokenizer(word).input_ids) for word in ("no", "yes")] == [1, 1]


def test_a_tokenizer_that_splits_the_answers_is_refused(make_model: MakeModel) -> None:
    letters = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({c: i for i, c in enumerate("noyes")}, unk_token="n")))
    with pytest.raises(ModelError, match="'no' is not a single token.*Choose another backbone for model.rerank"):
        Reranker(make_model("qwen2", head=True), letters, CONFIG)


def test_a_model_that_cannot_answer_is_refused(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ModelError, match="Qwen2Model has no language-model head"):
        Reranker(make_model("qwen2"), tokenizer, CONFIG)


def test_no_documents_give_no_scores(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    assert Reranker(make_model("qwen2", head=True), tokenizer, CONFIG).score("find", "tin", []).shape == (0,)
