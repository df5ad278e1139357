"""The passages of an index: an Arrow file that is mapped, not read, and what filters select in it."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from phasor.data.records import Passage
from phasor.errors import ArtifactError

COLUMNS = ("id", "text", "title", "source", "language")
META = "meta."
_NO_FILTER = ("text",)
_MAGIC_BYTES = 8  # before the first message of a file
_HEADER, _COMPRESSION = 2, 3  # numbers of fields: of a message, of a record batch


@dataclass(frozen=True)
class Document:
    """A passage with what else is known of it."""

    passage: Passage
    metadata: Mapping[str, str]


def to_table(documents: Sequence[Document], names: Sequence[str]) -> pa.Table:
    """Documents as a table with the metadata columns `names`; a value that is missing is null."""
    columns = {column: pa.array([getattr(d.passage, column) for d in documents], pa.string()) for column in COLUMNS}
    columns |= {META + name: pa.array([d.metadata.get(name) for d in documents], pa.string()) for name in names}
    return pa.table(columns)


class Documents:
    """The rows of documents.arrow.

    Raises:
        ArtifactError: the file is no such table, or not a sound one: reading it could end the process.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.table = _mapped(path)
            # Offsets and characters of every row; 0.04 s for a million rows of 0.4 kB, an eighth of their sha256.
            self.table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError, struct.error) as error:
            raise ArtifactError(f"{path} is no Arrow file ({error}). Build the index again.") from None
        names = self.table.schema.names
        if tuple(names[: len(COLUMNS)]) != COLUMNS or any(kind != pa.string() for kind in self.table.schema.types):
            raise ArtifactError(f"{path} has the columns {names}, expected {list(COLUMNS)} and {META}*. Build the index again.")
        self.metadata = [name.removeprefix(META) for name in names[len(COLUMNS) :]]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def fields(self) -> list[str]:
        """What can be filtered by."""
        return [column for column in COLUMNS if column not in _NO_FILTER] + self.metadata

    def __getitem__(self, row: int) -> Document:
        values: dict[str, Any] = {name: self.table.column(name)[row].as_py() for name in self.table.schema.names}
        passage = Passage(**{column: values[column] for column in COLUMNS})
        return Document(passage, {name: values[META + name] for name in self.metadata if values[META + name] is not None})

    def having(self, name: str, values: Sequence[str]) -> NDArray[np.bool_]:
        """[rows] whether each has one of these values in a field."""
        column = self.table.column(name if name in COLUMNS else META + name)
        found: NDArray[np.bool_] = pc.is_in(column, value_set=pa.array(list(values), pa.string())).to_numpy().astype(bool)
        return found

    def selected(self, filters: Mapping[str, Sequence[str]]) -> NDArray[np.bool_] | None:
        """[rows] whether each passes every filter: its value is one of those given. None without filters.

        Raises:
            KeyError: an unknown field.
        """
        mask = None
        for name, values in filters.items():
            if name not in self.fields:
                raise KeyError(name)
            found = self.having(name, values)
            mask = found if mask is None else mask & found
        return mask


def _mapped(path: Path) -> pa.Table:
    """A table whose buffers are the file's own: a corpus larger than memory is served from the page cache.

    Read message by message, because Arrow itself would unpack what is compressed: some kilobytes, to any size.

    Raises:
        ValueError: something is compressed, or no record batch.
    """
    file = pa.memory_map(str(path))
    file.seek(_MAGIC_BYTES)
    head, *messages = pa.ipc.MessageReader.open_stream(file)
    schema = pa.ipc.read_schema(head)
    for message in messages:
        if message.type != "record batch" or _compressed(message.metadata.to_pybytes()):
            raise ValueError(f"a {message.type} that is not plain")
    return pa.Table.from_batches([pa.ipc.read_record_batch(message, schema) for message in messages], schema)


def _compressed(metadata: bytes) -> bool:
    """Whether the header of a message has its field `compression` (Message.fbs of Arrow; pyarrow does not tell)."""

    def place(table: int, field: int) -> int:
        fields = table - struct.unpack_from("<i", metadata, table)[0]
        if 4 + 2 * field >= struct.unpack_from("<H", metadata, fields)[0]:
            return 0
        offset = struct.unpack_from("<H", metadata, fields + 4 + 2 * field)[0]
        return table + offset if offset else 0

    header = place(struct.unpack_from("<I", metadata)[0], _HEADER)
    return place(header + struct.unpack_from("<I", metadata, header)[0], _COMPRESSION) != 0


class DocumentWriter:
    """Writes documents.arrow batch by batch."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._schema = to_table([], names).schema
        self._stream = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._stream, self._schema)

    def write(self, table: pa.Table) -> None:
        """Append rows; metadata columns that the table lacks become null."""
        missing = [name for name in self._schema.names if name not in table.schema.names]
        for name in missing:
            table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
        self._writer.write_table(table.select(self._schema.names))

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
        self._stream.close()
