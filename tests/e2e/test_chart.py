"""The chart on a real cluster, in the order of a release's life: installed, asked, upgraded, broken, rolled back, drained, removed."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.minio_server import BUCKET, PASSWORD, USER, Server
from tests.serving import world
from tests.waiting import until

from phasor.serving.keys import new_key

from .cluster import Namespace, Object, fresh, node, ready, restricted, run
from .conftest import ROOT, upload

CHART = str(ROOT / "charts" / "phasor")
RELEASE = "search"
FULL = "search-phasor"
LABEL = f"app.kubernetes.io/instance={RELEASE}"
GATEWAYS = f"{LABEL},app.kubernetes.io/component=gateway"
DEPLOYMENT = f"deployment/{FULL}-blue"
WORKERS = 4
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
Loading = Callable[..., AbstractContextManager[None]]


@dataclass(frozen=True)
class Release:
    """The installed chart.

    Attributes:
        home: its namespace.
        values: file of values for this small machine.
        key: an API key.
        before: everything that was in the namespace before it.
    """

    home: Namespace
    values: str
    key: str
    before: set[str]

    def helm(self, action: str, *settings: str, check: bool = True, wait_s: int = 300) -> str:
        """`helm install` or `upgrade`, until every pod is ready."""
        command = [action, RELEASE, CHART, "-f", self.values, *settings, "--wait", f"--timeout={wait_s}s"]
        result = self.home.helm(*command, check=check)
        assert check or result.returncode, f"{action} should have failed"
        return result.stdout + result.stderr

    def pods(self) -> list[Object]:
        return self.home.get("pods", "-l", GATEWAYS)

    def all_ready(self, number: int = 2) -> bool:
        pods = [pod for pod in self.pods() if "deletionTimestamp" not in pod["metadata"]]
        return len(pods) == number and all(map(ready, pods))

    def load(self) -> dict[str, Any]:
        """What the load has seen so far."""
        lines = self.home.kubectl("logs", "load", "--tail=1").stdout.splitlines()
        seen: dict[str, Any] = json.loads(lines[-1]) if lines else {"answers": 0, "failed": 0}
        return seen


def pin(bundle: Path) -> str:
    return hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()


def track(name: str, bundle: Path, index: str | None = None) -> list[str]:
    """Settings for one model, pinned, and its index."""
    base = f"s3://{BUCKET}"
    chosen = {
        "bundle.location": f"{base}/models/{name}", "bundle.sha256": pin(bundle), "index.location": f"{base}/indexes/{index or name}",
    }  # fmt: skip
    return [part for key, value in chosen.items() for part in ("--set", f"tracks.blue.{key}={value}")]


def image(name: str) -> dict[str, str]:
    """An image as the chart's values name it."""
    registry, _, rest = name.partition("/")
    repository, _, tag = rest.rpartition(":")
    return {"registry": registry, "repository": repository, "tag": tag}


def write_values(folder: Path, images: dict[str, str], **more: Any) -> str:
    """A file of values for this small machine, and `more` of them."""
    tree = {
        "image": image(images["serve"]), "auth": {"existingSecret": "search-keys"}, "tests": {"keySecret": "search-test-key"},
        "objectStore": {"endpoint": "http://minio.phasor:9000", "existingSecret": "phasor-store"},
        "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
    }  # fmt: skip
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(tree | more))
    return str(path)


