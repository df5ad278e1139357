"""Bundles in vLLM itself, started as the model card says and asked for texts, without a gateway; and what the chart expects of vLLM.

Skipped where there is no `vllm` command. How a gateway before it answers, and a Qwen3 bundle: test_vllm_engine.py.
"""

import base64
import re
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest
from tests.charts.rendered import CHART, objects, of_kind
from tests.packaging.conftest import Built, make_bundle
from tests.serving import vllm_server

from phasor.packaging.golden import decode_vector, read_golden

__all__ = ["make_bundle"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * vllm_server.START_S)]
FAMILIES = {"llama": ("qwen2", "brief", "scratch"), "bert": ("bert", "plain", "bert")}


@pytest.fixture(scope="module")
def built(make_bundle: Callable[..., Built]) -> dict[str, Built]:
    """One bundle per family; a model from nothing is written as Llama."""
    return {name: make_bundle(kind, template, words, dims=(16,), head=32) for name, (kind, template, words) in FAMILIES.items()}


@pytest.fixture(scope="module")
def servers(built: dict[str, Built], tmp_path_factory: pytest.TempPathFactory) -> Iterator[vllm_server.Servers]:
    """Servers called FAMILY-ROLE."""
    program, commands = vllm_server.program(), {}
    for name, bundle in built.items():
        common = ["--dtype=float32", "--served-model-name=it"]
        commands[f"{name}-embed"] = [program, "serve", str(bundle.folder / "embed"), *common]
        if bundle.reranker is not None:
            rerank = bundle.folder / "rerank"
            commands[f"{name}-rerank"] = [program, "serve", str(rerank), f"--chat-template={rerank / 'chat_template.jinja'}", *common]
    with vllm_server.running(tmp_path_factory.mktemp("vllm"), commands) as found:
        yield found


@pytest.mark.parametrize("name", FAMILIES)
def test_texts_give_the_golden_vectors(name: str, built: dict[str, Built], servers: vllm_server.Servers) -> None:
    golden, url = read_golden(built[name].folder), servers[f"{name}-embed"][0]
    asked = [(query.text, query.vector) for query in golden.queries] + [(document.text, document.vector) for document in golden.documents]
    body = {"model": "it", "input": [text for text, _ in asked], "encoding_format": "base64"}
    rows = httpx.post(f"{url}/v1/embeddings", json=body, timeout=60).raise_for_status().json()["data"]
    found = np.stack([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows])
    np.testing.assert_allclose(found, [decode_vector(vector) for _, vector in asked], atol=1e-5)
    short = httpx.post(f"{url}/v1/embeddings", json=body | {"dimensions": 16, "encoding_format": "float"}, timeout=60).json()["data"]
    assert len(short[0]["embedding"]) == 16


def test_pairs_give_the_golden_scores(built: dict[str, Built], servers: vllm_server.Servers) -> None:
    golden, url = read_golden(built["llama"].folder), servers["llama-rerank"][0]
    for pair in golden.pairs:
        body = {"model": "it", "query": pair.query, "documents": [pair.document], "instruction": pair.instruction}
        [row] = httpx.post(f"{url}/v1/rerank", json=body, timeout=60).raise_for_status().json()["results"]
        assert row["relevance_score"] == pytest.approx(pair.score, abs=1e-5)
        body = {"model": "it", "text_1": pair.query, "text_2": pair.document, "instruction": pair.instruction}
        [row] = httpx.post(f"{url}/score", json=body, timeout=60).raise_for_status().json()["data"]
        assert row["score"] == pytest.approx(pair.score, abs=1e-5)


def test_keda_alerts_and_dashboard_ask_for_metrics_that_vllm_has(servers: vllm_server.Servers) -> None:
    queries = [tree["spec"]["triggers"][0]["metadata"]["query"] for tree in of_kind(objects("gpu"), "ScaledObject")]
    queries += [(CHART / "files" / name).read_text() for name in ("alerts.yaml", "dashboard.json")]
    names = set(re.findall(r"vllm:\w+", " ".join(queries)))
    page = httpx.get(f"{servers['bert-embed'][0]}/metrics", timeout=60).text
    assert len(names) > 1 and all(re.search(rf"^{name}{{.*}} \d", page, re.MULTILINE) for name in names)
