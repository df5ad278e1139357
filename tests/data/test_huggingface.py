"""Data sets of the hub, from local copies, without network."""

from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from phasor.config.tasks import HuggingFaceSource
from phasor.data.sources import Context, read_source
from phasor.errors import DataError

MakeContext = Callable[..., Context]
WriteLines = Callable[..., Path]
ROWS = [
    {"query": "q0", "positive": ["p zero", "p one"], "negative": "n zero"},
    {"query": "q1", "positive": ["p one"], "negative": None},
    {"query": "q2", "positive": ["p two"], "negative": "p zero"},
]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def save_parquet(path: Path) -> None:
    (path / "data").mkdir(parents=True)
    datasets.Dataset.from_list(ROWS).to_parquet(path / "data/train-00000-of-00001.parquet")


def save_jsonl(path: Path) -> None:
    path.mkdir()
    datasets.Dataset.from_list(ROWS).to_json(path / "train.jsonl")


def save_disk(path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(path)


def save_dict(path: Path) -> None:
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(path)


@pytest.mark.parametrize("save", [save_parquet, save_jsonl, save_disk, save_dict])
def test_local_copies_of_every_form_give_the_same(context: MakeContext, tmp_path: Path, save: Callable[[Path], None]) -> None:
    save(tmp_path / "set")
    found = read_source(HuggingFaceSource(name="set", negative="negative"), context())
    text = {p.id: p.text for p in found.passages}
    assert sorted(text.values()) == ["n zero", "p one", "p two", "p zero"]
    shown = [(e.id, e.query, [text[i] for i in e.positives], [text[i] for i in e.negatives]) for e in found.examples]
    assert shown == [
        ("row-0", "q0", ["p zero", "p one"], ["n zero"]), ("row-1", "q1", ["p one"], []), ("row-2", "q2", ["p two"], ["p zero"]),
    ]  # fmt: skip
    assert len({p.source for p in found.passages}) == 4


def test_rows_are_chosen_by_seed_and_keep_their_order(context: MakeContext, tmp_path: Path) -> None:
    save_disk(tmp_path / "set")
    chosen = [e.id for e in read_source(HuggingFaceSource(name="set", max_rows=2), context()).examples]
    assert len(chosen) == 2 and chosen == sorted(chosen)
    assert chosen == [e.id for e in read_source(HuggingFaceSource(name="set", max_rows=2), context()).examples]


def test_bad_rows_are_named_or_counted(context: MakeContext, tmp_path: Path) -> None:
    datasets.Dataset.from_list([*ROWS, {"query": " ", "positive": ["x"], "negative": None}]).save_to_disk(tmp_path / "set")
    with pytest.raises(DataError, match="data set set, row 3: field 'query' is empty"):
        read_source(HuggingFaceSource(name="set"), context())
    assert read_source(HuggingFaceSource(name="set"), context(on_bad_row="skip")).dropped == {"bad row: empty query": 1}


def test_a_column_a_split_or_a_set_that_is_not_there_is_one_error(context: MakeContext, tmp_path: Path) -> None:
    save_dict(tmp_path / "set")
    with pytest.raises(DataError, match="data set set: no column 'text'; it has query, positive, negative"):
        read_source(HuggingFaceSource(name="set", query="text"), context())
    with pytest.raises(DataError, match="split test.* cannot be loaded"):
        read_source(HuggingFaceSource(name="set", split="test"), context())
    with pytest.raises(DataError, match="data set nobody/nothing .*cannot be loaded.*without a network name a folder"):
        read_source(HuggingFaceSource(name="nobody/nothing"), context())


def test_passages_may_be_objects_with_title_and_text(context: MakeContext, tmp_path: Path) -> None:
    rows = [
        {"query": "q0", "pos": [{"docid": "7", "title": "Tin", "text": "a metal"}], "neg": [{"docid": "8", "title": "", "text": "a can"}]},
        {"query": "q1", "pos": [{"docid": "8", "title": "", "text": "a can"}], "neg": [{"docid": "9", "title": "A mine", "text": ""}]},
    ]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "set/data.parquet")
    found = read_source(HuggingFaceSource(name="set", positive="pos", negative="neg"), context())
    shown = {p.id: (p.title, p.text) for p in found.passages}
    assert sorted(shown.values()) == [("", "A mine"), ("", "a can"), ("Tin", "a metal")]
    assert [[shown[i] for i in e.positives] for e in found.examples] == [[("Tin", "a metal")], [("", "a can")]]
    assert [[shown[i] for i in e.negatives] for e in found.examples] == [[("", "a can")], [("", "A mine")]]


def test_an_object_without_text_is_a_bad_row(context: MakeContext, tmp_path: Path) -> None:
    datasets.Dataset.from_list([{"query": "q", "positive": [{"title": " "}]}]).to_parquet(tmp_path / "set/data.parquet")
    with pytest.raises(DataError, match="data set set, row 0: in field 'positive': field 'text' is missing"):
        read_source(HuggingFaceSource(name="set"), context())


def test_a_query_may_bring_its_instruction(context: MakeContext, tmp_path: Path) -> None:
    rows = [{"query": "q0", "positive": "p", "prompt": "find tools"}, {"query": "q1", "positive": "p", "prompt": ""}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "set/data.parquet")
    found = read_source(HuggingFaceSource(name="set", instruction="prompt"), context())
    assert [e.instruction for e in found.examples] == ["find tools", context().instruction]
