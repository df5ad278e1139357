"""A finished search in a job's scratch folder: what comes after it may run out of memory or be stopped, and needs it again."""

import json
from pathlib import Path

import torch

from phasor.artifacts import Cost, write_json
from phasor.merging.search import Point, Search

_FILE = "search.json"


def save(folder: Path, identity: str, found: Search, cost: Cost) -> None:
    """Write a search, exactly, and what it cost. `identity` is a digest of all that decides it."""
    points = [vars(point) | {"coefficients": point.coefficients.tolist()} for point in found.points]
    tree = {"identity": identity, "points": points, "steps": found.steps, "cost": cost.model_dump()}
    write_json(tree, folder / _FILE)


def load(folder: Path, identity: str) -> tuple[Search, Cost] | None:
    """The search of this identity and what it cost, if there is one."""
    path = folder / _FILE
    tree = json.loads(path.read_bytes()) if path.is_file() else {}
    if tree.get("identity") != identity:
        return None
    points = [Point(**point | {"coefficients": torch.tensor(point["coefficients"], dtype=torch.float64)}) for point in tree["points"]]
    return Search(points, tree["steps"]), Cost(**tree["cost"])
