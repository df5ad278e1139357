"""Conversations for the two steps of paper A.3, and what a usable answer to each looks like.

What never changes stands first and the passage last, so that a server's prefix cache holds the rest. A passage is
quoted as data, between two lines that it cannot contain.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from phasor.config.data import LANGUAGES
from phasor.synthesis.requirements import DIFFICULTIES, TYPES, Requirement

if TYPE_CHECKING:
    from jinja2 import Environment

Message = dict[str, str]
MARK = "=== passage"
"""How the lines around a passage begin."""


class Configuration(BaseModel):
    """Answer to step 1: who asks, and how."""

    model_config = ConfigDict(extra="forbid")

    character: int = Field(ge=1)
    type: Literal["keywords", "factual", "summary", "yes_no", "background"]
    difficulty: Literal["high_school", "university", "phd"]


class Query(BaseModel):
    """Answer to step 2."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    query: str = Field(min_length=1)

    @field_validator("query", mode="before")
    @classmethod
    def _one_line(cls, value: Any) -> Any:
        return _CONTROLS.sub(" ", value) if isinstance(value, str) else value


Answer = TypeVar("Answer", bound=BaseModel)
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]+")

# Written out rather than taken from pydantic: flat, without references or titles, as constrained decoders like it.
SCHEMAS: dict[type[BaseModel], dict[str, Any]] = {
    Configuration: {
        "character": {"type": "integer", "minimum": 1},
        "type": {"type": "string", "enum": list(TYPES)},
        "difficulty": {"type": "string", "enum": list(DIFFICULTIES)},
    },
    Query: {"query": {"type": "string", "minLength": 1}},
}
"""Properties of every answer's JSON object; all are required."""


def configure_messages(personas: Sequence[str], passage: str) -> list[Message]:
    """The conversation of step 1."""
    return _conversation("configure", personas=personas, passage=passage, mark=_mark(passage))


def query_messages(persona: str, requirement: Requirement, passage: str) -> list[Message]:
    """The conversation of step 2, a new one."""
    language = LANGUAGES[requirement.language]
    return _conversation("query", persona=persona, requirement=requirement, language=language, passage=passage, mark=_mark(passage))


def repair_messages(messages: Sequence[Message], answer: str, problem: str) -> list[Message]:
    """The conversation continued after an unusable answer."""
    again = _environment().get_template("repair.jinja").render(problem=problem)
    return [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": again}]


def response_format(kind: type[BaseModel]) -> dict[str, Any]:
    """The protocol's request for an answer that fits a schema."""
    properties = SCHEMAS[kind]
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": kind.__name__.lower(), "strict": True, "schema": schema}}


def parse(kind: type[Answer], content: str) -> Answer:
    """The answer in a message.

    Raises:
        ValueError: the message is not one JSON object, or the object does not fit; the text is short enough to be repeated
            to the model.
    """
    start, end = content.find("{"), content.rfind("}")
    try:
        # From the first brace to the last: some models wrap their object in a code fence whatever they are told.
        # Constrained decoders let a line break stand in a string as it is, which JSON forbids.
        tree = json.loads(content[start : end + 1] if start >= 0 else content, strict=False)
    except ValueError:
        raise ValueError("invalid_json") from None
    try:
        return kind.model_validate(tree)
    except ValidationError:
        raise ValueError("invalid_fields") from None


def _conversation(step: str, **values: Any) -> list[Message]:
    user = _environment().get_template(f"{step}_user.jinja").render(**values)
    return [{"role": "system", "content": _read(f"{step}_system.txt")}, {"role": "user", "content": user}]


def _mark(passage: str) -> str:
    return f"{MARK} {hashlib.sha256(passage.encode('utf-8', 'replace')).hexdigest()[:12]}"


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    return Environment(loader=FunctionLoader(_read), undefined=StrictUndefined, autoescape=False, keep_trailing_newline=False)


@cache
def _read(name: str) -> str:
    return resources.files("phasor.synthesis").joinpath("prompts", name).read_text(encoding="utf-8").strip()
