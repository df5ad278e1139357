"""What is refused at the start, in one message, and how a server goes down."""

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import httpx
import numpy as np
import pytest
import torch
from tests.packaging.conftest import seal
from tests.serving import world
from tests.waiting import until

from phasor.artifacts import write_json
from phasor.cli import main
from phasor.config.serving import BuiltinEngineConfig, LimitsConfig
from phasor.models.network import Network
from phasor.packaging.golden import decode_vector, encode_vector, read_golden
from phasor.serving.builtin import load_network, open_builtin
from phasor.serving.bundle import Bundle, open_bundle
from phasor.serving.rendering import Renderer


def flip(bundle: Path) -> None:
    path = bundle / "embed/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def pickled(bundle: Path) -> None:
    (bundle / "embed/pytorch_model.bin").write_bytes(b"\x80\x04.")
    seal(bundle)


def auto_map(bundle: Path) -> None:
    path = bundle / "embed/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoModel": "x.Y"}}))
    seal(bundle)


def other_golden(bundle: Path) -> None:
    golden = read_golden(bundle)
    golden.queries[0].vector = encode_vector(-decode_vector(golden.queries[0].vector))
    write_json(golden, bundle / "golden.json")
    seal(bundle)


def other_scores(bundle: Path) -> None:
    golden = read_golden(bundle)
    golden.pairs[-1].score += 0.01
    write_json(golden, bundle / "golden.json")
    seal(bundle)


def no_recipe(bundle: Path) -> None:
    (bundle / "recipe.yaml").unlink()
    seal(bundle)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which the command ends; here in this process, which has loaded torch already."""
    assert main(["serve", *arguments, "--set", "port=0"]) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    [line] = [line for line in told.splitlines() if line.startswith("phasor serve: ")]
    return line


@pytest.mark.parametrize(("damage", "words"), [
    (flip, "embed/model.safetensors does not match its manifest"),
    (pickled, "embed/pytorch_model.bin has no place in a bundle"),
    (auto_map, "embed/config.json asks for code of its own (auto_map)"),
    (other_golden, "do not reproduce the bundle's golden answers"),
    (other_scores, "do not reproduce the bundle's golden answers"),
    (no_recipe, "holds no recipe.yaml"),
    (shutil.rmtree, "is not a folder"),
])
def test_a_bad_bundle_is_refused_with_one_message(
    bundle: Path, tmp_path: Path, damage: Callable[[Path], None], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = world.copy(bundle, tmp_path / "bundle")
    damage(bad)
    assert words in refusal(capsys, str(bad), "--set", "engine.precision=float32")


@pytest.mark.parametrize(("arguments", "words"), [
    (["--set", "host=0.0.0.0"], "host 0.0.0.0 is reachable by others; give api_keys"),
    (["--set", "limits.max_itms=3"], "did you mean 'max_items'"),
    (["--set", "api_keys=nowhere"], "key file nowhere cannot be read"),
    (["--set", "limits.max_tokens=2000000"], "must not exceed max_queue_tokens"),
    (["--config", "nowhere.yaml"], "nowhere.yaml cannot be read"),
    (["--set", "engine={kind: vllm, embed_url: 'http://127.0.0.1:1'}"], "engine.rerank_url is not set"),
    (["--index", "nowhere"], "nowhere/current.json is missing"),
    (["--set", "limits.max_tokens=64", "--set", "limits.max_queue_tokens=64"], "limits.max_queue_tokens 64 is less than the"),
])
def test_a_wrong_setting_is_refused_with_one_message(
    bundle: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refusal(capsys, str(bundle), *arguments)


def test_an_index_of_another_model_is_refused(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = world.make_bundle(tmp_path, scale=1.1)
    told = refusal(capsys, str(other), "--index", str(index), "--set", "engine.precision=float32")
    assert "the index was made with another embedder" in told


def test_an_index_that_cannot_be_read_is_refused(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "current.json").mkdir()
    told = refusal(capsys, str(bundle), "--index", str(tmp_path), "--set", "engine.precision=float32")
    assert "the index cannot be read: [Errno 21] Is a directory" in told


def no_room(bundle: Bundle, role: str, precision: str) -> Network:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore of it")


def test_models_for_which_there_is_no_memory_are_one_message(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phasor.serving.builtin.load_network", no_room)
    told = refusal(capsys, str(bundle))
    assert "float32: CUDA out of memory. Tried to allocate 2.00 GiB.; bfloat16: CUDA out of memory" in told and "more of it" not in told


def test_a_precision_for_which_there_is_no_memory_leaves_the_others(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(opened: Bundle, role: str, precision: str) -> Network:
        return load_network(opened, role, precision) if precision == "float32" else no_room(opened, role, precision)  # type: ignore[arg-type]

    monkeypatch.setattr("phasor.serving.builtin.load_network", loaded)
    opened = open_bundle(bundle)

    async def name() -> str:
        golden = read_golden(bundle)
        engine, _ = await open_builtin(opened, Renderer(opened), golden, BuiltinEngineConfig(), LimitsConfig(), lambda ran: None)
        await engine.close()
        return engine.name

    assert asyncio.run(name()) == "builtin-float32"


def test_a_defect_while_loading_ends_the_server_with_its_traceback(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of loading for ever."""
    monkeypatch.setattr("phasor.serving.builtin.load_network", Mock(side_effect=KeyError("a defect")))
    assert main(["serve", str(bundle), "--set", "port=0"]) == 1
    told = capsys.readouterr().err
    assert "KeyError: 'a defect'" in told and "this is a defect of Phasor" in told


