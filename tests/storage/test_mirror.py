"""What an interrupted task had done: kept while it works, restored whole or not at all, gone after success."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from phasor.settings import store_settings
from phasor.storage import mirror as room
from phasor.storage.mirror import Mirror, mirrored
from phasor.storage.store import Place, Store

from ..minio_server import BUCKET, Server


@pytest.fixture(autouse=True)
def environment(minio: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in minio.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(room, "PERIOD_S", 0.05)


def make(folder: Path, name: str) -> Mirror:
    return Mirror(Store(store_settings(), wait_s=0.01), Place(BUCKET, f"checkpoints/{name}"), folder)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_newest_state_comes_back_and_older_ones_are_forgotten(tmp_path: Path, minio: Server) -> None:
    one, name = make(tmp_path / "one", "newest"), "checkpoints/newest"
    write(tmp_path / "one/checkpoint-1/state.json", "first")
    write(tmp_path / "one/.checkpoint-2.partial/state.json", "half")
    one.update()
    (tmp_path / "one/checkpoint-1/state.json").unlink()
    write(tmp_path / "one/checkpoint-2/state.json", "second")
    write(tmp_path / "one/answers/0.jsonl", "{}\n")
    one.update()
    assert len(minio.keys(name)) == 3
    make(tmp_path / "two", "newest").restore()
    assert content(tmp_path / "two") == {"answers/0.jsonl": "{}\n", "checkpoint-2/state.json": "second"}
    one.clear()
    assert minio.keys(name) == []
    make(tmp_path / "three", "newest").restore()
    assert not (tmp_path / "three").exists()


def test_nothing_is_sent_again_that_is_there(tmp_path: Path, minio: Server) -> None:
    one = make(tmp_path / "one", "again")
    write(tmp_path / "one/a", "text")
    one.update()
    before = [item.last_modified for item in minio.client.list_objects(BUCKET, "checkpoints/again", recursive=True)]
    time.sleep(0.02)
    one.update()
    assert [item.last_modified for item in minio.client.list_objects(BUCKET, "checkpoints/again", recursive=True)] == before


def test_a_state_with_a_missing_part_counts_as_none(tmp_path: Path, minio: Server) -> None:
    write(tmp_path / "one/a", "text")
    write(tmp_path / "one/b", "more")
    make(tmp_path / "one", "missing").update()
    part = next(key for key in minio.keys("checkpoints/missing") if not key.endswith("manifest.json"))
    minio.client.remove_object(bucket_name=BUCKET, object_name=part)
    make(tmp_path / "two", "missing").restore()
    assert not (tmp_path / "two").exists()


def test_work_that_fails_leaves_its_last_state_and_work_that_ends_leaves_nothing(tmp_path: Path, minio: Server) -> None:
    def task(folder: Path, fail: bool) -> str:
        with mirrored(folder, "work"):
            found = (folder / "state").read_text() if (folder / "state").exists() else "nothing"
            write(folder / "state", "done so far")
            if fail:
                raise ZeroDivisionError
        return found

    with pytest.raises(ZeroDivisionError):
        task(tmp_path / "one", fail=True)
    assert len(minio.keys("checkpoints/work")) == 2
    assert task(tmp_path / "two", fail=False) == "done so far"
    assert minio.keys("checkpoints/work") == []
    assert task(tmp_path / "three", fail=False) == "nothing"


def test_the_state_is_stored_while_the_work_goes_on(tmp_path: Path, minio: Server) -> None:
    with mirrored(tmp_path / "one", "meanwhile"):
        write(tmp_path / "one/checkpoint-1/state", "x")
        for _ in range(100):
            if "checkpoints/meanwhile/manifest.json" in minio.keys("checkpoints/meanwhile"):
                break
            time.sleep(0.05)
        stored = minio.client.get_object(bucket_name=BUCKET, object_name="checkpoints/meanwhile/manifest.json")
        assert list(json.loads(stored.read())["files"]) == ["checkpoint-1/state"]


def test_a_store_that_fails_meanwhile_costs_a_warning_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = replace(store_settings(), checkpoints="s3://nobucket/x")
    monkeypatch.setattr(room, "store_settings", lambda: settings)
    monkeypatch.setattr(Mirror, "restore", lambda self: None)
    with mirrored(tmp_path / "one", "fails"):
        write(tmp_path / "one/state", "x")
        time.sleep(0.3)
    assert "mirror.update failed" in caplog.text and "NoSuchBucket" in caplog.text


def test_without_a_place_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHASOR_CHECKPOINTS")
    monkeypatch.setenv("PHASOR_S3_ENDPOINT", "")
    with mirrored(tmp_path / "one", "none"):
        write(tmp_path / "one/state", "x")
