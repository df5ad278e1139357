"""Components as pods: the compiled IR decides command, arguments, environment, user, volumes and resources; the executor input is KFP's."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from tests.minio_server import BUCKET, Server
from tests.pipeline import pod as local
from tests.waiting import until

from phasor.artifacts import digest_artifact, read_manifest

from .cluster import Namespace, Object
from .conftest import ROOT

_TRANSFER = (ROOT / "tests" / "e2e" / "transfer.py").read_text()
_PLACE = "e2e"
Uris = Mapping[str, str | list[str]]
_CARD = "README.md"
SLOWER = (
    "  embed: &embed {adapter: null, ",
    "  embed: &embed {adapter: null, epochs: 30, buckets: [{max_tokens: 32, batch_size: 4, mini_batch_size: 8}], ",
)
"""A change of the small project's recipe by which its training takes long enough to be killed on the way."""


def assert_same(mine: Path, local: Path, output: str) -> None:
    """An output of a pod is the one that DVC made here, and says that it is made from the same."""
    assert read_manifest(mine).inputs == read_manifest(local).inputs
    if output == "bundle":  # its card names the Python that wrote it, which is the image's
        files = [read_manifest(folder).files | {_CARD: ""} for folder in (mine, local)]
        assert files[0] == files[1] and _CARD in read_manifest(local).files
    elif output != "report":  # it tells seconds
        assert digest_artifact(mine) == digest_artifact(local), mine


class Component:
    """One run of a component.

    Args:
        home: namespace of the pod.
        name: of the component.
        image: instead of the profile's.
        parameters: of the executor input.
        inputs: artifact name to prefix in the bucket, or several.
        environment: differs from the profile's.
    """

    def __init__(
        self, home: Namespace, name: str, image: str, parameters: Mapping[str, Any], inputs: Uris, **environment: str
    ) -> None:  # fmt: skip
        self.home, self.name, self.image, self.out = home, name, image, f"{_PLACE}/{name}"
        self._prefixes = [prefix for given in inputs.values() for prefix in ([given] if isinstance(given, str) else given)]
        self._environment = environment
        root = Path("/s3") / BUCKET
        artifacts = {key: [root / part for part in given] if isinstance(given, list) else root / given for key, given in inputs.items()}
        told = local.executor_input(name, parameters, artifacts, root / self.out)
        self._told = json.dumps(told).replace('"uri": "/s3/', '"uri": "s3://')

    def spec(self) -> Object:
        """The pod. The component is its second init container, between the one that brings and the one that takes the artifacts."""
        pipeline, platform = yaml.safe_load_all(local.IR.read_text())
        compiled = pipeline["deploymentSpec"]["executors"][f"exec-{self.name}"]["container"]
        placed = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][f"exec-{self.name}"]
        empty = {entry["volumeName"]: entry["mountPath"] for entry in placed["emptyDirMounts"]} | {"s3": "/s3"}
        secret = {f"secret-{i}": entry for i, entry in enumerate(placed.get("secretAsVolume", []))}
        mounts = empty | {name: entry["mountPath"] for name, entry in secret.items()}
        user = placed["securityContext"]
        return {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"e2e-{self.name}"},
            "spec": {
                "restartPolicy": "Never", "serviceAccountName": "pipeline-runner",
                "activeDeadlineSeconds": int(placed["activeDeadlineSeconds"]),
                "initContainers": [self._move("down", self._prefixes), self._component(compiled, mounts)],
                "containers": [self._move("up", [self.out])], "enableServiceLinks": False,
                "securityContext": {
                    "runAsUser": int(user["runAsUser"]), "runAsGroup": int(user["runAsGroup"]), "runAsNonRoot": user["runAsNonRoot"],
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "volumes": [
                    *({"name": name, "emptyDir": {}} for name in empty),
                    *({"name": name, "secret": {"secretName": entry["secretName"]}} for name, entry in secret.items()),
                    {"name": "launcher", "secret": {"secretName": "phasor-store"}},
                ],
            },
        }  # fmt: skip

    def _component(self, compiled: Object, mounts: Mapping[str, str]) -> Object:
        environment = {entry["name"]: entry["value"] for entry in compiled.get("env", [])} | self._environment
        resources = compiled["resources"]
        return {
            **self._container("component", mounts), "command": compiled["command"],
            "args": [self._told if word == "{{$}}" else word for word in compiled["args"]],
            "env": [{"name": name, "value": value} for name, value in environment.items()],
            "resources": {
                "requests": {"cpu": resources["resourceCpuRequest"], "memory": resources["resourceMemoryRequest"]},
                "limits": {"cpu": resources["resourceCpuLimit"], "memory": resources["resourceMemoryLimit"]},
            },
        }  # fmt: skip

    def _move(self, direction: str, prefixes: list[str]) -> Object:
        settings = {"PHASOR_S3_ENDPOINT": "http://minio:9000", "PHASOR_S3_SECRET": "/launcher"}
        return {
            **self._container(direction, {"s3": "/s3", "launcher": "/launcher"}),
            "command": ["python", "-c", _TRANSFER, direction, BUCKET, *prefixes],
            "env": [{"name": name, "value": value} for name, value in settings.items()],
        }  # fmt: skip

    def _container(self, name: str, mounts: Mapping[str, str]) -> Object:
        return {
            "name": name, "image": self.image, "imagePullPolicy": "IfNotPresent",
            "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [{"name": volume, "mountPath": path} for volume, path in mounts.items()],
        }  # fmt: skip

    def start(self) -> None:
        self.home.apply(self.spec())

    def log(self) -> str:
        return self.home.kubectl("logs", f"e2e-{self.name}", "-c", "component", check=False).stdout

    def finish(self, seconds: float = 240) -> None:
        """Wait for the pod to succeed, and delete it."""
        name = f"e2e-{self.name}"

        def phase() -> str | None:
            told = self.home.get("pod", name)[0]["status"]["phase"]
            return told if told in ("Succeeded", "Failed") else None

        assert until(phase, f"{name} ends", seconds) == "Succeeded", self.home.kubectl("logs", name, "--all-containers").stdout[-4000:]
        self.home.kubectl("delete", "pod", name)

    def run(self, seconds: float = 240) -> None:
        self.start()
        self.finish(seconds)

    def fetch(self, store: Server, folder: Path) -> Path:
        """Its outputs, from the store."""
        for key in store.keys(f"{self.out}/"):
            store.client.fget_object(bucket_name=BUCKET, object_name=key, file_path=str(folder / Path(key).relative_to(_PLACE)))
        return folder / self.name
