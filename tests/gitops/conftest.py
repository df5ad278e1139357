"""A deployment repository, a project, a KFP server and an object store."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from phasor.cli import main
from phasor.gitops import render as rendering
from phasor.gitops import retrain as retraining
from phasor.gitops.request import Request
from phasor.pipeline import submit as room

from ..conftest import MakeProject
from ..minio_server import Server, minio_server
from ..pipeline.kfp_server import KfpServer
from .world import HOST, ROOT, Deployment, make_deployment, note

Render = Callable[..., Request]


@pytest.fixture(scope="session", autouse=True)
def compile_once() -> Iterator[None]:
    """kfp looks at the whole call stack for every setting, and below pytest that stack is deep: ten seconds for the same text."""
    compile_text, known = rendering.compile_text, dict[str, str]()

    def remembered(*arguments: Any) -> str:
        key = repr(arguments)
        if key not in known:
            known[key] = compile_text(*arguments)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "compile_text", remembered)
        yield


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpServer]:
    monkeypatch.setattr(room, "POLL_S", 0.01)
    monkeypatch.setattr(retraining, "SETTLE_S", 0.05)
    with KfpServer().running() as running:
        yield running


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server with an empty bucket."""
    with minio_server(tmp_path_factory.mktemp("minio") / "data") as running:
        yield running


@pytest.fixture
def store(minio: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The same, known to this process."""
    for name, value in minio.environment().items():
        monkeypatch.setenv(name, value)
    return minio


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return make_deployment(tmp_path)


@pytest.fixture
def project(make_project: MakeProject) -> Path:
    """The recipe of a project with two tasks, whose four files are under DVC."""
    _, path = make_project()
    for number, data in enumerate(sorted(path.parent.glob("*.jsonl"))):
        note(data, f"a{number:031x}")
    return path


@pytest.fixture
def render(deployment: Deployment, project: Path, monkeypatch: pytest.MonkeyPatch) -> Render:
    """The command, with the project's recipe; returns what it wrote."""

    def call(*arguments: str, host: str = HOST, profile: str = "cpu") -> Request:
        monkeypatch.chdir(ROOT)
        command = ["gitops", "render", str(deployment.request), "--profile", profile, "--recipe", str(project), "--host", host]
        assert main([*command, *arguments]) == 0
        return Request.read(deployment.request)

    return call
