"""FAISS types and Qdrant in its in-process mode: recall against exact search, and filters that hold."""

import contextlib
import pickle
import sqlite3
import threading
from collections.abc import Callable
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from tests.indexing.conftest import Build, changed
from tests.serving import world

from phasor.config.indexing import FaissKind, IndexConfig
from phasor.data.records import Passage
from phasor.errors import ArtifactError, DataError, StorageError
from phasor.indexing import memory
from phasor.indexing.backend import VectorBackend
from phasor.indexing.build import build_index, update_index
from phasor.indexing.documents import Document, Documents, DocumentWriter, to_table
from phasor.indexing.faiss_backend import FaissBackend, build_faiss, choose_type
from phasor.indexing.layout import Stored, read_pointer
from phasor.indexing.loaded import open_index
from phasor.indexing.memory import available_bytes
from phasor.indexing.qdrant_backend import QdrantBackend, connect, fill_collection
from phasor.indexing.recall import recall_at_10
from phasor.serving.bundle import Bundle

COUNT, DIMS = 6000, 48
KINDS: list[FaissKind] = ["flat", "hnsw", "ivf_sq8", "ivf_rabitq"]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """[6000, 48] in clusters, as embeddings are."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((60, DIMS))
    points = centres[rng.integers(0, 60, COUNT)] + 0.5 * rng.standard_normal((COUNT, DIMS))
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), np.float32)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    path = tmp_path_factory.mktemp("documents") / "documents.arrow"
    rows = [Document(Passage(f"p{i}", f"text {i}", source=f"s{i % 50}"), {"team": "red"} if i % 100 == 0 else {}) for i in range(COUNT)]
    writer = DocumentWriter(path, ["team"])
    writer.write(to_table(rows, ["team"]))
    writer.close()
    return Documents(path)


@pytest.fixture(scope="module", params=[*KINDS, "qdrant"])
def backend(
    request: pytest.FixtureRequest, vectors: np.ndarray, documents: Documents, tmp_path_factory: pytest.TempPathFactory
) -> VectorBackend:
    if request.param == "qdrant":
        client = connect(":memory:")
        stored = fill_collection(client, ":memory:", "test", vectors, documents)
        return QdrantBackend(client, stored.collection, documents)
    path = tmp_path_factory.mktemp("faiss") / "index.faiss"
    return FaissBackend(path, build_faiss(vectors, request.param, path), documents, DIMS)


def test_recall_is_high_and_measured_as_a_count_would(backend: VectorBackend, vectors: np.ndarray) -> None:
    own = np.arange(0, COUNT, 60)
    recall = recall_at_10(backend, vectors, vectors[own], own)
    assert recall >= 0.95
    shares = []
    for row in own:
        exact = [other for other in np.argsort(-(vectors @ vectors[row]), kind="stable") if other != row][:10]
        found = [other for other in backend.search(vectors[row], 11, {}).rows if other != row][:10]
        shares.append(len(set(exact) & set(found)) / 10)
    assert recall == pytest.approx(np.mean(shares), abs=0.01)


def test_scores_are_inner_products_best_first(backend: VectorBackend, vectors: np.ndarray) -> None:
    found = backend.search(vectors[5], 10, {})
    assert found.rows[0] == 5 and list(found.scores) == sorted(found.scores, reverse=True)
    np.testing.assert_allclose(found.scores, vectors[found.rows] @ vectors[5], atol=0.02)


def test_filters_select_before_ranking(backend: VectorBackend, vectors: np.ndarray) -> None:
    allowed = np.arange(0, COUNT, 100)
    found = backend.search(vectors[5], 10, {"team": ["red"]})
    exact = allowed[np.argsort(-(vectors[allowed] @ vectors[5]), kind="stable")[:10]]
    assert set(found.rows) <= set(allowed) and len(set(found.rows) & set(exact)) >= 9
    both = backend.search(vectors[5], COUNT, {"team": ["red"], "source": ["s0", "s1"]})
    assert set(both.rows) == {row for row in allowed if row % 50 in (0, 1)}
    assert len(backend.search(vectors[5], 10, {"source": ["nowhere"]}).rows) == 0
    with pytest.raises(KeyError):
        backend.search(vectors[5], 10, {"nothing": ["x"]})


def test_a_poor_index_is_measured_as_poor(vectors: np.ndarray, documents: Documents, tmp_path: Path) -> None:
    stored = build_faiss(vectors, "ivf_rabitq", tmp_path / "index.faiss")
    poor = FaissBackend(tmp_path / "index.faiss", stored.model_copy(update={"nprobe": 1, "k_factor": 1}), documents, DIMS)
    own = np.arange(0, COUNT, 60)
    assert recall_at_10(poor, vectors, vectors[own], own) < 0.8


@pytest.mark.parametrize(("count", "wanted"), [
    (1, "flat"), (1_000_000, "flat"), (1_000_001, "ivf_sq8"), (10_000_000, "ivf_sq8"), (10_000_001, "ivf_rabitq"),
    (100_000_000, "ivf_rabitq"),
])
def test_the_type_follows_the_corpus_size(count: int, wanted: str) -> None:
    assert choose_type(count) == wanted


def test_beyond_one_machine_the_way_out_is_named() -> None:
    with pytest.raises(DataError, match="100,000,001 passages are too many for one index file. Set store.kind to qdrant"):
        choose_type(100_000_001)


def damaged(content: bytes, kind: str) -> bytes:
    if kind == "truncated":
        return content[: len(content) // 2]
    if kind == "nonsense":
        return b"pickle" + content
    # A size field that asks for more memory than there is.
    size = next(n.to_bytes(8, "little") for n in (COUNT * DIMS, COUNT * DIMS * 4) if n.to_bytes(8, "little") in content)
    return content.replace(size, (1 << 60).to_bytes(8, "little"), 1)


@pytest.mark.parametrize("kind", ["truncated", "header", "nonsense"])
def test_a_hostile_file_is_an_error_and_not_a_crash(vectors: np.ndarray, documents: Documents, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "index.faiss"
    stored = build_faiss(vectors, "flat", path)
    path.write_bytes(damaged(path.read_bytes(), kind))
    with pytest.raises(ArtifactError, match=r"is no FAISS index|holds .* vectors"):
        FaissBackend(path, stored, documents, DIMS)


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Write files of a folder that stands for the control group of this process."""
    folder = tmp_path / "group"
    folder.mkdir()
    monkeypatch.setattr("phasor.indexing.memory._GROUPS", tuple((folder, *names) for _, *names in memory._GROUPS))

    def write(**files: str) -> None:
        for name, text in files.items():
            (folder / name).write_text(text + "\n")

    return write


