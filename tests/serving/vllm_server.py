"""vLLM for tests: the command `vllm` on this machine's CPU, and what stands in for it where there is none."""

import base64
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.charts.rendered import objects, of_kind
from tests.ports import free_port
from tests.waiting import await_health
from torch.nn.functional import normalize
from transformers import AutoModel, AutoModelForSequenceClassification

START_S = 900
"""Three processes load torch one after the other; on a machine with other work that takes minutes."""
Servers = dict[str, tuple[str, "subprocess.Popen[str]"]]


def program() -> str:
    """The command. Skips the test where there is none."""
    found = shutil.which("vllm")
    if found is None:
        pytest.skip("no vllm here; a build for CPUs would do")
    return found


def chart_command(role: str, bundle: Path) -> list[str]:
    """What the chart starts vLLM with for a role, but on a bundle of this machine. Skips the test where there is no helm."""
    [container] = [
        tree["spec"]["template"]["spec"]["containers"][0] for tree in of_kind(objects("gpu"), "Deployment")
        if tree["metadata"]["name"] == f"rel-phasor-green-{role}"
    ]  # fmt: skip
    return [argument.replace("/bundle/current", str(bundle)) for argument in [*container["command"], *container["args"]]]


@contextmanager
def running(folder: Path, commands: Mapping[str, Sequence[str]]) -> Iterator[Servers]:
    """A command that ends in arguments of `vllm serve` per name, side by side, each on a free port; yields name to URL and process."""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONDONTWRITEBYTECODE": "",
    }  # fmt: skip
    with ExitStack() as stack:
        found: Servers = {}
        for name, command in commands.items():
            port = free_port()
            log = stack.enter_context((folder / f"{name}.log").open("w"))
            # Compiling takes longer than all these tests, and changes nothing but speed.
            arguments = [*command, "--host=127.0.0.1", f"--port={port}", "--enforce-eager"]
            process = subprocess.Popen(arguments, stdout=log, stderr=log, text=True, env=environment)
            stack.callback(_stop, process)
            found[name] = (f"http://127.0.0.1:{port}", process)
        for name, (url, process) in found.items():
            await_health(f"{url}/health", process, folder / f"{name}.log", START_S)  # what the chart's probes ask
        yield found


def _stop(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()


@contextmanager
def stand_in(bundle: Path) -> Iterator[str]:
    """A server with vLLM's two routes that reads a bundle's folders as transformers does; yields its URL."""
    embed = AutoModel.from_pretrained(bundle / "embed", dtype=torch.float32).eval()
    rerank = AutoModelForSequenceClassification.from_pretrained(bundle / "rerank", dtype=torch.float32).eval()
    lock = threading.Lock()

    @torch.no_grad()
    def row(route: str, index: int, ids: list[int]) -> dict[str, Any]:
        inputs = torch.tensor([ids])
        if route == "/classify":
            return {"index": index, "probs": rerank(input_ids=inputs).logits[0].sigmoid().tolist()}
        vector = normalize(embed(input_ids=inputs).last_hidden_state[0, -1], dim=0)
        return {"index": index, "embedding": base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            assert (self.path, request["model"]) in (("/classify", "rerank"), ("/v1/embeddings", "embed"))
            with lock:
                rows = [row(self.path, i, ids) for i, ids in enumerate(request["input"])]
            body = json.dumps({"data": rows[::-1]}).encode()  # their order is told by `index` alone
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
