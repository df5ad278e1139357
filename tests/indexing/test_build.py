"""Building and updating: every document once with its own vector, resumable, complete or absent."""

import datetime as dt
import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.indexing.conftest import Build
from tests.serving import world

from phasor.artifacts import alone
from phasor.cli import main
from phasor.config.indexing import IndexConfig
from phasor.data.templates import render_document
from phasor.errors import ArtifactError, DataError
from phasor.indexing.build import build_index, update_index
from phasor.indexing.documents import Document
from phasor.indexing.embedding import PassageEmbedder
from phasor.indexing.layout import VECTORS, read_pointer, version_folder
from phasor.indexing.loaded import LoadedIndex, open_index
from phasor.models.embedder import Embedder
from phasor.models.network import Vectors
from phasor.serving.bundle import Bundle, open_bundle
from phasor.serving.vectors import truncate


def opened(bundle: Bundle, root: Path) -> LoadedIndex:
    return open_index(root, read_pointer(root), bundle)


def check(bundle: Bundle, root: Path, embedder: Embedder, documents: list[dict[str, str]], dims: int = 32) -> None:
    """The index holds exactly these documents in this order, each with its own vector, and finds each by it."""
    index = opened(bundle, root)
    texts = [render_document(row.get("title", ""), row["text"]) for row in documents]
    wanted = truncate(embedder.encode_documents(texts), dims)
    assert [index[row].passage.id for row in range(index.info.count)] == [row["id"] for row in documents]
    assert [index[row].passage.text for row in range(index.info.count)] == [row["text"] for row in documents]
    stored = np.load(version_folder(root, read_pointer(root)) / VECTORS)
    np.testing.assert_allclose(stored, wanted, atol=1e-5)
    found = index.search(wanted[3], 3, {})
    exact = np.sort(wanted @ wanted[3])[::-1][:3]
    np.testing.assert_allclose(found.scores, exact, atol=1e-5)


def test_every_document_is_there_once_with_its_own_vector(build: Build, bundle: Bundle, embedder: Embedder, tmp_path: Path) -> None:
    info = build(shard_passages=7)
    check(bundle, tmp_path / "index", embedder, world.rows())
    assert (info.count, info.dims, info.store.type, info.recall_at_10) == (60, 32, "flat", 1.0)
    assert (info.model, info.bundle, info.template) == (bundle.model, bundle.digest, "instruct")
    assert set(info.files) == {"documents.arrow", "index.faiss", "vectors.npy"}
    assert info.fields == ["id", "title", "source", "language", "team"]
    assert not list((tmp_path / "index").glob(".aside*")) and not list((tmp_path / "index" / ".partial").glob("*"))


def test_equal_input_gives_equal_bytes(build: Build, tmp_path: Path) -> None:
    build()
    first = read_pointer(tmp_path / "index")
    build()
    assert read_pointer(tmp_path / "index") == first


def test_smaller_vectors(build: Build, bundle: Bundle, embedder: Embedder, tmp_path: Path) -> None:
    assert build(dims=16).dims == 16
    check(bundle, tmp_path / "index", embedder, world.rows(), dims=16)
    with pytest.raises(DataError, match="dims 20 is not a size of this bundle. Choose one of 32, 16"):
        build(dims=20)


def test_parquet_and_folder_are_read_too(bundle: Bundle, embedder: Embedder, tmp_path: Path) -> None:
    day, price = dt.datetime(2026, 11, 30, 9, 5), Decimal("1.50")
    more = {"tags": ["a"], "raw": b"x", "day": day.date(), "at": day, "price": price, "sold": True}
    table = pa.Table.from_pylist([row | more | {"year": 1990 + i} for i, row in enumerate(world.rows())])
    pq.write_table(table, tmp_path / "rows.parquet")
    build_index(bundle, tmp_path / "rows.parquet", tmp_path / "index", IndexConfig())
    check(bundle, tmp_path / "index", embedder, world.rows())
    index = opened(bundle, tmp_path / "index")
    shown = {"day": "2026-11-30", "at": "2026-11-30T09:05:00", "price": "1.50", "sold": "True"}
    assert dict(index[5].metadata) == {"team": "red", "year": "1995"} | shown and not {"tags", "raw"} & set(index.info.fields)

    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# Gzip\nHow to read it.\n# Socket\nHow to open it.\n")
    (tmp_path / "docs" / "b.html").write_text("<h1>Café</h1><p>Where it is.</p>")
    (tmp_path / "docs" / "c.rst").write_text("not read")
    build_index(bundle, tmp_path / "docs", tmp_path / "other", IndexConfig())
    index = opened(bundle, tmp_path / "other")
    found = [index[row].passage for row in range(index.info.count)]
    assert [(p.id, p.title, p.text) for p in found] == [
        ("docs/a.md#1", "Gzip", "How to read it."), ("docs/a.md#2", "Socket", "How to open it."), ("docs/b.html#1", "Café", "Where it is."),
    ]


