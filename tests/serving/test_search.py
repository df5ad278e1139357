"""/v1/search of the real server: what the trained pair finds in the documents, with filters and moves."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.serving import world

from phasor.data.templates import render_document
from phasor.models.embedder import Embedder
from phasor.models.loading import load_model
from phasor.models.reranker import Reranker
from phasor.serving.bundle import open_bundle

QUERY, OWN = "the gzip of a socket", "Find something about cafés."


def expected(bundle: Path, query: str, instruction: str, documents: list[dict[str, str]], depth: int) -> tuple[list[str], list[str]]:
    """Ids in the order of the first stage, and after the reranker read its first `depth`, by the models before export."""
    opened = open_bundle(bundle)
    embedder = Embedder(*load_model(bundle.parent / "embed", "embed"), opened.embed)
    reranker = Reranker(*load_model(bundle.parent / "rerank", "rerank"), opened.recipe.model.rerank)
    texts = [render_document(row["title"], row["text"]) for row in documents]
    near = np.argsort(-(embedder.encode_documents(texts) @ embedder.encode_queries([query], [instruction])[0]), kind="stable")
    chances = reranker.score(instruction, query, [texts[row] for row in near[:depth]])
    order = [*np.argsort(-chances, kind="stable"), *range(depth, len(near))]
    return [documents[row]["id"] for row in near], [documents[near[i]]["id"] for i in order]


@pytest.mark.parametrize("instruction", [None, OWN])
def test_the_reranker_reorders_what_the_embedder_finds(server: world.Served, bundle: Path, instruction: str | None) -> None:
    body = {"query": QUERY, "k": 12, "rerank_depth": 8, "include_first_stage": True} | ({"instruction": instruction} if instruction else {})
    answer = server.post("/v1/search", body).json()
    used = instruction or "Find the function for a description."
    first, final = expected(bundle, QUERY, used, world.rows(), 8)
    assert [row["id"] for row in answer["first_stage"]] == first[:12] and [row["id"] for row in answer["results"]] == final[:12]
    assert answer["instruction"] == used and answer["index"]["passages"] == 60
    for place, row in enumerate(answer["results"]):
        assert row["move"] == first.index(row["id"]) - place
    assert any(row["move"] for row in answer["results"][:8]) and not any(row["move"] for row in answer["results"][8:])


def test_without_the_reranker_the_first_stage_answers(server: world.Served) -> None:
    answer = server.post("/v1/search", {"query": QUERY, "rerank": False, "include_first_stage": True}).json()
    assert answer["results"] == answer["first_stage"] and len(answer["results"]) == 10
    scores = [row["score"] for row in answer["results"]]
    assert scores == sorted(scores, reverse=True) and answer["milliseconds"]["rerank"] < 5


@pytest.mark.parametrize(("filters", "wanted"), [
    ({"language": "de"}, lambda row: row["language"] == "de"),
    ({"team": ["red"], "language": ["en", "fr"]}, lambda row: row["team"] == "red" and row["language"] == "en"),
    ({"id": ["d3", "d5", "nothing"]}, lambda row: row["id"] in ("d3", "d5")),
    ({"source": "nowhere"}, lambda row: False),
])  # fmt: skip
def test_filters_hold_before_anything_is_ranked(server: world.Served, bundle: Path, filters: dict[str, object], wanted: object) -> None:
    documents = [row for row in world.rows() if wanted(row)]  # type: ignore[operator]
    answer = server.post("/v1/search", {"query": QUERY, "k": 60, "filters": filters}).json()
    if documents:
        _, final = expected(bundle, QUERY, answer["instruction"], documents, min(50, len(documents)))
        assert [row["id"] for row in answer["results"]] == final
    assert len(answer["results"]) == len(documents)


def test_results_carry_everything_that_was_indexed(server: world.Served) -> None:
    [row] = server.post("/v1/search", {"query": QUERY, "filters": {"id": "d5"}}).json()["results"]
    source = world.rows()[5]
    assert {name: row[name] for name in ("id", "text", "title", "source", "language")} == {k: v for k, v in source.items() if k != "team"}
    assert row["metadata"] == {"team": "red"}


def test_a_server_without_an_index_says_so(bundle: Path, tmp_path: Path) -> None:
    with world.serving(tmp_path / "log", bundle, "--set", "engine.precision=float32") as served:
        answer = served.post("/v1/search", {"query": "x"})
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "no_index"
        assert json.loads(served.get("/readyz").text) == {"state": "ready"}
