"""The chart as a package: lint, a closed schema, messages for mistakes, generated files, and metrics that exist."""

import json
import os
import re
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jsonschema
import pytest
import yaml
from prometheus_client.openmetrics.exposition import generate_latest
from tests.charts.rendered import APIS, CASES, CHART, helm, objects, of_kind, program, template
from tests.ports import free_port
from tests.serving import world
from tests.waiting import until

from phasor.serving.metrics import Metrics

MINIMAL = CHART / "ci" / "minimal.yaml"


@pytest.mark.parametrize("case", CASES)
def test_helm_lint_finds_nothing(case: str) -> None:
    result = helm("lint", "--strict", CHART, "-f", CHART / "ci" / f"{case}.yaml", "--kube-version", "1.34.0")
    # The optional APIs are unknown to lint, which then meets our own messages.
    problems = [line for line in result.stdout.splitlines() if line.startswith(("[ERROR]", "[WARNING]"))]
    assert all("does not know" in line for line in problems), result.stdout


def test_generated_files_are_those_of_the_values(tmp_path: Path) -> None:
    before = {name: (CHART / name).read_text() for name in ("README.md", "values.schema.json")}
    subprocess.run([sys.executable, CHART.parent / "describe.py"], check=True)
    after = {name: (CHART / name).read_text() for name in before}
    for name, text in before.items():
        (CHART / name).write_text(text)
    assert after == before, "run `python charts/describe.py`"


@pytest.mark.parametrize(("change", "words"), [
    ("replica=3", "'replica' not allowed"), ("auth.exsistingSecret=x", "'exsistingSecret' not allowed"),
    ("tracks.blue.bundle.claim=x", "'claim' not allowed"), ("vllm.embed.replica=2", "'replica' not allowed"),
    ("engine=tei", "value must be one of 'builtin', 'vllm'"), ("image.tag=latest", "/image/tag"),
    ("image.digest=sha256:12", "/image/digest"),
    ("tracks.blue.bundle.location=http://x", "/tracks/blue/bundle/location"), ("tracks.Blue.bundle.path=x", "Blue"),
    ("active=green", 'active is "green", which is none of the tracks: blue'),
    ("auth.existingSecret=", "auth.existingSecret is not set: make a line with `phasor key NAME`"),
    ("engine=vllm", "engine vllm needs gpu.count of at least 1"),
    ("tracks.blue.index.location=s3://a/b", "has an s3:// location, so objectStore.endpoint must be set"),
    ("tracks.blue.bundle.existingClaim=", "tracks.blue.bundle needs a location (s3://BUCKET/PREFIX) or an existingClaim"),
    ("objectStore.endpoint=http://s3", "objectStore.existingSecret is not set"), ("tests.keySecret=", "tests.keySecret is not set"),
    ("auth.open=true", "auth.open and auth.existingSecret are both set"), ("vllm.embed.replicas=0", "/vllm/embed/replicas"),
    ("probes.terminationSeconds=20", "probes.terminationSeconds is 20: it must be more than probes.drainSeconds (10) and 10 seconds"),
    ("config.shutdown_s=81", "config: drain_s 10 and shutdown_s 81 are longer than probes.terminationSeconds 90"),
    ("pdb.minAvailable=half", "/pdb/minAvailable"), ("global.imagePullSecrets[0].nme=x", "/global/imagePullSecrets/0"),
    ("podSecurityContext.runAsNonRoot=false", "'runAsNonRoot' not allowed"),
    ("ingress.enabled=true", "ingress.host is not set"), ("monitoring.serviceMonitor=true", "monitoring.keySecret is not set"),
    ("autoscaling.type=keda", "autoscaling.prometheus is not set"), ("httpRoute.enabled=true", "httpRoute.parentRefs is empty"),
])
def test_a_mistake_is_told_before_anything_is_installed(change: str, words: str) -> None:
    result = template("-f", MINIMAL, "--set", change)
    assert result.returncode != 0 and words in result.stderr


@pytest.mark.parametrize(("change", "api"), [
    ("autoscaling.type=keda", "keda.sh/v1alpha1"), ("httpRoute.enabled=true", "gateway.networking.k8s.io/v1"),
    ("monitoring.prometheusRule=true", "monitoring.coreos.com/v1"),
])
def test_what_the_cluster_does_not_know_is_told(change: str, api: str) -> None:
    result = template("-f", MINIMAL, "--set", change, apis=())
    assert result.returncode != 0 and f"does not know {api}" in result.stderr


