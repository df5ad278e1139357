"""documents.arrow from anywhere: what would end a server that maps it is refused when it is opened."""

from pathlib import Path

import pyarrow as pa
import pytest

from phasor.data.records import Passage
from phasor.errors import ArtifactError
from phasor.indexing.documents import Document, Documents, DocumentWriter, to_table

TABLE = to_table([Document(Passage(f"p{i}", f"text {i} é"), {"team": "red"}) for i in range(50)], ["team"])


def written(path: Path) -> Path:
    writer = DocumentWriter(path, ["team"])
    writer.write(TABLE.slice(0, 20))
    writer.write(TABLE.slice(20))
    writer.close()
    return path


def test_rows_are_the_file_s_own_bytes(tmp_path: Path) -> None:
    path = written(tmp_path / "documents.arrow")
    before = pa.total_allocated_bytes()
    documents = Documents(path)
    assert documents.table.equals(TABLE) and len(documents) == 50
    assert pa.total_allocated_bytes() == before


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_what_would_unpack_to_any_size_is_refused_before_it_does(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "documents.arrow"
    bulky = TABLE.set_column(1, "text", pa.array(["a" * 1_000_000] * 50))
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_file(stream, bulky.schema, options=options) as writer:
        writer.write_table(bulky)
    del bulky
    assert path.stat().st_size < 1_000_000
    before = pa.total_allocated_bytes()
    with pytest.raises(ArtifactError, match=r"documents.arrow is no Arrow file \(a record batch that is not plain\)"):
        Documents(path)
    assert pa.total_allocated_bytes() == before


@pytest.mark.parametrize(("old", "new"), [
    (b"".join((7 * i).to_bytes(4, "little") for i in range(3)), b"\0" * 4 + (1 << 30).to_bytes(4, "little") + (14).to_bytes(4, "little")),
    ("text 1 é".encode(), b"text 1 \xff\xff"),
], ids=["offset", "characters"])
def test_offsets_and_characters_that_lead_elsewhere_are_refused(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = tmp_path / "documents.arrow"
    rows = [Document(Passage(f"p{i}", f"text {i} é"[: 7 if len(old) == 12 else None]), {}) for i in range(5)]
    writer = DocumentWriter(path, [])
    writer.write(to_table(rows, []))
    writer.close()
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    with pytest.raises(ArtifactError, match="is no Arrow file"):
        Documents(path)


@pytest.mark.parametrize("content", [b"", b"ARROW1", b"ARROW1\0\0", b"nothing of this kind " * 9])
def test_what_is_no_table_is_one_message(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "documents.arrow").write_bytes(content)
    with pytest.raises(ArtifactError, match="is no Arrow file .* Build the index again"):
        Documents(tmp_path / "documents.arrow")
