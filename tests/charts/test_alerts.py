"""The alerts: by Prometheus' own `promtool` which of them fire when, and without it what they are made of."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.charts.rendered import objects, of_kind, program
from tests.serving import world

PROMTOOL = "github.com/prometheus/prometheus/cmd/promtool@v0.316.0"
BLUE = 'namespace="search", pod="rel-phasor-blue-7d9cf6b8f4-x2x4z"'
ENGINE = 'namespace="search", pod="rel-phasor-blue-embed-5b8f4c6d7d-m4k2p"'
READY = {f"phasor_ready{{{BLUE}}}": "1x30"}


def answers(pod: str, failed: int) -> dict[str, str]:
    """A thousand requests a minute, of which some fail."""
    kinds = {"200": 1000 - failed, "500": failed}
    return {f'phasor_requests_total{{{pod}, status="{status}"}}': f"0+{count}x30" for status, count in kinds.items()}


def waits(name: str, labels: str) -> dict[str, str]:
    """A histogram in which everything waits for more than a second."""
    growth = {"1.0": 0, "2.5": 60, "+Inf": 60}
    return {f'{name}_bucket{{{labels}, le="{le}"}}': f"0+{count}x30" for le, count in growth.items()}


SCENES: dict[str, tuple[dict[str, str], set[str]]] = {
    "nothing is scraped": ({}, {"PhasorNotReady"}),
    "one pod is ready": (READY, set()),
    "one pod of two is ready": (READY | {'phasor_ready{namespace="search", pod="rel-phasor-blue-7d9cf6b8f4-aaaaa"}': "0x30"}, set()),
    "the only pod is not ready": ({f"phasor_ready{{{BLUE}}}": "1x10 0x20"}, {"PhasorNotReady"}),
    "the only pod went away": ({f"phasor_ready{{{BLUE}}}": "1x10 stale"}, {"PhasorNotReady"}),
    "it is ready again": ({f"phasor_ready{{{BLUE}}}": "1x5 0x15 1x10"}, set()),
    "only the idle track is ready": (
        {'phasor_ready{namespace="search", pod="rel-phasor-green-7d9cf6b8f4-x2x4z"}': "1x30"}, {"PhasorNotReady"}),
    "only another release is ready": (
        {'phasor_ready{namespace="search", pod="other-phasor-blue-7d9cf6b8f4-x2x4z"}': "1x30"}, {"PhasorNotReady"}),
    "only another namespace is ready": (
        {'phasor_ready{namespace="elsewhere", pod="rel-phasor-blue-7d9cf6b8f4-x2x4z"}': "1x30"}, {"PhasorNotReady"}),
    "one request in fifty fails": (READY | answers(BLUE, 20), {"PhasorErrors"}),
    "one request in two hundred fails": (READY | answers(BLUE, 5), set()),
    "another release fails": (READY | answers(BLUE, 0) | answers('namespace="search", pod="other-phasor-blue-x"', 900), set()),
    "queries wait": (READY | waits("phasor_queue_seconds", f'{BLUE}, lane="query"'), {"PhasorSlowQueries"}),
    "bulk jobs wait": (READY | waits("phasor_queue_seconds", f'{BLUE}, lane="bulk"'), set()),
    "requests wait in vLLM": (READY | waits("vllm:request_queue_time_seconds", ENGINE), {"PhasorSlowQueries"}),
    "an index was refused": (
        READY | {f'phasor_index_swaps_total{{{BLUE}, outcome="refused"}}': "0x20 1x10"}, {"PhasorIndexRefused"}),
    "an index was taken": (READY | {
        f'phasor_index_swaps_total{{{BLUE}, outcome="taken"}}': "1x20 2x10",
        f'phasor_index_swaps_total{{{BLUE}, outcome="refused"}}': "0x30"}, set()),
}  # fmt: skip
"""What Prometheus sees, a value a minute, and what fires after half an hour."""


def rules(*changes: str) -> dict[str, Any]:
    [found] = of_kind(objects("cpu", *changes), "PrometheusRule")
    return {"groups": found["spec"]["groups"]}


@pytest.fixture(scope="module")
def promtool() -> str:
    return program("promtool", PROMTOOL)


@pytest.mark.parametrize("scene", SCENES)
def test_what_should_fire_does_and_nothing_else(scene: str, promtool: str, tmp_path: Path) -> None:
    series, firing = SCENES[scene]
    samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(firing)]
    query = {"expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "eval_time": "30m", "exp_samples": samples}
    given = [{"series": name, "values": values} for name, values in series.items()]
    case = {"interval": "1m", "input_series": given, "promql_expr_test": [query]}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules()))
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [case]}))
    result = subprocess.run([promtool, "test", "rules", tmp_path / "test.yaml"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_prometheus_takes_the_rules(promtool: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules()))
    result = subprocess.run([promtool, "check", "rules", tmp_path / "rules.yaml"], capture_output=True, text=True, check=False)
    assert result.returncode == 0 and "4 rules found" in result.stdout, result.stdout + result.stderr


def test_every_alert_asks_for_this_release_alone_and_the_first_for_the_active_track() -> None:
    for active in ("blue", "green"):
        found = rules("tracks.green.bundle.existingClaim=other", f"active={active}")
        first, *others = [rule["expr"] for group in found["groups"] for rule in group["rules"]]
        assert first == f'(max(phasor_ready{{namespace="search", pod=~"rel-phasor-{active}-.*"}}) or vector(0)) < 1'
        for text in others:
            selectors = re.findall(r"{(.*?)}", text)
            assert selectors and all(part.startswith('namespace="search", pod=~"rel-phasor-.*"') for part in selectors), text


def test_a_server_counts_from_the_start_what_alerts_see_grow(server: world.Served) -> None:
    """Prometheus sees no increase of a series that was not there before."""
    page = server.get("/metrics").text
    grown = [part for group in rules()["groups"] for rule in group["rules"] for part in re.findall(r"increase\((\w+){(.*?)}", rule["expr"])]
    assert grown
    for name, selector in grown:
        _namespace, _pod, *own = selector.split(", ")
        assert f"{name}{{{','.join(own)}}} 0.0" in page
