"""`phasor index build` and `phasor index update`: a new version of an index, complete or absent.

Shapes: N passages, D vector size.
"""

import logging
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phasor.artifacts import alone, sha256_file
from phasor.config.indexing import FaissConfig, IndexConfig, QdrantConfig
from phasor.errors import ArtifactError, DataError
from phasor.indexing.backend import VectorBackend
from phasor.indexing.documents import Documents, DocumentWriter
from phasor.indexing.embedding import PassageEmbedder, Shards, embed_all, open_shards
from phasor.indexing.faiss_backend import FaissBackend, build_faiss, choose_type
from phasor.indexing.layout import (
    DOCUMENTS,
    FAISS,
    INFO,
    POINTER,
    VECTORS,
    IndexInfo,
    SelfQuery,
    Stored,
    check_files,
    drop_old_versions,
    publish_version,
    read_info,
    read_pointer,
    version_folder,
)
from phasor.indexing.qdrant_backend import QdrantBackend, connect, drop_collection, fill_collection, named_by
from phasor.indexing.reading import count_documents, read_documents, row_check
from phasor.indexing.recall import recall_at_10
from phasor.packaging.golden import decode_vector, encode_vector, read_golden
from phasor.serving.bundle import Bundle
from phasor.serving.vectors import truncate

log = logging.getLogger(__name__)

_SEED = 7


def build_index(bundle: Bundle, source: Path, root: Path, config: IndexConfig) -> IndexInfo:
    """Embed every document of a source into a new version of an index.

    Args:
        bundle: whose embedder reads them.
        source: a .parquet or .jsonl file, or a folder of documents.
        root: the index folder.
        config: how.

    Raises:
        PhasorError: the source or a setting cannot be used; nothing that is served has changed then.
    """
    dims = config.dims or bundle.dims[0]
    if dims not in bundle.dims:
        raise DataError(f"dims {dims} is not a size of this bundle. Choose one of {', '.join(map(str, bundle.dims))}.")
    with _alone(root):
        shards = open_shards(root, "build", bundle.model, dims, config.shard_passages)
        _embed(source, config, PassageEmbedder(bundle, dims, config.batch_size), shards)
        if not shards.count:
            raise DataError(f"{source} holds no documents. Name another source.")
        return _finish(bundle, root, shards, dims, config)


def update_index(bundle: Bundle, root: Path, add: Path | None, delete: Sequence[str], config: IndexConfig) -> IndexInfo:
    """A new version with documents added, replaced (same id) or deleted; only new texts are embedded.

    Args:
        bundle: the one that the index was made with.
        root: the index folder.
        add: as `source` of `build_index`.
        delete: ids; each must be in the index.
        config: how to read and embed; the vectors stay where and what they are, unless it names a store.

    Raises:
        PhasorError: another bundle or vector size, an unknown id, or a source that cannot be used.
    """
    read_pointer(root)  # a wrong folder is told before a lock is put into it
    with _alone(root):
        pointer = read_pointer(root)
        folder = version_folder(root, pointer)
        info = read_info(folder, pointer.sha256)
        check_model(info, bundle)
        if config.dims not in (None, info.dims):
            raise DataError(f"dims {config.dims}: the vectors of this index have {info.dims}. Leave dims out, or build the index again.")
        check_files(folder, info, (DOCUMENTS, VECTORS))
        old, vectors = Documents(folder / DOCUMENTS), np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
        if unknown := sorted(set(delete) - {old[row].passage.id for row in np.flatnonzero(old.having("id", delete)).tolist()}):
            raise DataError(f"{len(unknown)} of the ids to delete are not in the index, first {unknown[0]!r}. Leave them out.")
        added = [document.passage.id for document in read_documents(add, config, row_check(config))] if add else []
        kept = np.flatnonzero(~old.having("id", [*added, *delete]))
        shards = open_shards(root, "update", bundle.model, info.dims, config.shard_passages, pointer.sha256)
        embedder = PassageEmbedder(bundle, info.dims, config.batch_size)
        for start in range(0, len(kept), config.shard_passages):
            rows = kept[start : start + config.shard_passages]
            shards.add([old[row] for row in rows.tolist()], np.asarray(vectors[rows]), embedder)
        if add:
            _embed(add, config, embedder, shards)
        if not shards.count:
            raise DataError("the index would be empty. Delete fewer documents.")
        # The new version is written whole, so it may as well be written to another place.
        chosen = config if "store" in config.model_fields_set else config.model_copy(update={"store": _same_store(info)})
        return _finish(bundle, root, shards, info.dims, chosen)


def _alone(root: Path) -> AbstractContextManager[None]:
    return alone(root / ".lock", f"a build or update of the index {root}")


def _embed(source: Path, config: IndexConfig, embedder: PassageEmbedder, shards: Shards) -> None:
    check = row_check(config)
    embed_all(read_documents(source, config, check), count_documents(source), embedder, shards, config.shard_passages)
    for kind, rows in sorted(check.dropped.items()):
        log.warning("index.skipped source=%s rows=%d reason=%s", source, rows, kind)


