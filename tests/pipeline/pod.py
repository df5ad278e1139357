"""One component run as a pod would: the command and arguments of the compiled IR, and an executor input as KFP prepares it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

IR = Path(__file__).parents[2] / "pipelines" / "compiled" / "cpu.yaml"
Given = Path | list[Path]


@cache
def spec() -> dict[str, Any]:
    found: dict[str, Any] = next(yaml.safe_load_all(IR.read_text()))
    return found


def executor_input(component: str, parameters: Mapping[str, Any], artifacts: Mapping[str, Given], out: Path) -> dict[str, Any]:
    """What the launcher hands to the executor; outputs lie below `out` under their names."""
    definition = spec()["components"][f"comp-{component}"]
    outputs = definition.get("outputDefinitions", {})
    inputs = {
        name: {"artifacts": [_artifact(name, path) for path in (given if isinstance(given, list) else [given])]}
        for name, given in artifacts.items()
    }
    schemas = {name: value["artifactType"] for name, value in outputs.get("artifacts", {}).items()}
    return {
        "inputs": {"parameterValues": dict(parameters), "artifacts": inputs},
        "outputs": {
            "artifacts": {name: {"artifacts": [_artifact(name, out / name, schema)]} for name, schema in schemas.items()},
            "parameters": {name: {"outputFile": str(out / name)} for name in outputs.get("parameters", {})},
            "outputFile": str(out / "executor_output.json"),
        },
    }


def start(
    component: str, parameters: Mapping[str, Any], artifacts: Mapping[str, Given], out: Path, **environment: str
) -> "subprocess.Popen[str]":
    """Start a component in a process group of its own."""
    container = spec()["deploymentSpec"]["executors"][f"exec-{component}"]["container"]
    told = json.dumps(executor_input(component, parameters, artifacts, out))
    words = [told if word == "{{$}}" else word.replace("python3", sys.executable) for word in (*container["command"], *container["args"])]
    return subprocess.Popen(
        words, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def run(component: str, parameters: Mapping[str, Any], artifacts: Mapping[str, Given], out: Path, **environment: str) -> tuple[int, str]:
    """Run a component to its end; returns exit code and output."""
    with start(component, parameters, artifacts, out, **environment) as process:
        text, _ = process.communicate()
    return process.returncode, text


def metadata(out: Path, name: str) -> dict[str, Any]:
    """What a component said about an artifact."""
    told = json.loads((out / "executor_output.json").read_text())
    found: dict[str, Any] = told["artifacts"][name]["artifacts"][0]["metadata"]
    return found


def _artifact(name: str, path: Path, schema: Mapping[str, Any] | None = None) -> dict[str, Any]:
    kind = dict(schema or {"instanceSchema": ""})  # all that a 2.17 server says of an input's type
    return {"name": name, "uri": str(path), "type": kind, "metadata": {}}
