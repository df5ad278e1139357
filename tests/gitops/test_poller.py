"""The poller's two containers as processes: their arguments from the manifest, a real repository, one run."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ..pipeline.kfp_server import KfpServer
from .conftest import Render
from .world import ROOT, Deployment


def arguments_of_containers() -> list[list[str]]:
    tree = yaml.safe_load((ROOT / "manifests" / "poller" / "cronjob.yaml").read_text())
    pod = tree["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return [container["args"] for container in (*pod["initContainers"], *pod["containers"])]


def one_pass(deployment: Deployment, folder: Path) -> tuple[int, str]:
    """What one pod does, with an empty volume at `folder`; returns the last exit code and all output."""
    folder.mkdir()
    for name, text in {"token": "from-the-kubelet", "url": f"file://{deployment.origin}\n"}.items():
        (folder / name).write_text(text)
    here = {"/deployment": folder, "/var/run/phasor/repository/url": folder / "url", "/var/run/secrets/kfp/token": folder / "token"}
    said = ""
    for arguments in arguments_of_containers():
        for there, path in here.items():
            arguments = [word.replace(there, str(path)) for word in arguments]
        command = [sys.executable, "-m", "phasor", *arguments]
        result = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        said += result.stdout
        if result.returncode:
            break
    return result.returncode, said


@pytest.mark.slow
def test_passes_start_one_run_for_what_was_pushed(server: KfpServer, render: Render, deployment: Deployment, tmp_path: Path) -> None:
    server.token = "from-the-kubelet"
    code, text = one_pass(deployment, tmp_path / "early")
    assert code == 2 and "request.yaml cannot be read" in text and not server.runs, "nothing was asked for yet"
    names = []
    for seed in ("1", "2"):
        names.append(render("--set", f"seed={seed}", host=server.url).run_name)
        deployment.push(f"retrain: {seed}")
        code, text = one_pass(deployment, tmp_path / seed)
        assert code == 0 and "started" in text, text
        code, text = one_pass(deployment, tmp_path / f"{seed}-again")
        assert code == 0 and "is under way" in text, text
    assert [run["display_name"] for run in server.runs] == names
