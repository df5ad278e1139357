"""A served index is exchanged by its pointer: from a folder or an object store, only for a good one, without a failed search."""

import asyncio
import contextlib
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from minio import Minio
from moto.server import ThreadedMotoServer
from tests.indexing.conftest import Build, changed
from tests.packaging.conftest import seal
from tests.serving import world
from tests.waiting import until

from phasor.artifacts import sha256_file, write_text
from phasor.config.indexing import IndexConfig
from phasor.errors import ArtifactError, PhasorError, StorageError
from phasor.indexing.build import update_index
from phasor.indexing.layout import Pointer, SelfQuery, read_pointer
from phasor.indexing.loaded import LoadedIndex, open_index
from phasor.indexing.watch import IndexSource, watch_index
from phasor.packaging.golden import encode_vector
from phasor.serving.bundle import Bundle, open_bundle
from phasor.serving.fetch import fetch_bundle


class Watching:
    """`watch_index` in a thread, with what it took and refused."""

    def __init__(self, source: IndexSource, bundle: Bundle) -> None:
        self.taken: list[LoadedIndex] = []
        self.refused: list[str] = []
        self._loop = asyncio.new_event_loop()
        watch = watch_index(source, bundle, 0.05, None, self.taken.append, lambda problem: self.refused.append(str(problem)))
        self._task = self._loop.create_task(watch)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)

    def until(self, taken: int, refused: int) -> None:
        until(lambda: (len(self.taken), len(self.refused)) == (taken, refused), f"{taken} taken and {refused} refused", 20)
        time.sleep(0.3)  # several looks later it is the same: nothing is taken or told twice
        assert (len(self.taken), len(self.refused)) == (taken, refused)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Minio]:
    """A server with the S3 protocol and a bucket `models`; our settings lead there."""
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {"PHASOR_S3_ENDPOINT": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(name, value)
    client = Minio(endpoint=f"{host}:{port}", access_key="a", secret_key="b", secure=False)
    client.make_bucket(bucket_name="models")
    yield client
    for item in client.list_objects(bucket_name="models", recursive=True):
        client.remove_object(bucket_name="models", object_name=str(item.object_name))
    client.remove_bucket(bucket_name="models")
    server.stop()


def upload(client: Minio, folder: Path, prefix: str) -> None:
    """Everything below a folder, the pointer last."""
    for path in sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda path: path.name == "current.json"):
        client.fput_object(bucket_name="models", object_name=f"{prefix}/{path.relative_to(folder).as_posix()}", file_path=str(path))


def test_a_new_version_is_taken_and_a_bad_one_is_refused_once(build: Build, bundle: Bundle, tmp_path: Path) -> None:
    build()
    root = tmp_path / "index"
    watching = Watching(IndexSource(str(root), tmp_path / "unused"), bundle)
    try:
        watching.until(1, 0)
        update_index(bundle, root, None, ["d1"], IndexConfig())
        watching.until(2, 0)
        good = (root / "current.json").read_text()
        copied = root / "versions" / "0123456789abcdef"
        shutil.copytree(root / "versions" / read_pointer(root).version, copied)
        content = bytearray((copied / "index.faiss").read_bytes())
        content[-1] ^= 1
        (copied / "index.faiss").write_bytes(content)
        pointer = {"version": copied.name, "sha256": sha256_file(copied / "index.json")}
        write_text(json.dumps(pointer), root / "current.json")
        watching.until(2, 1)
        assert "index.faiss does not match index.json" in watching.refused[0]
        write_text("{", root / "current.json")
        watching.until(2, 2)
        # What cannot be read at all is no end of watching either. As a link it takes the file's place in one step, and gives way in one.
        (root / "aside").symlink_to(tmp_path, target_is_directory=True)
        (root / "aside").replace(root / "current.json")
        watching.until(2, 3)
        assert "the index cannot be read: [Errno 21] Is a directory" in watching.refused[2]
        write_text(good, root / "current.json")
        update_index(bundle, root, None, ["d2"], IndexConfig())
        watching.until(3, 3)
        assert [index.info.count for index in watching.taken] == [60, 59, 58]
    finally:
        watching.stop()


def test_an_index_comes_from_an_object_store(build: Build, bundle: Bundle, tmp_path: Path, s3: Minio) -> None:
    build()
    root, cache = tmp_path / "index", tmp_path / "cache"
    upload(s3, root, "team/index")
    watching = Watching(IndexSource("s3://models/team/index", cache), bundle)
    try:
        watching.until(1, 0)
        assert not list(cache.rglob("vectors.npy"))  # servers do not need it
        update_index(bundle, root, None, ["d1"], IndexConfig())
        version = read_pointer(root).version
        upload(s3, root, "team/index")
        watching.until(2, 0)
        update_index(bundle, root, None, ["d2"], IndexConfig())
        upload(s3, root, "team/index")
        watching.until(3, 0)
        assert [index.info.count for index in watching.taken] == [60, 59, 58]
        assert {path.name for path in (cache / "versions").iterdir()} == {version, read_pointer(root).version}
        update_index(bundle, root, None, ["d3"], IndexConfig())
        (root / "versions" / read_pointer(root).version / "index.faiss").write_bytes(b"not the one")
        upload(s3, root, "team/index")
        until(lambda: watching.refused, "a refusal", 60)
        assert "sha256" in watching.refused[0] and watching.taken[-1].info.count == 58
    finally:
        watching.stop()


