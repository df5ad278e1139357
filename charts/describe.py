"""Write README.md and values.schema.json of the chart from values.yaml and its comments: `python charts/describe.py`."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "phasor"
_KEY = re.compile(r"^(?P<indent> *)(?P<name>[A-Za-z]+):")
_OPEN = {
    "commonLabels", "config", "resources", "nodeSelector", "affinity", "podAnnotations", "podLabels", "ingress.annotations",
    "monitoring.labels", "service.annotations", "vllm.embed.resources", "vllm.rerank.resources",
}
"""Objects whose keys are not the chart's to know."""
_CHOICES = {
    "engine": ["builtin", "vllm"],
    "autoscaling.type": ["none", "hpa", "keda"],
    "service.type": ["ClusterIP", "NodePort", "LoadBalancer"],
    "image.pullPolicy": ["Always", "IfNotPresent", "Never"],
    "vllm.image.pullPolicy": ["Always", "IfNotPresent", "Never"],
    "logLevel": ["DEBUG", "INFO", "WARNING", "ERROR"],
}
_PATTERNS = {
    "image.digest": "^(sha256:[0-9a-f]{64})?$", "vllm.image.digest": "^(sha256:[0-9a-f]{64})?$",
    "objectStore.endpoint": "^(https?://.+)?$", "qdrant.url": "^(https?://.+)?$",
}
_TAGS = {"image.tag", "vllm.image.tag"}
_LEAST = {"vllm.embed.replicas": 1}
_TEXT = {"type": "string"}
_NUMBER = {"type": ["integer", "null"]}
_WHOLE: dict[str, dict[str, Any]] = {
    "global.imagePullSecrets": {"type": "array", "items": {"anyOf": [
        _TEXT, {"type": "object", "additionalProperties": False, "required": ["name"], "properties": {"name": _TEXT}}]}},
    "pdb.minAvailable": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+%$"}]},
    "podSecurityContext": {"type": "object", "additionalProperties": False, "properties": {
        "runAsUser": _NUMBER, "runAsGroup": _NUMBER, "fsGroup": _NUMBER, "seLinuxOptions": {"type": "object"},
        "supplementalGroups": {"type": "array", "items": {"type": "integer"}},
        "supplementalGroupsPolicy": {"enum": ["Merge", "Strict"]}, "fsGroupChangePolicy": {"enum": ["OnRootMismatch", "Always"]}}},
    "rollingUpdate": {"type": "object", "additionalProperties": False, "properties": {
        "maxSurge": {"type": ["integer", "string"]}, "maxUnavailable": {"type": ["integer", "string"]}}},
}  # fmt: skip
"""Schemas that the default does not tell."""
_S3 = {"type": "string", "pattern": "^(s3://.+)?$"}
_TRACK = {
    "type": "object", "additionalProperties": False, "required": ["bundle"], "properties": {
        "bundle": {"type": "object", "additionalProperties": False, "properties": {
            "location": _S3, "sha256": {"type": "string", "pattern": "^([0-9a-f]{64})?$"}, "existingClaim": _TEXT, "path": _TEXT}},
        "index": {"type": "object", "additionalProperties": False, "properties": {
            "location": _S3, "existingClaim": _TEXT, "path": _TEXT}},
        "replicas": {"type": ["integer", "null"], "minimum": 0},
    },
}  # fmt: skip


def descriptions(text: str) -> dict[str, str]:
    """Dotted key to the comment before it, for every key that has one starting with `# --`."""
    found, comment, path = {}, list[str](), list[str]()
    for line in text.splitlines():
        if line.strip().startswith("#"):
            comment.append(line.strip().removeprefix("#").strip())
        elif match := _KEY.match(line):
            path = [*path[: len(match["indent"]) // 2], match["name"]]
            if comment and comment[0].startswith("--"):
                found[".".join(path)] = " ".join(comment).removeprefix("--").strip()
            comment = []
        else:
            comment = []
    return found


def leaves(tree: dict[str, Any], described: dict[str, str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, default) of everything that is described, or that has nothing below it."""
    for name, value in tree.items():
        key = prefix + name
        if key in described or not isinstance(value, dict):
            yield key, value
        else:
            yield from leaves(value, described, f"{key}.")


def schema(value: Any, described: dict[str, str], key: str = "") -> dict[str, Any]:
    """Closed JSON schema of a default."""
    found: dict[str, Any]
    if key in _WHOLE:
        found = dict(_WHOLE[key])
    elif key == "tracks":
        names = {"pattern": "^[a-z][a-z0-9]{0,9}$"}
        found = {"type": "object", "minProperties": 1, "propertyNames": names, "additionalProperties": _TRACK}
    elif isinstance(value, dict) and key not in _OPEN:
        below = {name: schema(child, described, f"{key}.{name}".lstrip(".")) for name, child in value.items()}
        found = {"type": "object", "additionalProperties": False, "properties": below}
    else:
        kinds = {dict: "object", list: "array", bool: "boolean", int: "integer", str: "string"}
        found = {"type": kinds[type(value)]} | ({"minimum": _LEAST.get(key, 0)} if type(value) is int else {})
    found |= {"enum": _CHOICES[key]} if key in _CHOICES else {}
    found |= {"pattern": _PATTERNS[key]} if key in _PATTERNS else {}
    found |= {"not": {"const": "latest"}} if key in _TAGS else {}
    return ({"description": described[key]} if key in described else {}) | found


def readme(values: dict[str, Any], described: dict[str, str]) -> str:
    """The chart's page."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    rows = [f"| `{key}` | `{json.dumps(value)}` | {described[key].replace('|', '&#124;')} |" for key, value in leaves(values, described)]
    return "\n".join([
        f"# {chart['name']} {chart['version']}", "", chart["description"], "",
        "Written by `python charts/describe.py` from values.yaml; examples are in `ci/`.", "",
        "A bundle lies in the claim `phasor-bundle`; then, for an image REGISTRY/phasor-serve:1:", "",
        "```", "phasor key me > keys                  # shows the key once", "kubectl create secret generic phasor-keys --from-file=keys",
        "kubectl create secret generic phasor-test-key --from-literal=key=THE-KEY",
        "helm install search charts/phasor -f charts/phasor/ci/minimal.yaml --set image.registry=REGISTRY,image.tag=1 --wait",
        "helm test search", "```", "",
        "| Value | Default | What |", "|---|---|---|", *rows, "",
    ])  # fmt: skip


def main() -> None:
    """Write both files."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    values, described = yaml.safe_load(text), descriptions(text)
    whole = {"$schema": "http://json-schema.org/draft-07/schema#", **schema(values, described)}
    whole["properties"]["global"]["additionalProperties"] = True  # shared with other charts of a parent
    (CHART / "values.schema.json").write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    (CHART / "README.md").write_text(readme(values, described), encoding="utf-8")


if __name__ == "__main__":
    main()