def check_model(info: IndexInfo, bundle: Bundle) -> None:
    """Refuse an index of another embedder: its vectors mean something else, and no error would ever show it."""
    if info.model != bundle.model or info.template != bundle.embed.template:
        raise ArtifactError(
            f"the index was made with another embedder ({info.model[:12]}, this bundle's is {bundle.model[:12]}). "
            "Build it again with `phasor index build` and this bundle, or serve the bundle that it was made with."
        )
    if info.dims not in bundle.dims:
        raise ArtifactError(f"the index says that it has {info.dims} dimensions, which this bundle never gives. Build it again.")


def _finish(bundle: Bundle, root: Path, shards: Shards, dims: int, config: IndexConfig) -> IndexInfo:
    """Put shards together, make them searchable, measure, and publish. What fails leaves no collection behind."""
    aside = root / ".aside"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    before = _versions(root)
    with ExitStack() as undo:
        info = _make(bundle, shards, dims, config, aside, undo)
        pointer = publish_version(root, aside, info)
        undo.pop_all()
    shards.remove()
    drop_old_versions(root)
    _drop_collections(config, before, _versions(root))
    log.info("index.done version=%s passages=%d recall=%.4f", pointer.version, info.count, info.recall_at_10)
    return info


def _make(bundle: Bundle, shards: Shards, dims: int, config: IndexConfig, aside: Path, undo: ExitStack) -> IndexInfo:
    """All files of a version but index.json, which is returned; `undo` learns what has to go if it is not published."""
    vectors = _join(shards, dims, aside)
    documents = Documents(aside / DOCUMENTS)
    stored, backend = _store(config, vectors, documents, bundle, aside, undo)
    golden = np.stack([decode_vector(query.vector) for query in read_golden(bundle.folder).queries])
    own = np.random.default_rng(_SEED).permutation(len(documents))[: config.recall_queries].astype(np.int64)
    queries = np.concatenate([np.asarray(vectors[own]), truncate(golden, dims)])
    recall = recall_at_10(backend, vectors, queries, np.concatenate([own, np.full(len(golden), -1)]))
    backend.close()
    files = {path.name: sha256_file(path) for path in sorted(aside.iterdir())}
    probes = sorted({0, len(documents) // 2, len(documents) - 1})
    return IndexInfo(
        model=bundle.model, bundle=bundle.digest, template=bundle.embed.template, dims=dims, count=len(documents), fields=documents.fields,
        store=stored, recall_at_10=recall, files=files,
        self_queries=[SelfQuery(row=row, vector=encode_vector(vectors[row])) for row in probes],
    )


def _join(shards: Shards, dims: int, aside: Path) -> NDArray[np.float32]:
    vectors = np.lib.format.open_memmap(aside / VECTORS, mode="w+", dtype=np.float32, shape=(shards.count, dims))
    writer, start = DocumentWriter(aside / DOCUMENTS, shards.metadata), 0
    for table, part in shards.parts():
        writer.write(table)
        vectors[start : start + len(part)] = part
        start += len(part)
    writer.close()
    vectors.flush()
    return vectors


def _store(
    config: IndexConfig, vectors: NDArray[np.float32], documents: Documents, bundle: Bundle, aside: Path, undo: ExitStack
) -> tuple[Stored, VectorBackend]:
    if isinstance(config.store, QdrantConfig):
        # Never a name that was there before: what it meant may be served.
        name = f"phasor-{bundle.model[:12]}-{uuid.uuid4().hex[:16]}"
        client = connect(config.store.url)
        undo.callback(drop_collection, config.store.url, name)
        undo.callback(client.close)
        return fill_collection(client, config.store.url, name, vectors, documents), QdrantBackend(client, name, documents)
    kind = choose_type(len(documents)) if config.store.type == "auto" else config.store.type
    stored = build_faiss(vectors, kind, aside / FAISS)
    return stored, FaissBackend(aside / FAISS, stored, documents, vectors.shape[1])


def _same_store(info: IndexInfo) -> FaissConfig | QdrantConfig:
    if info.store.kind == "qdrant":
        return QdrantConfig(url=named_by(info.store))
    chosen = info.store.type == choose_type(info.count)
    return FaissConfig.model_validate({"type": "auto" if chosen else info.store.type})


def _versions(root: Path) -> list[IndexInfo]:
    infos: Iterable[Path] = version_folder(root, read_pointer(root)).parent.glob(f"*/{INFO}") if (root / POINTER).is_file() else ()
    return list(_readable(infos))


def _readable(paths: Iterable[Path]) -> Iterator[IndexInfo]:
    for path in paths:
        try:
            yield read_info(path.parent, sha256_file(path))
        except ArtifactError:
            continue


def _drop_collections(config: IndexConfig, before: Sequence[IndexInfo], after: Sequence[IndexInfo]) -> None:
    """Delete the collections of versions that are gone, where the new one went; an index may name any other place, too."""
    for store in {info.store.collection: info.store for info in before if info.store.kind == "qdrant"}.values():
        if store.collection in {info.store.collection for info in after}:
            continue
        if isinstance(config.store, QdrantConfig) and config.store.url == store.url:
            drop_collection(store.url, store.collection)
        else:
            log.warning("index.collection_left url=%s collection=%s: another place. Delete it by hand.", store.url, store.collection)
