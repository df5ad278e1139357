"""Prompts: the static part first, the passage last and quoted as data; answers read strictly."""

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from phasor.config.data import LANGUAGES
from phasor.synthesis.prompts import Configuration, Query, configure_messages, parse, query_messages, repair_messages, response_format
from phasor.synthesis.requirements import DIFFICULTIES, LENGTHS, TYPES, Requirement

REQUIREMENT = Requirement("background", "phd", ">80", "zh")


def test_what_is_the_same_for_all_passages_comes_first() -> None:
    a = configure_messages(["a cook", "a pilot"], "first text")
    b = configure_messages(["a sailor"], "second text")
    assert [m["role"] for m in a] == ["system", "user"]
    assert a[0] == b[0] and len(a[0]["content"]) > len(a[1]["content"])
    assert query_messages("a cook", REQUIREMENT, "x")[0] == query_messages("a pilot", REQUIREMENT, "y")[0]


def test_every_type_and_difficulty_is_explained_in_both_steps() -> None:
    for messages in (configure_messages(["a cook"], "x"), query_messages("a cook", REQUIREMENT, "x")):
        assert all(f'"{name}"' in messages[0]["content"] for name in (*TYPES, *DIFFICULTIES))


def test_candidates_are_numbered_and_requirements_complete() -> None:
    assert configure_messages(["a cook", "a pilot"], "x")[1]["content"].startswith("Candidates:\n1. a cook\n2. a pilot\n")
    user = query_messages("a cook", REQUIREMENT, "x")[1]["content"]
    assert all(part in user for part in ("a cook", '"background"', '"phd"', ">80 words", "language Chinese"))
    assert all(Requirement(t, "phd", length.label, "en") for t in TYPES for length in LENGTHS[t]) and LANGUAGES["zh"] == "Chinese"


@given(st.text(max_size=200))
def test_any_passage_arrives_whole_between_marks_that_it_cannot_forge(passage: str) -> None:
    user = query_messages("a cook", REQUIREMENT, passage)[1]["content"]
    mark = user.rpartition("\n")[2]
    assert user.endswith(f"{mark}\n{passage}\n{mark}")
    assert mark not in passage


def test_template_syntax_in_a_passage_is_text() -> None:
    assert "{{ 7 * 7 }}{% if %}<b>" in query_messages("{{ x }}", REQUIREMENT, "{{ 7 * 7 }}{% if %}<b>")[1]["content"]


def test_repair_shows_the_answer_and_the_problem() -> None:
    first = query_messages("a cook", REQUIREMENT, "x")
    again = repair_messages(first, "sorry", "invalid json")
    assert again[:2] == first and again[2] == {"role": "assistant", "content": "sorry"} and "invalid json" in again[3]["content"]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Configuration, {"character": 2, "type": "yes_no", "difficulty": "phd"}, {"character": 0, "type": "yes_no", "difficulty": "phd"}),
        (
            Configuration,
            {"character": 1, "type": "summary", "difficulty": "university"},
            {"character": 1, "type": "poem", "difficulty": "phd"},
        ),
        (Query, {"query": "x"}, {"query": ""}),
        (Query, {"query": "x"}, {"query": "x", "more": 1}),
        (Query, {"query": "x"}, {"query": ["x"]}),
    ],
)
def test_the_schema_that_is_sent_accepts_what_the_reader_accepts(
    kind: type[BaseModel], good: dict[str, object], bad: dict[str, object]
) -> None:
    schema = response_format(kind)["json_schema"]["schema"]
    jsonschema.validate(good, schema)
    assert parse(kind, json.dumps(good)).model_dump() == good
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, schema)
    with pytest.raises(ValueError, match="invalid_fields"):
        parse(kind, json.dumps(bad))


@pytest.mark.parametrize("content", ['{"query": "x"}', '```json\n{"query": "x"}\n```', 'Here it is: {"query": " x "} Enjoy!'])
def test_an_object_is_found_in_its_wrapping(content: str) -> None:
    assert parse(Query, content).query == "x"


def test_line_breaks_and_control_characters_become_spaces() -> None:
    assert parse(Query, '{"query": "\nread a\r\n\\tgzip\x12file "}').query == "read a gzip file"
    with pytest.raises(ValueError, match="invalid_fields"):
        parse(Query, '{"query": "\n\\n"}')


@pytest.mark.parametrize("content", ["", "x", "{", '{"query": "x', '{"query": "a"} {"query": "b"}', "[1]", '"x"'])
def test_what_is_no_object_is_invalid(content: str) -> None:
    with pytest.raises(ValueError, match="invalid"):
        parse(Query, content)
