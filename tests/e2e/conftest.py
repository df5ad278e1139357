"""What every test on a cluster shares: images that are loaded, the namespace with its store, models to serve.

`make e2e` runs these, on a cluster of their own: they make and delete the namespace `phasor`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from minio import Minio
from tests.minio_server import BUCKET, PASSWORD, USER, Server
from tests.serving import world

from .cluster import Namespace, fresh, run

ROOT = Path(__file__).parents[2]
ASKED = "PHASOR_E2E"
collect_ignore_glob = [] if os.environ.get(ASKED) else ["test_*.py"]  # whichever cluster is current must not be touched by accident


@pytest.fixture(scope="session")
def images() -> dict[str, str]:
    """The images under test by lock, as `make e2e` built and loaded them."""
    return {"phasor": os.environ["PHASOR_IMAGE"], "serve": os.environ["PHASOR_SERVE_IMAGE"]}


@pytest.fixture(scope="session")
def namespace() -> Iterator[Namespace]:
    """The overlay `kind` as a user applies it, its MinIO ready."""
    overlay = run("kubectl", "kustomize", str(ROOT / "manifests" / "overlays" / "kind")).stdout
    with fresh("phasor") as home:
        first = next(tree for tree in yaml.safe_load_all(overlay) if tree["kind"] == "Namespace")
        run("kubectl", "apply", "--server-side", "-f", "-", text=yaml.safe_dump(first))
        home.secret("phasor-store", accesskey=USER, secretkey=PASSWORD)
        run("kubectl", "apply", "--server-side", "-f", "-", text=overlay)
        home.kubectl("rollout", "status", "deployment/minio", "--timeout=180s")
        yield home


@contextmanager
def reached(namespace: Namespace) -> Iterator[Server]:
    """That MinIO from here, as long as its pod lives; the pods know it as http://minio:9000."""
    with namespace.forward("service/minio", 9000) as url:
        client = Minio(endpoint=urlsplit(url).netloc, access_key=USER, secret_key=PASSWORD, secure=False)
        assert client.bucket_exists(bucket_name=BUCKET)
        yield Server(url, client)


@pytest.fixture(scope="session")
def store(namespace: Namespace) -> Iterator[Server]:
    """That MinIO, reached from here."""
    with reached(namespace) as server:
        yield server


def upload(store: Server, folder: Path, prefix: str) -> None:
    """A folder as objects below a prefix."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = f"{prefix}/{path.relative_to(folder).as_posix()}"
            store.client.fput_object(bucket_name=BUCKET, object_name=name, file_path=str(path))


@pytest.fixture(scope="session")
def bundles(store: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models with an index each, on disk and at s3://phasor/models/NAME and s3://phasor/indexes/NAME."""
    made = {}
    for name, scale in (("one", 1.0), ("two", 1.1)):
        folder = tmp_path_factory.mktemp(name)
        made[name] = world.make_bundle(folder, scale=scale)
        upload(store, made[name], f"models/{name}")
        upload(store, world.make_index(folder, made[name]), f"indexes/{name}")
    return made
