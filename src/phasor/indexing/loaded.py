"""An index that is searched: opened only after every file was checked, and only if it finds its own passages."""

from dataclasses import dataclass
from pathlib import Path

from phasor.errors import ArtifactError
from phasor.indexing.backend import Filters, Found, Vector, VectorBackend
from phasor.indexing.build import check_model
from phasor.indexing.documents import Document, Documents
from phasor.indexing.faiss_backend import FaissBackend
from phasor.indexing.layout import DOCUMENTS, FAISS, INFO, SERVED, IndexInfo, Pointer, check_files, read_info, version_folder
from phasor.indexing.qdrant_backend import QdrantBackend, connect, named_by
from phasor.packaging.golden import decode_vector
from phasor.serving.bundle import Bundle

_AMONG = 10  # passages with equal texts share a vector, so a passage need not be the very first


@dataclass(frozen=True)
class LoadedIndex:
    """A version of an index, ready to search.

    Attributes:
        version: its name.
    """

    version: str
    info: IndexInfo
    documents: Documents
    backend: VectorBackend

    def search(self, vector: Vector, k: int, filters: Filters) -> Found:
        """As the backend's protocol says."""
        return self.backend.search(vector, k, filters)

    def __getitem__(self, row: int) -> Document:
        return self.documents[row]


def open_index(root: Path, pointer: Pointer, bundle: Bundle, qdrant_url: str | None = None) -> LoadedIndex:
    """Check, load and try a version.

    Args:
        root: the index folder.
        pointer: which version.
        bundle: that will search it.
        qdrant_url: where its collection is; None: where the index says, if that is a server without a key.

    Raises:
        PhasorError: a file is missing or changed, another embedder made it, or it does not find its own passages.
    """
    folder = version_folder(root, pointer)
    info = read_info(folder, pointer.sha256)
    check_model(info, bundle)
    check_files(folder, info, SERVED)
    documents = Documents(folder / DOCUMENTS)
    backend: VectorBackend
    if info.store.kind == "qdrant":
        backend = QdrantBackend(connect(qdrant_url or named_by(info.store)), info.store.collection, documents)
    else:
        backend = FaissBackend(folder / FAISS, info.store, documents, info.dims)
    for query in info.self_queries:
        vector = decode_vector(query.vector)
        if vector.shape != (info.dims,):
            raise ArtifactError(f"{folder / INFO} has a self query of {len(vector)} numbers, expected {info.dims}. Build the index again.")
        found = backend.search(vector, _AMONG, {})
        if query.row not in found.rows and (not len(found.scores) or found.scores[-1] < vector @ vector - 1e-3):
            raise ArtifactError(f"{folder} does not find its own passage {query.row}. Build the index again with `phasor index build`.")
    return LoadedIndex(pointer.version, info, documents, backend)
