"""A real MinIO server for tests, with its data in a folder of its own."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from minio import Minio
from tests.ports import free_port
from tests.waiting import await_health

USER, PASSWORD = "phasor-test", "phasor-test-secret"
BUCKET = "phasor"
_BUILD = "go install github.com/minio/minio@latest"


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        endpoint: its URL.
        client: as its administrator.
    """

    endpoint: str
    client: Minio

    def environment(self) -> dict[str, str]:
        """What a pod of ours would find in its environment."""
        return {
            "PHASOR_S3_ENDPOINT": self.endpoint, "AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": PASSWORD,
            "PHASOR_DVC_REMOTE": f"s3://{BUCKET}/dvc", "PHASOR_CHECKPOINTS": f"s3://{BUCKET}/checkpoints",
            "PHASOR_RESULTS": f"s3://{BUCKET}/results",
        }  # fmt: skip

    def keys(self, prefix: str = "") -> list[str]:
        """Names of the objects in the bucket."""
        return [str(item.object_name) for item in self.client.list_objects(BUCKET, prefix, recursive=True)]

    def checkpoints(self, job: str) -> list[str]:
        """Manifests of a job's checkpoints, each written after all else that is the checkpoint's."""
        return [key for key in self.keys(f"checkpoints/{job}-") if key.endswith("manifest.json")]

    def unfinished(self) -> set[str]:
        """Jobs with a state in the store that the last task of a run would not delete."""
        there = [key.rsplit("/", 1) for key in self.keys("checkpoints/")]
        return {folder for folder, _ in there} - {folder for folder, name in there if name == "finished"}


def binary() -> str:
    """The server's program: from the path, or built by Go before. Skips the test where there is none."""
    home = [Path(folder) for folder in (os.environ.get("GOBIN"), os.environ.get("GOPATH", str(Path.home() / "go")) + "/bin") if folder]
    found = shutil.which("minio", path=os.pathsep.join([os.environ.get("PATH", ""), *map(str, home)]))
    if found is None:
        pytest.skip(f"no minio server here; build one with `{_BUILD}`")
    return found


@contextmanager
def minio_server(folder: Path) -> Iterator[Server]:
    """Start a server on a free port, with one bucket."""
    program = binary()
    address = f"127.0.0.1:{free_port()}"
    environment = {**os.environ, "MINIO_ROOT_USER": USER, "MINIO_ROOT_PASSWORD": PASSWORD, "MINIO_BROWSER": "off", "MINIO_UPDATE": "off"}
    command = [program, "server", str(folder), "--address", address, "--quiet"]
    told = folder.parent / "minio.log"
    with told.open("w") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
        try:
            await_health(f"http://{address}/minio/health/ready", process, told, 30)
            client = Minio(endpoint=address, access_key=USER, secret_key=PASSWORD, secure=False)
            client.make_bucket(bucket_name=BUCKET)
            yield Server(f"http://{address}", client)
        finally:
            process.terminate()
