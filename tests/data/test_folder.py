"""Folders of text, Markdown, HTML and PDF."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasor.config.tasks import FolderSource
from phasor.data.chunking import chunk, first_sentence, heading_sections
from phasor.data.sources import Context, read_source
from phasor.errors import DataError

MakeContext = Callable[..., Context]
SOURCE = FolderSource(path="docs")


def make_pdf(pages: list[str]) -> bytes:
    """A minimal PDF with one line of text a page."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]  # fmt: skip
    for i, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        objects.append(f"<< /Type /Page /Parent 2 0 R /Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * i} 0 R >>")
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    body, offsets = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    return (
        f"{body}xref\n0 {size}\n0000000000 65535 f \n{table}trailer << /Size {size} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF".encode()
    )


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("plain words", encoding="utf-8-sig")
    (folder / "b.md").write_text("intro\n\n# First *part*\nbody one\n```\n# no heading\n```\n## Second ##\nbody two\n# Empty\n")
    (folder / "sub/c.HTML").write_text(
        "<html><head><title>t</title></head><body><nav>menu</nav><script>bad()</script>"
        "<h2>Über <i>alles</i></h2><p>para &amp; more</p>tail</body></html>"
    )
    (folder / "d.pdf").write_bytes(make_pdf(["page one text", "page two text"]))
    (folder / "ignored.csv").write_text("1,2")
    return folder


def test_every_kind_of_file_is_read_in_order_with_headings_as_titles(context: MakeContext, docs: Path) -> None:
    found = read_source(SOURCE, context())
    assert [(p.id, p.title, p.text) for p in found.passages] == [
        ("docs/a.txt#1", "a", "plain words"),
        ("docs/b.md#1", "b", "intro"),
        ("docs/b.md#2", "First *part*", "body one\n```\n# no heading\n```"),
        ("docs/b.md#3", "Second", "body two"),
        ("docs/d.pdf#1", "page 1", "page one text"),
        ("docs/d.pdf#2", "page 2", "page two text"),
        ("docs/sub/c.HTML#1", "Über alles", "para & more\n\ntail"),
    ]
    assert [p.source for p in found.passages] == [p.id.partition("#")[0] for p in found.passages]


def test_sections_of_one_file_can_be_documents_of_their_own(context: MakeContext, docs: Path) -> None:
    found = read_source(FolderSource(path="docs", suffixes=(".md", ".pdf"), document="section"), context(max_passage_chars=50))
    assert [p.source for p in found.passages] == ["docs/b.md#1", "docs/b.md#2", "docs/b.md#3", "docs/d.pdf#1", "docs/d.pdf#2"]


def test_long_sections_are_cut_and_keep_their_document(context: MakeContext, docs: Path) -> None:
    (docs / "a.txt").write_text("\n\n".join(f"paragraph {i} " + "x" * 40 for i in range(5)))
    found = read_source(FolderSource(path="docs", suffixes=(".txt",)), context(max_passage_chars=120))
    assert [len(p.text) <= 120 for p in found.passages] == [True] * 3 and {p.source for p in found.passages} == {"docs/a.txt"}


@pytest.mark.parametrize(
    ("name", "content", "reason", "kind"),
    [
        ("bad.txt", b"fine\nfine\ncaf\xe9", "not valid UTF-8 in line 3 \\(byte 13\\)", "not UTF-8"),
        ("bad.md", b"\xff\xfe", "not valid UTF-8 in line 1", "not UTF-8"),
        ("bad.pdf", b"%PDF-1.4 nothing", "not a readable PDF", "not a readable PDF"),
        ("bad.html", b"<p>fine</p><![foo bar<p>x", "not readable HTML", "not readable HTML"),
        ("empty.pdf", b"", "not a readable PDF", "not a readable PDF"),
    ],
)
def test_an_unreadable_file_is_named_or_counted(
    context: MakeContext, docs: Path, name: str, content: bytes, reason: str, kind: str
) -> None:
    (docs / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{docs / name}: {reason}"):
        read_source(SOURCE, context())
    found = read_source(SOURCE, context(on_bad_row="skip"))
    assert len(found.passages) == 7 and found.dropped == {f"bad row: {kind}": 1}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"/Type /Pages /Kids [4 0 R 6 0 R]", b"/Type /Pages /Kids 7"),  # PdfReadError
        (b"/Length", b"/Filter /Foo /Length"),  # NotImplementedError
        (b"720 Td", b"720 R"),  # AssertionError
    ],
)
def test_damage_that_its_parser_trips_over_spoils_one_file_only(context: MakeContext, docs: Path, old: bytes, new: bytes) -> None:
    whole = make_pdf(["page one text", "page two text"])
    assert old in whole
    (docs / "bad.pdf").write_bytes(whole.replace(old, new))
    with pytest.raises(DataError, match=r"bad.pdf: not a readable PDF \(\w+: .*\)\. Mend it, or set collect.on_bad_row to skip"):
        read_source(SOURCE, context())
    found = read_source(SOURCE, context(on_bad_row="skip"))
    assert len(found.passages) == 7 and found.dropped == {"bad row: not a readable PDF": 1}


