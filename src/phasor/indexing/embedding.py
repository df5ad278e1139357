"""Passages to vectors, shard by shard: what was embedded once is not embedded again after an interruption.

Shapes: N passages, D vector size.
"""

import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field

from phasor.artifacts import Record, digest_json, read_record, write_json
from phasor.data.templates import render_passage
from phasor.errors import ArtifactError, ModelError
from phasor.indexing.documents import Document, to_table
from phasor.models.embedder import Embedder
from phasor.models.network import Vectors
from phasor.packaging.golden import least_cosine, read_golden
from phasor.progress import progress
from phasor.serving.builtin import load_network
from phasor.serving.bundle import Bundle
from phasor.serving.vectors import truncate


class PassageEmbedder:
    """A bundle's embedder for passages.

    Raises:
        ModelError: it does not reproduce the golden vectors.
    """

    def __init__(self, bundle: Bundle, dims: int, batch_size: int) -> None:
        self._network = cast(Embedder, load_network(bundle, "embed", "bfloat16" if torch.cuda.is_available() else "float32"))
        self._dims, self._batch_size = dims, batch_size
        golden = read_golden(bundle.folder)
        found = self._network.encode_documents([document.text for document in golden.documents], batch_size)
        cosine = least_cosine(found, [document.vector for document in golden.documents])
        if not cosine >= golden.min_cosine:
            raise ModelError(f"{bundle.folder}: least cosine with a golden vector {cosine:.6f}, below {golden.min_cosine}. Fetch it again.")

    def encode(self, documents: Sequence[Document]) -> Vectors:
        """[N, D] vectors."""
        texts = [render_passage(document.passage) for document in documents]
        return truncate(self._network.encode_documents(texts, self._batch_size), self._dims)


class Shard(Record):
    """Some passages and their vectors, in two files beside this one."""

    digest: str = Field(description="Of the passages.")
    count: int
    metadata: list[str]


class Shards:
    """A folder of shards in their order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards: list[Shard] = []

    def add(self, documents: Sequence[Document], vectors: Vectors | None, embedder: PassageEmbedder) -> None:
        """Append passages; those of an interrupted run are recognised. Without vectors they are embedded."""
        names = sorted({name for document in documents for name in document.metadata})
        digest = digest_json([[*vars(d.passage).values(), sorted(d.metadata.items())] for d in documents])
        if (found := self._finished(len(self.shards))) is None or found.digest != digest:
            found = Shard(digest=digest, count=len(documents), metadata=names)
            stem = self._stem(len(self.shards))
            stem.with_suffix(".json").unlink(missing_ok=True)  # it vouches for the files that follow
            np.save(stem.with_suffix(".npy"), embedder.encode(documents) if vectors is None else vectors, allow_pickle=False)
            table = to_table(documents, names)
            with pa.OSFile(str(stem.with_suffix(".arrow")), "wb") as stream, pa.ipc.new_file(stream, table.schema) as writer:
                writer.write_table(table)
            write_json(found, stem.with_suffix(".json"))
        self.shards.append(found)

    @property
    def count(self) -> int:
        """Passages in all shards."""
        return sum(shard.count for shard in self.shards)

    @property
    def metadata(self) -> list[str]:
        """Names of all metadata."""
        return sorted({name for shard in self.shards for name in shard.metadata})

    def parts(self) -> Iterator[tuple[pa.Table, Vectors]]:
        """Passages and vectors of one shard after the other."""
        for number in range(len(self.shards)):
            stem = self._stem(number)
            table = pa.ipc.open_file(pa.memory_map(str(stem.with_suffix(".arrow")))).read_all()
            yield table, np.load(stem.with_suffix(".npy"), allow_pickle=False)

    def remove(self) -> None:
        """Delete the folder, once the index stands."""
        shutil.rmtree(self.folder)

    def _stem(self, number: int) -> Path:
        return self.folder / f"{number:06d}"

    def _finished(self, number: int) -> Shard | None:
        path = self._stem(number).with_suffix(".json")
        try:
            return read_record(Shard, path) if path.is_file() else None
        except ArtifactError:
            return None


def open_shards(root: Path, *identity: object) -> Shards:
    """The unfinished shards of one identity below an index folder; those of another are deleted."""
    folder = root / ".partial" / digest_json(list(identity))[:16]
    for other in folder.parent.glob("*") if folder.parent.is_dir() else ():
        if other != folder:
            shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    return Shards(folder)


def embed_all(documents: Iterator[Document], total: int | None, embedder: PassageEmbedder, shards: Shards, shard_passages: int) -> None:
    """Read and embed everything, with a bar that counts passages; `total` is how many there are, if that is known."""
    with progress(total, "embed passages", "passage") as bar:
        while part := list(islice(documents, shard_passages)):
            shards.add(part, None, embedder)
            bar.update(len(part))
