"""The base of every configuration class: frozen, closed, with one default for each value."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Role = Literal["embed", "rerank"]


class Config(BaseModel):
    """A block of the recipe. Unknown keys and numbers without end are refused; values cannot be changed after loading."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def default_kind(tree: Any, name: str, kind: str) -> Any:
    """The raw settings with the kind of block `name` filled in where a user sets only something inside it."""
    block = tree.get(name) if isinstance(tree, dict) else None
    return {**tree, name: {"kind": kind, **block}} if isinstance(block, dict) else tree
