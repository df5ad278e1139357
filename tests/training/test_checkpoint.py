"""Checkpoints: complete or absent, and only for the run that wrote them."""

from pathlib import Path

import pytest
import torch

from phasor.errors import StorageError
from phasor.training import checkpoint
from phasor.training.checkpoint import Progress

TENSORS = {"weight/a": torch.arange(6.0).view(2, 3).T, "step/a": torch.tensor(3.0)}
PROGRESS = Progress(step=3, examples=12, tokens=99, trace=[{"step": 0, "loss": 0.1 + 0.2}])


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_what_was_saved_comes_back_exactly(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "run", PROGRESS, TENSORS)
    found = checkpoint.load(tmp_path, "run")
    assert found is not None
    assert found.progress == PROGRESS
    assert found.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(found.tensors[name], TENSORS[name]) for name in TENSORS)


def test_a_newer_checkpoint_replaces_the_older(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "run", PROGRESS, TENSORS)
    checkpoint.save(tmp_path, "run", Progress(step=10), TENSORS)
    assert names(tmp_path) == ["checkpoint-00000010"]


def test_another_run_does_not_use_it(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "run", PROGRESS, TENSORS)
    assert checkpoint.load(tmp_path, "another") is None
    assert checkpoint.load(tmp_path / "nothing", "run") is None


def test_a_half_written_checkpoint_is_not_seen(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "run", PROGRESS, TENSORS)
    (tmp_path / ".checkpoint-00000004.partial").mkdir()
    (tmp_path / ".checkpoint-00000004.partial" / "state.safetensors").write_bytes(b"half")
    found = checkpoint.load(tmp_path, "run")
    assert found is not None and found.progress.step == 3
    checkpoint.save(tmp_path, "run", Progress(step=4), TENSORS)
    assert names(tmp_path) == ["checkpoint-00000004"]


def test_nothing_in_it_is_pickled(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "run", PROGRESS, TENSORS)
    assert names(tmp_path / "checkpoint-00000003") == ["state.json", "state.safetensors"]


def test_a_refused_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, "run", PROGRESS, TENSORS)

    def refuse(*_: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(checkpoint, "write_json", refuse)  # a full disk, which a test cannot have
    with pytest.raises(StorageError):
        checkpoint.save(tmp_path, "run", Progress(step=4), TENSORS)
    found = checkpoint.load(tmp_path, "run")
    assert found is not None and found.progress.step == 3