def test_a_file_whose_name_is_no_text_is_named_or_counted(context: MakeContext, docs: Path) -> None:
    (docs / os.fsdecode(b"caf\xe9.txt")).write_text("plain words")
    with pytest.raises(DataError, match=r"caf\\xe9.txt: the name is not valid UTF-8"):
        read_source(SOURCE, context())
    found = read_source(SOURCE, context(on_bad_row="skip"))
    assert len(found.passages) == 7 and found.dropped == {"bad row: file name is not UTF-8": 1}


def test_a_file_that_may_not_be_read_is_named_or_counted(context: MakeContext, docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (docs / "secret.txt").write_text("plain words")
    whole = Path.read_bytes

    def refused(path: Path) -> bytes:  # the tests may run as root, who may read everything
        if path.name == "secret.txt":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(DataError, match=r"secret.txt: cannot be read \(Permission denied\). Mend it, or set collect.on_bad_row to skip"):
        read_source(SOURCE, context())
    found = read_source(SOURCE, context(on_bad_row="skip"))
    assert len(found.passages) == 7 and found.dropped == {"bad row: unreadable file": 1}


def test_files_without_text_are_counted(context: MakeContext, docs: Path) -> None:
    (docs / "scanned.pdf").write_bytes(make_pdf([""]))
    (docs / "empty.txt").write_text("\n")
    found = read_source(SOURCE, context())
    assert len(found.passages) == 7 and found.dropped == {"file without text": 2}


def test_passages_are_in_the_language_of_their_source(context: MakeContext, docs: Path) -> None:
    found = read_source(SOURCE.model_copy(update={"language": "ru"}), context())
    assert {passage.language for passage in found.passages} == {"ru"}


def test_no_folder_and_no_file_are_errors(context: MakeContext, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="docs is not a folder"):
        read_source(SOURCE, context())
    (tmp_path / "docs").mkdir()
    with pytest.raises(DataError, match="holds no file ending in .txt, .md"):
        read_source(SOURCE, context())


@given(st.text(alphabet="ab文 \n\t.#", max_size=200), st.integers(1, 30))
def test_chunks_are_short_and_lose_no_character_but_spaces(text: str, size: int) -> None:
    pieces = chunk(text, size)
    assert all(0 < len(piece) <= size for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


@given(st.text(alphabet="ab.!?文。 \n", max_size=80))
def test_the_first_sentence_and_the_rest_are_the_text(text: str) -> None:
    first, rest = first_sentence(text)
    assert "".join((first + rest).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("Read it. Then write.", "Read it."), ("Use e.g. This one. Next.", "Use e.g. This one."),
        ("Version 3.2 is out. Good.", "Version 3.2 is out."),
        ("no end", "no end"), ("读取文件。关闭文件。", "读取文件。"), ("Ends. in lower case. Yes", "Ends. in lower case."),
    ],
)  # fmt: skip
def test_where_a_sentence_ends(text: str, first: str) -> None:
    assert first_sentence(text)[0] == first


def test_headings_within_fences_are_text() -> None:
    assert list(heading_sections("~~~\n# a\n~~~")) == [("", "~~~\n# a\n~~~")]