def test_the_schema_is_closed_at_every_level_and_takes_the_cases() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(defaults, schema)

    def closed(part: dict[str, object], place: str) -> None:
        if "properties" in part:
            assert part["additionalProperties"] is False or place == ".global", place
            for name, child in part["properties"].items():  # type: ignore[attr-defined]
                closed(child, f"{place}.{name}")

    closed(schema, "")


def metric_names() -> set[str]:
    """Every series that a server shows, by the library that shows them."""
    metrics = Metrics()
    names = {metric.name for metric in metrics.registry.collect()}
    assert b"phasor_" in generate_latest(metrics.registry)
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    found = {name + ending for metric in metrics.registry.collect() for ending in endings[metric.type] for name in [metric.name]}
    assert len(names) >= 15
    return found


def test_dashboard_alerts_and_scaling_ask_for_metrics_that_exist() -> None:
    dashboard = json.loads((CHART / "files" / "dashboard.json").read_text())
    [rules] = of_kind(objects("cpu"), "PrometheusRule")
    [scaled] = of_kind(objects("cpu", "autoscaling.type=keda", "autoscaling.prometheus=http://prometheus"), "ScaledObject")
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    asked += [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    names = {name for text in asked for name in re.findall(r"phasor_\w+", text)}
    assert names <= metric_names(), names - metric_names()
    shown = {name for target in asked for name in re.findall(r"phasor_\w+?(?=_bucket|_sum|_count|\W|$)", target)}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in metric_names()} <= shown  # nothing is measured for nobody


def test_the_dashboard_shows_one_release_of_a_namespace() -> None:
    dashboard = json.loads((CHART / "files" / "dashboard.json").read_text())
    [release] = [variable for variable in dashboard["templating"]["list"] if variable["name"] == "release"]
    pattern = re.compile(release["regex"].strip("/"))
    gateways = [
        tree["metadata"]["name"] for tree in of_kind(objects("gpu"), "Deployment")
        if tree["metadata"]["labels"]["app.kubernetes.io/component"] == "gateway"
    ]
    names = [f"{name}-6d4cf56db6-x7k2p" for name in gateways]
    assert {pattern.match(name)[1] for name in names} == {"rel-phasor"}  # type: ignore[index]
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            metrics = re.findall(r"(?:phasor_|vllm:)\w+", target["expr"])
            assert target["expr"].count('{namespace="$namespace", pod=~"$release-.*"}') == len(metrics), target["expr"]


def test_keda_scales_what_computes_and_nothing_else_sets_its_number() -> None:
    found = objects("gpu")
    numbers = {tree["metadata"]["name"]: tree["spec"].get("replicas") for tree in of_kind(found, "Deployment")}
    scaled = {tree["spec"]["scaleTargetRef"]["name"]: tree["spec"]["triggers"][0]["metadata"] for tree in of_kind(found, "ScaledObject")}
    engines = {f"rel-phasor-{track}-{role}" for track in ("blue", "green") for role in ("embed", "rerank")}
    assert set(scaled) == {name for name, number in numbers.items() if number is None} == engines
    for name, trigger in scaled.items():
        assert f'{{namespace="search", pod=~"{name}-.*"}}' in trigger["query"] and trigger["threshold"] == "32"
    assert numbers["rel-phasor-blue"] == 1 and numbers["rel-phasor-green"] == 2
    changed = objects("cpu", "autoscaling.type=keda", "autoscaling.prometheus=http://prometheus")
    [own], [gateway] = of_kind(changed, "ScaledObject"), of_kind(changed, "Deployment")
    assert own["spec"]["scaleTargetRef"]["name"] == gateway["metadata"]["name"] and "replicas" not in gateway["spec"]


def test_prometheus_can_read_what_keda_asks_for() -> None:
    [engines] = [tree for tree in of_kind(objects("gpu"), "ServiceMonitor") if tree["metadata"]["name"].endswith("-engine")]
    [expression] = engines["spec"]["selector"]["matchExpressions"]
    services = [tree["metadata"]["labels"].get(expression["key"]) for tree in of_kind(objects("gpu"), "Service")]
    assert set(expression["values"]) == {"embed", "rerank"} <= set(services)
    [policy] = [tree for tree in of_kind(objects("gpu"), "NetworkPolicy") if tree["metadata"]["name"].endswith("-engine")]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}} in policy["spec"]["ingress"][0]["from"]


def test_the_metrics_of_a_running_server_are_those(server: world.Served) -> None:
    server.post("/v1/search", {"query": "x"})
    found = set(re.findall(r"^(phasor_\w+?)(?:\{| )", server.get("/metrics").text, re.MULTILINE))
    assert {name for name in metric_names() if not name.startswith("phasor_refused")} <= found