def test_bfloat16_weights_are_served_as_faithfully_as_the_bundle_asks(tmp_path: Path) -> None:
    stored = world.make_bundle(tmp_path, roles=("embed",), dtype="bfloat16")
    with world.serving(tmp_path / "log", stored) as served:
        golden = read_golden(stored)
        body = {"model": "pico", "input": [document.text for document in golden.documents]}
        found = np.array([row["embedding"] for row in served.post("/v1/embeddings", body).json()["data"]])
        wanted = np.stack([decode_vector(document.vector) for document in golden.documents])
        assert (found * wanted).sum(1).min() >= golden.min_cosine == 0.999
        assert served.post("/v1/rerank", {"model": "pico", "query": "x", "documents": ["y"]}).status_code == 404


def test_sigterm_drains(bundle: Path, tmp_path: Path) -> None:
    """Not ready at once, answering meanwhile, the request under way answered, and the process gone with 0."""
    settings = ["--set", "drain_s=1.5", "--set", "engine.precision=float32"]
    with world.serving(tmp_path / "log", bundle, *settings) as served:
        answers: list[int] = []
        body = {"model": "pico", "input": ["word " * 110] * 2000}
        long = threading.Thread(target=lambda: answers.append(served.post("/v1/embeddings", body).status_code))
        long.start()
        time.sleep(0.2)
        served.terminate()
        until(lambda: served.get("/readyz").status_code != 200, "no readiness any more", 1, every=0.02)
        assert served.get("/livez").status_code == 200
        late = served.post("/v1/embeddings", {"model": "pico", "input": "late", "input_type": "query"})
        assert late.status_code == 200 and late.headers["connection"] == "close"
        long.join()
        assert answers == [200] and served.process.wait(timeout=30) == 0
        with pytest.raises(httpx.ConnectError):
            served.get("/livez")


def test_a_request_for_which_there_is_no_time_left_is_told_to_go_elsewhere(bundle: Path, tmp_path: Path) -> None:
    settings = ["--set", "drain_s=0.2", "--set", "shutdown_s=0", "--set", "engine.precision=float32"]
    with world.serving(tmp_path / "log", bundle, *settings) as served:
        answers: list[httpx.Response] = []
        body = {"model": "pico", "input": ["word " * 110] * 2048}
        long = threading.Thread(target=lambda: answers.append(served.post("/v1/embeddings", body)))
        long.start()
        until(lambda: "phasor_requests_running 1.0" in served.get("/metrics").text, "the request under way", 10, every=0.02)
        served.terminate()
        long.join()
        assert answers[0].status_code == 503 and answers[0].headers["retry-after"] == "1", answers[0].text
        assert answers[0].json()["error"]["code"] == "stopping" and served.process.wait(timeout=30) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()
