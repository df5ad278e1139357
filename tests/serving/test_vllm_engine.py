"""The engine `vllm`: a gateway before vLLM answers as one that computes itself does, and tells faults.

Every answer is asked of what stands in for vLLM, and of vLLM itself where there is a `vllm` command.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.faulty_server import FaultyServer
from tests.packaging.conftest import TEXTS
from tests.serving import vllm_server, world

from phasor.cli import main
from phasor.config.serving import VllmEngineConfig
from phasor.serving.bundle import open_bundle
from phasor.serving.check import check_server
from phasor.serving.engine import EngineError, OverloadedError
from phasor.serving.rendering import Renderer
from phasor.serving.vllm import VllmEngine

pytestmark = pytest.mark.timeout(2 * vllm_server.START_S)
# Where these are cut, a character of several tokens stands.
CUT_IN_CHARACTERS = ["東京の天気予報を確認してから駅へ向かった。" * 40, f"x {'🎉🚀😀🤖' * 60}"]
MANY = [*TEXTS, "", " ", "word " * 400, *CUT_IN_CHARACTERS, "a\ufdd0b<|im_end|>\n"]
BODIES = [
    ("/v1/embeddings", {"model": "pico", "input": MANY}),
    ("/v1/embeddings", {"model": "pico", "input": MANY, "input_type": "query", "instruction": "Find it."}),
    ("/v1/embeddings", {"model": "pico", "input": TEXTS, "dimensions": 16, "encoding_format": "base64"}),
    ("/v2/rerank", {"model": "pico", "query": "gzip", "documents": MANY, "instruction": "Find it."}),
    ("/v2/rerank", {"model": "pico", "query": "gzip", "documents": TEXTS, "max_tokens_per_doc": 3, "top_n": 2}),
    ("/v2/rerank", {"model": "pico", "query": "a query that fills the input " * 80, "documents": TEXTS}),
    ("/v1/search", {"query": "gzip of a socket", "k": 7}),
]


def engine_setting(embed: str, rerank: str) -> str:
    return f"engine={{kind: vllm, embed_url: '{embed}', rerank_url: '{rerank}'}}"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of both roles, with heads as large as vLLM wants them on a CPU. Not to be changed."""
    return world.make_bundle(tmp_path_factory.mktemp("served"), head=32)


@pytest.fixture(scope="module")
def index(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its index of `world.rows()`. Not to be changed."""
    return world.make_index(tmp_path_factory.mktemp("index"), bundle)


@pytest.fixture(scope="module", params=["stand-in", "vllm"])
def engines(request: pytest.FixtureRequest, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """URLs of the embedder's and the reranker's server; vLLM's are started as the chart does it."""
    if request.param == "stand-in":
        with vllm_server.stand_in(bundle) as url:
            yield url, url
        return
    vllm_server.program()
    commands = {role: vllm_server.chart_command(role, bundle) for role in ("embed", "rerank")}
    with vllm_server.running(tmp_path_factory.mktemp("vllm"), commands) as servers:
        yield servers["embed"][0], servers["rerank"][0]


@pytest.fixture(scope="module")
def exact(bundle: Path, index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[world.Served]:
    """A gateway that computes itself, in float32."""
    log = tmp_path_factory.mktemp("exact") / "log"
    with world.serving(log, bundle, "--index", index, "--set", "engine.precision=float32") as served:
        yield served


@pytest.fixture(scope="module")
def behind(engines: tuple[str, str], bundle: Path, index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[world.Served]:
    """A gateway whose engine that is."""
    log = tmp_path_factory.mktemp("behind") / "log"
    with world.serving(log, bundle, "--index", index, "--set", engine_setting(*engines)) as served:
        yield served


@pytest.mark.parametrize(("route", "body"), BODIES, ids=[f"{route}-{i}" for i, (route, _) in enumerate(BODIES)])
def test_both_engines_give_the_same_answers(exact: world.Served, behind: world.Served, route: str, body: dict[str, object]) -> None:
    ours, theirs = exact.post(route, body).json(), behind.post(route, body).json()
    if "data" in ours and "encoding_format" not in body:
        found = [np.array([row["embedding"] for row in answer["data"]]) for answer in (ours, theirs)]
        assert np.isfinite(found[1]).all()
        np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    elif "results" in ours:
        name = "score" if route == "/v1/search" else "relevance_score"
        key = "id" if route == "/v1/search" else "index"
        scores = [{row[key]: row[name] for row in answer["results"]} for answer in (ours, theirs)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert ours.get("usage") == theirs.get("usage")


def test_it_passes_the_check_of_helm_test(behind: world.Served, bundle: Path) -> None:
    seen = check_server(behind.url, bundle)
    assert "least cosine 1.000000, greatest difference of a score 0.00000" in seen and "no index" not in seen


def test_tokens_are_counted_though_they_are_read_elsewhere(behind: world.Served) -> None:
    def counted() -> float:
        return sum(float(line.split()[-1]) for line in behind.get("/metrics").text.splitlines() if line.startswith("phasor_tokens_total"))

    before = counted()
    usage = behind.post("/v1/embeddings", {"model": "pico", "input": ["how many words", "are these"]}).json()["usage"]
    assert counted() - before == usage["total_tokens"] > 0


def test_an_engine_with_other_weights_is_refused(engines: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = world.make_bundle(tmp_path, scale=1.3, head=32)
    assert main(["serve", str(other), "--set", "port=0", "--set", engine_setting(*engines)]) == 2
    assert "does not reproduce the bundle's golden answers" in capsys.readouterr().err


def test_until_the_engine_is_there_the_gateway_lives_but_is_not_ready(bundle: Path, tmp_path: Path) -> None:
    setting = engine_setting("http://127.0.0.1:9", "http://127.0.0.1:9")
    with world.serving(tmp_path / "log", bundle, "--set", setting, ready=False) as served:
        assert served.get("/livez").status_code == 200 and served.get("/readyz").json() == {"state": "loading"}
        answer = served.post("/v1/embeddings", {"model": "pico", "input": "x"})
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize(("faults", "outcome"), [
    ([429, 503], None), (["cut", 500], None), ([429, 429, 429], OverloadedError), ([503, 503, 503], EngineError), ([400], EngineError),
    (["not_json"], EngineError),
])
def test_faults_of_the_engine_are_tried_again_or_told(bundle: Path, faults: list[object], outcome: type[Exception] | None) -> None:
    async def ask(url: str) -> int:
        engine = VllmEngine(VllmEngineConfig(embed_url=url.removesuffix("/v1")), "secret", lambda *_: pytest.fail("nothing was read"))
        try:
            return len(await engine.embed(Renderer(open_bundle(bundle)).documents(["a", "bb"]), "bulk"))
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
