"""The whole graph under kfp.local, with data from DVC's remote on MinIO, beside `phasor repro` on the same files."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from phasor.artifacts import digest_artifact, read_manifest, sha256_file, verify
from phasor.dvc_adapter import reproduce, run_dvc, write_dvc_yaml
from phasor.phases import phase
from phasor.pipeline.result import read_result
from phasor.recipe import Recipe
from phasor.storage.revision import data_rev

from ..conftest import MakeProject
from ..minio_server import BUCKET, Server

SCRIPT = Path(__file__).with_name("local_run.py")


def make_repository(recipe: Recipe, path: Path, minio: Server) -> Path:
    """A DVC repository with its data pushed and every stage up to date."""
    root = path.parent
    write_dvc_yaml(recipe, path)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    for command in (
        ["init", "-q"], ["config", "core.analytics", "false"], ["remote", "add", "-q", "-d", "store", f"s3://{BUCKET}/dvc"],
        ["remote", "modify", "store", "endpointurl", minio.endpoint], ["add", "-q", *(p.name for p in root.glob("*.jsonl"))],
        ["push", "-q"],
    ):  # fmt: skip
        run_dvc(command, root, check=True)
    reproduce(recipe, root, workers=1)
    return root


def run_graph(target: Path, recipe: Path, minio: Server, **parameters: Any) -> str:
    command = [sys.executable, str(SCRIPT), str(target), str(recipe), json.dumps(parameters)]
    environment = {**os.environ, **minio.environment(), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert result.returncode == 0, result.stdout[-6000:]
    return result.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("roles", [("embed", "rerank"), ("embed",)], ids=["both roles", "embed only"])
def test_the_graph_makes_what_dvc_makes(
    roles: tuple[str, ...], make_project: MakeProject, minio: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (minio.environment() | {"OMP_NUM_THREADS": "1"}).items():
        monkeypatch.setenv(name, value)
    tasks = ("basic", "code") if "rerank" in roles else ("basic",)
    recipe, path = make_project(tasks=tasks, roles=roles)
    root = make_repository(recipe, path, minio)
    run_graph(tmp_path / "kfp", path, minio, data_rev=data_rev(recipe, root), run_note="a test")
    compared = set()
    for manifest_path in (tmp_path / "kfp").rglob("manifest.json"):
        folder = manifest_path.parent
        if "gather" in manifest_path.parts:
            continue
        manifest = verify(folder)
        template = phase(manifest.phase).outputs[folder.name]
        mine = root / "work" / template.format(role=manifest.role, task=manifest.task)
        compared.add((manifest.phase, manifest.role, manifest.task, folder.name))
        if folder.name != "report":  # it tells seconds
            assert digest_artifact(folder) == digest_artifact(mine), (manifest.phase, manifest.role, manifest.task)
            assert read_manifest(folder).inputs == read_manifest(mine).inputs
    assert ("package", None, None, "bundle") in compared
    assert len(compared) == 4 * len(tasks) + len(roles) * (4 + len(tasks)) + 2
    pages = [path for path in (tmp_path / "kfp").rglob("*") if path.name in ("table", "page", "trace", "card")]
    shown = {f"{path.parent.name}/{path.name}": path.read_text() for path in pages}
    assert "a test" in shown["fetch/card"] and "BM25" in shown["evaluate/table"] and "<svg" in shown["merge/trace"]
    assert shown["package/page"].startswith("<!")
    assert minio.keys("checkpoints/") == []
    results = [read_result(f"s3://{BUCKET}/results", Path(name).stem) for name in minio.keys("results/")]
    bundle = sha256_file(root / "work" / "bundle" / "manifest.json")
    (result,) = [result for result in results if result.sha256 == bundle]
    assert result.passed and result.gates.keys() == set(roles)
