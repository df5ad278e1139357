"""What must hold of everything that the chart can render: restricted pods, closed networks, selectors that meet, no secrets."""

import re
import tempfile
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from tests.charts.rendered import APIS, CASES, CHART, Object, containers, objects, of_kind, pods, selects, with_values

from phasor.cli import build_parser
from phasor.config.serving import ServeConfig
from phasor.recipe import load_settings

KUBERNETES = ["1.34", "1.37"]
OWN_KINDS = {"ServiceMonitor", "PrometheusRule", "ScaledObject", "HTTPRoute"}


def test_there_is_a_case_for_every_kind_of_place() -> None:
    assert CASES == ["airgap", "cpu", "external-qdrant", "gpu", "minimal", "openshift"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_knows_every_field(case: str, version: str) -> None:
    for tree in objects(case):
        if tree["kind"] not in OWN_KINDS:
            kubernetes_validate.validate(tree, version, strict=True)
        else:
            assert tree["apiVersion"] in APIS


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_restricted(case: str) -> None:
    for name, _, spec in pods(objects(case)):
        assert spec["automountServiceAccountToken"] is False and spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["securityContext"].get("runAsUser", 10_000) >= 10_000, name
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(spec), name
        kinds = {key for volume in spec["volumes"] for key in volume if key != "name"}
        assert kinds <= {"emptyDir", "secret", "configMap", "persistentVolumeClaim"}, name
        for container in containers(spec):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
            }, name  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_container_has_requests_a_memory_limit_and_a_pinned_image(case: str) -> None:
    for name, _, spec in pods(objects(case)):
        for container in containers(spec):
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]) and "memory" in container["resources"]["limits"], name
            tag = container["image"].rsplit("/", 1)[-1]
            assert re.search(r"@sha256:[0-9a-f]{64}$|:[\w.-]+$", tag) and not tag.endswith(":latest"), container["image"]


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_lies_in_a_volume_and_what_is_mounted_exists(case: str) -> None:
    for name, _, spec in pods(objects(case)):
        volumes = {volume["name"] for volume in spec["volumes"]}
        for container in containers(spec):
            mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
            assert {mount["name"] for mount in mounts.values()} <= volumes, name
            env = {entry["name"]: entry.get("value") for entry in container["env"]}
            assert env["HOME"] == "/tmp" and not mounts["/tmp"].get("readOnly"), name
            for path in filter(None, (env.get("PHASOR_S3_SECRET"), env.get("PHASOR_S3_CA"))):
                assert path in mounts or str(Path(path).parent) in mounts, (name, path)


@pytest.mark.parametrize("case", CASES)
def test_no_secret_is_rendered_or_passed_in_the_open(case: str) -> None:
    assert not of_kind(objects(case), "Secret")
    for name, _, spec in pods(objects(case)):
        for container in containers(spec):
            for entry in container["env"]:
                secret = re.search("(_KEY|_TOKEN|PASSWORD)$", entry["name"])
                assert not secret or "valueFrom" in entry, (name, entry["name"])
            assert not any("key=" in argument.lower() for argument in container.get("args", [])), name


