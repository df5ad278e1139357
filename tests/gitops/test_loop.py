"""The whole loop, twice: data changes, a commit asks for a run, the Job starts it once, its gate opens, a commit proposes it."""

import subprocess
from pathlib import Path

import pytest
import yaml

from phasor.cli import main
from phasor.dvc_adapter import run_dvc
from phasor.gitops.request import Request

from ..conftest import MakeProject
from ..minio_server import BUCKET, Server
from ..pipeline.kfp_server import KfpServer
from .world import ROOT, Deployment, end_of_run, git


def start_project(make_project: MakeProject, minio: Server) -> Path:
    """A project in Git, its data in DVC and pushed; returns its recipe."""
    _, recipe = make_project()
    root = recipe.parent / "project"
    root.mkdir()
    for path in (recipe, *recipe.parent.glob("*.jsonl")):
        path.rename(root / path.name)
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    for command in (
        ["init", "-q"], ["config", "core.analytics", "false"], ["remote", "add", "-q", "-d", "store", f"s3://{BUCKET}/dvc"],
        ["remote", "modify", "store", "endpointurl", minio.endpoint],
    ):  # fmt: skip
        run_dvc(command, root, check=True)
    add(root, *(path.name for path in root.glob("*.jsonl")))
    return root / recipe.name


def add(root: Path, *names: str) -> None:
    run_dvc(["add", "-q", *names], root, check=True)
    run_dvc(["push", "-q"], root, check=True)


def pods_request(deployment: Deployment, folder: Path) -> Path:
    """What the cluster makes of the origin: somebody clones it, and the Job's pod gets the ConfigMap as a folder."""
    clone = folder / "cluster"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{deployment.origin}", str(clone)], check=True)
    (generator,) = yaml.safe_load((clone / "retrain" / "kustomization.yaml").read_text())["configMapGenerator"]
    (mounted := folder / "mounted").mkdir()
    for name in generator["files"]:
        (mounted / name).write_bytes((clone / "retrain" / name).read_bytes())
    return mounted


@pytest.mark.slow
def test_twice_around(
    server: KfpServer, store: Server, deployment: Deployment, make_project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = start_project(make_project, store)
    monkeypatch.chdir(ROOT)
    asking = ["gitops", "render", str(deployment.request), "--profile", "cpu"]
    served, keys, told = list[str](), list[str](), list[dict[str, str]]()
    for turn in (1, 2):
        if turn == 2:  # one task's data changes
            with (recipe.parent / "code.jsonl").open("a") as stream:
                stream.write('{"id": "new", "text": "The brass compass of code lies on another shelf."}\n')
            add(recipe.parent, "code.jsonl")
        for again in (False, True):
            assert main([*asking, "--recipe", str(recipe), "--host", server.url]) == 0
            assert bool(git(deployment.clone, "status", "--porcelain")) is not again
            if not again:
                deployment.push(f"retrain: turn {turn}")
        (folder := tmp_path / f"turn{turn}").mkdir()
        mounted = pods_request(deployment, folder)
        request = Request.read(mounted)
        for _ in range(2):
            assert main(["retrain", str(mounted)]) == 0
        assert len(server.runs) == turn, "one run per key"
        run = server.runs[-1]
        told.append(run["runtime_config"]["parameters"]["data_rev"])
        run["state"] = "SUCCEEDED"
        served.append(end_of_run(run["run_id"], folder, store, f"weights {turn}"))
        assert main(["retrain", str(mounted), "--watch"]) == 0 and len(server.runs) == turn
        promote = ["gitops", "promote", str(deployment.request), "--values", str(deployment.values)]
        assert main(promote) == 0
        deployment.merge(f"promote/blue-{request.short_key}")
        assert main(promote) == 0
        keys.append(request.short_key)
        now = yaml.safe_load(git(deployment.origin, "show", "main:serving/values.yaml"))["tracks"]["blue"]["bundle"]
        assert now["location"] == served[-1] and len(now["sha256"]) == 64
    assert keys[0] != keys[1] and {name for name in told[0] if told[0][name] != told[1][name]} == {"code.jsonl"}
    subjects = git(deployment.origin, "log", "--format=%s", "main").splitlines()[::-1]
    promotions = [f"promote: pico-{key} on track blue" for key in keys]
    assert subjects == ["serving: the first bundle", "retrain: turn 1", promotions[0], "retrain: turn 2", promotions[1]]
    git(deployment.clone, "revert", "--no-edit", "HEAD")
    assert yaml.safe_load(deployment.values.read_text())["tracks"]["blue"]["bundle"]["location"] == served[0]
