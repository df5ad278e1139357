"""Resumable state: complete or absent, safetensors and JSON only.

A checkpoint is written aside, synced and renamed; older ones go only after it stands. It carries a fingerprint of
everything that decides the run, and one that does not match is not used.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from phasor.artifacts import discard, publish, write_json

_PREFIX = "checkpoint-"


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: optimiser steps done; with plan and seed, the whole state of the sampler and of dropout.
        examples, tokens: consumed so far over all ranks.
        trace: what was logged so far.
        seconds: what these steps took, dev scores and checkpoints between them included, over all processes that did them.
    """

    step: int = 0
    examples: int = 0
    tokens: int = 0
    trace: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Checkpoint:
    """A state read back."""

    progress: Progress
    tensors: dict[str, Tensor]


def digest_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Hex digest of names, types, shapes and every byte; about a second per 2 GB."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save(folder: Path, fingerprint: str, progress: Progress, tensors: dict[str, Tensor]) -> None:
    """Write a checkpoint below `folder` and remove those before it."""
    target = folder / f"{_PREFIX}{progress.step:08d}"
    aside = folder / f".{target.name}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, aside / "state.safetensors")
    write_json({"fingerprint": fingerprint, "progress": asdict(progress)}, aside / "state.json")
    publish(aside, target)
    for older in folder.glob(f"{_PREFIX}*"):
        if older != target:
            discard(older)


def load(folder: Path, fingerprint: str) -> Checkpoint | None:
    """The newest checkpoint below `folder` of a run with this fingerprint."""
    for candidate in sorted(folder.glob(f"{_PREFIX}*"), reverse=True):
        state = json.loads((candidate / "state.json").read_text(encoding="utf-8"))
        if state["fingerprint"] == fingerprint:
            return Checkpoint(Progress(**state["progress"]), load_file(candidate / "state.safetensors"))
    return None
