"""What every phase leaves beside its files: a manifest inside the output, and a report of what it cost.

An output folder is complete or absent: it is written aside, its manifest last, and renamed into place.
The manifest holds nothing that changes from run to run (no times, no paths), so equal work has equal bytes.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from phasor.errors import ArtifactError, StorageError

MANIFEST = "manifest.json"
Parsed = TypeVar("Parsed", bound=BaseModel)
_LIBRARIES = ("torch", "transformers", "peft", "faiss-cpu", "mteb", "sentence-transformers", "tokenizers", "scikit-learn")


class Record(BaseModel):
    """Part of a JSON file of ours; keys of another version are refused."""

    model_config = ConfigDict(extra="forbid")


class Cost(Record):
    """What a phase used. Paper section 4.3 counts examples; we count all four."""

    seconds: float = 0.0
    examples: int = 0
    tokens: int = 0
    gpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    peak_gpu_memory_bytes: int = 0


class Report(Record):
    """What a phase found out. `run` fills metrics, counts, trace, examples and tokens; the runner the rest.

    Examples and tokens are those of earlier, interrupted runs too, if `run` went on where one was; it then leaves in
    `cost.seconds` what that one took, and the runner adds its own.

    Attributes:
        metrics: scores and losses, fractions not percent.
        counts: rows kept, dropped by reason, and the like.
        trace: one mapping per step or search point, for plots.
        details: anything structured that a later phase shows.
    """

    schema_version: int = 1
    phase: str = ""
    role: str | None = None
    task: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    counts: dict[str, int] = Field(default_factory=dict)
    trace: list[dict[str, Any]] = Field(default_factory=list)
    details: dict[str, Any] = Field(default_factory=dict)
    cost: Cost = Cost()
    machine: dict[str, Any] = Field(default_factory=dict)
    outputs: dict[str, str] = Field(default_factory=dict, description="Output name to digest.")


class Manifest(Record):
    """Lineage of one output folder."""

    schema_version: int = 1
    phase: str
    role: str | None
    task: str | None
    seed: int
    config: dict[str, Any]
    inputs: dict[str, str]
    files: dict[str, str]
    code_rev: str
    versions: dict[str, str]


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_tree(folder: Path) -> dict[str, str]:
    """Relative path to sha256 of every file below a folder, except its manifest, in sorted order."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).as_posix() != MANIFEST)
    return {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}


def digest_json(value: Any) -> str:
    """Hex digest of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def digest_artifact(path: Path) -> str:
    """One digest for an artifact: of its manifest's file table for a folder of ours, else of its content."""
    if path.is_file():
        return sha256_file(path)
    if (path / MANIFEST).exists():
        return digest_json(read_manifest(path).files)
    return digest_json(digest_tree(path))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an output folder. Raises ArtifactError if the folder is not one."""
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"{folder} is not a complete output: {MANIFEST} is missing. Run the phase that writes it.") from None
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged ({error}). Run the phase that writes it again.") from None


def read_record(
    kind: type[Parsed], path: Path, missing: str = "Run the phase that writes it.", outdated: str = "Run its phase again."
) -> Parsed:
    """Read a JSON file of ours.

    Args:
        kind: what it holds.
        path: where it is.
        missing, outdated: what to do then, for the message.

    Raises:
        ArtifactError: it is missing or of another version.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing. {missing}") from None
    except ValidationError as error:
        raise ArtifactError(f"{path} was not written by this version ({first_problem(error)}). {outdated}") from None


def first_problem(error: ValidationError) -> str:
    """The first of possibly many, on one line."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'JSON'}: {first['msg']}"


def verify(folder: Path) -> Manifest:
    """Check every file of an output folder against its manifest. Raises ArtifactError naming the first that differs."""
    manifest = read_manifest(folder)
    found = digest_tree(folder)
    for name, digest in manifest.files.items():
        if name not in found:
            raise ArtifactError(f"{folder / name} is listed in the manifest but missing. Fetch or build the folder again.")
        if found[name] != digest:
            raise ArtifactError(
                f"{folder / name} does not match its manifest: sha256 {found[name]}, expected {digest}. Fetch or build the folder again."
            )
    if extra := sorted(found.keys() - manifest.files.keys()):
        raise ArtifactError(f"{folder / extra[0]} is not listed in the manifest. Remove it or build the folder again.")
    return manifest


def write_json(value: Any, path: Path) -> None:
    """Write JSON whole or not at all; see `write_text`."""
    text = value.model_dump_json(indent=2) if isinstance(value, BaseModel) else json.dumps(value, indent=2, ensure_ascii=False)
    write_text(text + "\n", path)


def write_text(text: str, path: Path) -> None:
    """Write a text file whole or not at all: aside, fsync, rename. Raises StorageError if the disk refuses."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise StorageError(f"{path} cannot be written: {error.strerror or error}. Free space or choose another folder.") from None


def publish(aside: Path, target: Path) -> None:
    """Move a finished folder into place: sync every file, then one rename. An older folder gives way first, whole."""
    for path in aside.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.rename(old)
    aside.rename(target)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def alone(lock: Path, what: str) -> Iterator[None]:
    """Be the only process that does something, as far as the file system knows locks; a lock ends with its process, however that ends.

    Args:
        lock: file to make for the time, beside what must not be written twice at once.
        what: is under way, for the message.

    Raises:
        ArtifactError: another process does it already.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = not os.path.samestat(lock.stat(), os.fstat(file.fileno()))
        except (BlockingIOError, FileNotFoundError):  # the latter and another file: who held it removed it a moment ago
            taken = True
        except OSError:  # some network file systems know no locks
            taken = False
        if taken:
            raise ArtifactError(f"{what} is under way in another process. Wait until it is through, and run this again.")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def discard(folder: Path) -> None:
    """Remove a folder, if it is there, in one step for those who look for its name: half of it is never found under that."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
        shutil.rmtree(old, ignore_errors=True)


@cache
def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries whose numbers end up in the outputs."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
