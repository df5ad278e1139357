"""The table of raw synthetic queries, one row per passage asked about, whether an answer came or not."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from phasor.data.records import write_table
from phasor.errors import DataError


@dataclass(frozen=True)
class SyntheticRow:
    """One query written from one passage.

    Attributes:
        id: unique in the table.
        persona: who asks.
        type, difficulty, length, language: what was asked for, see `phasor.synthesis.requirements`.
        query: what was written; empty if nothing usable came.
        instruction: of the task, rendered before the query.
        generator: who wrote it.
        error: why `query` is empty, for example `invalid_json`; empty otherwise.
    """

    id: str
    passage_id: str
    persona: str
    type: str
    difficulty: str
    length: str
    language: str
    query: str
    instruction: str
    generator: str
    error: str = ""


@dataclass(frozen=True)
class DroppedRow(SyntheticRow):
    """A row that the filter did not keep, and why."""

    reason: str = ""


_NAMES = tuple(f.name for f in fields(SyntheticRow))
SYNTHETIC_SCHEMA = pa.schema([(name, pa.string()) for name in _NAMES], metadata={"phasor.table": "synthetic", "phasor.version": "1"})
DROPPED_SCHEMA = SYNTHETIC_SCHEMA.append(pa.field("reason", pa.string())).with_metadata({"phasor.table": "dropped", "phasor.version": "1"})


def write_rows(rows: Sequence[SyntheticRow], path: Path) -> None:
    """Write the table of raw rows."""
    write_table(rows, SYNTHETIC_SCHEMA, path)


def write_dropped(rows: Sequence[tuple[SyntheticRow, str]], path: Path) -> None:
    """Write dropped rows, each with its reason."""
    write_table([DroppedRow(**vars(row), reason=reason) for row, reason in rows], DROPPED_SCHEMA, path)


def read_rows(path: Path) -> list[SyntheticRow]:
    """Read the table of raw rows. Raises DataError if the file is missing or is no such table."""
    try:
        table = pq.ParquetFile(path).read()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Run the synthesize phase.") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({error}). Run the synthesize phase again.") from None
    if table.schema.names != list(_NAMES):
        raise DataError(f"{path} has the columns {table.schema.names}, expected {list(_NAMES)}. Run the synthesize phase again.")
    return [SyntheticRow(**record) for record in table.to_pylist()]