@contextmanager
def prepared(name: str) -> Iterator[tuple[Namespace, str]]:
    """A restricted namespace with the Secrets that those values name, and the API key in them."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "app.kubernetes.io/part-of": "phasor"}
    tree = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    with fresh(name) as home:
        run("kubectl", "apply", "--server-side", "-f", "-", text=yaml.safe_dump(tree))
        key, line = new_key("test")
        home.secret("search-keys", keys=line)
        home.secret("search-test-key", key=key)
        home.secret("phasor-store", accesskey=USER, secretkey=PASSWORD)
        until(lambda: home.get("serviceaccount"), "the default account")
        yield home, key


@pytest.fixture(scope="module")
def values(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    engine = {"kind": "builtin", "precision": "float32"}
    return write_values(tmp_path_factory.mktemp("values"), images, probes={"startupSeconds": 300}, config={"engine": engine})


@pytest.fixture(scope="module")
def release(bundles: dict[str, Path], values: str) -> Iterator[Release]:
    """Installed with the first bundle in a restricted namespace; the last test uninstalls it."""
    with prepared("phasor-search") as (home, key):
        made = Release(home, values, key, home.everything())
        assert "serves track blue" in made.helm("install", *track("one", bundles["one"]))
        yield made


@pytest.fixture(scope="module")
def loaded(release: Release, images: dict[str, str]) -> Iterator[Release]:
    """The release under constant load."""
    script = (ROOT / "tests" / "e2e" / "load.py").read_text()
    source = {"name": "PHASOR_API_KEY", "valueFrom": {"secretKeyRef": {"name": "search-test-key", "key": "key"}}}
    pod = restricted("load", images["serve"], ["python", "-c", script, f"http://{FULL}", str(WORKERS)], container={"env": [source]})
    release.home.apply(pod)
    until(lambda: ready(release.home.get("pod", "load")[0]) and release.load()["answers"] > 20, "the load")
    yield release
    release.home.kubectl("delete", "pod", "load", "--ignore-not-found")


@pytest.fixture
def under_load(loaded: Release) -> Loading:
    """A block during which requests are answered all the time and at most `failures` of them not."""

    @contextmanager
    def block(failures: int = 0) -> Iterator[None]:
        before = loaded.load()
        yield
        now = loaded.load()
        until(lambda: loaded.load()["answers"] > now["answers"] + WORKERS, "further answers", 30)
        after = loaded.load()
        assert after["failed"] - before["failed"] <= failures, after["failures"]
        assert after["gap_s"] < 10, after

    return block


def test_its_own_test_passes(release: Release) -> None:
    result = release.home.helm("test", RELEASE, "--timeout", "180s")
    assert "Phase:          Succeeded" in result.stdout, result.stdout


def test_the_service_answers_whoever_has_a_key(release: Release) -> None:
    with release.home.forward(f"service/{FULL}", 80) as url:
        asked = {"query": "read a gzip file", "k": 3}
        assert httpx.post(f"{url}/v1/search", json=asked).status_code == 401
        answer = httpx.post(f"{url}/v1/search", json=asked, headers={"authorization": f"Bearer {release.key}"}, timeout=30)
        assert len(answer.json()["results"]) == 3


def test_pods_cannot_write_and_hold_no_token(release: Release) -> None:
    look = "import os, pathlib; print(os.getuid(), pathlib.Path('/var/run/secrets').exists()); open('/opt/x', 'w')"
    result = release.home.kubectl("exec", DEPLOYMENT, "-c", "gateway", "--", "python", "-c", look, check=False)
    assert "10001 False" in result.stdout and "Read-only file system" in result.stderr


def test_a_second_track_leaves_the_pods_of_the_first(release: Release, bundles: dict[str, Path]) -> None:
    before = {pod["metadata"]["name"] for pod in release.pods()}
    green = ["--set", f"tracks.green.bundle.location=s3://{BUCKET}/models/two", "--set", "tracks.green.replicas=0"]
    release.helm("upgrade", *track("one", bundles["one"]), *green)
    [second] = release.home.get("deployment", "-l", f"{GATEWAYS},phasor/track=green")
    assert second["spec"]["replicas"] == 0
    assert {pod["metadata"]["name"] for pod in release.pods()} == before
    release.home.helm("rollback", RELEASE, "1", "--wait", "--timeout=300s")
    assert {pod["metadata"]["name"] for pod in release.pods()} == before


def test_an_upgrade_to_another_bundle_fails_no_request(loaded: Release, under_load: Loading, bundles: dict[str, Path]) -> None:
    with under_load():
        loaded.helm("upgrade", *track("two", bundles["two"]))
        until(lambda: loaded.all_ready() and len(loaded.pods()) == 2, "the old pods are gone")
    assert len(loaded.load()["bundles"]) == 2
    loaded.home.helm("test", RELEASE, "--timeout", "180s")


def test_a_rollback_fails_no_request(loaded: Release, under_load: Loading) -> None:
    with under_load():
        loaded.home.helm("rollback", RELEASE, "1", "--wait", "--timeout=300s")
        until(lambda: loaded.all_ready() and len(loaded.pods()) == 2, "the old pods are gone")
    loaded.home.helm("test", RELEASE, "--timeout", "180s")


def test_a_new_index_is_taken_over_without_a_restart(loaded: Release, under_load: Loading, store: Server, bundles: dict[str, Path]) -> None:
    folder = bundles["one"].parent / "index"
    result = world.phasor("index", "update", bundles["one"], "--index", folder, "--delete", "d1")
    assert result.returncode == 0, result.stderr
    upload(store, folder / "versions", "indexes/one/versions")
    pods = {pod["metadata"]["name"] for pod in loaded.pods()}
    with under_load(), ExitStack() as stack:
        urls = [stack.enter_context(loaded.home.forward(f"pod/{name}", 8000)) for name in pods]
        headers = {"authorization": f"Bearer {loaded.key}"}

        def passages() -> list[int]:
            answers = [httpx.post(f"{url}/v1/search", json={"query": "x"}, headers=headers, timeout=30) for url in urls]
            return [answer.json()["index"]["passages"] for answer in answers]

        assert passages() == [60, 60]
        store.client.fput_object(bucket_name=BUCKET, object_name="indexes/one/current.json", file_path=str(folder / "current.json"))
        until(lambda: passages() == [59, 59], "both pods search the new index", 60)
    assert {pod["metadata"]["name"] for pod in loaded.pods()} == pods


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        ("damaged", "model.safetensors"),
        ("not pinned", "manifest.json"),
        ("another model's index", "made with another embedder"),
    ],
)
def test_a_bad_upgrade_is_refused_while_the_old_pods_serve(
    defect: str, message: str, loaded: Release, under_load: Loading, store: Server, bundles: dict[str, Path], tmp_path: Path
) -> None:
    chosen = track("two", bundles["two"])
    if defect == "damaged":
        upload(store, bundles["two"], "models/damaged")
        part = tmp_path / "model.safetensors"
        whole = (bundles["two"] / "embed" / "model.safetensors").read_bytes()
        part.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        store.client.fput_object(bucket_name=BUCKET, object_name="models/damaged/embed/model.safetensors", file_path=str(part))
        chosen = track("damaged", bundles["two"])
    elif defect == "not pinned":
        chosen = track("two", bundles["one"])
    else:
        chosen = track("two", bundles["two"], index="one")

    def told() -> str:
        [broken] = [pod for pod in loaded.pods() if not ready(pod)]
        logs = ["logs", broken["metadata"]["name"], "--all-containers"]
        return "".join(loaded.home.kubectl(*logs, *which, check=False).stdout for which in ([], ["--previous"]))

    with under_load():
        try:
            loaded.helm("upgrade", *chosen, check=False, wait_s=45)
            until(lambda: message in told(), f"a pod that tells of {message}")
            assert sum(map(ready, loaded.pods())) == 2 and "Traceback" not in told()
        finally:
            loaded.home.helm("rollback", RELEASE, "1", "--wait", "--timeout=300s")
        until(lambda: loaded.all_ready() and len(loaded.pods()) == 2, "the bad pod is gone")


def test_a_pod_that_is_deleted_fails_no_request(loaded: Release, under_load: Loading) -> None:
    with under_load():
        loaded.home.kubectl("delete", "pod", loaded.pods()[0]["metadata"]["name"])
        until(loaded.all_ready, "a new pod")


def test_a_pod_that_is_killed_costs_what_it_was_answering(loaded: Release, under_load: Loading) -> None:
    """Nobody can finish its answers; every worker may lose those, and those of its kept connection."""
    with under_load(failures=2 * WORKERS):
        loaded.home.kubectl("delete", "pod", loaded.pods()[0]["metadata"]["name"], "--grace-period=0", "--force")
        time.sleep(5)
    with under_load():
        until(loaded.all_ready, "a new pod")


def test_a_drained_node_keeps_the_last_pod_until_there_is_another(loaded: Release, under_load: Loading) -> None:
    """One node: with it cordoned no new pod can start, so the disruption budget must refuse the second eviction."""
    only = node()
    drain = ["kubectl", "drain", only, f"--pod-selector={GATEWAYS}", "--delete-emptydir-data", "--ignore-daemonsets"]
    with under_load():
        try:
            result = run(*drain, "--timeout=25s", check=False)
            assert result.returncode and "violate the pod's disruption budget" in result.stdout + result.stderr
            assert sum(map(ready, loaded.pods())) == 1
        finally:
            run("kubectl", "uncordon", only)
        until(loaded.all_ready, "a second pod")


def test_uninstalling_leaves_nothing(loaded: Release) -> None:
    loaded.home.kubectl("delete", "pod", "load", "--ignore-not-found")
    loaded.home.helm("uninstall", RELEASE, "--wait", "--timeout=120s")
    until(lambda: loaded.home.everything() <= loaded.before, f"nothing left but {loaded.before}", 90)