@pytest.fixture
def notes(tmp_path: Path) -> Callable[..., str]:
    """Helm shows notes only with a cluster at hand, so they are rendered as part of an object."""
    chart = world.copy(CHART, tmp_path / "phasor")
    (chart / "templates" / "NOTES.txt").rename(chart / "notes.txt")
    (chart / "templates" / "notes.yaml").write_text('kind: Notes\ntext: |\n  {{- tpl (.Files.Get "notes.txt") . | nindent 2 }}\n')

    def shown(case: str, *changes: str) -> str:
        settings = ["-f", CHART / "ci" / f"{case}.yaml", *(part for change in changes for part in ("--set", change))]
        known = [part for api in APIS for part in ("--api-versions", api)]
        result = helm("template", "rel", chart, *settings, "--show-only", "templates/notes.yaml", "--kube-version", "1.34.0", *known)
        text: str = yaml.safe_load(result.stdout)["text"]
        return text.strip()

    return shown


def test_notes_end_in_a_curl_that_works(server: world.Served, notes: Callable[..., str]) -> None:
    lines = notes("minimal").splitlines()
    assert "service/rel-phasor 8000:80" in lines[-2] and lines[-1].strip().startswith("curl ")
    command = lines[-1].strip().replace("http://127.0.0.1:8000", server.url)
    answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, env=os.environ | {"KEY": "any"})
    assert json.loads(answer.stdout)["data"][0]["id"] == "pico"


def test_that_curl_waits_until_the_port_is_forwarded(notes: Callable[..., str]) -> None:
    """Both lines are pasted at once, and `kubectl port-forward` takes a moment."""
    port = free_port()
    command = notes("external-qdrant").splitlines()[-1].strip().replace(":8000", f":{port}")
    with subprocess.Popen(["bash", "-c", command], stdout=subprocess.PIPE, text=True) as asking:
        time.sleep(0.5)
        assert asking.poll() is None
        with ThreadingHTTPServer(("127.0.0.1", port), SimpleHTTPRequestHandler) as late:
            threading.Thread(target=late.serve_forever, daemon=True).start()
            answer, _ = asking.communicate(timeout=60)
            late.shutdown()
    assert "404" in answer


def test_notes_tell_of_a_policy_that_lets_nobody_in(notes: Callable[..., str]) -> None:
    told = "to networkPolicy.ingressFrom"
    balanced = ("minimal", "service.type=LoadBalancer")
    ways = [balanced, ("minimal", "ingress.enabled=true", "ingress.host=x"), ("gpu", "networkPolicy.ingressFrom=null")]
    assert all(told in notes(*way) for way in ways)
    open_ones = [(*balanced, change) for change in ("networkPolicy.enabled=false", "networkPolicy.ingressFrom[0].ipBlock.cidr=10.0.0.0/8")]
    assert not any(told in notes(*way) for way in [("minimal",), ("cpu",), ("gpu",), *open_ones])


def test_the_package_holds_everything(tmp_path: Path) -> None:
    result = helm("package", CHART, "--destination", tmp_path)
    assert result.returncode == 0, result.stderr
    with tarfile.open(tmp_path / "phasor-0.1.0.tgz") as archive:
        names = {name.removeprefix("phasor/") for name in archive.getnames()}
    wanted = {path.relative_to(CHART).as_posix() for path in CHART.rglob("*") if path.is_file()}
    assert names == wanted


def test_the_package_is_pushed_to_a_registry_and_installed_from_there(tmp_path: Path) -> None:
    port = free_port()
    binary = program("registry", "github.com/google/go-containerregistry/cmd/registry@v0.22.1")
    with subprocess.Popen([binary, "-port", str(port)], stderr=subprocess.DEVNULL) as registry:
        try:
            helm("package", CHART, "--destination", tmp_path)
            push = ["push", tmp_path / "phasor-0.1.0.tgz", f"oci://127.0.0.1:{port}/charts", "--plain-http"]
            until(lambda: helm(*push).returncode == 0, "the registry takes the chart", 30)
            source = [f"oci://127.0.0.1:{port}/charts/phasor", "--version", "0.1.0", "--plain-http"]
            result = helm("template", "rel", *source, "-f", MINIMAL, "--kube-version", "1.34.0", "--namespace", "search")
        finally:
            registry.terminate()
    assert result.returncode == 0 and result.stdout == template("-f", MINIMAL).stdout, result.stderr
