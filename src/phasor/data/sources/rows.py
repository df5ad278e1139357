"""Rows of users' files, checked one by one: a bad row is an error with file and line, or counted and skipped."""

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from phasor.errors import DataError
from phasor.progress import progress


class RowError(Exception):
    """Why one row cannot be used; becomes a DataError with file and line, or a count."""


@dataclass
class RowCheck:
    """What to do about bad rows, and how many there were.

    Attributes:
        on_bad_row: `error` or `skip`.
        setting: the setting that decides it, for the message.
        dropped: bad rows by reason, if they are skipped.
    """

    on_bad_row: Literal["error", "skip"]
    setting: str = "collect.on_bad_row"
    dropped: Counter[str] = field(default_factory=Counter)

    def bad(self, where: str, reason: str, kind: str) -> None:
        """Report one bad row: `where` and `reason` for the reader of the error, `kind` for the count."""
        if self.on_bad_row == "error":
            raise DataError(f"{where}: {reason}. Mend it, or set {self.setting} to skip.")
        self.dropped[f"bad row: {kind}"] += 1


def json_rows(path: Path, check: RowCheck, what: str = "") -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every usable line of a JSON lines file; blank lines do not count.

    Args:
        path: the file.
        check: what to do about bad lines.
        what: name of a bar that follows the bytes read; none if empty.

    Raises:
        DataError: the file cannot be opened, or a line is not a JSON object in UTF-8 and bad rows are errors.
    """
    for number, text in _texts(path, check, what):
        try:
            value = json.loads(text.strip())
        except (ValueError, RecursionError) as error:
            check.bad(f"{path}, line {number}", f"not valid JSON ({error})", "not JSON")
            continue
        if not isinstance(value, dict):
            check.bad(f"{path}, line {number}", f"expected a JSON object, got {type(value).__name__}", "not an object")
        else:
            yield number, value


def tsv_rows(path: Path, check: RowCheck, what: str = "") -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every non-blank line of a tab-separated file; `what` as in `json_rows`."""
    for number, text in _texts(path, check, what):
        yield number, next(csv.reader([text.rstrip("\r\n")], delimiter="\t", quoting=csv.QUOTE_NONE))


def string_field(row: dict[str, Any], name: str, *, required: bool = False) -> str:
    """A text field; numbers are accepted as text (ids often are numbers), null and absence as empty unless required."""
    value = row.get(name)
    if value is None:
        if required:
            raise RowError(f"field {name!r} is missing", f"no {name}")
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise RowError(f"field {name!r} must be text, got {_shown(value)}", f"{name} is no text")
    require_storable(value, name, f"{name} is no text")
    if required and not value.strip():
        raise RowError(f"field {name!r} is empty", f"empty {name}")
    return value


def list_field(row: dict[str, Any], name: str, *, required: bool = False) -> list[str]:
    """A list of texts; a single text counts as a list of one."""
    return [string_field({name: item}, name, required=True) for item in _items(row, name, required=required)]


def passages_field(row: dict[str, Any], name: str, *, required: bool = False) -> list[tuple[str, str]]:
    """(title, text) of a list of passages; each is a text, or an object with `text` and perhaps `title`, as Tevatron writes them."""
    found = []
    for item in _items(row, name, required=required):
        fields = item if isinstance(item, dict) else {"text": item}
        try:
            found.append(title_and_text(fields))
        except RowError as problem:
            reason, kind = problem.args
            raise RowError(f"in field {name!r}: {reason}", f"{name}: {kind}") from None
    return found


def title_and_text(fields: dict[str, Any]) -> tuple[str, str]:
    """Of a passage. One that is nothing but a title, as in some BEIR sets, is a text without a title."""
    title, text = string_field(fields, "title"), string_field(fields, "text")
    if title.strip() and not text.strip():
        return "", title
    return title, string_field(fields, "text", required=True)


def _items(row: dict[str, Any], name: str, *, required: bool) -> list[Any]:
    value = row.get(name)
    items = value if isinstance(value, list) else [] if value is None else [value]
    if required and not items:
        raise RowError(f"field {name!r} is {'missing' if name not in row else 'empty'}", f"no {name}")
    return items


def is_storable(text: str) -> bool:
    """Whether a text can be written as UTF-8: JSON can spell halves of surrogate pairs, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def require_storable(text: str, name: str, kind: str) -> None:
    """Raises RowError of that kind if a field's text is not storable."""
    if not is_storable(text):
        raise RowError(f"field {name!r} holds half of a surrogate pair", kind)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _texts(path: Path, check: RowCheck, what: str) -> Iterator[tuple[int, str]]:
    """(line number, text) of every line that is not blank, the byte order mark left out."""
    for number, line in _lines(path, what):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            check.bad(f"{path}, line {number}", f"not valid UTF-8 at byte {error.start + 1} of the line", "not UTF-8")
            continue
        if text.strip():
            yield number, text


def _lines(path: Path, what: str) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as stream:
            if not what:
                yield from enumerate(stream, start=1)
                return
            with progress(os.fstat(stream.fileno()).st_size, f"{what}: {path.name}", "B") as bar:
                for number, line in enumerate(stream, start=1):
                    yield number, line
                    bar.update(len(line))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path} does not exist. Paths in a recipe are relative to the recipe file.") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder, not a file. Name the file in the recipe.") from None
