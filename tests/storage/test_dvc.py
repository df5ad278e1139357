"""Data under a real DVC, pushed to a real MinIO, brought back by digest alone; and what `phasor data` says of it."""

import hashlib
import io
import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from phasor.cli import main
from phasor.dvc_adapter import run_dvc
from phasor.errors import DataError, StorageError
from phasor.storage.dvc import bring, check
from phasor.storage.store import Store

from ..minio_server import BUCKET, Server
from .proxy import proxy


@pytest.fixture
def project(minio: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose data lies in a folder and a file under DVC, pushed."""
    for name, value in minio.environment().items():
        monkeypatch.setenv(name, value)
    root = tmp_path / "project"
    (root / "docs" / "deep").mkdir(parents=True)
    (root / "docs" / "a.txt").write_text("alpha\n")
    (root / "docs" / "deep" / "b ü.txt").write_text("beta\n")
    (root / "one.jsonl").write_text('{"id": "1"}\n')
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    for command in (
        ["init", "-q"], ["config", "core.analytics", "false"], ["remote", "add", "-q", "-d", "store", f"s3://{BUCKET}/dvc"],
        ["remote", "modify", "store", "endpointurl", minio.endpoint], ["add", "-q", "docs", "one.jsonl"], ["push", "-q"],
    ):  # fmt: skip
        run_dvc(command, root, check=True)
    return root


def revision(root: Path) -> dict[str, str]:
    return {note.stem: yaml.safe_load(note.read_text())["outs"][0]["md5"] for note in (root / "docs.dvc", root / "one.jsonl.dvc")}


def content(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_folders_and_files_come_back_whole(project: Path, tmp_path: Path) -> None:
    rev, target = revision(project), tmp_path / "pod"
    check(rev)
    bring(rev, target)
    assert content(target / "docs") == content(project / "docs") and (target / "one.jsonl").read_text() == '{"id": "1"}\n'
    bring(rev, target)
    assert content(target).keys() == {"docs/a.txt", "docs/deep/b ü.txt", "one.jsonl"}


def test_an_older_revision_still_comes(project: Path, tmp_path: Path) -> None:
    old = revision(project)
    (project / "docs" / "a.txt").write_text("changed\n")
    run_dvc(["add", "-q", "docs"], project, check=True)
    run_dvc(["push", "-q"], project, check=True)
    assert revision(project) != old
    bring(old, tmp_path / "pod")
    assert (tmp_path / "pod" / "docs" / "a.txt").read_text() == "alpha\n"


def test_pull_of_dvc_itself_works_on_the_same_store(project: Path) -> None:
    before = content(project / "docs")
    subprocess.run(["rm", "-rf", "docs", ".dvc/cache"], cwd=project, check=True)
    run_dvc(["pull", "-q"], project, check=True)
    assert content(project / "docs") == before


def test_what_is_not_in_the_remote_is_told_before_and_while_bringing(project: Path, minio: Server, tmp_path: Path) -> None:
    rev = revision(project)
    object_name = f"dvc/files/md5/{rev['one.jsonl'][:2]}/{rev['one.jsonl'][2:]}"
    minio.client.remove_object(bucket_name=BUCKET, object_name=object_name)
    for action in (check, lambda files: bring(files, tmp_path / "pod")):
        with pytest.raises(DataError, match="one.jsonl.* is not in the remote.*dvc push"):
            action(rev)
    assert not (tmp_path / "pod" / "one.jsonl").exists()
    with pytest.raises(DataError, match="docs at 0+.dir is not in the remote"):
        check({"docs": "0" * 32 + ".dir"})


@pytest.mark.parametrize("spoil", ["short", "flipped"])
def test_damaged_objects_leave_nothing(spoil: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    rev = revision(project)
    with proxy(os.environ["PHASOR_S3_ENDPOINT"]) as faulty:
        monkeypatch.setenv("PHASOR_S3_ENDPOINT", faulty.endpoint)
        faulty.fault = lambda method, path, number: spoil if rev["one.jsonl"][2:] in path else None
        with pytest.raises(StorageError, match="its md5 is .*, expected .* delete this object first"):
            bring(rev, tmp_path / "pod")
    assert not (tmp_path / "pod" / "one.jsonl").exists()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between tries."""
    monkeypatch.setattr("phasor.storage.dvc.Store", lambda settings: Store(settings, wait_s=0.01))


@pytest.mark.parametrize(
    ("files", "message"),
    [({"x": "nonsense"}, "'nonsense' of x is no DVC digest"), ({"x": "../../etc"}, "is no DVC digest")],
)
def test_malformed_digests_are_refused(files: dict[str, str], message: str, project: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        bring(files, tmp_path)


def test_a_listing_that_leads_out_of_its_folder_is_refused(project: Path, minio: Server, tmp_path: Path) -> None:
    rows = json.dumps([{"md5": "0" * 32, "relpath": "../../evil"}]).encode()
    md5 = hashlib.md5(rows, usedforsecurity=False).hexdigest()
    name = f"dvc/files/md5/{md5[:2]}/{md5[2:]}.dir"
    minio.client.put_object(bucket_name=BUCKET, object_name=name, data=io.BytesIO(rows), length=len(rows))
    with pytest.raises(DataError, match="which is no file below it"):
        bring({"x": f"{md5}.dir"}, tmp_path / "pod")


def test_without_a_remote_the_message_says_what_to_set(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHASOR_DVC_REMOTE")
    bring({}, tmp_path)
    with pytest.raises(DataError, match="Set PHASOR_DVC_REMOTE"):
        bring(revision(project), tmp_path)


def test_status_looks_below_a_tracked_folder(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole folder is tracked, the recipe names a folder and a file in it, and a stage of DVC reads those."""
    monkeypatch.chdir(project)
    (project / "data").mkdir()
    for name in ("docs", "one.jsonl"):
        run_dvc(["remove", "-q", f"{name}.dvc"], project, check=True)
        (project / name).rename(project / "data" / name)
    (project / "data" / "docs-of-others.txt").write_text("no part of data/docs\n")
    run_dvc(["add", "-q", "data"], project, check=True)
    run_dvc(["push", "-q"], project, check=True)
    sources = "[{kind: folder, path: data/docs}, {kind: jsonl, corpus: data/one.jsonl}]"
    (project / "params.yaml").write_text(f"tasks: {{t: {{instruction: find, sources: {sources}}}}}")
    (project / "dvc.yaml").write_text("stages: {collect-t: {cmd: 'true', deps: [data/docs, data/one.jsonl]}}")

    def told() -> str:
        assert main(["data", "status"]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        return line.split("  ", 2)[2]

    def change(name: str) -> None:
        with (project / "data" / name).open("a") as stream:
            stream.write("changed\n")
        run_dvc(["add", "-q", "data"], project, check=True)
        run_dvc(["push", "-q"], project, check=True)

    assert told() == "no run here has used it"
    run_dvc(["repro", "-q"], project, check=True)
    assert told() == "the same everywhere"
    change("docs-of-others.txt")
    assert told() == "the same everywhere"
    for name in ("docs/deep/b ü.txt", "one.jsonl"):
        change(name)
        assert told() == "the last run here used other data"
        run_dvc(["repro", "-q"], project, check=True)
        assert told() == "the same everywhere"
    subprocess.run(["rm", "-rf", ".dvc/cache", ".dvc/tmp"], cwd=project, check=True)
    assert "nobody knows what the last run used: run `dvc pull`" in told()


def test_the_command_tells_the_revision_and_what_differs(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    recipe = "tasks: {t: {instruction: find, sources: [{kind: folder, path: docs}, {kind: jsonl, corpus: one.jsonl}]}}"
    (project / "params.yaml").write_text(recipe)
    assert main(["data", "rev"]) == 0
    assert json.loads(capsys.readouterr().out) == revision(project)
    assert main(["data", "status"]) == 0
    assert capsys.readouterr().out.count("no run here has used it\n") == 2
    stage = {"cmd": "x", "deps": [{"path": path, "md5": md5} for path, md5 in revision(project).items()]}
    for spelling in ("docs/", "./docs", "docs"):  # the first as a shell completes it
        (project / "params.yaml").write_text(recipe.replace("path: docs", f"path: {spelling}"))
        stage["deps"][0]["path"] = spelling
        (project / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"collect-t": stage}}))
        assert main(["data", "status"]) == 0
        assert capsys.readouterr().out.count("the same everywhere") == 2
    (project / "docs" / "c.txt").write_text("gamma\n")
    assert main(["data", "status"]) == 0
    docs, one = capsys.readouterr().out.splitlines()
    assert docs.endswith("differs from its .dvc file: run `dvc add` and `dvc push`") and one.endswith("the same everywhere")
    run_dvc(["add", "-q", "docs"], project, check=True)
    assert main(["data", "status"]) == 0
    docs, one = capsys.readouterr().out.splitlines()
    assert docs.endswith("not all of it is in the remote: run `dvc push`; the last run here used other data")
    (project / "params.yaml").write_text(recipe.replace("one.jsonl", "two.jsonl"))
    assert main(["data", "rev"]) == 2
    assert "two.jsonl is not under DVC. Track it with `dvc add two.jsonl`" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "<<<<<<< ours\nouts: []\n=======\n>>>>>>> theirs\n", "- a\n"])
@pytest.mark.parametrize(("name", "remedy"), [("docs.dvc", "dvc add docs"), ("dvc.lock", "git checkout")])
def test_a_file_that_a_merge_left_is_one_message(
    content: str, name: str, remedy: str, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    (project / "params.yaml").write_text("tasks: {t: {instruction: find, sources: [{kind: folder, path: docs}]}}")
    (project / name).write_text(content)
    assert main(["data", "status"]) == 2
    told = capsys.readouterr().err
    assert name in told and remedy in told and "Traceback" not in told
