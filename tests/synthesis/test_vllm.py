"""Generation by vLLM itself, with tiny Qwen2 models: JSON schemas, several requests at once, and an interrupted run that goes on.

Skipped where there is no `vllm` command.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.phases.data_world import LSA, World
from tests.serving import vllm_server
from tests.synthesis.test_transformers_serve import save_model

from phasor.errors import EndpointError
from phasor.synthesis.rows import read_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * vllm_server.START_S)]


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A model that gives the same answers always, and one of random weights."""
    program, commands = vllm_server.program(), {}
    root = tmp_path_factory.mktemp("vllm")
    for name in ("answering", "babbling"):
        model = save_model(root / name, answers=name == "answering")
        # vLLM 0.32 dies on a CPU of a request with a seed whose prompt is read in two steps; so many tokens are one step.
        options = ["--tensor-parallel-size=1", "--max-model-len=8192", "--max-num-batched-tokens=65536", "--dtype=float32"]
        commands[name] = [program, "serve", str(model), *options, f"--served-model-name={name}"]
    with vllm_server.running(root, commands) as servers:
        yield {name: f"{url}/v1" for name, (url, _) in servers.items()}


def settings(urls: dict[str, str], name: str, **generator: object) -> dict[str, object]:
    base = {"kind": "openai", "base_url": urls[name], "model": name, "concurrency": 8, "max_tokens": 200, "max_tries": 2, "backoff_s": 0.01}
    return {"teacher": LSA, "passages_per_task": 15, "generator": base | generator}


def test_rows_of_a_model_that_answers(urls: dict[str, str], tmp_path: Path) -> None:
    world = World(tmp_path)
    report = world.run("synthesize", synthesize=settings(urls, "answering"))
    rows = read_rows(tmp_path / "t/synthetic/raw.parquet")
    assert len(rows) == 15 and {(row.error, row.generator) for row in rows} == {("", "openai:answering")}
    assert {row.query for row in rows} == {"which module releases its buffers even after an error?"}
    assert report.counts["endpoint_requests"] == 30 and "endpoint_repairs" not in report.counts and report.cost.tokens > 30 * 20

    again = world.run("synthesize", synthesize=settings(urls, "answering"))
    assert again.counts["endpoint_answers_reused"] == 30 and "endpoint_requests" not in again.counts


def test_a_schema_is_kept_to_even_by_random_weights(urls: dict[str, str], tmp_path: Path) -> None:
    world = World(tmp_path)
    report = world.run("synthesize", synthesize=settings(urls, "babbling"))
    assert report.counts["endpoint_configurations_unusable"] == 0
    assert {row.error for row in read_rows(tmp_path / "t/synthetic/raw.parquet")} <= {"", "truncated"}


def test_a_model_that_is_not_served_is_one_message(urls: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match="status 404: .*other.*base_url"):
        World(tmp_path).run("synthesize", synthesize=settings(urls, "answering", model="other"))
