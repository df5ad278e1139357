"""What an interrupted task had done: kept while it works, restored whole or not at all, gone once what was made is stored."""

import io
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from phasor.settings import store_settings
from phasor.storage import mirror as room
from phasor.storage.mirror import Mirror, forget_finished, mirrored
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
    one.finish()
    forget_finished()
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


def part(minio: Server, name: str) -> str:
    """The first object of a state beside its manifest."""
    return next(key for key in minio.keys(f"checkpoints/{name}/") if not key.endswith("manifest.json"))


def put(minio: Server, key: str, data: bytes) -> None:
    minio.client.put_object(bucket_name=BUCKET, object_name=key, data=io.BytesIO(data), length=len(data))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda minio: minio.client.remove_object(BUCKET, part(minio, "spoilt")), "reading s3://phasor/checkpoints/spoilt/"),
        (lambda minio: put(minio, part(minio, "spoilt"), b"tex"), ": its sha256 is "),
        (lambda minio: put(minio, "checkpoints/spoilt/manifest.json", b'{"files": {"a'), "JSON: Invalid JSON"),
        (lambda minio: put(minio, "checkpoints/spoilt/manifest.json", b'{"files": {}}'), "files: Dictionary should have at least 1 item"),
        (lambda minio: put(minio, "checkpoints/spoilt/manifest.json", b"[]"), "JSON: Input should be an object"),
    ],
    ids=["missing", "damaged", "truncated", "empty", "other"],
)
def test_a_state_that_is_not_whole_counts_as_none_and_the_next_one_is_whole(
    spoil: Callable[[Server], None], told: str, tmp_path: Path, minio: Server, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        write(tmp_path / "one" / name, f"text of {name}")
    make(tmp_path / "one", "spoilt").update()
    spoil(minio)
    two = make(tmp_path / "two", "spoilt")
    two.restore()
    assert list(tmp_path.iterdir()) == [tmp_path / "one"], "nothing half restored is left"
    assert "mirror.restore: the state at checkpoints/spoilt is damaged, the work starts anew" in caplog.text and told in caplog.text
    write(tmp_path / "two/a", "text of a")
    two.update()
    make(tmp_path / "three", "spoilt").restore()
    assert content(tmp_path / "three") == {"a": "text of a"}


def test_a_folder_that_is_being_removed_is_no_new_state(tmp_path: Path, minio: Server) -> None:
    """The work is done then; should it be asked for again before its copy is gone, half a checkpoint or none would end every try."""
    one = make(tmp_path / "one", "removed")
    for name in ("state.json", "state.safetensors"):
        write(tmp_path / "one/checkpoint-1" / name, name)
        one.update()
    for path in (tmp_path / "one/checkpoint-1").iterdir():
        path.unlink()
        one.update()
    make(tmp_path / "two", "removed").restore()
    assert content(tmp_path / "two") == {f"checkpoint-1/{name}": name for name in ("state.json", "state.safetensors")}


def test_work_keeps_its_last_state_until_its_outputs_are_safe(tmp_path: Path, minio: Server) -> None:
    """A pod may be lost between the end of its work and that of the upload of what it made."""

    def task(folder: Path, fail: bool) -> str:
        with mirrored(folder, "work"):
            found = (folder / "state").read_text() if (folder / "state").exists() else "nothing"
            write(folder / "state", "done so far")
            if fail:
                raise ZeroDivisionError
        return found

    with pytest.raises(ZeroDivisionError):
        task(tmp_path / "one", fail=True)
    forget_finished()
    assert len(minio.keys("checkpoints/work")) == 2
    assert task(tmp_path / "two", fail=False) == "done so far"
    assert task(tmp_path / "three", fail=False) == "done so far"
    forget_finished()
    assert minio.keys("checkpoints/work") == []
    assert task(tmp_path / "four", fail=False) == "nothing"


def test_finished_work_that_is_tried_again_is_not_forgotten_meanwhile(tmp_path: Path, minio: Server) -> None:
    one = make(tmp_path / "one", "retried")
    write(tmp_path / "one/a", "text")
    one.update()
    one.finish()
    make(tmp_path / "two", "retried").restore()
    forget_finished()
    assert len(minio.keys("checkpoints/retried")) == 2


def test_another_try_of_the_same_work_spoils_no_state(tmp_path: Path, minio: Server) -> None:
    """Two runs of equal work: the first to end takes away what both had stored."""
    one, two = make(tmp_path / "one", "shared"), make(tmp_path / "two", "shared")
    for mirror, folder in ((one, "one"), (two, "two")):
        write(tmp_path / folder / "a", "equal in both")
        mirror.update()
    one.finish()
    forget_finished()
    write(tmp_path / "two/b", "more")
    two.update()
    make(tmp_path / "three", "shared").restore()
    assert content(tmp_path / "three") == {"a": "equal in both", "b": "more"}


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
