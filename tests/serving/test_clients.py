"""The official clients of OpenAI and Cohere, unchanged, against the real server: they get what the trained models answer."""

import base64
from pathlib import Path

import cohere
import numpy as np
import openai
import pytest
from tests.packaging.conftest import TEXTS
from tests.serving import world

from phasor.models.embedder import Embedder
from phasor.models.loading import load_model
from phasor.models.reranker import Reranker
from phasor.serving.bundle import Bundle, open_bundle

DOCUMENTS = [*TEXTS, "gzip", " ", "word " * 400]


@pytest.fixture(scope="module")
def client(server: world.Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def opened(bundle: Path) -> Bundle:
    return open_bundle(bundle)


@pytest.fixture(scope="module")
def trained(opened: Bundle) -> tuple[Embedder, Reranker]:
    """The models before they were exported."""
    root = opened.folder.parent
    embedder = Embedder(*load_model(root / "embed", "embed"), opened.embed)
    return embedder, Reranker(*load_model(root / "rerank", "rerank"), opened.recipe.model.rerank)


def vectors(client: openai.OpenAI, texts: list[str], **options: object) -> np.ndarray:
    answer = client.embeddings.create(model="pico", input=texts, **options)  # type: ignore[call-overload]
    assert [row.index for row in answer.data] == list(range(len(texts)))
    return np.array([row.embedding for row in answer.data], np.float32)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_documents_get_the_trained_models_vectors(client: openai.OpenAI, trained: tuple[Embedder, Reranker], encoding: str) -> None:
    answer = client.embeddings.create(model="pico-embed", input=DOCUMENTS, encoding_format=encoding)  # type: ignore[arg-type]
    rows = [row.embedding for row in answer.data]
    if encoding == "base64":  # asked for by name, the client leaves it encoded
        rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]  # type: ignore[arg-type]
    np.testing.assert_allclose(np.array(rows), trained[0].encode_documents(DOCUMENTS), atol=1e-5)


def test_by_default_the_client_asks_for_base64_and_decodes_it(client: openai.OpenAI, trained: tuple[Embedder, Reranker]) -> None:
    np.testing.assert_allclose(vectors(client, DOCUMENTS), trained[0].encode_documents(DOCUMENTS), atol=1e-5)


def test_queries_get_the_template_and_the_instruction(client: openai.OpenAI, trained: tuple[Embedder, Reranker], opened: Bundle) -> None:
    queries, first = ["gzip", "Wie groß?"], opened.instructions["code"]
    found = vectors(client, queries, extra_body={"input_type": "query"})
    np.testing.assert_allclose(found, trained[0].encode_queries(queries, [first] * 2), atol=1e-5)
    own = vectors(client, queries, extra_body={"input_type": "query", "instruction": "Find {query} %s"})
    np.testing.assert_allclose(own, trained[0].encode_queries(queries, ["Find {query} %s"] * 2), atol=1e-5)
    assert np.abs(own - found).max() > 0.01 and np.abs(vectors(client, queries) - found).max() > 0.01


def test_smaller_vectors_are_the_beginning_with_norm_one(client: openai.OpenAI) -> None:
    whole, part = vectors(client, TEXTS), vectors(client, TEXTS, dimensions=16)
    np.testing.assert_allclose(part, whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True), atol=1e-6)


def test_usage_counts_tokens_as_the_model_reads_them(client: openai.OpenAI, trained: tuple[Embedder, Reranker]) -> None:
    answer = client.embeddings.create(model="pico", input=DOCUMENTS)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens == len(trained[0].document_tokens(DOCUMENTS).values)


def test_models_are_listed(client: openai.OpenAI) -> None:
    listed = list(client.models.list())
    assert [model.id for model in listed] == ["pico", "pico-embed", "pico-rerank"]
    assert [client.models.retrieve(model.id) for model in listed] == listed
    with pytest.raises(openai.NotFoundError, match="no model of that name. It serves pico, pico-embed, pico-rerank"):
        client.models.retrieve("gpt")


