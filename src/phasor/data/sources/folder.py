"""Source `folder`: text, Markdown, HTML and PDF files, cut into passages."""

import io
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from phasor.config.tasks import FolderSource
from phasor.data.chunking import chunk, heading_sections
from phasor.data.records import Passage
from phasor.data.sources import Collected, Context
from phasor.data.sources.rows import RowCheck, RowError, is_storable
from phasor.errors import DataError, first_line
from phasor.progress import track

# Whatever a parser runs into on a damaged file; pypdf lets it through.
_DAMAGE = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError, struct.error,
    zlib.error,
)  # fmt: skip
_BLOCKS = ["p", "div", "section", "article", "li", "tr", "pre", "blockquote", "dt", "dd", "br", "table", "ul", "ol"]
_HIDDEN = ["script", "style", "noscript", "template", "nav", "head"]


def read(source: FolderSource, context: Context) -> Collected:
    """Passages of every file with a wanted ending, in the order of their paths; a passage's title is its heading."""
    check = RowCheck(context.collect.on_bad_row)
    found = Collected(dropped=check.dropped)
    folder, what = context.root / source.path, f"collect {context.task}"
    for passages in read_files(folder, source, context.collect.max_passage_chars, check, what):
        found.passages += passages
    return found


def read_files(folder: Path, source: FolderSource, max_chars: int, check: RowCheck, what: str = "") -> Iterator[list[Passage]]:
    """Passages of one file after the other; `what` names a bar that follows the files, none if empty.

    Raises:
        DataError: there is no such folder, or no file with a wanted ending in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Paths in a recipe are relative to the recipe file.")
    wanted = {suffix.lower() for suffix in source.suffixes}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in wanted)
    if not files:
        raise DataError(f"{folder} holds no file ending in {', '.join(source.suffixes)}. Add documents, or set the source's suffixes.")
    for path in track(files, what, unit="file") if what else files:
        name = path.relative_to(folder.parent).as_posix()
        try:
            if not is_storable(name):
                raise RowError("the name is not valid UTF-8", "file name is not UTF-8")
            passages = list(_passages(name, _sections(path), source, max_chars))
            if not passages:
                check.dropped["file without text"] += 1
        except OSError as error:
            check.bad(str(path), f"cannot be read ({error.strerror})", "unreadable file")
            continue
        except RowError as problem:
            check.bad(os.fsencode(path).decode("utf-8", "backslashreplace"), *problem.args)
            continue
        yield passages


def _passages(name: str, sections: Iterable[tuple[str, str]], source: FolderSource, max_chars: int) -> Iterator[Passage]:
    number = 0
    for place, (title, text) in enumerate(sections, start=1):
        document = name if source.document == "file" else f"{name}#{place}"
        for piece in chunk(text, max_chars):
            number += 1
            yield Passage(f"{name}#{number}", piece, title or Path(name).stem, document, source.language)


def _sections(path: Path) -> Iterator[tuple[str, str]]:
    """(heading, text) pairs of one file. Raises RowError if it cannot be read."""
    content = path.read_bytes()
    match path.suffix.lower():
        case ".pdf":
            yield from _pdf_pages(content)
        case ".html" | ".htm":
            yield from heading_sections(_html_text(content))
        case ".md" | ".markdown":
            yield from heading_sections(_decode(content))
        case _:
            yield "", _decode(content)


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RowError(f"not valid UTF-8 in line {line} (byte {error.start})", "not UTF-8") from None


def _html_text(content: bytes) -> str:
    """HTML as Markdown-like text: headings marked by `#`, blocks separated by blank lines."""
    from bs4 import BeautifulSoup
    from bs4.exceptions import ParserRejectedMarkup

    try:
        soup = BeautifulSoup(content, "html.parser")
    except ParserRejectedMarkup as error:
        raise RowError(f"not readable HTML ({first_line(error)})", "not readable HTML") from None
    for element in soup(_HIDDEN):
        element.decompose()
    for heading in soup(["h1", "h2", "h3", "h4", "h5", "h6"]):
        heading.replace_with(f"\n\n# {' '.join(heading.get_text().split())}\n\n")
    for block in soup(_BLOCKS):
        block.insert_before("\n\n")
        block.insert_after("\n\n")
    return soup.get_text()


def _pdf_pages(content: bytes) -> Iterator[tuple[str, str]]:
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, DeprecationError, PyPdfError

    try:
        for number, page in enumerate(PdfReader(io.BytesIO(content)).pages, start=1):
            text = page.extract_text()
            # Broken font tables give halves of surrogate pairs, which no file can hold.
            yield f"page {number}", text if is_storable(text) else text.encode("utf-8", "replace").decode()
    except (PyPdfError, DependencyError, DeprecationError, *_DAMAGE) as error:
        raise RowError(f"not a readable PDF ({type(error).__name__}: {error})", "not a readable PDF") from None
