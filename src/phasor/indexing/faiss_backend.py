"""FAISS: which type for how many passages, how it is built in bounded memory, and how it is searched with a filter.

Shapes: N passages, D vector size, K results.
"""

import threading
from pathlib import Path
from typing import Any

import faiss as _library
import numpy as np
from numpy.typing import NDArray

from phasor.config.indexing import FaissKind
from phasor.errors import ArtifactError, DataError
from phasor.indexing.backend import Filters, Found, Vector
from phasor.indexing.documents import Documents
from phasor.indexing.layout import INFO, Stored
from phasor.indexing.memory import available_bytes

faiss: Any = _library  # its type stubs know less than half of it

_CHUNK = 65_536
_TRAIN_PER_LIST = 64  # vectors per list that k-means sees; faiss itself warns below 39
_LEAST_PER_LIST = 39
_MOST: tuple[tuple[int, FaissKind], ...] = ((1_000_000, "flat"), (10_000_000, "ivf_sq8"), (100_000_000, "ivf_rabitq"))
_SEED = 1234
_GIB = 1 << 30
_EF_SEARCH = 128
_FEW = 0.05  # a filter that so small a share passes is answered exhaustively: near lists may hold none of them
_CLASSES = {
    "flat": faiss.IndexFlat, "hnsw": faiss.IndexHNSWFlat, "ivf_sq8": faiss.IndexIVFScalarQuantizer, "ivf_rabitq": faiss.IndexRefine,
}  # fmt: skip
"""What a file of each type holds; searched as another, it has no such attributes."""
_deserialising = threading.Lock()


def choose_type(count: int) -> FaissKind:
    """The type for a corpus size: exact as long as it is fast enough, then 1.1 kB a vector of 1024, then 0.2 kB in memory.

    Raises:
        DataError: too many passages for one machine.
    """
    for most, kind in _MOST:
        if count <= most:
            return kind
    raise DataError(f"{count:,} passages are too many for one index file. Set store.kind to qdrant, or store.type by hand.")


