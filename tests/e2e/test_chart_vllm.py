"""The chart with engine vllm on a real cluster: pods of vLLM behind a gateway, held to the bundle's golden answers.

Runs where PHASOR_VLLM_IMAGE names an image in the cluster that has the command `vllm`. vLLM's own images need a GPU; a build for CPUs does
for models as small as these. What the chart asks for in place of GPUs is a resource that the node is made to offer.
"""

import json
import os
from collections.abc import Iterator

import httpx
import pytest
from tests.minio_server import Server
from tests.serving import world
from tests.waiting import until

from .cluster import Namespace, node, run
from .conftest import upload
from .test_chart import CHART, FULL, LABEL, RELEASE, image, prepared, track, write_values

IMAGE = os.environ.get("PHASOR_VLLM_IMAGE", "")
START_S = 900
DEVICE = "phasor.local/device"
pytestmark = [
    pytest.mark.slow, pytest.mark.timeout(2 * START_S), pytest.mark.skipif(not IMAGE, reason="PHASOR_VLLM_IMAGE names no image of vLLM"),
]  # fmt: skip


@pytest.fixture(scope="module")
def devices() -> None:
    """Two on the node, offered as in Kubernetes' documentation of extended resources."""
    patch = [{"op": "add", "path": "/status/capacity/" + DEVICE.replace("/", "~1"), "value": "2"}]
    run("kubectl", "patch", "node", node(), "--subresource=status", "--type=json", "-p", json.dumps(patch))


@pytest.fixture(scope="module")
def key(devices: None, store: Server, images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Namespace, str]]:
    """Installed in a restricted namespace, one pod of each kind; the namespace, and an API key."""
    folder = tmp_path_factory.mktemp("vllm")
    bundle = world.make_bundle(folder, head=32)  # vLLM has kernels for heads of this size
    upload(store, bundle, "models/vllm")
    upload(store, world.make_index(folder, bundle), "indexes/vllm")
    # On a CPU the share of memory is one of the container's limit, of which the fetched files and vLLM itself take some first.
    arguments = ["--enforce-eager", "--gpu-memory-utilization=0.3"]
    small = {"extraArgs": arguments, "resources": {"requests": {"cpu": "100m", "memory": "2Gi"}, "limits": {"memory": "9Gi"}}}
    values = write_values(
        folder, images, engine="vllm", replicas=1, vllm={"image": image(IMAGE), "embed": small, "rerank": small},
        gpu={"count": 1, "resource": DEVICE}, probes={"startupSeconds": START_S},
    )  # fmt: skip
    with prepared("phasor-vllm") as (home, made):
        home.helm("install", RELEASE, CHART, "-f", values, *track("vllm", bundle), "--wait", f"--timeout={START_S}s")
        yield home, made


def test_its_own_test_passes(key: tuple[Namespace, str]) -> None:
    """Golden vectors and scores, and a search, through the Service."""
    result = key[0].helm("test", RELEASE, "--timeout", "180s")
    assert "Phase:          Succeeded" in result.stdout, result.stdout


def test_vllm_computes_and_cannot_write(key: tuple[Namespace, str]) -> None:
    home, secret = key
    with home.forward(f"service/{FULL}", 80) as url:
        page = httpx.get(f"{url}/metrics", headers={"authorization": f"Bearer {secret}"}, timeout=30).text
    assert 'engine="vllm"' in page
    look = "import os, pathlib; print(os.getuid() > 0, pathlib.Path('/var/run/secrets').exists()); open('/opt/x', 'w')"
    for role in ("embed", "rerank"):
        result = home.kubectl("exec", f"deployment/{FULL}-blue-{role}", "-c", "vllm", "--", "python3", "-c", look, check=False)
        assert "True False" in result.stdout and "Read-only file system" in result.stderr


def test_while_a_pod_of_vllm_is_away_requests_get_one_clear_error(key: tuple[Namespace, str]) -> None:
    home, secret = key

    def ask(url: str) -> httpx.Response:
        body = {"model": "pico", "input": ["a document"]}
        return httpx.post(f"{url}/v1/embeddings", json=body, headers={"authorization": f"Bearer {secret}"}, timeout=60)

    with home.forward(f"service/{FULL}", 80) as url:
        assert ask(url).status_code == 200
        home.kubectl("delete", "pod", "-l", f"{LABEL},app.kubernetes.io/component=embed", "--grace-period=0", "--force")
        answer = until(lambda: (found := ask(url)).is_error and found, "an error", 60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_failed")
        until(lambda: ask(url).status_code == 200, "an answer from the new pod", START_S)
