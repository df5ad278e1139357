"""Runs on a live Kubeflow Pipelines server: asked for as a user does, and judged by what their pods left behind."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import yaml
from tests.minio_server import BUCKET, PASSWORD, USER, Server

from phasor.artifacts import verify
from phasor.phases import PHASES
from phasor.pipeline import submit
from phasor.recipe import Recipe

from .cluster import Namespace, Object, run
from .conftest import ROOT

RUNS = "runs/phasor-train-retriever"
Output = tuple[str, str | None, str | None, str]
"""Phase, role, task, and the output's name."""


@dataclass(frozen=True)
class Live:
    """A KFP server.

    Attributes:
        home: namespace in which its runs execute: ours, or its own where it has a single user.
        store: with their artifacts.
        server: from here.
        profile: file of the platform.
    """

    home: Namespace
    store: Server
    server: submit.Server
    profile: Path

    @property
    def credentials(self) -> list[str]:
        """Arguments by which a command is known to the server; none where it has a single user."""
        return ["--token-file", self.server.token_file] if self.server.token_file else []

    def submit(self, recipe: Path, *arguments: str, check: bool = True) -> tuple[str, str]:
        """`phasor pipeline submit`; returns the run's id and what the command said."""
        command = [sys.executable, "-m", "phasor", "pipeline", "submit", "--profile", str(self.profile), "--recipe", str(recipe)]
        server = ["--host", self.server.host, "--namespace", self.server.namespace, *self.credentials]
        told = run(*command, *server, *arguments, check=check, timeout=1500, folder=ROOT)
        found = re.search(r"/#/runs/details/([0-9a-f-]{36})", told.stdout)
        assert found, told.stdout + told.stderr
        return found[1], told.stdout + told.stderr

    def follow(self, run_id: str) -> list[str]:
        """Wait for the end of a run; returns the lines that were said. Raises RunFailed as `phasor pipeline submit --watch`."""
        lines: list[str] = []
        submit.follow(self.server, run_id, lines.append)
        return lines

    def fetch(self, run_id: str, folder: Path) -> Path:
        """Everything that the pods of a run left in the store; what came from the cache is another run's."""
        for key in self.store.keys(f"{RUNS}/{run_id}/"):
            path = folder / key.removeprefix(f"{RUNS}/{run_id}/")
            self.store.client.fget_object(bucket_name=BUCKET, object_name=key, file_path=str(path))
        return folder

    def pods(self, run_id: str, task: str) -> list[Object]:
        """The pods that did a task's work, by its name in the graph: one for each branch and try, the eldest first."""
        found = [pod for pod in self.home.get("pods", "-l", f"pipeline/runid={run_id}") if _works_for(pod, task)]
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


@contextmanager
def at_home(kfp: Namespace) -> Iterator[None]:
    """Our store for the runs of a KFP with a single user, which execute in its own namespace; afterwards it has its own again."""
    name = "kfp-launcher"
    before = [config for config in kfp.get("configmaps") if config["metadata"]["name"] == name]
    trees = yaml.safe_load_all((ROOT / "manifests" / "base" / "launcher.yaml").read_text())
    ours = next(tree for tree in trees if tree["metadata"]["name"] == name)
    kfp.secret("phasor-store", accesskey=USER, secretkey=PASSWORD)
    kfp.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", text=yaml.safe_dump(ours))
    try:
        yield
    finally:
        kfp.kubectl("delete", f"configmap/{name}", "secret/phasor-store")
        for config in before:
            kept = {key: config["metadata"].get(key) for key in ("name", "labels", "annotations")}
            kfp.kubectl("create", "-f", "-", text=yaml.safe_dump(config | {"metadata": kept}))


def _works_for(pod: Object, task: str) -> bool:
    name = pod["metadata"]["annotations"]["workflows.argoproj.io/node-name"]
    return re.search(rf"\.{re.escape(task)}(\(\d+\))?\.executor(\(\d+\))?$", name) is not None


def worked(pod: Object) -> tuple[datetime, datetime]:
    """When the component of an ended pod started and ended."""
    (state,) = (status["state"]["terminated"] for status in pod["status"]["containerStatuses"] if status["name"] == "main")
    return datetime.fromisoformat(state["startedAt"]), datetime.fromisoformat(state["finishedAt"])


def made(folder: Path) -> dict[Output, Path]:
    """The outputs of phases below a folder, each whole. What `gather` copied is left out."""
    found = {}
    for path in folder.rglob("manifest.json"):
        if "gather" not in path.relative_to(folder).parts:
            manifest = verify(path.parent)
            found[manifest.phase, manifest.role, manifest.task, path.parent.name] = path.parent
    return found


def every_output(recipe: Recipe) -> set[Output]:
    """What a run makes from nothing."""
    return {(item.name, role, task, output) for item in PHASES for role, task in item.jobs(recipe) for output in item.outputs}