@pytest.mark.parametrize(("change", "words", "kind"), [
    ({"team": "\ud800"}, r"line 4: field 'team' holds half of a surrogate pair. Mend it, or", "metadata are no text"),
    ({"\ud800": "red"}, r"line 4: field '\\ud800' holds half of a surrogate pair. Mend it, or", "metadata are no text"),
    ({"id": "d1"}, r"line 4: id 'd1' occurs more than once. Mend it, or set on_bad_row to skip", "repeated id"),
    ({"text": " ", "title": ""}, r"line 4: field 'text' is empty", "empty text"),
    ({"id": None}, r"line 4: field 'id' is missing", "no id"),
])
def test_a_bad_row_is_an_error_with_its_line_or_left_out(
    build: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture, change: dict[str, str], words: str, kind: str
) -> None:
    documents = world.rows(6)
    documents[3] |= change
    with pytest.raises(DataError, match=words):
        build(documents)
    assert not (tmp_path / "index" / "current.json").exists()
    assert build(documents, on_bad_row="skip").count == 5
    assert f"rows=1 reason=bad row: {kind}" in caplog.text


@pytest.mark.parametrize("name", ["nowhere.jsonl", "nowhere.txt", "nowhere"])
def test_a_source_that_is_none_is_one_message(bundle: Bundle, tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"{name} (does not exist|is neither a folder nor)"):
        build_index(bundle, tmp_path / name, tmp_path / "index", IndexConfig())


class InterruptedBuildError(Exception):
    """As if the power went."""


