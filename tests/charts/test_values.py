"""What single values change, and where: every one something, and each the pods it is for."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml
from tests.charts.rendered import CHART, Object, containers, objects, of_kind, pods, template, with_values

from phasor.indexing.qdrant_backend import connect

MORE = {
    "networkPolicy": {"qdrantTo": [{"podSelector": {}}]}, "qdrant": {"url": "http://qdrant", "existingSecret": "qdrant"},
    "objectStore": {"caConfigMap": "ca"}, "monitoring": {"serviceMonitor": True, "prometheusRule": True, "dashboard": True},
}  # fmt: skip
PLACES = {
    "cpu": MORE, "gpu": MORE, "airgap": {"autoscaling": {"type": "keda", "prometheus": "http://prometheus"}},
    "openshift": {"engine": "vllm", "gpu": {"count": 1}},
}  # fmt: skip
"""Cases in which, with these values, every value has something to change; the first tells most of them apart."""
OTHERS: dict[str, Any] = {
    "active": "blue", "tracks": {"blue": {"replicas": 5}}, "engine": "builtin", "logLevel": "DEBUG", "image.pullPolicy": "Always",
    "vllm.image.pullPolicy": "Always", "image.digest": "sha256:" + "2" * 64, "vllm.image.digest": "sha256:" + "2" * 64,
    "autoscaling.type": "none", "service.type": "NodePort", "objectStore.endpoint": "http://other", "qdrant.url": "http://other",
    "httpRoute.enabled": False, "ingress.enabled": False, "monitoring.serviceMonitor": False, "probes.startupSeconds": 1800,
    "rollingUpdate": {"maxSurge": 3}, "podSecurityContext": {"fsGroup": 3},
}  # fmt: skip
"""Values that are not of every kind, each another one than in some of those cases."""
COMPUTING = {"builtin": {"gateway"}, "vllm": {"embed", "rerank"}}


def tree(key: str, value: Any) -> Object:
    """Values with one of them set."""
    for name in reversed(key.split(".")):
        value = {name: value}
    return dict(value)


def another(default: Any) -> Any:
    """A value of the same kind."""
    match default:
        case bool():
            return not default
        case int():
            return default + 1
        case str():
            return "other"
        case list():
            return [{"name": "other"}]
        case _:
            return {"other": "x"}


def merged(first: Object, second: Object) -> Object:
    """As Helm lays one file of values over another."""
    both = {name: merged(first[name], second[name]) for name in first.keys() & second.keys() if isinstance(second[name], dict)}
    return first | second | both


def text(case: str, values: Object, path: Path) -> str:
    path.write_text(yaml.safe_dump(values))
    result = template("-f", CHART / "ci" / f"{case}.yaml", "-f", path)
    return result.stdout if result.returncode == 0 else ""


@pytest.mark.slow
def test_every_value_changes_what_is_installed(tmp_path: Path) -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| `.*` \| (.+) \|$", (CHART / "README.md").read_text(), re.MULTILINE)
    assert len(rows) > 60 and all(len(words) >= 3 for _, words in rows)
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    before = {case: text(case, more, tmp_path / "values.yaml") for case, more in PLACES.items()}
    assert all(before.values())
    unread = set()
    for key, _ in rows:
        default = defaults
        for name in key.split("."):
            default = default[name]
        change = tree(key, OTHERS.get(key, another(default)))
        if key == "auth.open":
            change["auth"]["existingSecret"] = ""  # one of both
        if not any(text(case, merged(more, change), tmp_path / "values.yaml") not in ("", before[case]) for case, more in PLACES.items()):
            unread.add(key)
    assert not unread


EVERYWHERE: Object = {
    "podLabels": {"team": "search"}, "podAnnotations": {"note": "x"}, "commonLabels": {"cost": "centre"},
    "tolerations": [{"key": "spot", "operator": "Exists"}], "priorityClassName": "high",
    "global": {"imagePullSecrets": [{"name": "first"}, "second"]},
    "podSecurityContext": {"runAsUser": 1000680000, "supplementalGroups": [70, 71], "fsGroupChangePolicy": "Always"},
}  # fmt: skip


@pytest.mark.parametrize("case", ["cpu", "gpu"])
def test_what_is_said_of_all_pods_holds_of_all(case: str) -> None:
    made = with_values(case, EVERYWHERE)
    for tree in of_kind(made, "Deployment", "Pod"):
        kubernetes_validate.validate(tree, "1.34", strict=True)
    found = list(pods(made))
    assert len(found) == {"cpu": 2, "gpu": 7}[case]
    for name, meta, spec in found:
        assert {"team": "search", "cost": "centre"}.items() <= meta["labels"].items() and meta["annotations"]["note"] == "x", name
        assert spec["tolerations"][-1]["key"] == "spot" and spec["priorityClassName"] == "high", name
        assert spec["imagePullSecrets"] == [{"name": "first"}, {"name": "second"}], name
        assert spec["securityContext"] == EVERYWHERE["podSecurityContext"] | {
            "runAsGroup": 10001, "fsGroup": 10001, "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"},
        }, name  # fmt: skip


@pytest.mark.parametrize(("case", "engine"), [("cpu", "builtin"), ("gpu", "vllm")])
def test_only_pods_that_compute_go_to_nodes_that_compute(case: str, engine: str) -> None:
    place = {"nodeSelector": {"gpu": "h200"}, "runtimeClassName": "nvidia", "affinity": {"podAntiAffinity": {}}}
    for name, meta, spec in pods(with_values(case, place)):
        here = {key: value for key, value in spec.items() if key in place}
        assert here == (place if meta["labels"]["app.kubernetes.io/component"] in COMPUTING[engine] else {}), name


def documents(case: str, values: Object, path: Path) -> dict[str, str]:
    """The text of every object, by kind and name."""
    found = [(yaml.safe_load(part), part.strip()) for part in text(case, values, path).removeprefix("---\n").split("\n---\n")]
    return {f"{head['kind']}/{head['metadata']['name']}": part for head, part in found}


@pytest.mark.parametrize("engine", ["builtin", "vllm"])
def test_a_second_track_leaves_the_first_as_it_was(engine: str, tmp_path: Path) -> None:
    values = {"engine": engine, "gpu": {"count": 1}}
    alone = documents("cpu", values, tmp_path / "values.yaml")
    both = documents("cpu", values | {"tracks": {"green": {"bundle": {"location": "s3://models/docs/8"}}}}, tmp_path / "values.yaml")
    added = both.keys() - alone.keys()
    assert "Deployment/rel-phasor-green" in added and all("rel-phasor-green" in name for name in added)
    assert {name: both[name] for name in alone} == alone


def test_settings_of_one_track_do_not_restart_another(tmp_path: Path) -> None:
    before = documents("gpu", {}, tmp_path / "values.yaml")
    after = documents("gpu", {"tracks": {"green": {"index": {"location": "", "existingClaim": "it"}}}}, tmp_path / "values.yaml")
    different = {name for name in before if before[name] != after[name]}
    assert different == {"ConfigMap/rel-phasor-green", "Deployment/rel-phasor-green"}


@pytest.mark.parametrize("case", ["cpu", "gpu", "minimal"])
def test_a_track_of_no_pods_has_none_and_nothing_that_scales_it(case: str) -> None:
    track = "green" if case == "gpu" else "blue"
    off = of_kind(with_values(case, {"tracks": {track: {"replicas": 0}}}), "Deployment", "HorizontalPodAutoscaler", "ScaledObject",
                  "PodDisruptionBudget")  # fmt: skip
    mine = [tree for tree in off if tree["metadata"]["labels"]["phasor/track"] == track]
    assert [(tree["kind"], tree["spec"]["replicas"]) for tree in mine] == [("Deployment", 0)] * (3 if case == "gpu" else 1)
    whole = of_kind(with_values("minimal", {"replicas": 0}), "Deployment", "PodDisruptionBudget")
    assert [tree["spec"]["replicas"] for tree in whole] == [0]
    [own] = of_kind(with_values("minimal", {"replicas": 0, "tracks": {"blue": {"replicas": 1}}}), "Deployment")
    assert own["spec"]["replicas"] == 1


def test_engines_with_a_pod_to_spare_have_a_budget() -> None:
    spare = {"autoscaling": {"type": "none"}, "vllm": {"embed": {"replicas": 3}}, "pdb": {"minAvailable": "50%"}}
    budgets = of_kind(with_values("gpu", spare), "PodDisruptionBudget")
    for budget in budgets:
        kubernetes_validate.validate(budget, "1.34", strict=True)
    names = {budget["metadata"]["name"] for budget in budgets}
    assert names == {"rel-phasor-green", "rel-phasor-blue-embed", "rel-phasor-green-embed"}
    assert {budget["spec"]["minAvailable"] for budget in budgets} == {"50%"}


def test_names_are_short_enough_and_pods_are_known_by_them() -> None:
    values: Object = {"tracks": {"abcdefghij": {"bundle": {"location": "s3://a/b"}}}, "active": "abcdefghij",
                      "monitoring": {"prometheusRule": True}}  # fmt: skip
    found = with_values("gpu", values, release="r" * 53)
    assert max(len(tree["metadata"]["name"]) for tree in found) <= 63
    labels = [value for _, meta, _ in pods(found) for value in meta["labels"].values()]
    assert max(map(len, labels)) <= 63
    # Kubernetes cuts the name of a ReplicaSet, and its dash, to 58 characters before it adds five random ones.
    made = [(tree["metadata"]["name"] + "-" + "6" * 10 + "-")[:58] + "x2x4z" for tree in of_kind(found, "Deployment")]
    queries = [trigger["metadata"]["query"] for tree in of_kind(found, "ScaledObject") for trigger in tree["spec"]["triggers"]]
    queries += [rule["expr"] for tree in of_kind(found, "PrometheusRule") for rule in tree["spec"]["groups"][0]["rules"]]
    patterns = {pattern for query in queries for pattern in re.findall(r'pod=~"(.*?)"', query)}
    assert len(patterns) == 8 and all(any(re.fullmatch(pattern, name) for name in made) for pattern in patterns)


@pytest.mark.parametrize("url", [
    "http://qdrant.search", "https://qdrant.example.com", "https://qdrant.example.com/docs", "http://qdrant.search:80", "http://[::1]:7000",
])  # fmt: skip
def test_the_policy_opens_the_port_at_which_qdrant_is_asked(url: str) -> None:
    found = of_kind(objects("external-qdrant", f"qdrant.url={url}"), "NetworkPolicy")
    [gateway] = [tree for tree in found if tree["metadata"]["name"] == "rel-phasor-gateway"]
    [rule] = gateway["spec"]["egress"]
    asked = urlsplit(connect(url).http.client.host)
    assert rule["ports"] == [{"protocol": "TCP", "port": asked.port}]


def test_an_address_of_the_object_store_without_a_port_has_that_of_its_scheme() -> None:
    for url, port in (("https://s3.example.com", 443), ("http://s3", 80), ("http://s3:9000", 9000)):
        found = of_kind(objects("airgap", f"objectStore.endpoint={url}"), "NetworkPolicy")
        [fetch] = [tree for tree in found if tree["metadata"]["name"] == "rel-phasor-fetch"]
        assert fetch["spec"]["egress"][1]["ports"] == [{"protocol": "TCP", "port": port}]


def test_requests_under_way_have_the_pod_s_time_but_for_draining_and_stopping() -> None:
    for seconds in (21, 90, 600):
        found = with_values("gpu", {"probes": {"terminationSeconds": seconds}})
        settings = [yaml.safe_load(tree["data"]["serve.yaml"]) for tree in of_kind(found, "ConfigMap") if "serve.yaml" in tree["data"]]
        assert {(own["drain_s"], own["shutdown_s"]) for own in settings} == {(10, seconds - 20)}
        timeouts = {part for _, _, spec in pods(found) for box in containers(spec) for part in box["args"] if "shutdown-timeout" in part}
        assert timeouts == {f"--shutdown-timeout={seconds - 20}"}


def test_annotations_of_the_service_are_those_of_the_one_that_is_asked() -> None:
    made = of_kind(with_values("minimal", {"service": {"annotations": {"lb": "internal"}}}), "Service")
    assert {tree["metadata"]["name"]: tree["metadata"].get("annotations") for tree in made} == {
        "rel-phasor": {"lb": "internal"}, "rel-phasor-blue": None,
    }  # fmt: skip
