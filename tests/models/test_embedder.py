"""The embedder against plain `model(...)` of transformers, text by text."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from phasor.config.model import ModelConfig
from phasor.data.templates import render_query
from phasor.errors import ModelError
from phasor.models.embedder import Embedder
from phasor.models.tokens import END_OF_TEXT

from .conftest import TEXTS, MakeModel

CONFIG = ModelConfig(max_query_tokens=24, max_passage_tokens=16, template="brief")


def plain_last(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text: str, limit: int) -> np.ndarray:
    """What section 3.1 of the paper says, for one text, without padding."""
    ids = tokenizer(text, add_special_tokens=False).input_ids[: limit - 1] + [tokenizer.eos_token_id]
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([ids])).last_hidden_state
    return F.normalize(hidden[0, -1], dim=-1).numpy()


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
@pytest.mark.parametrize("layers", [1, 3])
def test_vectors_equal_the_plain_model_on_each_text(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, kind: str, layers: int
) -> None:
    model = make_model(kind, layers=layers)
    embedder = Embedder(model, tokenizer, CONFIG)
    expected = np.stack([plain_last(model, tokenizer, text, CONFIG.max_passage_tokens) for text in TEXTS])
    np.testing.assert_allclose(embedder.encode_documents(TEXTS), expected, atol=1e-5)
    queries = [render_query("brief", "find it", text) for text in TEXTS]
    expected = np.stack([plain_last(model, tokenizer, text, CONFIG.max_query_tokens) for text in queries])
    np.testing.assert_allclose(embedder.encode_queries(TEXTS, ["find it"] * len(TEXTS)), expected, atol=1e-5)
    assert abs(expected @ expected.T).min() < 0.9


@pytest.mark.parametrize(("kind", "pooling"), [("qwen2", "last"), ("qwen2", "mean"), ("qwen3", "last"), ("bert", "mean"), ("bert", "cls")])
def test_a_batch_of_one_equals_a_batch_of_many(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, bert_tokenizer: PreTrainedTokenizerFast, kind: str, pooling: str
) -> None:
    config = CONFIG.model_copy(update={"pooling": pooling})
    embedder = Embedder(make_model(kind), bert_tokenizer if kind == "bert" else tokenizer, config)
    together = embedder.encode_documents(TEXTS)
    alone = np.concatenate([embedder.encode_documents([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(embedder.encode_documents(TEXTS, batch_size=1), alone, atol=1e-5)
    np.testing.assert_allclose(embedder.encode_documents(TEXTS[::-1]), together[::-1], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "bert"])
def test_gradients_equal_those_of_the_plain_model(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, bert_tokenizer: PreTrainedTokenizerFast, kind: str
) -> None:
    model = make_model(kind).double()
    pooling = "cls" if kind == "bert" else "last"
    embedder = Embedder(model, bert_tokenizer if kind == "bert" else tokenizer, CONFIG.model_copy(update={"pooling": pooling}))
    tokens = embedder.document_tokens(TEXTS[:3])
    batch = embedder.batch([tokens[i] for i in range(3)])
    direction = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    (embedder(batch) * direction).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    hidden = model(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
    states = hidden[:, 0] if pooling == "cls" else hidden[batch.last]
    (F.normalize(states.float(), dim=-1) * direction).sum().backward()
    assert found.keys() == {name for name, p in model.named_parameters() if p.grad is not None}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, model.get_parameter(name).grad, rtol=1e-4, atol=1e-5)


def test_eos_survives_truncation(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    embedder = Embedder(make_model("qwen2"), tokenizer, CONFIG)
    for tokens, limit in (
        (embedder.document_tokens(TEXTS), CONFIG.max_passage_tokens), (embedder.query_tokens(TEXTS, ["find"] * 6), CONFIG.max_query_tokens)
    ):
        assert tokens.lengths.max() == limit
        for i in range(len(TEXTS)):
            assert tokens[i][-1] == tokenizer.convert_tokens_to_ids(END_OF_TEXT)


def test_mean_pooling_ignores_padding(make_model: MakeModel, bert_tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("bert")
    embedder = Embedder(model, bert_tokenizer, CONFIG.model_copy(update={"pooling": "mean"}))
    found = embedder.encode_documents(TEXTS)
    for text, vector in zip(TEXTS, found, strict=True):
        ids = bert_tokenizer(text, truncation=True, max_length=CONFIG.max_passage_tokens, return_tensors="pt")
        assert ids.input_ids[0, 0] == bert_tokenizer.cls_token_id and ids.input_ids[0, -1] == bert_tokenizer.sep_token_id
        with torch.no_grad():
            hidden = model(input_ids=ids.input_ids).last_hidden_state[0]
        np.testing.assert_allclose(vector, F.normalize(hidden.mean(0), dim=-1).numpy(), atol=1e-5)


def test_a_text_of_which_nothing_is_left_has_no_direction(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    embedder = Embedder(make_model("qwen2"), tokenizer, CONFIG.model_copy(update={"pooling": "mean"}))
    nothing, tin = embedder.encode_documents(["(?)", "tin"])
    assert not nothing.any() and np.linalg.norm(tin) == pytest.approx(1)


def test_what_stands_in_the_padding_does_not_matter(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    for pooling in ("last", "mean"):
        embedder = Embedder(make_model("qwen2"), tokenizer, CONFIG.model_copy(update={"pooling": pooling}))
        tokens = embedder.document_tokens(TEXTS)
        batch = embedder.batch([tokens[i] for i in range(len(TEXTS))])
        with torch.no_grad():
            before = embedder(batch)
            batch.ids[batch.mask == 0] = 7
            torch.testing.assert_close(embedder(batch), before)


def test_the_instruction_changes_the_query_and_not_the_document(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    embedder = Embedder(make_model("qwen2"), tokenizer, CONFIG)
    one, other = (embedder.encode_queries(["tin"], [instruction])[0] for instruction in ("find copper", "the old wall"))
    assert one @ other < 0.999
    assert embedder.query_tokens(["tin"], ["x"])[0].tolist() != embedder.document_tokens(["tin"])[0].tolist()


def test_nothing_to_encode_gives_an_empty_matrix(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    assert Embedder(make_model("qwen2"), tokenizer, CONFIG).encode_documents([]).shape == (0, 16)


def test_a_tokenizer_without_an_end_is_refused(make_model: MakeModel) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ModelError, match="neither .*endoftext.* nor an EOS token.*pooling to mean"):
        Embedder(make_model("qwen2"), bare, CONFIG)
