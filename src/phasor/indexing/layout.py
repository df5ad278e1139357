"""What an index folder holds.

    current.json            which version is served: its name and the sha256 of its index.json
    versions/<name>/
        index.json          what it was made of, and the sha256 of every other file
        documents.arrow     the passages, row by row
        index.faiss         the vectors, searchable; absent if a Qdrant server has them
        vectors.npy         the vectors as they were embedded, for updates; servers do not need it

A version never changes; a new one is written aside, and then the pointer. The last two versions are kept.
"""

import re
import shutil
from pathlib import Path

from pydantic import Field

from phasor.artifacts import Record, read_record, sha256_file, write_json
from phasor.errors import ArtifactError

POINTER, VERSIONS = "current.json", "versions"
INFO, DOCUMENTS, FAISS, VECTORS = "index.json", "documents.arrow", "index.faiss", "vectors.npy"
SERVED = (DOCUMENTS, FAISS)
"""Files that a server needs besides index.json."""
_KEPT = 2
_REMEDY = "Build the index again with `phasor index build`, or fetch it again."


class Pointer(Record):
    """current.json."""

    version: str = Field(pattern=r"^[0-9a-f]{16}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the version's index.json.")


class SelfQuery(Record):
    """A stored passage that a freshly loaded index must find by its own vector."""

    row: int
    vector: str = Field(description="Base64 of little-endian float32.")


class Stored(Record):
    """Where the vectors are and how they are searched."""

    kind: str = Field(description="faiss or qdrant.")
    type: str = Field("", description="faiss: flat, hnsw, ivf_sq8 or ivf_rabitq.")
    factory: str = Field("", description="faiss: the string that made it.")
    nprobe: int = Field(0, ge=0, description="faiss: lists that are looked into.")
    k_factor: int = Field(0, ge=0, le=1000, description="faiss: candidates that are scored again, as a multiple of those wanted.")
    url: str = Field("", description="qdrant: the server at the time of building.")
    collection: str = Field("", pattern=r"^[A-Za-z0-9_-]*$", description="qdrant.")


class IndexInfo(Record):
    """index.json."""

    schema_version: int = 1
    model: str = Field(description="Digest of the embedder's files; a server with another embedder refuses the index.")
    bundle: str = Field(description="Digest of the bundle that embedded the passages.")
    template: str = Field(description="Of the embedder; passages carry none, queries do.")
    dims: int
    count: int
    fields: list[str] = Field(description="What searches can be filtered by.")
    store: Stored
    recall_at_10: float = Field(description="Of searches like its own passages and the golden queries, against exact search.")
    self_queries: list[SelfQuery]
    files: dict[str, str] = Field(description="Name to sha256.")


def read_pointer(root: Path) -> Pointer:
    """The pointer of an index folder. Raises ArtifactError if there is none."""
    return read_record(Pointer, root / POINTER, _REMEDY, _REMEDY)


def version_folder(root: Path, pointer: Pointer) -> Path:
    """Where a version is."""
    return root / VERSIONS / pointer.version


def read_info(folder: Path, sha256: str) -> IndexInfo:
    """index.json of a version. Raises ArtifactError if it is not the one that the pointer means."""
    path = folder / INFO
    if path.is_file() and sha256_file(path) != sha256:
        raise ArtifactError(f"{path} is not the one that {POINTER} means: its sha256 differs. {_REMEDY}")
    return read_record(IndexInfo, path, _REMEDY, _REMEDY)


def check_files(folder: Path, info: IndexInfo, names: tuple[str, ...]) -> None:
    """Compare files with index.json before anything parses them. Raises ArtifactError naming the first that differs."""
    for name in (name for name in names if name in info.files):
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise ArtifactError(f"{path} is missing. {_REMEDY}")
        if (found := sha256_file(path)) != info.files[name]:
            raise ArtifactError(f"{path} does not match {INFO}: sha256 {found}, expected {info.files[name]}. {_REMEDY}")


def publish_version(root: Path, aside: Path, info: IndexInfo) -> Pointer:
    """Give a finished folder its name and point to it."""
    write_json(info, aside / INFO)
    sha256 = sha256_file(aside / INFO)
    pointer = Pointer(version=sha256[:16], sha256=sha256)
    target = version_folder(root, pointer)
    if target.exists():
        shutil.rmtree(aside)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.rename(target)
    target.touch()
    write_json(pointer, root / POINTER)
    return pointer


def drop_old_versions(root: Path) -> None:
    """Delete versions older than the one before."""
    versions = [path for path in (root / VERSIONS).iterdir() if re.fullmatch("[0-9a-f]{16}", path.name)]
    for old in sorted(versions, key=lambda path: path.stat().st_mtime_ns)[:-_KEPT]:
        shutil.rmtree(old)
