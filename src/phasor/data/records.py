"""The two tables that phases exchange: the corpus and the examples. Parquet, with a fixed schema.

A task owns one corpus. Examples name passages by their id in that corpus; the texts are never repeated.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phasor.errors import DataError

SPLITS = ("train", "dev", "heldout", "test")
"""train: for the loss; dev: for choices during training; heldout: D_t of the merge search; test: scored once."""

CORPUS_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "text", "title", "source", "language")],
    metadata={"phasor.table": "corpus", "phasor.version": "1"},
)
EXAMPLE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("query", pa.string()),
        ("instruction", pa.string()),
        ("positives", pa.list_(pa.string())),
        ("negatives", pa.list_(pa.string())),
        ("task", pa.string()),
        ("provenance", pa.string()),
        ("pair_id", pa.string()),
        ("known", pa.list_(pa.string())),
    ],
    metadata={"phasor.table": "examples", "phasor.version": "1"},
)
_GROUP_ROWS, _GROUP_CHARS = 100_000, 1 << 27  # of a row group: a column's builder holds 2 GiB, and a character is 4 bytes at most


@dataclass(frozen=True)
class Passage:
    """One retrievable text.

    Attributes:
        id: unique within the task's corpus.
        text: what is embedded and read; never empty.
        title: a heading that is rendered before the text; may be empty.
        source: where it came from, as a reader would look it up (path, URL, qualified name). Passages with the
            same source always fall into the same split.
        language: ISO 639-1 code of the text, or the name of a programming language.
    """

    id: str
    text: str
    title: str = ""
    source: str = ""
    language: str = "en"


@dataclass(frozen=True)
class Example:
    """One query with its relevant passages.

    Attributes:
        id: unique within its file.
        query: what is searched for, without instruction.
        instruction: the task description rendered before the query.
        positives: ids of relevant passages; at least one.
        negatives: ids of hard negatives, hardest first; empty before mining.
        task: name of the task that owns the corpus.
        provenance: how the pair came to be, for example `docstring` or `synthetic:factual`.
        pair_id: links the queries that differ only in instruction (FollowIR style); the one whose id ends in
            `-og` carries the original instruction, the one in `-changed` the changed one. Empty otherwise.
        known: ids of further relevant passages that the labels name, in documents of other splits or in other rows: nothing to
            learn from, no negatives either, and left out of the lists that evaluate judges.
    """

    id: str
    query: str
    instruction: str
    positives: list[str]
    negatives: list[str] = field(default_factory=list)
    task: str = ""
    provenance: str = ""
    pair_id: str = ""
    known: list[str] = field(default_factory=list)


def write_corpus(passages: Iterable[Passage], path: Path) -> int:
    """Write the corpus table; returns the number of rows. Raises DataError on an empty text or a repeated id."""
    rows = list(passages)
    _check_unique([p.id for p in rows], path)
    if empty := next((p.id for p in rows if not p.text.strip()), None):
        raise DataError(f"{path}: passage {empty!r} has an empty text. Remove it from the source.")
    return write_table(rows, CORPUS_SCHEMA, path)


def write_examples(examples: Iterable[Example], path: Path) -> int:
    """Write an example table; returns the number of rows. Raises DataError on a repeated id or no positives."""
    rows = list(examples)
    _check_unique([e.id for e in rows], path)
    if bare := next((e.id for e in rows if not e.positives or not e.query.strip()), None):
        raise DataError(f"{path}: example {bare!r} has an empty query or no positives. Remove it from the source.")
    return write_table(rows, EXAMPLE_SCHEMA, path)


def read_corpus(path: Path) -> list[Passage]:
    """Read a corpus table in its stored order. Raises DataError if the file is missing or not such a table."""
    return [Passage(**row) for row in _read(path, CORPUS_SCHEMA)]


def read_examples(path: Path) -> list[Example]:
    """Read an example table in its stored order. Raises DataError if the file is missing or not such a table."""
    return [Example(**row) for row in _read(path, EXAMPLE_SCHEMA)]


def _check_unique(ids: Sequence[str], path: Path) -> None:
    seen: set[str] = set()
    for row_id in ids:
        if row_id in seen:
            raise DataError(f"{path}: id {row_id!r} occurs more than once. Give every row its own id.")
        seen.add(row_id)


def write_table(rows: Sequence[object], schema: pa.Schema, path: Path) -> int:
    """Write objects whose attributes are the schema's columns, texts or lists of texts; returns the number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in _groups(rows, schema.names):
            columns = {name: [getattr(row, name) for row in group] for name in schema.names}
            arrays = [_lists(columns[f.name]) if pa.types.is_list(f.type) else _texts(columns[f.name]) for f in schema]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return len(rows)


def _groups(rows: Sequence[object], names: Sequence[str]) -> Iterator[Sequence[object]]:
    """Rows cut into row groups, at least one, so that memory and the size of a column do not grow with the table."""
    start = chars = 0
    for end, row in enumerate(rows):
        size = sum(len(value) if isinstance(value := getattr(row, name), str) else sum(map(len, value)) for name in names)
        if end > start and (end - start == _GROUP_ROWS or chars + size > _GROUP_CHARS):
            yield rows[start:end]
            start, chars = end, 0
        chars += size
    yield rows[start:]


# Neither pa.array nor pq.read_table: they import pandas, which costs each of a run's many short processes half a second.
def _texts(values: Iterable[str]) -> pa.Array:
    builder = pa.lib.StringBuilder()
    builder.append_values(list(values))
    return builder.finish()


def _lists(values: Sequence[Sequence[str]]) -> pa.Array:
    ends = np.cumsum([0, *map(len, values)], dtype=np.int32)
    flat = _texts(chain.from_iterable(values))
    return pa.Array.from_buffers(pa.list_(pa.string()), len(values), [None, pa.py_buffer(ends)], children=[flat])


def _read(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    if not path.exists():
        raise DataError(f"{path} does not exist. Run the phase that writes it, or check the --work directory.")
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({error}). Delete it and run its phase again.") from None
    expected = schema.metadata[b"phasor.table"]
    if (table.schema.metadata or {}).get(b"phasor.table") != expected or table.schema.names != schema.names:
        raise DataError(
            f"{path} is not a {expected.decode()} table: columns {table.schema.names}, expected {schema.names}. "
            "Run the phase that writes it again with this version."
        )
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
