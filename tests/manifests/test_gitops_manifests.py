"""What retraining from Git needs in a cluster: an account with few rights, a poller, and the applications of GitOps tools."""

import subprocess
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
import yaml

from phasor.cli import build_parser
from phasor.gitops.job import ACCOUNT, AUDIENCE
from phasor.pipeline.placement import SECRET_DIR
from phasor.pipeline.profile import load_profile

from .test_manifests import OVERLAYS, ROOT, named, needs_kubectl, rendered

pytestmark = needs_kubectl
READ, MAKE = ["get", "list"], ["get", "list", "create"]


@cache
def tool(name: str) -> list[dict[str, Any]]:
    """The manifests for a GitOps tool."""
    command = ["kubectl", "kustomize", str(ROOT / "manifests" / "gitops" / name)]
    return list(yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def of_kind(name: str, kind: str) -> dict[str, dict[str, Any]]:
    return {item["metadata"]["name"]: item["spec"] for item in tool(name) if item["kind"] == kind}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_account_of_the_jobs_has_rights_on_kfp_alone_and_no_token_for_the_cluster(overlay: str) -> None:
    assert named(overlay, "ServiceAccount", ACCOUNT)["automountServiceAccountToken"] is False
    bound = [
        item["roleRef"]["name"] for item in rendered(overlay)
        if item["kind"] == "RoleBinding" and ACCOUNT in [subject["name"] for subject in item["subjects"]]
    ]  # fmt: skip
    rules = [rule for name in bound for rule in named(overlay, "Role", name)["rules"]]
    assert {group for rule in rules for group in rule["apiGroups"]} == {"pipelines.kubeflow.org"}
    rights = {resource: set[str]() for resource in ("runs", "experiments", "pipelines")}
    for rule in rules:
        for resource in rule["resources"]:
            rights[resource] |= set(rule["verbs"])
    assert rights == {"runs": {*MAKE, "delete"}, "experiments": set(MAKE), "pipelines": set(MAKE)}
    assert named(overlay, "Role", "retrain-upload")["rules"][0]["verbs"] == ["create"], "what manifests make superfluous stands alone"


def test_the_poller_runs_what_the_job_runs_and_is_as_restricted() -> None:
    spec = named("airgap", "CronJob", "retrain-poller")["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == ACCOUNT and pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (clone,), (retrain,) = pod["initContainers"], pod["containers"]
    for container in (clone, retrain):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert container["image"] == "registry.internal/phasor:dev"
    asked, mounts = build_parser().parse_args(clone["args"]), {mount["name"]: mount["mountPath"] for mount in clone["volumeMounts"]}
    assert (str(asked.url_file), str(asked.folder)) == (f"{mounts['repository']}/url", "/deployment/clone")
    args = build_parser().parse_args(retrain["args"])
    assert not args.watch and str(args.folder) == "/deployment/clone/retrain"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    (source,) = volumes["token"]["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == AUDIENCE
    storage = load_profile(ROOT / "pipelines" / "profiles" / "cpu.yaml").storage
    assert storage and volumes["store"]["secret"]["secretName"] == storage.secret
    values = {entry["name"]: entry["value"] for entry in retrain["env"]}
    assert values == {"PHASOR_S3_ENDPOINT": storage.endpoint, "PHASOR_S3_SECRET": SECRET_DIR}


def test_argo_cd_may_put_there_what_it_is_told_to_and_no_more() -> None:
    project = of_kind("argocd", "AppProject")["phasor"]
    assert project["clusterResourceWhitelist"] == []
    applications = of_kind("argocd", "Application")
    for spec in applications.values():
        assert spec["project"] == "phasor" and spec["destination"] in project["destinations"]
        assert {source["repoURL"] for source in spec.get("sources", [spec.get("source")])} <= set(project["sourceRepos"])
    retrain = applications["phasor-retrain"]
    assert retrain["source"]["path"] == "retrain" and retrain["syncPolicy"]["automated"] == {"prune": True, "selfHeal": False}
    assert retrain["destination"]["namespace"] == "phasor"
    # Seen with Argo CD 3.5.1: it replaces what has Replace=true in every sync, changed or not, and stops the Job's pod by that.
    assert "ApplyOutOfSyncOnly=true" in retrain["syncPolicy"]["syncOptions"]
    chart, values = applications["phasor-search"]["sources"]
    assert (ROOT / chart["path"] / "Chart.yaml").is_file()
    assert chart["helm"]["valueFiles"] == [f"${values['ref']}/serving/values.yaml"]


@pytest.mark.parametrize("name", ["argocd", "flux"])
def test_bundles_are_served_in_a_restricted_namespace_that_the_store_lets_in(name: str) -> None:
    (space,) = [item for item in tool(name) if item["kind"] == "Namespace"]
    others = {"argocd": of_kind(name, "Application"), "flux": of_kind(name, "HelmRelease")}[name]["phasor-search"]
    assert space["metadata"]["name"] == others.get("targetNamespace", others.get("destination", {}).get("namespace"))
    labels = space["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    (rule,) = named("kind", "NetworkPolicy", "minio")["spec"]["ingress"]
    wanted = [peer["namespaceSelector"]["matchLabels"] for peer in rule["from"]]
    assert [found for found in wanted if found.items() <= labels.items()]
    home = {"argocd": "argocd", "flux": "flux-system"}[name]
    assert {item["metadata"].get("namespace") for item in tool(name)} == {None, home}
    kubernetes_validate.validate(space, "1.34", strict=True)


def test_flux_is_told_the_same() -> None:
    repositories, releases = of_kind("flux", "GitRepository"), of_kind("flux", "HelmRelease")
    project = of_kind("argocd", "AppProject")["phasor"]
    assert {spec["url"] for spec in repositories.values()} == set(project["sourceRepos"])
    kustomizations = of_kind("flux", "Kustomization")
    assert all(spec["sourceRef"]["name"] in repositories and spec["prune"] for spec in kustomizations.values())
    assert kustomizations["phasor-retrain"]["path"] == "./retrain" and "targetNamespace" not in kustomizations["phasor-retrain"]
    chart = releases["phasor-search"]["chart"]["spec"]
    assert chart["sourceRef"]["name"] in repositories and (ROOT / chart["chart"] / "Chart.yaml").is_file()