def build_faiss(vectors_ND: NDArray[np.float32], kind: FaissKind, path: Path) -> Stored:
    """Train, fill and write an index.

    Args:
        vectors_ND: usually mapped from a file; read in pieces.
        kind: which type.
        path: of index.faiss.

    Returns:
        How it is to be searched.
    """
    count, dims = vectors_ND.shape
    factory, lists = _factory(kind, count)
    index = faiss.index_factory(dims, factory, faiss.METRIC_INNER_PRODUCT)
    stored = Stored(
        kind="faiss", type=kind, factory=factory, nprobe=max(8, lists // 32) if lists else 0, k_factor=10 if kind == "ivf_rabitq" else 0
    )
    if not index.is_trained:
        rows = np.random.default_rng(_SEED).permutation(count)[: max(lists, 256) * _TRAIN_PER_LIST]
        index.train(np.ascontiguousarray(vectors_ND[np.sort(rows)]))
    for start in range(0, count, _CHUNK):
        index.add(np.ascontiguousarray(vectors_ND[start : start + _CHUNK]))
    faiss.write_index(index, str(path))
    return stored


class FaissBackend:
    """An index file in memory.

    Args:
        path: of index.faiss, whose sha256 was checked.
        stored: how it is searched.
        documents: the same rows, for filters.
        dims: vector size.

    Raises:
        ArtifactError: the file is no index, one of other size, or more than there is memory for.
    """

    def __init__(self, path: Path, stored: Stored, documents: Documents, dims: int) -> None:
        self._documents, self._stored = documents, stored
        size, free = path.stat().st_size, available_bytes()
        if size > free:
            raise ArtifactError(
                f"{path} takes {size / _GIB:.2f} GiB, but {free / _GIB:.2f} GiB of memory are left; during an exchange the old index is "
                "there too. Raise the memory limit, or build the index with smaller dims or a smaller store.type."
            )
        try:
            with _deserialising:  # the limit is global
                # No part of a sound file is longer than the file; a hostile header could ask for any amount of memory.
                faiss.set_deserialization_vector_byte_limit(size)
                self._index: Any = faiss.read_index(str(path))
        except RuntimeError as error:
            raise ArtifactError(f"{path} is no FAISS index ({str(error).splitlines()[0][:200]}). Build the index again.") from None
        if (self._index.d, self._index.ntotal) != (dims, len(documents)) or self._index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ArtifactError(
                f"{path} holds {self._index.ntotal} vectors of {self._index.d} dimensions, expected {len(documents)} of {dims}. "
                "Build the index again."
            )
        if not isinstance(self._index, _CLASSES.get(stored.type, ())):
            raise ArtifactError(f"{path} holds {type(self._index).__name__}, not {stored.type!r} as {INFO} says. Build the index again.")
        self._lists = int(self._index.nlist) if stored.type == "ivf_sq8" else stored.nprobe
        by_row = {"hnsw": lambda: self._index, "ivf_rabitq": lambda: faiss.downcast_index(self._index.refine_index)}
        self._by_row: Any = by_row.get(stored.type, lambda: None)()

    def search(self, vector_D: Vector, k: int, filters: Filters) -> Found:
        """As the protocol says. Raises KeyError for an unknown field."""
        mask = self._documents.selected(filters)
        most = min(k, len(self._documents) if mask is None else int(mask.sum()))
        if most == 0:
            return Found(np.empty(0, np.int64), np.empty(0, np.float32))
        few = mask is not None and mask.sum() <= _FEW * len(mask)
        if few and self._by_row is not None:
            assert mask is not None
            return self._among(vector_D, np.flatnonzero(mask), most)
        bits = None if mask is None else np.packbits(mask, bitorder="little")
        selector = None if bits is None else faiss.IDSelectorBitmap(bits)
        params = _parameters(self._stored, selector, lists=self._lists if few else self._stored.nprobe * (1 if mask is None else 4))
        scores, rows = self._index.search(np.ascontiguousarray(vector_D[None]), most, params=params)
        kept = rows[0] >= 0
        return Found(rows[0][kept], scores[0][kept])

    def _among(self, vector_D: Vector, rows: NDArray[np.int64], k: int) -> Found:
        """Search of some rows one by one: a graph whose nodes are nearly all passed over leads nowhere."""
        scores = self._by_row.reconstruct_batch(rows) @ vector_D
        order = np.argsort(-scores, kind="stable")[:k]
        return Found(rows[order], scores[order])

    def close(self) -> None:
        """Memory goes with the object."""


def _factory(kind: FaissKind, count: int) -> tuple[str, int]:
    """(factory string, number of lists)."""
    if kind == "flat":
        return "Flat", 0
    if kind == "hnsw":
        return "HNSW32,Flat", 0
    wanted = 4 * int(count**0.5) if kind == "ivf_sq8" else 65_536 if count < 30_000_000 else 262_144
    lists = max(1, min(wanted, count // _LEAST_PER_LIST))
    return (f"IVF{lists},SQ8" if kind == "ivf_sq8" else f"IVF{lists}_HNSW32,RaBitQ,Refine(SQ8)"), lists


def _parameters(stored: Stored, selector: Any, lists: int) -> Any:
    """How one search goes: with a filter or None, looking into so many lists."""
    match stored.type:
        case "flat":
            return faiss.SearchParameters(sel=selector)
        case "hnsw":
            return faiss.SearchParametersHNSW(sel=selector, efSearch=_EF_SEARCH if selector is None else 4 * _EF_SEARCH)
        case "ivf_sq8":
            return faiss.SearchParametersIVF(sel=selector, nprobe=lists)
        case _:
            base = faiss.SearchParametersIVF(sel=selector, nprobe=lists)
            return faiss.IndexRefineSearchParameters(k_factor=float(stored.k_factor), base_index_params=base)
