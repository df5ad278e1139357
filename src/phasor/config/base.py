"""The base of every configuration class: frozen, closed, with one default for each value."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Role = Literal["embed", "rerank"]


class Config(BaseModel):
    """A block of the recipe. Unknown keys are refused; values cannot be changed after loading."""

    model_config = ConfigDict(frozen=True, extra="forbid")