def counting(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[int]:
    """Sizes of everything that is embedded from now on; fails after so many shards."""
    seen: list[int] = []
    real = PassageEmbedder.encode

    def encode(self: PassageEmbedder, documents: Sequence[Document]) -> Vectors:
        if stop_after is not None and len(seen) == stop_after:
            raise InterruptedBuildError
        seen.append(len(documents))
        return real(self, documents)

    monkeypatch.setattr(PassageEmbedder, "encode", encode)
    return seen


def interrupt(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of shards of ten that stops in the middle."""
    with monkeypatch.context() as patch:
        counting(patch, stop_after=4)
        with pytest.raises(InterruptedBuildError):
            build(shard_passages=10)


def test_an_interrupted_build_goes_on_where_it_was(
    build: Build, bundle: Bundle, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(build, monkeypatch)
    assert not (tmp_path / "index" / "current.json").exists()
    seen = counting(monkeypatch)
    build(shard_passages=10)
    assert seen == [10, 10]
    check(bundle, tmp_path / "index", embedder, world.rows())


def test_an_interruption_between_the_files_of_a_shard_leaves_none_that_vouches_for_another(
    build: Build, bundle: Bundle, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(build, monkeypatch)
    other = [{**row, "text": f"Another text, number {number}."} for number, row in enumerate(world.rows())]
    with monkeypatch.context() as patch, pytest.raises(InterruptedBuildError):
        patch.setattr("phasor.indexing.embedding.write_json", stop)
        build(other, shard_passages=10)
    build(shard_passages=10)
    check(bundle, tmp_path / "index", embedder, world.rows())


def stop(*_: object) -> None:
    raise InterruptedBuildError


def test_two_commands_on_one_index_do_not_mix(build: Build, bundle: Bundle, tmp_path: Path) -> None:
    build()
    before = (tmp_path / "index" / "current.json").read_bytes()
    with alone(tmp_path / "index" / ".lock", "another"):
        for attempt in (build, lambda: update_index(bundle, tmp_path / "index", None, [world.rows()[0]["id"]], IndexConfig())):
            with pytest.raises(ArtifactError, match="a build or update of the index .* is under way in another process"):
                attempt()
    assert (tmp_path / "index" / "current.json").read_bytes() == before
    with pytest.raises(ArtifactError):
        update_index(bundle, tmp_path / "none", None, ["x"], IndexConfig())
    assert not (tmp_path / "none").exists()


def test_after_an_interruption_changed_documents_are_embedded_anew(
    build: Build, bundle: Bundle, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(build, monkeypatch)
    documents = world.rows()
    documents[15]["text"] = "Something else entirely."
    seen = counting(monkeypatch)
    build(documents, shard_passages=10)
    assert seen == [10, 10, 10]
    check(bundle, tmp_path / "index", embedder, documents)


def test_update_adds_replaces_and_deletes_and_embeds_only_what_is_new(
    build: Build, bundle: Bundle, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build()
    seen = counting(monkeypatch)
    new = [{"id": "d7", "text": "replaced"}, {"id": "new", "text": "added", "colour": "green"}]
    source = world.write_rows(tmp_path / "new.jsonl", new)
    info = update_index(bundle, tmp_path / "index", source, ["d0", "d59"], IndexConfig(shard_passages=20))
    assert seen == [2] and info.count == 59 and info.fields[-2:] == ["colour", "team"]
    kept = [row for row in world.rows() if row["id"] not in ("d0", "d7", "d59")]
    check(bundle, tmp_path / "index", embedder, [*kept, *new])
    index = opened(bundle, tmp_path / "index")
    assert dict(index[58].metadata) == {"colour": "green"} and dict(index[4].metadata) == {"team": "red"}


def test_an_update_that_cannot_be_made_changes_nothing(build: Build, bundle: Bundle, tmp_path: Path) -> None:
    build()
    root, before = tmp_path / "index", read_pointer(tmp_path / "index")
    with pytest.raises(DataError, match="1 of the ids to delete are not in the index, first 'nothing'"):
        update_index(bundle, root, None, ["d1", "nothing"], IndexConfig())
    with pytest.raises(DataError, match="the index would be empty"):
        update_index(bundle, root, None, [row["id"] for row in world.rows()], IndexConfig())
    other = open_bundle(world.make_bundle(tmp_path / "other", roles=("embed",), scale=1.1))
    with pytest.raises(ArtifactError, match="made with another embedder"):
        update_index(other, root, None, ["d1"], IndexConfig())
    assert read_pointer(root) == before


def test_an_update_says_no_to_other_dimensions_and_moves_where_it_is_told(build: Build, bundle: Bundle, tmp_path: Path) -> None:
    build(dims=16)
    root = tmp_path / "index"
    with pytest.raises(DataError, match="dims 32: the vectors of this index have 16. Leave dims out, or build the index again"):
        update_index(bundle, root, None, ["d1"], IndexConfig(dims=32))
    moved = IndexConfig.model_validate({"dims": 16, "store": {"kind": "qdrant", "url": str(tmp_path / "qdrant")}})
    assert update_index(bundle, root, None, ["d1"], moved).store.url == str(tmp_path / "qdrant")
    info = update_index(bundle, root, None, ["d2"], IndexConfig.model_validate({"store": {"type": "hnsw"}}))
    assert (info.store.kind, info.store.type, info.count) == ("faiss", "hnsw", 58)
    assert update_index(bundle, root, None, ["d3"], IndexConfig()).store.type == "hnsw"


def test_an_id_that_comes_again_is_seen_however_late(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phasor.indexing.reading._RECENT", 7)
    documents = [*world.rows(), *world.rows()[::9]]
    with pytest.raises(DataError, match="line 61: id 'd0' occurs more than once"):
        build(documents)
    assert build(documents, on_bad_row="skip").count == 60


def test_the_last_two_versions_are_kept(build: Build, bundle: Bundle, tmp_path: Path) -> None:
    build()
    root = tmp_path / "index"
    for name in ("d1", "d2", "d3"):
        update_index(bundle, root, None, [name], IndexConfig())
    assert len(list((root / "versions").iterdir())) == 2 and opened(bundle, root).info.count == 57


def test_the_command_says_what_it_built(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, root = world.write_rows(tmp_path / "rows.jsonl", world.rows()), tmp_path / "index"
    assert main(["index", "build", str(bundle.folder), str(source), "--index", str(root), "--set", "store.type=hnsw"]) == 0
    assert capsys.readouterr().out == f"{root}: 60 passages, 32 dimensions, hnsw, recall@10 1.0000\n"
    assert main(["index", "update", str(bundle.folder), "--index", str(root), "--delete", "d1", "--delete", "d2"]) == 0
    assert capsys.readouterr().out == f"{root}: 58 passages, 32 dimensions, hnsw, recall@10 1.0000\n"
    assert main(["index", "build", str(bundle.folder), str(source), "--index", str(root), "--set", "store.typ=hnsw"]) == 2
    assert "did you mean 'type'" in capsys.readouterr().err
    assert json.loads((root / "current.json").read_text())["version"]
