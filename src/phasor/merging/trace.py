"""What a merge leaves behind for readers: trace.json beside the model."""

from collections.abc import Sequence
from typing import Any

import torch

from phasor.config.merging import Merge
from phasor.merging.comparison import Row
from phasor.merging.search import Losses, Point, Search, describe
from phasor.merging.task_vector import TaskVectors

SCHEMA_VERSION = 1


def trace_json(config: Merge, vectors: TaskVectors, mixed_tasks: Sequence[str], found: Search, comparison: Sequence[Row]) -> dict[str, Any]:
    """The content of trace.json.

    Args:
        config: the method in the recipe.
        vectors: the specialists' task vectors.
        mixed_tasks: names of the vectors that the coefficients belong to; the specialists', or the one that TIES or DARE made.
        found: the search.
        comparison: other methods on the same examples; may be empty.
    """
    norms = vectors.gram.diagonal().sqrt()
    return {
        "schema_version": SCHEMA_VERSION,
        "method": config.model_dump(mode="json"),
        "tasks": list(vectors.tasks),
        "norms": norms.tolist(),
        "cosines": (vectors.gram / torch.outer(norms, norms)).tolist(),
        "best": _point(found.best, mixed_tasks),
        "points": [_point(point, mixed_tasks) for point in found.points],
        "steps": found.steps,
        "comparison": [row.as_json() for row in comparison],
    }


def metrics(found: Search, comparison: Sequence[Row]) -> Losses:
    """Losses worth comparing between runs."""
    compared = {f"heldout_loss_{row.name}": row.loss for row in comparison if row.kind in ("baseline", "fixed")}
    return {"heldout_loss": found.best.loss, "heldout_loss_start": found.points[0].loss} | compared


def _point(point: Point, tasks: Sequence[str]) -> dict[str, Any]:
    return {
        "step": point.step, "loss": point.loss, "losses": point.losses, **point.state,
        "coefficients": describe(point.coefficients, tasks),
    }
