"""Corpus and example tables: what is written is read back, equal rows are equal bytes, bad rows and files are refused."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasor.data.records import Example, Passage, read_corpus, read_examples, write_corpus, write_examples
from phasor.errors import DataError

text = st.text(st.characters(codec="utf-8"), max_size=20)
filled = text.filter(lambda value: value.strip() != "")
passages = st.lists(
    st.builds(Passage, id=filled, text=filled, title=text, source=text, language=text), max_size=5, unique_by=lambda p: p.id
)
examples = st.lists(
    st.builds(
        Example,
        id=filled,
        query=filled,
        instruction=text,
        positives=st.lists(filled, min_size=1, max_size=3),
        negatives=st.lists(text, max_size=3),
        task=text,
        provenance=text,
        pair_id=text,
        known=st.lists(text, max_size=2),
    ),
    max_size=5,
    unique_by=lambda e: e.id,
)


@given(passages)
def test_corpus_comes_back_as_written(tmp_path_factory: pytest.TempPathFactory, rows: list[Passage]) -> None:
    path = tmp_path_factory.mktemp("corpus") / "deep" / "corpus.parquet"
    assert write_corpus(rows, path) == len(rows)
    assert read_corpus(path) == rows


@given(examples)
def test_examples_come_back_as_written(tmp_path_factory: pytest.TempPathFactory, rows: list[Example]) -> None:
    path = tmp_path_factory.mktemp("examples") / "train.parquet"
    assert write_examples(rows, path) == len(rows)
    assert read_examples(path) == rows


ROW = Example("e", "q", "i", ["p"])


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_examples([ROW, replace(ROW, id="f")], tmp_path / name)
    write_examples([ROW, replace(ROW, id="g")], tmp_path / "c")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


@pytest.mark.slow
def test_more_text_than_one_column_holds_is_written_in_groups(tmp_path: Path) -> None:
    text = "x" * (1 << 21)  # one object, so that 2 GiB of text take no memory until they are written
    path = tmp_path / "corpus.parquet"
    assert write_corpus((Passage(str(i), text) for i in range(1100)), path) == 1100
    stored = pq.ParquetFile(path)
    assert stored.metadata.num_rows == 1100 and 17 <= stored.num_row_groups <= 19
    last = stored.read_row_group(stored.num_row_groups - 1, columns=["id", "text"]).to_pylist()
    assert last[-1] == {"id": "1099", "text": text}


def test_many_rows_are_several_groups_and_come_back_in_order(tmp_path: Path) -> None:
    rows = [replace(ROW, id=str(i)) for i in range(100_001)]
    write_examples(rows, tmp_path / "x")
    assert pq.ParquetFile(tmp_path / "x").num_row_groups == 2
    assert read_examples(tmp_path / "x") == rows


@pytest.mark.parametrize("rows", [[replace(ROW, positives=[])], [replace(ROW, query=" \n")]])
def test_an_example_without_query_or_positive_is_refused(rows: list[Example], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="example 'e' has an empty query or no positives"):
        write_examples(rows, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_an_empty_passage_and_a_repeated_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="passage 'a' has an empty text"):
        write_corpus([Passage("a", "\t")], tmp_path / "x")
    with pytest.raises(DataError, match="id 'a' occurs more than once"):
        write_corpus([Passage("a", "x"), Passage("b", "y"), Passage("a", "z")], tmp_path / "x")
    with pytest.raises(DataError, match="id 'e' occurs more than once"):
        write_examples([ROW, ROW], tmp_path / "x")


def test_files_that_are_no_such_table_are_refused_by_name(tmp_path: Path) -> None:
    corpus, broken, foreign = tmp_path / "corpus", tmp_path / "broken", tmp_path / "foreign"
    write_corpus([Passage("a", "x")], corpus)
    broken.write_bytes(corpus.read_bytes()[:-9])
    pq.write_table(pa.table({"id": ["a"]}), foreign)
    for path, message in (
        (tmp_path / "none", "does not exist"),
        (broken, "not a readable Parquet file"),
        (foreign, "is not a corpus table"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            read_corpus(path)
        assert str(path) in str(caught.value)
    with pytest.raises(DataError, match="is not a examples table|is not an examples table"):
        read_examples(corpus)