@pytest.mark.parametrize("case", CASES)
def test_selectors_meet_their_pods_and_hold_no_versions(case: str) -> None:
    found = objects(case)
    made = {name: meta["labels"] for name, meta, _ in pods(found)}
    for tree in of_kind(found, "Deployment"):
        selector = tree["spec"]["selector"]["matchLabels"]
        assert [name for name, labels in made.items() if selects(selector, labels)] == [tree["metadata"]["name"]]
        assert not {"app.kubernetes.io/version", "helm.sh/chart"} & set(selector)
        [spread] = tree["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert spread["labelSelector"]["matchLabels"] == selector
    for tree in of_kind(found, "Service"):
        [name] = [name for name, labels in made.items() if selects(tree["spec"]["selector"], labels)]
        [spec] = [spec for other, _, spec in pods(found) if other == name]
        ports = {port["name"] for container in spec["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in tree["spec"]["ports"]} <= ports
    guarded = [name for tree in of_kind(found, "PodDisruptionBudget") for name in made if selects(tree["spec"]["selector"], made[name])]
    fewest = {tree["spec"]["scaleTargetRef"]["name"]: tree["spec"].get("minReplicas", tree["spec"].get("minReplicaCount"))
              for tree in of_kind(found, "HorizontalPodAutoscaler", "ScaledObject")}  # fmt: skip
    numbers = {(name := tree["metadata"]["name"]): fewest.get(name, tree["spec"].get("replicas")) for tree in of_kind(found, "Deployment")}
    assert sorted(guarded) == sorted(name for name, number in numbers.items() if number > 1)
    for tree in of_kind(found, "HorizontalPodAutoscaler", "ScaledObject"):
        target = tree["spec"]["scaleTargetRef"]["name"]
        [deployment] = [d for d in of_kind(found, "Deployment") if d["metadata"]["name"] == target]
        assert "replicas" not in deployment["spec"]


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_behind_a_default_deny_and_may_only_what_it_needs(case: str) -> None:
    found = objects(case)
    policies = of_kind(found, "NetworkPolicy")
    for name, meta, _ in pods(found):
        mine = [policy["spec"] for policy in policies if selects(policy["spec"]["podSelector"], meta["labels"])]
        assert {"policyTypes": ["Ingress", "Egress"]} in [{k: v for k, v in spec.items() if k != "podSelector"} for spec in mine], name
        component = meta["labels"]["app.kubernetes.io/component"]
        entrances = [rule for spec in mine for rule in spec.get("ingress", [])]
        exits = [rule for spec in mine for rule in spec.get("egress", [])]
        assert all("from" in rule for rule in entrances) and all("ports" in rule for rule in exits), name
        assert len(entrances) == (component != "test"), name
        if component in ("embed", "rerank"):
            peer, *others = entrances[0]["from"]
            assert all("namespaceSelector" in other for other in others)  # who reads metrics
            assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "gateway"
    assert len(of_kind(objects(case, "networkPolicy.enabled=false"), "NetworkPolicy")) == 0


@pytest.mark.parametrize("case", CASES)
def test_every_pod_asks_for_names_and_reaches_what_it_is_told_to(case: str) -> None:
    """Names on OpenShift, too, whose DNS pods listen elsewhere than their Service: policies see the pods' ports."""
    rule = {"ports": [{"protocol": "TCP", "port": 8333}]}
    found = with_values(case, {"networkPolicy": {"extraEgress": [rule]}})
    for name, meta, _ in pods(found):
        mine = [tree["spec"] for tree in of_kind(found, "NetworkPolicy") if selects(tree["spec"]["podSelector"], meta["labels"])]
        exits = [rule for spec in mine for rule in spec.get("egress", [])]
        ports = {(port["protocol"], port["port"]) for exit in exits if "to" not in exit for port in exit["ports"]}
        assert ports >= {(protocol, number) for protocol in ("UDP", "TCP") for number in (53, 5353)}, name
        assert exits.count(rule) == 1, name


def outsiders(case: str) -> list[Object]:
    """Who may ask the gateway from elsewhere, besides those that read metrics."""
    [policy] = [tree for tree in of_kind(objects(case), "NetworkPolicy") if tree["metadata"]["name"].endswith("-gateway")]
    [entrance] = policy["spec"]["ingress"]
    readers = yaml.safe_load((CHART / "ci" / f"{case}.yaml").read_text()).get("networkPolicy", {}).get("metricsFrom", [])
    return [peer for peer in entrance["from"] if {"namespaceSelector", "ipBlock"} & set(peer) and peer not in readers]


@pytest.mark.parametrize("case", CASES)
def test_who_comes_from_outside_is_let_in(case: str) -> None:
    found = objects(case)
    assert bool(of_kind(found, "Ingress", "HTTPRoute")) == bool(outsiders(case))
    homes = {parent["namespace"] for tree in of_kind(found, "HTTPRoute") for parent in tree["spec"]["parentRefs"]}
    assert homes <= {peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in outsiders(case)}


def test_without_peers_only_the_test_may_ask() -> None:
    [policy] = [tree for tree in of_kind(with_values("minimal", {"networkPolicy": {"ingressFrom": []}}), "NetworkPolicy")
                if tree["metadata"]["name"] == "rel-phasor-gateway"]  # fmt: skip
    [peer] = policy["spec"]["ingress"][0]["from"]
    assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "test"


@pytest.mark.parametrize("case", CASES)
def test_probes_tell_ready_from_alive_and_the_pod_outlives_its_requests(case: str) -> None:
    for tree in of_kind(objects(case), "Deployment"):
        spec = tree["spec"]["template"]["spec"]
        [container] = spec["containers"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
        startup = container["startupProbe"]
        assert startup["failureThreshold"] * startup["periodSeconds"] >= 600
        if container["name"] == "gateway":
            assert container["readinessProbe"]["httpGet"]["path"] == "/readyz" and container["livenessProbe"]["httpGet"]["path"] == "/livez"
            config = serve_config(case, tree["metadata"]["name"])
            assert spec["terminationGracePeriodSeconds"] > config.drain_s + config.shutdown_s
            assert config.shutdown_s >= config.limits.request_timeout_s
            # Longer than two looks of the readiness probe and the time that endpoints need.
            assert config.drain_s >= container["readinessProbe"]["periodSeconds"]


def serve_config(case: str, name: str) -> ServeConfig:
    """The settings that a gateway would read, as `phasor serve` reads them."""
    [tree] = [tree for tree in of_kind(objects(case), "ConfigMap") if tree["metadata"]["name"] == name]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(tree["data"]["serve.yaml"])
        file.flush()
        return load_settings(ServeConfig, Path(file.name))


@pytest.mark.parametrize("case", CASES)
def test_our_command_understands_what_the_chart_tells_it(case: str) -> None:
    """Arguments are parsed by the real parser, settings by the real classes; paths in both are mounted."""
    for name, _, spec in pods(objects(case)):
        for container in containers(spec):
            if container["command"][:3] != ["python", "-m", "phasor"]:
                continue
            args = build_parser().parse_args([*container["command"][3:], *container["args"]])
            mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
            assert any(str(args.bundle).startswith(mount) for mount in mounts), name
            if args.command == "serve":
                config = serve_config(case, name)
                assert config.port == container["ports"][0]["containerPort"] and config.host == "0.0.0.0"
                assert config.api_keys is None or str(config.api_keys.parent) in mounts
                assert (config.api_keys is None) is config.open
                if args.index and not args.index.startswith("s3://"):
                    assert args.index.split("/")[1] == "index" and "/index" in mounts
                if config.search.cache:
                    assert str(config.search.cache) in mounts


def test_cases_use_what_they_are_for() -> None:
    images = {entry["image"] for _, _, spec in pods(objects("airgap")) for entry in containers(spec)}
    assert {image.split("/")[0] for image in images} == {"registry.internal:5000"}
    assert not any({"runAsUser", "fsGroup"} & set(spec["securityContext"]) for _, _, spec in pods(objects("openshift")))
    computing = [container for _, _, spec in pods(objects("gpu")) for container in spec["containers"]]
    gpus = [container["resources"]["limits"].get("nvidia.com/gpu") for container in computing]
    assert gpus.count(1) == 4 and gpus.count(None) == 3  # embed and rerank of two tracks; their gateways and the test
    assert serve_config("external-qdrant", "rel-phasor-blue").search.qdrant_url == "http://qdrant.search:6333"
    wanted = {"HorizontalPodAutoscaler", "Ingress", "ServiceMonitor", "PrometheusRule", "PodDisruptionBudget"}
    assert {tree["kind"] for tree in objects("cpu")} >= wanted
    assert {tree["kind"] for tree in objects("gpu")} >= {"ScaledObject", "HTTPRoute"}
    assert not of_kind(objects("minimal"), "PersistentVolumeClaim", "Ingress", "HorizontalPodAutoscaler")


def test_the_active_track_is_switched_by_the_service_alone() -> None:
    before, after = objects("gpu"), objects("gpu", "active=blue")
    different = [(a["kind"], a["metadata"]["name"]) for a, b in zip(before, after, strict=True) if a != b]
    assert different == [("Service", "rel-phasor"), ("Pod", "rel-phasor-test")]
    [service] = [tree for tree in after if (tree["kind"], tree["metadata"]["name"]) == ("Service", "rel-phasor")]
    assert service["spec"]["selector"]["phasor/track"] == "blue"


def test_a_change_of_settings_starts_new_pods() -> None:
    changed = objects("minimal", "config.limits.max_k=7")
    for before, after in zip(of_kind(objects("minimal"), "Deployment"), of_kind(changed, "Deployment"), strict=True):
        assert before["spec"]["template"]["metadata"]["annotations"] != after["spec"]["template"]["metadata"]["annotations"]
    assert CHART.is_dir()
