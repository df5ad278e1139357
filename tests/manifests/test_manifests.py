"""The manifests: rendered by kustomize, fit for a restricted namespace, and taken by a real API server where there is one."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml
from kubernetes.utils import parse_quantity

from phasor.pipeline.profile import load_profile

ROOT = Path(__file__).parents[2]
OVERLAYS = sorted(path.name for path in (ROOT / "manifests" / "overlays").iterdir())
CLUSTER_SCOPED = ("Namespace", "ClusterQueue", "ResourceFlavor")
FOREIGN = ("kueue.x-k8s.io", "external-secrets.io")
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here")
pytestmark = needs_kubectl


@cache
def rendered(overlay: str) -> list[dict[str, Any]]:
    command = ["kubectl", "kustomize", str(ROOT / "manifests" / "overlays" / overlay)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [item for item in yaml.safe_load_all(text) if item]


def named(overlay: str, kind: str, name: str) -> dict[str, Any]:
    return next(item for item in rendered(overlay) if (item["kind"], item["metadata"]["name"]) == (kind, name))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_is_in_the_namespace_and_the_namespace_is_restricted(overlay: str) -> None:
    for item in rendered(overlay):
        assert item["metadata"].get("namespace") == (None if item["kind"] in CLUSTER_SCOPED else "phasor"), item["metadata"]["name"]
    assert named(overlay, "Namespace", "phasor")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nobody_may_do_more_than_a_pipeline_needs(overlay: str) -> None:
    rules = named(overlay, "Role", "pipeline-runner")["rules"]
    assert not any("*" in rule["verbs"] + rule["resources"] + rule["apiGroups"] for rule in rules)
    assert all(rule.get("resourceNames") for rule in rules if "secrets" in rule["resources"])
    assert not [item for item in rendered(overlay) if item["kind"].startswith("ClusterRole") or item["kind"] == "Secret"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_field_is_one_that_kubernetes_knows(overlay: str) -> None:
    for item in rendered(overlay):
        if not any(group in item["apiVersion"] for group in FOREIGN):
            kubernetes_validate.validate(item, "1.34", strict=True)


@pytest.mark.parametrize(("overlay", "name"), [("kind", "minio"), ("airgap", "minio"), ("gpu", "generator")])
def test_pods_of_ours_are_restricted(overlay: str, name: str) -> None:
    spec = named(overlay, "Deployment", name)["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip


def test_an_air_gapped_cluster_lets_nothing_out() -> None:
    policies = {item["metadata"]["name"]: item["spec"] for item in rendered("airgap") if item["kind"] == "NetworkPolicy"}
    assert policies.keys() == {"default-deny", "cluster-services", "api-server", "minio", "to-minio", "retrain-poller"}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    peers = [peer for spec in policies.values() for rule in spec.get("egress", []) for peer in rule["to"]]
    blocks = [peer["ipBlock"]["cidr"] for peer in peers if "ipBlock" in peer]
    assert len(blocks) == 2 and all(block.endswith("/32") for block in blocks), "one API server and one Git server"
    assert all(peer.get("podSelector") or peer.get("namespaceSelector") for peer in peers if "ipBlock" not in peer)
    assert policies["retrain-poller"]["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "retrain-poller"}}
    assert "hubs" in {item["metadata"]["name"] for item in rendered("kind") if item["kind"] == "NetworkPolicy"}
    (container,) = named("airgap", "Deployment", "minio")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.internal/minio:dev"


def egress(overlay: str) -> list[dict[str, Any]]:
    """What pipeline pods may reach."""
    policies = [item["spec"] for item in rendered(overlay) if item["kind"] == "NetworkPolicy" and item["spec"]["podSelector"] == {}]
    return [rule for spec in policies for rule in spec.get("egress", [])]


@pytest.mark.parametrize(("name", "overlay"), [("cpu", "kind"), ("cpu", "airgap"), ("gpu", "gpu"), ("gpu-kueue", "gpu")])
def test_a_profile_and_its_overlay_name_the_same_store_and_queue_and_pods_reach_it(name: str, overlay: str) -> None:
    profile = load_profile(ROOT / "pipelines" / "profiles" / f"{name}.yaml")
    assert profile.storage
    launcher = yaml.safe_load(named(overlay, "ConfigMap", "kfp-launcher")["data"]["providers"])["s3"]["default"]
    assert launcher["credentials"]["secretRef"]["secretName"] == profile.storage.secret and launcher["region"] == profile.storage.region
    url = urlsplit(profile.storage.endpoint)
    assert launcher["disableSSL"] is (url.scheme == "http")
    services = [item for item in rendered(overlay) if (item["kind"], item["metadata"]["name"]) == ("Service", url.hostname)]
    port = url.port or 443
    if services:
        assert services[0]["spec"]["ports"][0]["port"] == port
        assert launcher["endpoint"] == f"{url.hostname}.phasor.svc.cluster.local:{port}"
    else:
        assert launcher["endpoint"] == url.netloc
    to = [{"podSelector": {"matchLabels": services[0]["spec"]["selector"]}}] if services else None
    assert [rule for rule in egress(overlay) if {"port": port, "protocol": "TCP"} in rule.get("ports", []) and rule.get("to") == to]
    if profile.queue:
        assert named(overlay, "LocalQueue", profile.queue)


def test_the_queue_knows_every_resource_that_a_pod_asks_for() -> None:
    """Kueue never admits a pod with a request, or a limit that stands for one, for anything else."""
    (group,) = named("gpu", "ClusterQueue", "phasor")["spec"]["resourceGroups"]
    (flavor,) = group["flavors"]
    assert [entry["name"] for entry in flavor["resources"]] == group["coveredResources"]
    limits = named("gpu", "LimitRange", "disk")["spec"]["limits"]
    asked = {name for limit in limits for name in (*limit["defaultRequest"], *limit["default"])}
    compiled = next(yaml.safe_load_all((ROOT / "pipelines" / "compiled" / "gpu-kueue.yaml").read_text()))
    resources = [executor["container"]["resources"] for executor in compiled["deploymentSpec"]["executors"].values()]
    asked |= {"cpu", "memory"} | {found["accelerator"]["resourceType"] for found in resources if "accelerator" in found}
    assert "nvidia.com/gpu" in asked and asked <= set(group["coveredResources"])


def test_the_queue_has_room_for_a_loop_of_other_pods_beside_one_on_every_gpu() -> None:
    """Else the last GPU idles while the memory or the cores of the quota are with pods that need none."""
    profile = load_profile(ROOT / "pipelines" / "profiles" / "gpu-kueue.yaml")
    (group,) = named("gpu", "ClusterQueue", "phasor")["spec"]["resourceGroups"]
    quota = {entry["name"]: parse_quantity(entry["nominalQuota"]) for entry in group["flavors"][0]["resources"]}
    train, other = profile.pod("train"), profile.pod("mine")
    trains = quota[train.accelerator] // train.accelerators
    assert quota["cpu"] >= trains * parse_quantity(train.cpu) + profile.parallelism * parse_quantity(other.cpu)
    assert quota["memory"] >= trains * parse_quantity(train.memory) + profile.parallelism * parse_quantity(other.memory)


def test_argo_needs_no_store_of_its_own() -> None:
    config = named("kind", "ConfigMap", "artifact-repositories")
    chosen = config["metadata"]["annotations"]["workflows.argoproj.io/default-artifact-repository"]
    assert yaml.safe_load(config["data"][chosen]) == {"archiveLogs": False}


def test_without_the_program_of_the_store_its_image_is_not_begun(tmp_path: Path) -> None:
    for program in ("make", "sh", "env"):
        (tmp_path / program).symlink_to(shutil.which(program) or program)
    command = ["make", "minio-image", "BUILDER=echo building"]
    result = subprocess.run(command, cwd=ROOT, env={"PATH": str(tmp_path)}, check=False, capture_output=True, text=True)
    assert result.returncode and "There is no minio on the path. Build it with: go install" in result.stderr
    assert "building" not in result.stdout


def on_cluster(*arguments: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["kubectl", *arguments], input=text, check=check, capture_output=True, text=True)


@pytest.fixture(scope="module")
def cluster() -> None:
    if on_cluster("get", "--raw", "/readyz", "--request-timeout=3s", check=False).returncode:
        pytest.skip("no cluster answers")


@pytest.mark.slow
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_real_api_server_takes_them(overlay: str, cluster: None) -> None:
    """Server-side, against the real schemas; objects of operators only where their definitions are."""
    there = on_cluster("api-versions").stdout
    items = [item for item in rendered(overlay) if all(group not in item["apiVersion"] or group in there for group in FOREIGN)]
    on_cluster("apply", "--server-side", "-f", "-", text=yaml.safe_dump(rendered(overlay)[0]))  # the namespace, so that a dry run finds it
    assert rendered(overlay)[0]["kind"] == "Namespace"
    result = on_cluster("apply", "--server-side", "--dry-run=server", "-f", "-", text=yaml.safe_dump_all(items), check=False)
    assert result.returncode == 0, result.stderr
    assert "would violate PodSecurity" not in result.stderr


@pytest.mark.slow
def test_the_namespace_refuses_a_pod_that_is_not_restricted(cluster: None) -> None:
    on_cluster("apply", "--server-side", "-f", "-", text=yaml.safe_dump(named("kind", "Namespace", "phasor")))
    result = on_cluster("run", "root", "-n", "phasor", "--image", "phasor.local/base:1", "--dry-run=server", check=False)
    assert result.returncode and "violates PodSecurity" in result.stderr
