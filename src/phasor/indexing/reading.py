"""Documents of a Parquet file, a JSON lines file or a folder, one after the other; all that stays in memory is a hash of each id."""

import datetime as dt
import hashlib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phasor.config.indexing import IndexConfig
from phasor.config.tasks import FolderSource
from phasor.data.records import Passage
from phasor.data.sources.folder import read_files
from phasor.data.sources.jsonl import passage_of
from phasor.data.sources.rows import RowCheck, RowError, json_rows, require_storable
from phasor.errors import DataError
from phasor.indexing.documents import COLUMNS, Document

_ROWS = 4096
_RECENT = 1_000_000


def row_check(config: IndexConfig) -> RowCheck:
    """What an index does about bad rows; counts them."""
    return RowCheck(config.on_bad_row, setting="on_bad_row")


def read_documents(source: Path, config: IndexConfig, check: RowCheck) -> Iterator[Document]:
    """Every usable document of a source. Columns beyond id, text, title, source and language become metadata.

    Args:
        source: a .parquet or .jsonl file, or a folder.
        config: how to read it.
        check: from `row_check`; knows at the end what was skipped.

    Raises:
        DataError: the source cannot be read, an id occurs twice, or a row is bad and bad rows are errors.
    """
    seen = _Seen()
    for where, document in _documents(source, config, check):
        if not seen.add(document.passage.id):
            check.bad(where, f"id {document.passage.id!r} occurs more than once", "repeated id")
            continue
        yield document


class _Seen:
    """Ids by a hash of eight bytes: of 100 million different ones two are taken for the same with a chance of 1 in 3,700."""

    def __init__(self) -> None:
        self._sorted = np.empty(0, np.uint64)
        self._recent: set[int] = set()

    def add(self, name: str) -> bool:
        """Take an id in; False if it was there."""
        number = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())
        place = int(np.searchsorted(self._sorted, np.uint64(number)))
        if number in self._recent or (place < len(self._sorted) and self._sorted[place] == number):
            return False
        self._recent.add(number)
        if len(self._recent) >= _RECENT:
            new = np.sort(np.fromiter(self._recent, np.uint64, len(self._recent)))
            self._sorted = np.insert(self._sorted, np.searchsorted(self._sorted, new), new)
            self._recent.clear()
        return True


def count_documents(source: Path) -> int | None:
    """How many documents there will be, as far as that is known without reading them."""
    if source.suffix == ".parquet" and source.is_file():
        return int(pq.read_metadata(source).num_rows)
    if source.suffix == ".jsonl" and source.is_file():
        with source.open("rb") as stream:
            return sum(1 for line in stream if line.strip())
    return None


def _documents(source: Path, config: IndexConfig, check: RowCheck) -> Iterator[tuple[str, Document]]:
    if source.is_dir():
        wanted = FolderSource(path=str(source), suffixes=config.suffixes)
        for passages in read_files(source, wanted, config.max_passage_chars, check):
            yield from ((str(source), Document(passage, {})) for passage in passages)
        return
    if source.suffix not in (".parquet", ".jsonl"):
        raise DataError(f"{source} is neither a folder nor a .parquet or .jsonl file. Name one of these.")
    for number, row in _parquet_rows(source) if source.suffix == ".parquet" else json_rows(source, check):
        where = f"{source}, {'row' if source.suffix == '.parquet' else 'line'} {number}"
        try:
            yield where, _document(row, source)
        except RowError as problem:
            check.bad(where, *problem.args)


def _document(row: Mapping[str, Any], path: Path) -> Document:
    passage: Passage = passage_of(row, path, id_field="id")
    metadata = {name: shown for name, value in row.items() if name not in COLUMNS and (shown := _shown(value)) is not None}
    for name, shown in metadata.items():
        require_storable(name + shown, name, "metadata are no text")
    return Document(passage, metadata)


def _shown(value: Any) -> str | None:
    """A value to filter by, as text, dates as in ISO 8601; None for lists, objects and bytes, which are none."""
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    return str(value) if isinstance(value, str | int | float | Decimal) else None


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({error}). Name another file.") from None
