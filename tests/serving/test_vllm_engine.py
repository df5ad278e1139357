"""The engine `vllm` against a server that speaks vLLM's routes: a second gateway of ours, because vLLM itself needs a GPU.

What is tested is the client: rendering, cutting, order, faults. That vLLM reads the bundle as we do is told by the golden
answers at every start.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.faulty_server import FaultyServer
from tests.packaging.conftest import TEXTS
from tests.serving import world

from phasor.cli import main
from phasor.config.serving import VllmEngineConfig
from phasor.serving.bundle import open_bundle
from phasor.serving.engine import EngineError, OverloadedError
from phasor.serving.rendering import Renderer
from phasor.serving.vllm import VllmEngine


def engine_setting(url: str) -> str:
    return f"engine={{kind: vllm, embed_url: '{url}', rerank_url: '{url}', embed_model: pico-embed, rerank_model: pico-rerank}}"


@pytest.fixture(scope="module")
def behind(server: world.Served, bundle: Path, index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[world.Served]:
    """A gateway whose engine is the other server."""
    log = tmp_path_factory.mktemp("behind") / "log"
    with world.serving(log, bundle, "--index", index, "--set", engine_setting(server.url)) as served:
        yield served


BODIES = [
    ("/v1/embeddings", {"model": "pico", "input": [*TEXTS, "word " * 400]}),
    ("/v1/embeddings", {"model": "pico", "input": [*TEXTS, "word " * 400], "input_type": "query", "instruction": "Find it."}),
    ("/v1/embeddings", {"model": "pico", "input": TEXTS, "dimensions": 16, "encoding_format": "base64"}),
    ("/v2/rerank", {"model": "pico", "query": "gzip", "documents": [*TEXTS, "word " * 400], "instruction": "Find it."}),
    ("/v2/rerank", {"model": "pico", "query": "gzip", "documents": TEXTS, "max_tokens_per_doc": 3, "top_n": 2}),
    ("/v1/search", {"query": "gzip of a socket", "k": 7}),
]


@pytest.mark.parametrize(("route", "body"), BODIES, ids=[f"{route}-{i}" for i, (route, _) in enumerate(BODIES)])
def test_both_engines_give_the_same_answers(server: world.Served, behind: world.Served, route: str, body: dict[str, object]) -> None:
    ours, theirs = server.post(route, body).json(), behind.post(route, body).json()
    if "data" in ours and "encoding_format" not in body:
        found = [np.array([row["embedding"] for row in answer["data"]]) for answer in (ours, theirs)]
        np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    elif "results" in ours:
        name = "score" if route == "/v1/search" else "relevance_score"
        key = "id" if route == "/v1/search" else "index"
        assert [row[key] for row in ours["results"]] == [row[key] for row in theirs["results"]]
        np.testing.assert_allclose([r[name] for r in ours["results"]], [r[name] for r in theirs["results"]], atol=1e-5)
    assert ours.get("usage") == theirs.get("usage")


def test_an_engine_with_other_weights_is_refused(server: world.Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = world.make_bundle(tmp_path, scale=1.3)
    assert main(["serve", str(other), "--set", "port=0", "--set", engine_setting(server.url)]) == 2
    assert "does not reproduce the bundle's golden answers" in capsys.readouterr().err


def test_until_the_engine_is_there_the_gateway_lives_but_is_not_ready(bundle: Path, tmp_path: Path) -> None:
    with world.serving(tmp_path / "log", bundle, "--set", engine_setting("http://127.0.0.1:9"), ready=False) as served:
        assert served.get("/livez").status_code == 200 and served.get("/readyz").json() == {"state": "loading"}
        answer = served.post("/v1/embeddings", {"model": "pico", "input": "x"})
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize(("faults", "outcome"), [
    ([429, 503], None), (["cut", "cut"], None), ([429, 429, 429], OverloadedError), ([503, 503, 503], EngineError), ([500], EngineError),
    (["not_json"], EngineError),
])
def test_faults_of_the_engine_are_tried_again_or_told(bundle: Path, faults: list[object], outcome: type[Exception] | None) -> None:
    async def ask(url: str) -> int:
        opened = open_bundle(bundle)
        renderer = Renderer(opened)
        engine = VllmEngine(VllmEngineConfig(embed_url=url.removesuffix("/v1")), renderer, "secret")
        try:
            return len(await engine.embed(renderer.documents(["a", "bb"]), "bulk"))
        finally:
            await engine.close()

    faulty = FaultyServer()
    faulty.faults = faults  # type: ignore[assignment]
    with faulty.running():
        if outcome is None:
            # The server answers lists of numbers, which is not what was asked for: the client says so instead of guessing.
            with pytest.raises(EngineError, match="gave no vectors"):
                asyncio.run(ask(faulty.url))
        else:
            with pytest.raises(outcome):
                asyncio.run(ask(faulty.url))
        assert len(faulty.requests) == len(faults) + (outcome is None) and faulty.headers["authorization"] == "Bearer secret"
