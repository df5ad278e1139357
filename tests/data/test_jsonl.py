"""Users' JSON lines: what is accepted, and that every bad row is named by file and line, or counted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phasor.config.tasks import JsonlSource
from phasor.data.records import Passage
from phasor.data.sources import Context, read_source
from phasor.errors import DataError

MakeContext = Callable[..., Context]
WriteLines = Callable[..., Path]
SOURCE = JsonlSource(corpus="c.jsonl", examples="q.jsonl")
GOOD = {"id": "a", "text": "alpha"}


def test_fields_arrive_and_defaults_are_filled(context: MakeContext, write_lines: WriteLines) -> None:
    write_lines(
        "c.jsonl",
        {"id": 7, "text": "seven", "title": "T", "source": "doc", "language": "de"},
        b"",
        {"id": "b", "text": "bee", "title": None},
    )
    write_lines(
        "q.jsonl",
        {"query": "which?", "positives": ["7", "bee", "b"], "negatives": "seven"},
        {"id": "x", "query": "and?", "positives": "b", "instruction": "own", "pair_id": "pair"},
    )
    found = read_source(SOURCE, context())
    assert found.passages == [Passage("7", "seven", "T", "doc", "de"), Passage("b", "bee", source="c.jsonl#b")]
    first, second = found.examples
    assert (first.id, first.instruction, first.positives, first.negatives, first.task) == ("q-1", "find it", ["7", "b"], ["7"], "t")
    assert (second.id, second.instruction, second.pair_id, second.provenance) == ("x", "own", "pair", "jsonl")


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(context: MakeContext, write_lines: WriteLines) -> None:
    write_lines("c.jsonl", b'\xef\xbb\xbf{"id": "a", "text": "alpha"}\r')
    assert [p.text for p in read_source(JsonlSource(corpus="c.jsonl"), context()).passages] == ["alpha"]


def test_a_passage_of_only_a_title_is_its_title(context: MakeContext, write_lines: WriteLines) -> None:
    write_lines("c.jsonl", {"id": "a", "text": " ", "title": "Alpha"})
    assert read_source(JsonlSource(corpus="c.jsonl"), context()).passages == [Passage("a", "Alpha", source="c.jsonl#a")]


BAD_PASSAGES: list[tuple[Any, str, str]] = [
    ({"text": "x"}, "field 'id' is missing", "no id"),
    ({"id": "b"}, "field 'text' is missing", "no text"),
    ({"id": "b", "text": "  "}, "field 'text' is empty", "empty text"),
    ({"id": "a", "text": "again"}, "id 'a' occurs more than once", "repeated id"),
    ({"id": "b", "text": 1.5}, "field 'text' must be text, got 1.5", "text is no text"),
    ({"id": "b", "text": True}, "field 'text' must be text, got True", "text is no text"),
    (b'{"id": "b", "text": "\\ud800"}', "field 'text' holds half of a surrogate pair", "text is no text"),
    (b'{"id": "b", "text": "caf\xe9"}', "not valid UTF-8 at byte 25", "not UTF-8"),
    (b'{"id": "b", "text": ', "not valid JSON", "not JSON"),
    (["b", "text"], "expected a JSON object, got list", "not an object"),
    (b"null", "expected a JSON object, got NoneType", "not an object"),
    (b"[" * 100_000, "not valid JSON", "not JSON"),
]


@pytest.mark.parametrize(("row", "reason", "kind"), BAD_PASSAGES, ids=[f"{i}-{kind}" for i, (_, _, kind) in enumerate(BAD_PASSAGES)])
def test_a_bad_passage_is_an_error_with_its_line_or_is_counted(
    context: MakeContext, write_lines: WriteLines, row: object, reason: str, kind: str
) -> None:
    path = write_lines("c.jsonl", GOOD, row, {"id": "z", "text": "last"})
    with pytest.raises(DataError) as caught:
        read_source(JsonlSource(corpus="c.jsonl"), context())
    assert str(caught.value).startswith(f"{path}, line 2: {reason}") and "collect.on_bad_row to skip" in str(caught.value)
    found = read_source(JsonlSource(corpus="c.jsonl"), context(on_bad_row="skip"))
    assert [p.id for p in found.passages] == ["a", "z"] and found.dropped == {f"bad row: {kind}": 1}


BAD_EXAMPLES: list[tuple[dict[str, Any], str, str]] = [
    ({"positives": ["a"]}, "field 'query' is missing", "no query"),
    ({"query": "", "positives": ["a"]}, "field 'query' is empty", "empty query"),
    ({"query": "q"}, "field 'positives' is missing", "no positives"),
    ({"query": "q", "positives": []}, "field 'positives' is empty", "no positives"),
    ({"query": "q", "positives": [""]}, "field 'positives' is empty", "empty positives"),
    ({"query": "q", "positives": ["nowhere"]}, "'nowhere' is neither the id nor the whole text", "unknown passage"),
    ({"query": "q", "positives": ["a"], "negatives": ["y" * 99]}, f"'{'y' * 57}...' is neither", "unknown passage"),
    ({"id": "one", "query": "q", "positives": ["a"]}, "id 'one' occurs more than once", "repeated id"),
]


@pytest.mark.parametrize(("row", "reason", "kind"), BAD_EXAMPLES, ids=[f"{i}-{kind}" for i, (_, _, kind) in enumerate(BAD_EXAMPLES)])
def test_a_bad_query_is_an_error_with_its_line_or_is_counted(
    context: MakeContext, write_lines: WriteLines, row: dict[str, Any], reason: str, kind: str
) -> None:
    write_lines("c.jsonl", GOOD)
    path = write_lines("q.jsonl", {"id": "one", "query": "first", "positives": ["a"]}, row)
    with pytest.raises(DataError) as caught:
        read_source(SOURCE, context())
    assert str(caught.value).startswith(f"{path}, line 2: {reason}")
    found = read_source(SOURCE, context(on_bad_row="skip"))
    assert [e.id for e in found.examples] == ["one"] and found.dropped == {f"bad row: {kind}": 1}


def test_a_file_that_is_not_there_or_a_folder_is_one_error(context: MakeContext, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="c.jsonl does not exist. Paths in a recipe are relative"):
        read_source(SOURCE, context())
    (tmp_path / "c.jsonl").mkdir()
    with pytest.raises(DataError, match="c.jsonl is a folder, not a file"):
        read_source(SOURCE, context())
