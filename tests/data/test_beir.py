"""Folders in BEIR layout."""

from collections.abc import Callable
from pathlib import Path

import pytest

from phasor.config.tasks import BeirSource
from phasor.data.sources import Context, read_source
from phasor.errors import DataError

MakeContext = Callable[..., Context]
WriteLines = Callable[..., Path]
SOURCE = BeirSource(path="set")
HEADER = b"query-id\tcorpus-id\tscore"


@pytest.fixture
def folder(write_lines: WriteLines, tmp_path: Path) -> Path:
    write_lines("set/corpus.jsonl", {"_id": "1", "title": "One", "text": "first"}, {"_id": "2", "title": "Two", "text": ""})
    write_lines(
        "set/queries.jsonl", {"_id": "q1", "text": "what is first"}, {"_id": "q2", "text": 'say "two"'}, {"_id": "q3", "text": "unjudged"}
    )
    write_lines("set/qrels/train.tsv", HEADER, b"q1\t1\t2", b"q1\t2\t0", b"")
    write_lines("set/qrels/test.tsv", b"q2\t2\t1", b"q1\t2\t1")
    return tmp_path / "set"


def test_queries_with_a_judgement_above_zero_become_examples(context: MakeContext, folder: Path) -> None:
    found = read_source(SOURCE, context())
    assert [(p.id, p.title, p.text) for p in found.passages] == [("1", "One", "first"), ("2", "", "Two")]
    # Tables in the order of their names: test before train.
    assert [(e.id, e.query, e.positives) for e in found.examples] == [("q2", 'say "two"', ["2"]), ("q1", "what is first", ["2", "1"])]
    assert all(e.instruction == "find it" for e in found.examples)


def test_grades_become_binary_and_the_loss_is_counted(context: MakeContext, folder: Path) -> None:
    assert read_source(SOURCE, context()).dropped == {"grade above 1 of a judgement, read as relevant": 1}


@pytest.mark.parametrize(
    ("line", "reason", "kind"),
    [
        (b"q9\t1\t1", "query-id 'q9' is not in queries.jsonl", "unknown query"),
        (b"q1\t9\t1", "corpus-id '9' is not in corpus.jsonl", "unknown passage"),
        (b"q1\t1", "expected the cells query-id, corpus-id, score, got 2 cells", "wrong number of cells"),
        (b"q1\t1\tyes", "score 'yes' is not a number", "score is no number"),
        (b"q1\t\xff\t1", "not valid UTF-8", "not UTF-8"),
    ],
)
def test_a_bad_judgement_is_an_error_with_its_line_or_is_counted(
    context: MakeContext, folder: Path, write_lines: WriteLines, line: bytes, reason: str, kind: str
) -> None:
    path = write_lines("set/qrels/train.tsv", HEADER, b"q1\t1\t1", line)
    with pytest.raises(DataError) as caught:
        read_source(SOURCE, context())
    assert str(caught.value).startswith(f"{path}, line 3: {reason}")
    found = read_source(SOURCE, context(on_bad_row="skip"))
    assert found.dropped == {f"bad row: {kind}": 1} and len(found.examples) == 2


def test_repeated_query_ids_and_missing_parts_are_errors(context: MakeContext, folder: Path, write_lines: WriteLines) -> None:
    path = write_lines("set/queries.jsonl", {"_id": "q1", "text": "a"}, {"_id": "q1", "text": "b"})
    with pytest.raises(DataError, match=f"{path}, line 2: _id 'q1' occurs more than once"):
        read_source(SOURCE, context())
    for table in (folder / "qrels").iterdir():
        table.unlink()
    write_lines("set/queries.jsonl", {"_id": "q1", "text": "a"})
    with pytest.raises(DataError, match="qrels holds no .tsv file"):
        read_source(SOURCE, context())