@pytest.mark.parametrize(("names", "prefix"), [
    (("memory.max", "memory.current"), ""), (("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_"),
])
def test_pages_of_files_are_not_used_up(group: Callable[..., None], names: tuple[str, str], prefix: str) -> None:
    counts = {"anon": 600, f"{prefix}inactive_file": 1000, f"{prefix}active_file": 300, "x_active_file": 7, f"{prefix}shmem": 100}
    group(**dict.fromkeys(names, "2000"), **{"memory.stat": "\n".join(f"{name} {count}" for name, count in counts.items())})
    assert available_bytes() == 1300


def test_an_index_that_does_not_fit_into_memory_is_refused_before_it_is_read(
    vectors: np.ndarray, documents: Documents, group: Callable[..., None], tmp_path: Path
) -> None:
    stored = build_faiss(vectors, "flat", tmp_path / "index.faiss")
    group(**{"memory.max": "3000000", "memory.current": "2000000", "memory.stat": "anon 2000000"})
    assert available_bytes() == 1_000_000
    with pytest.raises(ArtifactError, match="but 0.00 GiB of memory are left.*Raise the memory limit"):
        FaissBackend(tmp_path / "index.faiss", stored, documents, DIMS)
    group(**{"memory.max": "max"})
    assert available_bytes() > 1_000_000
    assert FaissBackend(tmp_path / "index.faiss", stored, documents, DIMS).search(vectors[3], 1, {}).rows[0] == 3


def test_an_index_of_other_size_is_refused(vectors: np.ndarray, documents: Documents, tmp_path: Path) -> None:
    stored = build_faiss(vectors[:100], "flat", tmp_path / "index.faiss")
    with pytest.raises(ArtifactError, match="holds 100 vectors of 48 dimensions, expected 6000 of 48"):
        FaissBackend(tmp_path / "index.faiss", stored, documents, DIMS)


def test_qdrant_in_process_is_built_opened_and_updated(build: Build, bundle: Bundle, tmp_path: Path) -> None:
    url, root = str(tmp_path / "qdrant"), tmp_path / "index"
    config = IndexConfig.model_validate({"store": {"kind": "qdrant", "url": url}})
    info = build(store=config.store)
    assert (info.store.kind, info.recall_at_10) == ("qdrant", 1.0) and "index.faiss" not in info.files
    for name in ("d1", "d2", "d3"):
        info = update_index(bundle, root, None, [name], config)
    index = open_index(root, read_pointer(root), bundle, url)
    found = index.search(np.load(root / "versions" / index.version / "vectors.npy")[4], 3, {"language": ["de", "en"]})
    assert index.info.count == 57 and found.rows[0] == 4 and index[4].passage.id == world.rows()[7]["id"]
    index.backend.close()
    assert len(collections(url)) == 2  # those of the kept versions


def test_a_build_leaves_what_is_served_as_it_is(build: Build, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same documents in other dimensions, into an index that is not there yet and into the one that is served."""
    store, root, second = {"kind": "qdrant", "url": str(tmp_path / "qdrant")}, tmp_path / "index", tmp_path / "second"
    build(store=store)
    served, config = read_pointer(root), IndexConfig.model_validate({"store": store, "dims": 16})
    build_index(bundle, tmp_path / "rows.jsonl", second, config)
    for step in ("recall_at_10", "publish_version"):  # a server that goes away after it took everything, a full disk
        with monkeypatch.context() as patch, pytest.raises(StorageError):
            patch.setattr(f"phasor.indexing.build.{step}", refuse)
            build(store=store, dims=16)
    assert len(collections(store["url"])) == 2  # what failed left nothing behind
    build(store=store, dims=16)
    for place, pointer, dims in ((root, served, 32), (root, read_pointer(root), 16), (second, read_pointer(second), 16)):
        index = open_index(place, pointer, bundle, store["url"])
        assert (index.info.dims, index.info.count) == (dims, 60)
        index.backend.close()


def collections(url: str) -> set[str]:
    client = connect(url)
    names = {found.name for found in client.get_collections().collections}
    client.close()
    return names


def refuse(*_: object) -> float:
    raise StorageError("as if")


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_an_index_names_no_folder_of_qdrant(build: Build, bundle: Bundle, tmp_path: Path) -> None:
    """Its client would unpickle what lies there."""
    root, folder, touched = tmp_path / "index", tmp_path / "qdrant", tmp_path / "touched"
    build(store={"kind": "qdrant", "url": str(folder)})
    [name] = collections(str(folder))
    with contextlib.closing(sqlite3.connect(folder / "collection" / name / "storage.sqlite")) as rows:
        rows.execute("insert into points values (?, ?)", ("x", pickle.dumps(Touch(touched))))
        rows.commit()
    with pytest.raises(ArtifactError, match="a folder is only opened that you name yourself: set search.qdrant_url"):
        open_index(root, read_pointer(root), bundle)
    with pytest.raises(ArtifactError, match="or store={kind: qdrant, url: ...} for `phasor index update`"):
        update_index(bundle, root, None, ["d1"], IndexConfig())
    build(dims=16)
    build()  # the version in Qdrant goes, and its collection is left: another place
    assert (folder / "collection" / name).is_dir() and not touched.exists()


def test_an_index_names_no_collection_outside_of_its_folder(build: Build, bundle: Bundle, tmp_path: Path) -> None:
    url = str(tmp_path / "qdrant")
    info = build(store={"kind": "qdrant", "url": url})
    pointer = changed(tmp_path / "index", store=info.store.model_copy(update={"collection": "../../victim"}))
    with pytest.raises(ArtifactError, match="store.collection: String should match pattern"):
        open_index(tmp_path / "index", pointer, bundle, url)


class Listening(BaseHTTPRequestHandler):
    """Answers nothing of use, and keeps the heads of requests."""

    heads: ClassVar[list[Message]] = []

    def parse_request(self) -> bool:
        understood = super().parse_request()
        self.heads.append(self.headers)
        return understood

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_the_key_goes_only_to_a_server_that_the_operator_named(
    build: Build, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "index"
    build()
    with ThreadingHTTPServer(("127.0.0.1", 0), Listening) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        pointer = changed(root, store=Stored(kind="qdrant", url=url, collection="c"))
        with pytest.raises(StorageError):  # without a key it may say where the server is
            open_index(root, pointer, bundle)
        assert Listening.heads and not any("api-key" in head for head in Listening.heads)
        Listening.heads.clear()
        monkeypatch.setenv("QDRANT_API_KEY", "the key")
        with pytest.raises(ArtifactError, match=f"names '{url}' as its Qdrant, but QDRANT_API_KEY is only sent to a server that you name"):
            open_index(root, pointer, bundle)
        with pytest.raises(ArtifactError, match="QDRANT_API_KEY is only sent to a server that you name"):
            update_index(bundle, root, None, ["d1"], IndexConfig())
        assert not Listening.heads
        with pytest.raises(StorageError), pytest.warns(UserWarning, match="insecure connection"):
            open_index(root, pointer, bundle, url)
        assert {head["api-key"] for head in Listening.heads} == {"the key"}
        Listening.heads.clear()
        build(dims=16)
        build()
        assert not Listening.heads  # the version is gone, its collection is the operator's to delete
        server.shutdown()


def test_a_qdrant_server_that_is_not_there_is_one_message(documents: Documents, vectors: np.ndarray) -> None:
    client = connect("http://127.0.0.1:9")
    with pytest.raises(StorageError, match="Qdrant at http://127.0.0.1:9 refuses the collection test"):
        fill_collection(client, "http://127.0.0.1:9", "test", vectors, documents)
    with pytest.raises(StorageError, match="Qdrant does not search test"):
        QdrantBackend(client, "test", documents).search(vectors[0], 3, {})
    assert Stored(kind="qdrant").collection == ""
