"""The chart as the real `helm` renders it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[2] / "charts" / "phasor"
CASES = sorted(path.stem for path in (CHART / "ci").glob("*.yaml"))
APIS = ("monitoring.coreos.com/v1", "keda.sh/v1alpha1", "gateway.networking.k8s.io/v1")
Object = dict[str, Any]


def program(name: str, module: str) -> str:
    """A program: from the path, or built by Go before from `module`. Skips the test where there is none."""
    home = [os.environ.get("GOBIN", ""), os.environ.get("GOPATH", str(Path.home() / "go")) + "/bin"]
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *filter(None, home)]))
    if found is None:
        pytest.skip(f"no {name} here; build one with `go install {module}`")
    return found


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    binary = program("helm", "helm.sh/helm/v3/cmd/helm@v3.21.4")
    return subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)


def template(*arguments: str | Path, apis: tuple[str, ...] = APIS, release: str = "rel") -> subprocess.CompletedProcess[str]:
    """`helm template` for a cluster that knows every optional API."""
    known = [part for api in apis for part in ("--api-versions", api)]
    return helm("template", release, CHART, "--namespace", "search", "--kube-version", "1.34.0", *known, *arguments)


@cache
def objects(case: str, *changes: str) -> tuple[Object, ...]:
    """What `ci/<case>.yaml` gives, with some settings changed. Not to be changed."""
    settings = [part for change in changes for part in ("--set", change)]
    result = template("-f", CHART / "ci" / f"{case}.yaml", *settings)
    assert result.returncode == 0, result.stderr
    return tuple(tree for tree in yaml.safe_load_all(result.stdout) if tree)


def with_values(case: str, values: Object, release: str = "rel") -> tuple[Object, ...]:
    """What `ci/<case>.yaml` gives with these values over it."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        result = template("-f", CHART / "ci" / f"{case}.yaml", "-f", file.name, release=release)
    assert result.returncode == 0, result.stderr
    return tuple(tree for tree in yaml.safe_load_all(result.stdout) if tree)


def of_kind(found: tuple[Object, ...], *kinds: str) -> list[Object]:
    return [tree for tree in found if tree["kind"] in kinds]


def pods(found: tuple[Object, ...]) -> Iterator[tuple[str, Object, Object]]:
    """(name, metadata, spec) of every pod that would be made."""
    for tree in found:
        if tree["kind"] == "Pod":
            yield tree["metadata"]["name"], tree["metadata"], tree["spec"]
        elif "template" in tree.get("spec", {}):
            yield tree["metadata"]["name"], tree["spec"]["template"]["metadata"], tree["spec"]["template"]["spec"]


def containers(spec: Object) -> list[Object]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector, or a Service's plain one, matches labels."""
    plain = selector.get("matchLabels", {} if "matchExpressions" in selector else selector)
    for rule in selector.get("matchExpressions", []):
        value = labels.get(rule["key"])
        if (rule["operator"] == "In" and value not in rule["values"]) or (rule["operator"] == "Exists" and value is None):
            return False
    return all(labels.get(key) == value for key, value in plain.items())
