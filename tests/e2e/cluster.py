"""The cluster under test, through its own tools: `kubectl` and `helm` as a user has them."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


def run(
    *command: str, text: str | None = None, check: bool = True, timeout: float = 600, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run a command; with `check`, its failure fails the test and shows what it said."""
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=timeout, cwd=folder)
    assert not check or result.returncode == 0, f"{' '.join(command)}\n{result.stdout[-2000:]}{result.stderr[-4000:]}"
    return result


class Namespace:
    """One namespace of the cluster."""

    def __init__(self, name: str) -> None:
        self.name = name

    def kubectl(self, *arguments: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run("kubectl", "-n", self.name, *arguments, text=text, check=check)

    def helm(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run("helm", "-n", self.name, *arguments, check=check)

    def apply(self, *objects: Object) -> None:
        """Server-side, as our manifests are meant to be applied."""
        self.kubectl("apply", "--server-side", "-f", "-", text=yaml.safe_dump_all(objects))

    def get(self, kind: str, *arguments: str) -> list[Object]:
        found = json.loads(self.kubectl("get", kind, "-o", "json", *arguments).stdout)
        items: list[Object] = found.get("items", [found])
        return items

    def secret(self, name: str, **values: str) -> None:
        self.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values})

    def everything(self) -> set[str]:
        """KIND/NAME of all that is there, but for what the cluster writes by itself about others."""
        kinds = run("kubectl", "api-resources", "--namespaced", "--verbs=list", "-o", "name").stdout.split()
        kinds = [kind for kind in kinds if not kind.startswith(("events", "podmetrics"))]
        return set(self.kubectl("get", ",".join(kinds), "-o", "name", "--ignore-not-found").stdout.split())

    def logs(self, selector: str) -> str:
        return self.kubectl("logs", "--tail=-1", "--all-containers", "--prefix", "-l", selector, check=False).stdout

    @contextmanager
    def forward(self, target: str, port: int) -> Iterator[str]:
        """A URL on this machine that leads to a pod or service."""
        command = ["kubectl", "-n", self.name, "port-forward", target, f":{port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                match = _FORWARDING.search(line)
                assert match, line
                yield f"http://127.0.0.1:{match[1]}"
            finally:
                process.terminate()


@contextmanager
def fresh(name: str) -> Iterator[Namespace]:
    """A namespace that is not there before, whatever an interrupted run left, and not afterwards."""
    remove = ("kubectl", "delete", "namespace", name, "--ignore-not-found", "--timeout=180s")
    run(*remove)
    try:
        yield Namespace(name)
    finally:
        run(*remove, check=False)


def ready(pod: Object) -> bool:
    """Whether a pod takes requests and is meant to stay."""
    conditions = {entry["type"]: entry["status"] for entry in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def restricted(name: str, image: str, command: list[str], **more: Any) -> Object:
    """A pod that a restricted namespace takes: any user, nothing to gain, a root file system that cannot be written."""
    container = {
        "name": "main", "image": image, "imagePullPolicy": "IfNotPresent", "command": command,
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "3Gi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *more.pop("mounts", [])], **more.pop("container", {}),
    }  # fmt: skip
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": more.pop("labels", {})},
        "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": False, "enableServiceLinks": False, "containers": [container],
            "terminationGracePeriodSeconds": 5,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 12345, "runAsGroup": 0, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "tmp", "emptyDir": {}}, *more.pop("volumes", [])], **more,
        },
    }  # fmt: skip


def node() -> str:
    """Name of the only node."""
    [found] = json.loads(run("kubectl", "get", "nodes", "-o", "json").stdout)["items"]
    name: str = found["metadata"]["name"]
    return name