class Counted(IndexSource):
    """Counts looks at the pointer, and versions that were tried."""

    looks = tries = 0

    def latest(self) -> Pointer:
        self.looks += 1
        return super().latest()

    def bring(self, pointer: Pointer, bundle: Bundle) -> None:
        self.tries += 1
        super().bring(pointer, bundle)


def test_a_refused_version_is_tried_ever_more_rarely_until_it_is_mended(build: Build, bundle: Bundle, tmp_path: Path) -> None:
    build()
    root = tmp_path / "index"
    path = root / "versions" / read_pointer(root).version / "index.faiss"
    good = path.read_bytes()
    path.write_bytes(b"damaged")
    source = Counted(str(root), None)
    watching = Watching(source, bundle)
    try:
        until(lambda: source.looks > 20, "looks at the pointer", 30)
        assert 2 <= source.tries <= 6 and len(watching.refused) == 1
        path.write_bytes(good)
        watching.until(1, 1)
        assert source.tries <= 7
    finally:
        watching.stop()


@pytest.mark.parametrize(("fields", "words"), [
    ({"store": {"type": "ivf_sq8"}}, "index.faiss holds IndexFlatIP, not 'ivf_sq8' as index.json says. Build the index again"),
    ({"store": {"type": "other"}}, "not 'other' as index.json says"),
    ({"self_queries": [SelfQuery(row=0, vector=encode_vector(np.ones(3, np.float32)))]}, "has a self query of 3 numbers, expected 32"),
    ({"self_queries": [SelfQuery(row=0, vector="no base 64")]}, "the index cannot be read: "),
    ({"dims": 31}, "it has 31 dimensions, which this bundle never gives"),
])
def test_a_version_that_belies_itself_is_refused_and_the_last_one_stays(
    build: Build, bundle: Bundle, tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    info, root = build(), tmp_path / "index"
    watching = Watching(IndexSource(str(root), None), bundle)
    try:
        watching.until(1, 0)
        changed(root, **fields | ({"store": info.store.model_copy(update=fields["store"])} if "store" in fields else {}))
        watching.until(1, 1)
        assert words in watching.refused[0]
        build(dims=16)
        watching.until(2, 1)
    finally:
        watching.stop()


class Room(IndexSource):
    """Remembers which versions had copies after each fetch."""

    def __init__(self, location: str, cache: Path) -> None:
        super().__init__(location, cache)
        self.seen: list[dict[str, int]] = []

    def bring(self, pointer: Pointer, bundle: Bundle) -> None:
        try:
            super().bring(pointer, bundle)
        finally:
            self.seen.append({folder.name: len(list(folder.iterdir())) for folder in (self.root / "versions").iterdir()})


def test_copies_of_two_versions_at_most_need_room(build: Build, bundle: Bundle, tmp_path: Path, s3: Minio) -> None:
    build()
    root, names = tmp_path / "index", [read_pointer(tmp_path / "index").version]
    upload(s3, root, "room")
    source = Room("s3://models/room", tmp_path / "cache")
    watching = Watching(source, bundle)
    try:
        watching.until(1, 0)
        for number in (1, 2):
            update_index(bundle, root, None, [f"d{number}"], IndexConfig())
            upload(s3, root, "room")
            watching.until(1 + number, 0)
            names.append(read_pointer(root).version)
        assert [set(seen) for seen in source.seen] == [set(names[:1]), set(names[:2]), set(names[1:])]
        for refused, model in enumerate(("0" * 64, "1" * 64), 1):
            pointer = changed(root, model=model)
            upload(s3, root, "room")
            watching.until(3, refused)
            assert source.seen[-1] == {names[-1]: 3, pointer.version: 1}  # nothing but index.json was fetched
    finally:
        watching.stop()


@pytest.mark.parametrize("fault", [
    RuntimeError("no memory"), MemoryError("no memory"), KeyError("defect"), AssertionError("defect"),
], ids=repr)
def test_whatever_goes_wrong_with_a_version_watching_goes_on(
    build: Build, bundle: Bundle, tmp_path: Path, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    build()
    with monkeypatch.context() as patch:
        patch.setattr("phasor.indexing.watch.open_index", Mock(side_effect=fault))
        watching = Watching(IndexSource(str(tmp_path / "index"), None), bundle)
        try:
            watching.until(0, 1)
            assert "the index cannot be read: " in watching.refused[0]
            patch.undo()
            watching.until(1, 1)
        finally:
            watching.stop()


def test_a_damaged_copy_is_fetched_again(build: Build, bundle: Bundle, tmp_path: Path, s3: Minio) -> None:
    build()
    upload(s3, tmp_path / "index", "again")
    source = IndexSource("s3://models/again", tmp_path / "cache")
    pointer = source.latest()
    source.bring(pointer, bundle)
    for name in ("index.json", "documents.arrow"):
        (tmp_path / "cache" / "versions" / pointer.version / name).write_bytes(b"damaged")
    source.bring(pointer, bundle)
    assert open_index(source.root, pointer, bundle).info.count == 60


def test_a_place_without_an_index_is_one_message(tmp_path: Path, s3: Minio) -> None:
    with pytest.raises(PhasorError, match="s3://models/nothing/current.json is missing. Upload an index folder there"):
        IndexSource("s3://models/nothing", tmp_path / "cache").latest()


def test_a_bundle_is_fetched_whole_and_checked(bundle: Bundle, tmp_path: Path, s3: Minio) -> None:
    upload(s3, bundle.folder, "b1")
    fetch_bundle("s3://models/b1", tmp_path / "bundle", sha256_file(bundle.folder / "manifest.json"))
    assert open_bundle(tmp_path / "bundle").digest == bundle.digest
    before = (tmp_path / "bundle").stat().st_ino
    fetch_bundle("s3://models/b1", tmp_path / "bundle", None)
    assert (tmp_path / "bundle").stat().st_ino == before  # it was there already
    (tmp_path / "bundle" / "embed" / "model.safetensors").write_bytes(b"a disk's damage")
    fetch_bundle("s3://models/b1", tmp_path / "bundle", None)
    assert open_bundle(tmp_path / "bundle").digest == bundle.digest


@pytest.mark.slow
@pytest.mark.parametrize(("name", "content", "kind", "words"), [
    ("embed/model.safetensors", b"other", StorageError, "embed/model.safetensors: its sha256 is"),
    ("embed/modules.json", None, ArtifactError, "is no whole bundle"),
    ("manifest.json", None, ArtifactError, "is no whole bundle"),
])
def test_a_damaged_bundle_is_not_fetched(
    bundle: Bundle, tmp_path: Path, s3: Minio, name: str, content: bytes | None, kind: type[Exception], words: str
) -> None:
    copy = world.copy(bundle.folder, tmp_path / "copy")
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(content)
    upload(s3, copy, "b2")
    with pytest.raises(kind, match=words):
        fetch_bundle("s3://models/b2", tmp_path / "bundle", None)
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_that_lists_strange_files_is_not_fetched(bundle: Bundle, tmp_path: Path, s3: Minio) -> None:
    copy = world.copy(bundle.folder, tmp_path / "copy")
    (copy / "embed" / "run.pkl").write_bytes(b"x")
    seal(copy)
    upload(s3, copy, "b3")
    with pytest.raises(ArtifactError, match="lists embed/run.pkl, which has no place in a bundle"):
        fetch_bundle("s3://models/b3", tmp_path / "bundle", None)
    with pytest.raises(StorageError, match="sha256"):
        fetch_bundle("s3://models/b3", tmp_path / "bundle", "0" * 64)


def test_searches_go_on_while_the_index_is_exchanged(build: Build, bundle: Bundle, tmp_path: Path) -> None:
    """The real server: every search during three updates succeeds, on the old or the new passages."""
    build()
    root = tmp_path / "index"
    settings = ["--set", "search.poll_s=0.1", "--set", "engine.precision=float32"]
    with world.serving(tmp_path / "log", bundle.folder, "--index", root, *settings) as served:
        answers: list[tuple[int, int]] = []
        done = threading.Event()

        def search() -> None:
            while not done.is_set():
                answer = served.post("/v1/search", {"query": "gzip"})
                answers.append((answer.status_code, answer.json().get("index", {}).get("passages")))

        thread = threading.Thread(target=search)
        thread.start()
        for name in ("d1", "d2", "d3"):
            update_index(bundle, root, None, [name], IndexConfig())
            time.sleep(0.5)
        until(lambda: answers[-1][1] == 57, "an answer from the newest index", 20)
        done.set()
        thread.join()
        assert {status for status, _ in answers} == {200}
        seen = [count for _, count in answers]
        assert seen == sorted(seen, reverse=True) and seen[0] == 60
        [taken] = re.findall(r'phasor_index_swaps_total{outcome="taken"} (\S+)', served.get("/metrics").text)
        assert 1 < float(taken) <= 4
