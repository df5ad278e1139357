"""What a team that works this way has: a project with data under DVC, a deployment repository, and runs that end."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from phasor.artifacts import Manifest, digest_tree, write_json
from phasor.evaluation.scores import GateTask, GateVerdict
from phasor.kfp_adapter import run_publish

from ..minio_server import BUCKET, Server
from ..reporting.samples import run_report

ROOT = Path(__file__).parents[2]
HOST = "http://ml-pipeline.kubeflow:8888"
VALUES = """\
# What is served.
active: blue
auth: {existingSecret: "phasor-keys"}
objectStore:
  endpoint: http://minio.phasor:9000  # in the cluster
  existingSecret: 'phasor-store'
tracks:
  blue:
    bundle:
      location: s3://phasor/bundles/first
      sha256: "0000000000000000000000000000000000000000000000000000000000000000"
networkPolicy:
  ingressFrom:
    - podSelector: {}
"""


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *arguments], text=True, check=True, capture_output=True).stdout.strip()


@dataclass(frozen=True)
class Deployment:
    """A bare repository, and a clone of it in which somebody works.

    Attributes:
        origin: what Argo CD, Flux or a poller would watch.
        clone: a work tree with `serving/values.yaml`, and `retrain/` once something is rendered.
    """

    origin: Path
    clone: Path

    @property
    def request(self) -> Path:
        return self.clone / "retrain"

    @property
    def values(self) -> Path:
        return self.clone / "serving" / "values.yaml"

    def push(self, message: str) -> None:
        git(self.clone, "add", "--all")
        git(self.clone, "commit", "--quiet", "--message", message)
        git(self.clone, "push", "--quiet", "origin", "HEAD")

    def merge(self, branch: str) -> None:
        git(self.clone, "merge", "--quiet", "--ff-only", branch)
        git(self.clone, "push", "--quiet", "origin", "HEAD")


def make_deployment(folder: Path) -> Deployment:
    origin, clone = folder / "deployment.git", folder / "deployment"
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(origin)], check=True)
    subprocess.run(["git", "clone", "--quiet", str(origin), str(clone)], check=True, capture_output=True)
    for key, value in {"user.name": "operator", "user.email": "operator@example.org"}.items():
        git(clone, "config", key, value)
    git(clone, "checkout", "--quiet", "-B", "main")
    made = Deployment(origin, clone)
    made.values.parent.mkdir()
    made.values.write_text(VALUES)
    made.push("serving: the first bundle")
    return made


def note(path: Path, md5: str) -> None:
    """What `dvc add` writes beside a file."""
    path.with_name(f"{path.name}.dvc").write_text(f"outs:\n- md5: {md5}\n  size: 1\n  hash: md5\n  path: {path.name}\n")


@dataclass
class Artifact:
    """A KFP artifact as a pod of a live server gets it: here, and in the store."""

    path: str
    uri: str
    metadata: dict[str, Any] = field(default_factory=dict)


def sealed(folder: Path) -> Path:
    files = digest_tree(folder)
    manifest = Manifest(phase="package", role=None, task=None, seed=0, config={}, inputs={}, files=files, code_rev="", versions={})
    write_json(manifest, folder / "manifest.json")
    return folder


def make_outputs(folder: Path, content: str, fallen: str | None = None) -> tuple[Path, Path]:
    """A bundle and a report as package leaves them; the gate is red if a task has fallen."""
    bundle, report = folder / "bundle", folder / "report"
    (bundle / "embed").mkdir(parents=True)
    (bundle / "embed" / "config.json").write_text("{}")
    (bundle / "README.md").write_text(content)
    report.mkdir()
    told = run_report(np.random.default_rng(0))
    for scores in told.roles.values():
        tasks = {task: GateTask(baseline=0.6, current=0.5 if task == fallen else 0.61, passed=task != fallen) for task in told.tasks}
        scores.gate = GateVerdict(baseline="accepted.json", max_drop=0.01, passed=fallen is None, tasks=tasks)
    write_json(told, report / "report.json")
    return sealed(bundle), sealed(report)


def end_of_run(run: str, folder: Path, minio: Server, content: str, fallen: str | None = None) -> str:
    """What a run does last: its bundle lies in the store, and `publish` tells of it. Returns where the bundle lies."""
    bundle, report = make_outputs(folder / run, content, fallen)
    place = f"runs/phasor-train-retriever/{run}/package/bundle"
    for path in bundle.rglob("*"):
        if path.is_file():
            minio.client.fput_object(BUCKET, f"{place}/{path.relative_to(bundle).as_posix()}", str(path))
    run_publish(run, Artifact(str(bundle), f"s3://{BUCKET}/{place}"), Artifact(str(report), "s3://elsewhere"))
    return f"s3://{BUCKET}/{place}"
