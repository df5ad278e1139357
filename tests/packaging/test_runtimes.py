"""A bundle means the same to other libraries: vectors and scores equal ours."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from phasor.data.templates import render_pair
from phasor.packaging.golden import decode_vector, read_golden
from phasor.packaging.parity import check_parity

from .conftest import PROBES, Built

Make = Callable[..., Built]
EMBEDDERS = [("qwen2", "qwen"), ("qwen3", "qwen"), ("qwen2", "scratch"), ("bert", "bert")]
RERANKERS = [("qwen2", "instruct", "qwen"), ("qwen3", "qwen-chat", "qwen"), ("qwen2", "brief", "scratch"), ("qwen2", "plain", "qwen")]


@pytest.mark.parametrize(("kind", "tokenizer"), EMBEDDERS)
def test_sentence_transformer_gives_our_vectors(make_bundle: Make, kind: str, tokenizer: str) -> None:
    built = make_bundle(kind, tokenizer=tokenizer)
    model = SentenceTransformer(str(built.folder / "embed"), device="cpu")
    instruction = built.recipe.tasks["code"].instruction
    queries = [probe.query for probe in PROBES]
    documents = [probe.document for probe in PROBES]
    ours = built.embedder.encode_queries(queries, [instruction] * len(queries))
    np.testing.assert_allclose(model.encode_query(queries), ours, atol=1e-5)
    np.testing.assert_allclose(model.encode(queries, prompt_name="code"), ours, atol=1e-5)
    np.testing.assert_allclose(model.encode_document(documents), built.embedder.encode_documents(documents), atol=1e-5)
    assert np.abs(np.diff(ours, axis=0)).max() > 0.03  # the texts are told apart at all


def test_a_text_beyond_the_limit_ends_in_eos_all_the_same(make_bundle: Make) -> None:
    built = make_bundle("qwen2")
    long = " ".join(probe.document for probe in PROBES * 4)
    model = SentenceTransformer(str(built.folder / "embed"), device="cpu")
    np.testing.assert_allclose(model.encode_document([long]), built.embedder.encode_documents([long]), atol=1e-5)


@pytest.mark.parametrize(("kind", "template", "tokenizer"), RERANKERS)
def test_cross_encoder_gives_our_scores(make_bundle: Make, kind: str, template: str, tokenizer: str) -> None:
    built = make_bundle(kind, template=template, tokenizer=tokenizer)
    assert built.reranker is not None
    model = CrossEncoder(str(built.folder / "rerank"), device="cpu")
    spread = []
    for probe in PROBES:
        documents = [other.document for other in PROBES]
        ours = built.reranker.score(probe.instruction, probe.query, documents)
        found = model.predict([(probe.query, document) for document in documents], prompt=probe.instruction)
        np.testing.assert_allclose(found, ours, atol=1e-5)
        spread.extend(ours)
    assert np.ptp(spread) > 0.05


def test_cross_encoder_without_a_prompt_uses_the_first_task_instruction(make_bundle: Make) -> None:
    built = make_bundle("qwen2")
    assert built.reranker is not None
    model = CrossEncoder(str(built.folder / "rerank"), device="cpu")
    probe = PROBES[0]
    ours = built.reranker.score(built.recipe.tasks["code"].instruction, probe.query, [probe.document])
    np.testing.assert_allclose(model.predict([(probe.query, probe.document)]), ours, atol=1e-5)
    assert abs(ours - model.predict([(probe.query, probe.document)], prompt="Another thing entirely."))[0] > 1e-4


def test_a_pair_beyond_the_limit_keeps_its_tail(make_bundle: Make) -> None:
    built = make_bundle("qwen2")
    assert built.reranker is not None
    long = " ".join(probe.document for probe in PROBES * 8)
    model = CrossEncoder(str(built.folder / "rerank"), device="cpu")
    ours = built.reranker.score(PROBES[0].instruction, PROBES[0].query, [long])
    np.testing.assert_allclose(model.predict([(PROBES[0].query, long)], prompt=PROBES[0].instruction), ours, atol=1e-5)


@pytest.mark.parametrize(("kind", "template", "tokenizer"), RERANKERS)
def test_rendered_template_tokenised_as_a_whole_equals_the_three_parts(make_bundle: Make, kind: str, template: str, tokenizer: str) -> None:
    """vLLM's way: render to text, then call the tokenizer with special tokens; the instruction is a variable."""
    built = make_bundle(kind, template=template, tokenizer=tokenizer)
    assert built.reranker is not None
    words = AutoTokenizer.from_pretrained(built.folder / "rerank")
    for probe in PROBES:
        messages = [{"role": "query", "content": probe.query}, {"role": "document", "content": probe.document}]
        text = words.apply_chat_template(messages, tokenize=False, instruction=probe.instruction)
        head, document, tail = render_pair(built.recipe.model.rerank.template, probe.instruction, probe.query, probe.document)
        assert text.replace("\ufdd0", "") == head + document + tail
        parts = (built.reranker.head_tokens([probe.query], [probe.instruction])[0], built.reranker.document_tokens([document])[0])
        assert words(text, add_special_tokens=True).input_ids == built.reranker.pair(*parts).tolist()