@pytest.mark.parametrize(("options", "kind", "words"), [
    ({"model": "gpt"}, openai.NotFoundError, "It serves pico, pico-embed, pico-rerank"),
    ({"dimensions": 8}, openai.UnprocessableEntityError, "It gives 32, 16"),
    ({"input": []}, openai.UnprocessableEntityError, "input holds 0 texts"),
    ({"input": [[1, 2]]}, openai.UnprocessableEntityError, "valid string"),
    ({"extra_body": {"instruction": "x"}}, openai.UnprocessableEntityError, "Documents take no instruction"),
    ({"extra_body": {"input_type": "quory"}}, openai.UnprocessableEntityError, "input_type"),
])
def test_mistakes_become_the_clients_own_errors(
    client: openai.OpenAI, options: dict[str, object], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        client.embeddings.create(**{"model": "pico", "input": "x", **options})  # type: ignore[call-overload]
    assert isinstance(caught.value, openai.APIStatusError) and caught.value.type == "invalid_request_error"


def expected(trained: tuple[Embedder, Reranker], instruction: str, query: str, documents: list[str]) -> list[tuple[int, float]]:
    scores = trained[1].score(instruction, query, documents)
    return [(int(i), float(scores[i])) for i in np.argsort(-scores, kind="stable")]


def test_cohere_v2_ranks_as_the_trained_reranker(server: world.Served, trained: tuple[Embedder, Reranker], opened: Bundle) -> None:
    client = cohere.ClientV2(api_key="none", base_url=server.url)
    answer = client.rerank(model="pico-rerank", query="read a line", documents=DOCUMENTS, top_n=3)
    wanted = expected(trained, opened.instructions["code"], "read a line", DOCUMENTS)[:3]
    assert [row.index for row in answer.results] == [i for i, _ in wanted]
    np.testing.assert_allclose([row.relevance_score for row in answer.results], [score for _, score in wanted], atol=1e-5)


def test_cohere_v1_returns_documents_given_as_objects(server: world.Served, trained: tuple[Embedder, Reranker], opened: Bundle) -> None:
    client = cohere.Client(api_key="none", base_url=server.url)
    answer = client.rerank(model="pico", query="gzip", documents=[{"text": text} for text in TEXTS], return_documents=True)
    wanted = expected(trained, opened.instructions["code"], "gzip", TEXTS)
    assert [(row.index, row.document.text) for row in answer.results if row.document] == [(i, TEXTS[i]) for i, _ in wanted]
    assert answer.meta and answer.meta.api_version and answer.meta.api_version.version == "1"


def test_cohere_v1_needs_no_model_and_gets_its_documents_back_as_they_were(server: world.Served) -> None:
    client = cohere.Client(api_key="none", base_url=server.url)
    documents = [{"title": "T", "text": TEXTS[0]}, {"text": TEXTS[1]}, TEXTS[2]]
    answer = client.rerank(query="gzip", documents=documents, return_documents=True)  # type: ignore[arg-type]
    found = {row.index: row.document.model_dump() for row in answer.results if row.document}
    assert found == {0: documents[0], 1: documents[1], 2: {"text": TEXTS[2]}}
    titled = server.post("/v1/rerank", {"query": "gzip", "documents": [f"T\n{TEXTS[0]}"]}).json()
    assert titled["model"] == "pico"
    scores = {row.index: row.relevance_score for row in answer.results}
    assert scores[0] == pytest.approx(titled["results"][0]["relevance_score"], abs=1e-5)


def test_null_is_as_if_it_were_left_out(server: world.Served) -> None:
    for route, body, names in [
        ("/v1/embeddings", {"model": "pico", "input": "x"}, ["encoding_format", "dimensions"]),
        ("/v1/rerank", {"query": "x", "documents": [{"text": "y"}]}, ["model", "top_n", "return_documents", "max_tokens_per_doc"]),
    ]:
        plain, null = (server.post(route, body | more).json() for more in ({}, dict.fromkeys(names)))
        assert {**plain, "id": ""} == {**null, "id": ""}


def test_rerank_takes_an_instruction_and_a_limit_per_document(server: world.Served, trained: tuple[Embedder, Reranker]) -> None:
    body = {"model": "pico", "query": "gzip", "documents": TEXTS, "instruction": "Find cafés."}
    results = server.post("/v1/rerank", body).json()["results"]
    wanted = expected(trained, "Find cafés.", "gzip", TEXTS)
    assert [row["index"] for row in results] == [i for i, _ in wanted]
    np.testing.assert_allclose([row["relevance_score"] for row in results], [score for _, score in wanted], atol=1e-5)
    cut = {row["index"]: row["relevance_score"] for row in server.post("/v1/rerank", body | {"max_tokens_per_doc": 2}).json()["results"]}
    assert cut != {row["index"]: row["relevance_score"] for row in results}


def test_a_cohere_error_names_the_problem(server: world.Served) -> None:
    client = cohere.ClientV2(api_key="none", base_url=server.url)
    with pytest.raises(cohere.NotFoundError, match="no rerank model of that name"):
        client.rerank(model="pico-embed", query="x", documents=["y"])
