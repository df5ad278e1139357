"""The poller's two containers as processes: their commands and arguments from the manifest, a real repository, one run."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from ..pipeline.kfp_server import KfpServer
from .conftest import Render
from .world import ROOT, Deployment


def containers() -> dict[str, dict[str, Any]]:
    tree = yaml.safe_load((ROOT / "manifests" / "poller" / "cronjob.yaml").read_text())
    pod = tree["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return {container["name"]: container for container in (*pod["initContainers"], *pod["containers"])}


def one_pass(deployment: Deployment, folder: Path) -> tuple[int, str]:
    """What one pod does, with an empty volume at `folder`; returns the last exit code and all output."""
    folder.mkdir()
    (token := folder / "token").write_text("from-the-kubelet")
    clone, retrain = containers()["clone"], containers()["retrain"]
    here = [word.replace("/deployment", str(folder)).replace("python3", sys.executable) for word in clone["command"]]
    values = {entry["name"]: entry.get("value", f"file://{deployment.origin}") for entry in clone["env"]}
    words = [word.replace("/deployment", str(folder)).replace("/var/run/secrets/kfp/token", str(token)) for word in retrain["args"]]
    text = ""
    for command in (here, [sys.executable, "-m", "phasor", *words]):
        result = subprocess.run(
            command, env=os.environ | values, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )  # fmt: skip
        text += result.stdout
        if result.returncode:
            break
    return result.returncode, text


def test_passes_start_one_run_for_what_was_pushed(server: KfpServer, render: Render, deployment: Deployment, tmp_path: Path) -> None:
    server.token = "from-the-kubelet"
    code, text = one_pass(deployment, tmp_path / "early")
    assert code and not server.runs, "nothing was asked for yet"
    names = []
    for seed in ("1", "2"):
        names.append(render("--set", f"seed={seed}", host=server.url).run_name)
        deployment.push(f"retrain: {seed}")
        code, text = one_pass(deployment, tmp_path / seed)
        assert code == 0 and "started" in text, text
        code, text = one_pass(deployment, tmp_path / f"{seed}-again")
        assert code == 0 and "is under way" in text, text
    assert [run["display_name"] for run in server.runs] == names
