"""Runs and per-query metrics on disk: Parquet, in a fixed order."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phasor.errors import ArtifactError
from phasor.evaluation.metrics import METRICS, PerQuery, Run

_RUN_SCHEMA = pa.schema(
    [("query_id", pa.string()), ("passage_ids", pa.list_(pa.string())), ("scores", pa.list_(pa.float32()))],
    metadata={"phasor.table": "run", "phasor.version": "1"},
)
_METRIC_SCHEMA = pa.schema(
    [("model", pa.string()), ("task", pa.string()), ("metric", pa.string()), ("values", pa.list_(pa.float32()))],
    metadata={"phasor.table": "per_query", "phasor.version": "1"},
)


def ranked(scores: dict[str, float]) -> list[str]:
    """Passage ids, best first; ties by descending id, as trec_eval breaks them."""
    return sorted(scores, key=lambda passage: (scores[passage], passage), reverse=True)


def write_run(run: Run, path: Path) -> None:
    """Write a run, passages best first."""
    order = {query: ranked(scores) for query, scores in run.items()}
    columns = {
        "query_id": list(run),
        "passage_ids": list(order.values()),
        "scores": [[run[query][p] for p in passages] for query, passages in order.items()],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, schema=_RUN_SCHEMA), path, compression="zstd")


def read_run(path: Path) -> Run:
    """Read a run; passages come best first."""
    return {
        row["query_id"]: dict(zip(row["passage_ids"], row["scores"], strict=True)) for row in _read(path, _RUN_SCHEMA)
    }


def write_per_query(results: Sequence[tuple[str, str, PerQuery]], path: Path) -> None:
    """Write (model, task, metrics) rows."""
    rows = [
        {"model": model, "task": task, "metric": metric, "values": metrics[metric].tolist()}
        for model, task, metrics in results for metric in METRICS if metric in metrics
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=_METRIC_SCHEMA), path, compression="zstd")


def read_per_query(path: Path) -> dict[tuple[str, str], PerQuery]:
    """(model, task) to metrics."""
    found: dict[tuple[str, str], PerQuery] = {}
    for row in _read(path, _METRIC_SCHEMA):
        found.setdefault((row["model"], row["task"]), {})[row["metric"]] = np.array(row["values"], dtype=np.float64)
    return found


def _read(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing. Run the evaluate phase of the embedder first.") from None
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(f"{path} is damaged ({error}). Run the evaluate phase that writes it again.") from None
    if table.schema.names != schema.names:
        raise ArtifactError(f"{path} has the columns {table.schema.names}, expected {schema.names}. Run its evaluate phase again.")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