def test_without_the_boundary_a_qwen_tokenizer_would_join_the_parts(make_bundle: Make) -> None:
    built = make_bundle("qwen2")
    words = built.embedder.tokenizer
    head, document, tail = render_pair("instruct", "i", "q", "def f...")
    parts = [token for part in (head, document, tail) for token in words(part, add_special_tokens=False).input_ids]
    assert words(head + document + tail, add_special_tokens=False).input_ids != parts


def test_score_is_the_difference_of_two_head_rows_in_float32(make_bundle: Make) -> None:
    built = make_bundle("qwen2", dtype="bfloat16")
    assert built.reranker is not None
    exported = AutoModelForSequenceClassification.from_pretrained(built.folder / "rerank", dtype=torch.float32)
    rows = built.reranker.model.get_output_embeddings().weight
    no, yes = built.reranker.answers
    assert torch.equal(exported.score.weight[0], rows[yes] - rows[no])


def test_golden_answers_are_those_of_the_bundle(make_bundle: Make) -> None:
    built = make_bundle("qwen3", template="qwen-chat")
    golden = read_golden(built.folder)
    model = SentenceTransformer(str(built.folder / "embed"), device="cpu")
    found = model.encode([query.text for query in golden.queries])
    np.testing.assert_allclose(found, [decode_vector(query.vector) for query in golden.queries], atol=1e-5)
    assert [pair.relevant for pair in golden.pairs] == [True, False] * len(PROBES)
    assert check_parity(built.folder, golden)["score_difference"] < 1e-5


def test_weights_are_stored_in_the_recipe_type(make_bundle: Make) -> None:
    built = make_bundle("qwen2", dtype="bfloat16")
    config = json.loads((built.folder / "embed" / "config.json").read_text())
    assert (config["dtype"], config["torch_dtype"]) == ("bfloat16", "bfloat16")
    assert SentenceTransformer(str(built.folder / "embed"), device="cpu")[0].auto_model.dtype == torch.bfloat16
    assert check_parity(built.folder, read_golden(built.folder))["vector_difference"] < 1e-5


def test_matryoshka_sizes_can_be_asked_for(make_bundle: Make) -> None:
    built = make_bundle("qwen2", dims=(8, 16))
    config = json.loads((built.folder / "embed" / "config.json").read_text())
    assert config["is_matryoshka"] is True
    assert config["matryoshka_dimensions"] == [32, 16, 8]
    short = SentenceTransformer(str(built.folder / "embed"), device="cpu", truncate_dim=8).encode(["x"], normalize_embeddings=True)
    assert short.shape == (1, 8)


def test_sizes_that_the_model_does_not_have_are_not_offered(make_bundle: Make) -> None:
    found = [json.loads((make_bundle("qwen2", dims=dims).folder / "embed" / "config.json").read_text()) for dims in ((16, 64), (64,))]
    assert found[0]["matryoshka_dimensions"] == [32, 16] and "matryoshka_dimensions" not in found[1]
