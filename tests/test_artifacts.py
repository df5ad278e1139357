"""Digests, manifests and publishing: a byte is noticed, a folder is complete or absent."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from phasor.artifacts import (
    MANIFEST,
    Manifest,
    Report,
    alone,
    digest_artifact,
    digest_json,
    digest_tree,
    discard,
    library_versions,
    publish,
    read_manifest,
    sha256_file,
    verify,
    write_json,
    write_text,
)
from phasor.errors import ArtifactError, StorageError


def make(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    manifest = Manifest(
        phase="collect", role=None, task="a", seed=0, config={}, inputs={}, files=digest_tree(folder), code_rev="x", versions={}
    )
    write_json(manifest, folder / MANIFEST)
    return folder


def test_sha256_is_the_standards(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_changed_byte_a_renamed_and_an_added_file_change_the_digest(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    (plain / "sub").mkdir(parents=True)
    (plain / "sub" / "f").write_bytes(b"abcd")
    seen = {digest_artifact(plain)}
    (plain / "sub" / "f").write_bytes(b"abce")
    seen.add(digest_artifact(plain))
    (plain / "sub" / "f").rename(plain / "sub" / "g")
    seen.add(digest_artifact(plain))
    (plain / "h").touch()
    seen.add(digest_artifact(plain))
    assert len(seen) == 4


def test_digest_does_not_depend_on_place_time_or_manifest(tmp_path: Path) -> None:
    first, second = make(tmp_path / "a", f="1"), make(tmp_path / "b" / "c", f="1")
    os.utime(first / "f", (0, 0))
    assert digest_artifact(first) == digest_artifact(second)
    assert MANIFEST not in digest_tree(first)
    assert digest_json({"a": 1, "b": "é"}) == digest_json({"b": "é", "a": 1}) != digest_json({"a": 1, "b": "e"})


def test_an_intact_folder_verifies(tmp_path: Path) -> None:
    assert verify(make(tmp_path / "a", f="1", g="2")).files.keys() == {"f", "g"}


def test_every_kind_of_damage_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", f="1", g="2")
    (folder / "f").write_text("x")
    with pytest.raises(ArtifactError, match="a/f does not match its manifest"):
        verify(folder)
    (folder / "f").unlink()
    with pytest.raises(ArtifactError, match="a/f is listed in the manifest but missing"):
        verify(folder)
    (folder / "f").write_text("1")
    (folder / "h").touch()
    with pytest.raises(ArtifactError, match="a/h is not listed"):
        verify(folder)


def test_a_folder_without_or_with_a_broken_manifest_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", f="1")
    (folder / MANIFEST).write_text("{}")
    with pytest.raises(ArtifactError, match="damaged"):
        read_manifest(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match="manifest.json is missing"):
        read_manifest(folder)


def test_publish_moves_and_replaces_whole_folders(tmp_path: Path) -> None:
    target = tmp_path / "work" / "out"
    publish(make(tmp_path / "one", f="1", only_old="x"), target)
    assert (target / "f").read_text() == "1"
    publish(make(tmp_path / "two", f="2"), target)
    assert {p.name for p in target.iterdir()} == {"f", MANIFEST}
    assert (target / "f").read_text() == "2"
    assert [p.name for p in target.parent.iterdir()] == ["out"]
    assert not (tmp_path / "one").exists() and not (tmp_path / "two").exists()


def test_publish_stopped_between_its_steps_leaves_no_mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    publish(make(tmp_path / "one", f="1"), target)
    rename, calls = Path.rename, []

    def stop_before(number: int) -> None:
        calls.clear()

        def stopping(path: Path, to: Path) -> Path:
            calls.append(path)
            if len(calls) == number:
                raise KeyboardInterrupt
            return rename(path, to)

        monkeypatch.setattr(Path, "rename", stopping)

    for number in (1, 2):
        aside = make(tmp_path / f"new{number}", f="2")
        stop_before(number)
        with pytest.raises(KeyboardInterrupt):
            publish(aside, target)
        monkeypatch.setattr(Path, "rename", rename)
        assert not target.exists() or verify(target)
    publish(aside, target)
    assert verify(target) and (target / "f").read_text() == "2"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new1", "out"]


def test_a_folder_whose_removal_is_stopped_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoint-7"
    (folder / "state").mkdir(parents=True)

    def stop(path: Path, **_: Any) -> None:
        if path.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            discard(folder)
    assert not folder.exists()
    folder.mkdir()
    discard(folder)
    discard(folder)
    assert not list(tmp_path.iterdir())


def test_texts_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.json"
    write_json(Report(phase="merge", metrics={"loss": 0.5}), path)
    assert Report.model_validate_json(path.read_text()).metrics == {"loss": 0.5}
    path.chmod(0o400)
    write_text("new", path)  # renaming needs no right on the old file
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]


def test_a_refused_write_leaves_the_old_text(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(StorageError, match="file/x cannot be written"):
        write_text("new", tmp_path / "file" / "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="folder cannot be written"):
        write_text("new", tmp_path / "folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "old"


def test_libraries_are_recorded() -> None:
    assert library_versions().keys() >= {"python", "torch", "transformers", "peft", "faiss-cpu"}


def test_a_lock_is_held_by_one_process_and_ends_with_it(tmp_path: Path) -> None:
    lock = tmp_path / "new" / "lock"
    hold = (
        "import sys; from pathlib import Path; from phasor.artifacts import alone\n"
        "with alone(Path(sys.argv[1]), 'it'): print(flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(ArtifactError, match=r"collect is under way in another process\. Wait"), alone(lock, "collect"):
            pytest.fail("two at once")
        assert lock.exists()
        other.kill()
    with alone(lock, "collect"):
        assert lock.exists()
    assert not lock.exists()
