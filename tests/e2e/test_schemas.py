"""Everything that the chart and the overlays can give, against the schemas of the running API server, and its admission."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.charts.rendered import CASES, objects

from .cluster import fresh, run
from .conftest import ROOT

OVERLAYS = sorted(path.name for path in (ROOT / "manifests" / "overlays").iterdir())
FOREIGN = (
    "ServiceMonitor",
    "PrometheusRule",
    "ScaledObject",
    "HTTPRoute",
    "ResourceFlavor",
    "ClusterQueue",
    "LocalQueue",
    "ExternalSecret",
)
# What OpenAPI 2 cannot say: these take a string or a number.
_LOOSE = ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", "io.k8s.apimachinery.pkg.api.resource.Quantity")
pytestmark = pytest.mark.skipif(shutil.which("kubeconform") is None, reason="kubeconform is not here")


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one closed schema per kind that the server knows."""
    folder = tmp_path_factory.mktemp("schemas")
    definitions: dict[str, Any] = json.loads(run("kubectl", "get", "--raw", "/openapi/v2").stdout)["definitions"]
    for name, schema in definitions.items():
        if name in _LOOSE:
            definitions[name] = {"type": ["string", "number"]}
        elif "properties" in schema:
            schema["additionalProperties"] = False
    text = json.dumps(definitions).replace("#/definitions/", "all.json#/")
    (folder / "all.json").write_text(text)
    for name, schema in definitions.items():
        for kind in schema.get("x-kubernetes-group-version-kind", []):
            place = "-".join(filter(None, (kind["kind"], kind["group"].split(".")[0], kind["version"]))).lower()
            (folder / f"{place}.json").write_text(json.dumps({"$ref": f"all.json#/{name}"}))
    return folder


def conform(text: str, schemas: Path) -> int:
    """How many objects were found valid, the others being of operators."""
    where = f"{schemas}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
    result = run("kubeconform", "-strict", "-summary", "-skip", ",".join(FOREIGN), "-schema-location", where, "-", text=text, check=False)
    assert result.returncode == 0, result.stdout
    return int(re.findall(r"Valid: (\d+)", result.stdout)[0])


@pytest.mark.parametrize("case", CASES)
def test_the_running_server_knows_every_field_of_the_chart(case: str, schemas: Path) -> None:
    assert conform(yaml.safe_dump_all(objects(case)), schemas)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_running_server_knows_every_field_of_the_overlays(overlay: str, schemas: Path) -> None:
    assert conform(run("kubectl", "kustomize", str(ROOT / "manifests" / "overlays" / overlay)).stdout, schemas)


def test_a_field_that_is_unknown_is_found(schemas: Path) -> None:
    [account] = [tree for tree in objects("minimal") if tree["kind"] == "ServiceAccount"]
    with pytest.raises(AssertionError, match="automount"):
        conform(yaml.safe_dump({**account, "automount": True}), schemas)


def test_a_restricted_namespace_takes_all_of_the_chart() -> None:
    """A dry run on the server: its validation and its admission, with a warning for every pod that it would refuse later."""
    with fresh("phasor-admission") as home:
        run("kubectl", "create", "namespace", home.name)
        levels = [f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn")]
        run("kubectl", "label", "namespace", home.name, *levels)
        for case in CASES:
            found = objects(case, "runtimeClassName=")  # a pod is refused where the class is not installed
            trees = [{**tree, "metadata": {**tree["metadata"], "namespace": home.name}} for tree in found if tree["kind"] not in FOREIGN]
            home.apply(*(tree for tree in trees if tree["kind"] == "ServiceAccount"))  # a pod is refused without
            result = home.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", text=yaml.safe_dump_all(trees))
            assert result.stderr == "", (case, result.stderr)
