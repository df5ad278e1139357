"""Collect: splits share no document, near-duplicates of the test set are gone and counted, mistakes have one message."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phasor.artifacts import Report
from phasor.data.near_duplicates import duplicates_of
from phasor.data.records import SPLITS, Example, Passage, read_corpus, read_examples
from phasor.data.sources import Collected
from phasor.errors import DataError
from phasor.phases import Job, Paths
from phasor.phases.collect import drop_duplicates, drop_near_test, drop_short, run
from phasor.recipe import Recipe, load_recipe

Row = dict[str, Any]


class Result:
    """What a run of the phase left behind."""

    def __init__(self, folder: Path, report: Report) -> None:
        self.report = report
        self.counts = report.counts
        self.corpus = {p.id: p for p in read_corpus(folder / "corpus.parquet")}
        self.splits = {split: read_examples(folder / f"{split}.parquet") for split in SPLITS}

    def documents(self, split: str) -> set[str]:
        return {self.corpus[positive].source for e in self.splits[split] for positive in e.positives}

    def texts(self, split: str) -> set[str]:
        return {self.corpus[positive].text for e in self.splits[split] for positive in e.positives}


def collect(root: Path, sources: Sequence[Row], *, seed: int = 0, out: str = "out", collect: Row | None = None, **task: Any) -> Result:
    recipe = Recipe.model_validate(
        {"seed": seed, "tasks": {"t": {"instruction": "find it", "sources": sources} | task}, "collect": collect or {}}
    )
    folder = root / out
    folder.mkdir()
    return Result(folder, run(Job(recipe, "collect", task="t", root=root), Paths({}), Paths({"data": folder})))


def write(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def text_of(i: int, part: int = 0) -> str:
    return f"In part{part} of report{i} the station{i * 7} measured wind{i % 13} over lake{i % 17} and stored it as record{i * 31 + part}."


def labelled(root: Path, documents: int, parts: int = 2) -> list[Row]:
    """A corpus of documents with several passages, and one query for each passage."""
    passages = [{"id": f"{i}-{k}", "text": text_of(i, k), "source": f"doc{i}"} for i in range(documents) for k in range(parts)]
    write(root / "c.jsonl", passages)
    write(root / "q.jsonl", [{"query": f"what does station report {p['id']} hold in store", "positives": [p["id"]]} for p in passages])
    return [{"kind": "jsonl", "corpus": "c.jsonl", "examples": "q.jsonl"}]


def test_no_document_is_in_two_splits_and_sizes_are_kept(tmp_path: Path) -> None:
    found = collect(tmp_path, labelled(tmp_path, 300), num_test=20, num_dev=10, num_heldout=8, num_train=100)
    assert {split: len(rows) for split, rows in found.splits.items()} == {"train": 100, "dev": 10, "heldout": 8, "test": 20}
    for i, split in enumerate(SPLITS):
        for other in SPLITS[i + 1 :]:
            assert found.documents(split).isdisjoint(found.documents(other))
    assert found.counts["passages"] == 600 and found.counts["documents"] == 300
    assert found.counts["dropped: train: more than asked for"] > 300


def test_equal_runs_have_equal_bytes_and_another_seed_another_split(tmp_path: Path) -> None:
    sources = labelled(tmp_path, 60)
    first = collect(tmp_path, sources, out="a")
    collect(tmp_path, sources, out="b")
    other = collect(tmp_path, sources, out="c", seed=1)
    for name in ("corpus", *SPLITS):
        assert (tmp_path / f"a/{name}.parquet").read_bytes() == (tmp_path / f"b/{name}.parquet").read_bytes()
    assert first.documents("test") != other.documents("test")


def test_near_duplicates_of_test_texts_leave_train_and_are_counted(tmp_path: Path) -> None:
    labelled(tmp_path, 120, parts=1)
    passages = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    # Every passage stands in a second document, one word different in its 25, and has a query of its own there.
    twins = [
        {"id": p["id"] + "x", "text": p["text"] + " " + p["text"].replace("station", "stop"), "source": p["source"] + "-copy"}
        for p in passages
    ]
    doubled = [p | {"text": p["text"] + " " + p["text"].replace("station", "stop") + " Really."} for p in passages]
    write(tmp_path / "c.jsonl", doubled + twins)
    write(tmp_path / "q.jsonl", [{"query": f"entirely own words number {p['id']}", "positives": [p["id"]]} for p in doubled + twins])
    found = collect(tmp_path, [{"kind": "jsonl", "corpus": "c.jsonl", "examples": "q.jsonl"}])
    assert found.counts["dropped: train passage near a test passage"] > 5
    assert not duplicates_of(sorted(found.texts("train")), sorted(found.texts("test")), 0.8)


def test_near_duplicates_of_test_queries_leave_train() -> None:
    passages = [Passage("a", "alpha text", source="a"), Passage("b", "beta text", source="b")]
    train = [
        Example("1", "How does one read a Gzip file line by line?", "i", ["a"]),
        Example("2", "unrelated question of mine", "i", ["a"]),
    ]
    kept, counts = drop_near_test(train, [Example("3", "how does one read a gzip file, line by line", "i", ["b"])], passages, 0.8)
    assert (
        [e.id for e in kept] == ["2"] and counts["train query near a test query"] == 1 and counts["train passage near a test passage"] == 0
    )


def test_repeats_are_dropped_and_examples_follow_the_passage_that_is_kept() -> None:
    passages = [Passage("a", "one  text"), Passage("b", "one text"), Passage("c", "one text", title="T"), Passage("d", "x")]
    examples = [Example("1", "Q", "i", ["b"]), Example("2", "q", "i", ["a"]), Example("3", "r", "i", ["d"], ["b"])]
    found = drop_duplicates(Collected(passages, examples))
    assert [p.id for p in found.passages] == ["a", "c", "d"]
    assert [(e.id, e.positives, e.negatives) for e in found.examples] == [("1", ["a"], []), ("3", ["d"], ["a"])]
    assert found.dropped == {"passage repeats another": 1, "query repeats another": 1}
    short = drop_short(found, 3)
    assert (
        [e.id for e in short.examples] == ["1"]
        and short.dropped["passage too short"] == 1
        and short.dropped["query without a passage"] == 1
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from(["alpha beta gamma", "delta eps zeta", "eta theta iota"])), min_size=8, max_size=40
    ),
    st.lists(st.lists(st.integers(0, 39), min_size=1, max_size=3), min_size=4, max_size=40),
    st.integers(0, 3),
)
def test_property_splits_share_no_document_and_no_test_text_is_a_training_positive(
    tmp_path_factory: pytest.TempPathFactory, passages: list[tuple[int, str]], queries: list[list[int]], seed: int
) -> None:
    root = tmp_path_factory.mktemp("data")
    write(
        root / "c.jsonl", [{"id": f"p{i}", "text": f"{text} number {i % 5}", "source": f"d{doc}"} for i, (doc, text) in enumerate(passages)]
    )
    rows = [{"query": f"query {i} wants", "positives": [f"p{p % len(passages)}" for p in ps]} for i, ps in enumerate(queries)]
    write(root / "q.jsonl", rows)
    shares = {"min_passage_chars": 5, "test_share": 0.3, "dev_share": 0.2, "heldout_share": 0.2}
    try:
        found = collect(root, [{"kind": "jsonl", "corpus": "c.jsonl", "examples": "q.jsonl"}], seed=seed, collect=shares)
    except DataError as error:
        assert "too few queries" in str(error)
        return
    owner: dict[str, str] = {}
    for split in SPLITS:
        for document in found.documents(split):
            assert owner.setdefault(document, split) == split
    assert found.texts("train").isdisjoint(found.texts("test"))
    assert all(e.positives and set(e.positives) <= found.corpus.keys() for rows in found.splits.values() for e in rows)


def test_documents_without_queries_get_held_out_ones_taken_out_of_their_passages(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for i in range(80):
        body = f"Sensor{i} reports the wind over lake{i} every minute. " + text_of(i) + " Its battery lasts for about two years at least."
        title = f"How sensor {i} is mounted on the tower"
        (tmp_path / f"docs/{i}.md").write_text(f"# {title}\n\n{title}: {body}\n")
    found = collect(tmp_path, [{"kind": "folder", "path": "docs"}], num_test=10, num_dev=5, num_heldout=4, collect={"test_share": 0.3})
    assert found.splits["train"] == [] and len(found.splits["test"]) == 10 and 0 < len(found.splits["dev"]) <= 5
    for split in ("dev", "heldout", "test"):
        for example in found.splits[split]:
            passage = found.corpus[example.positives[0]]
            assert example.query.startswith("How sensor") and example.query not in passage.text and passage.title == ""
            assert example.provenance == "heading"
    assert found.counts["documents moved to fill a split"] == 0


def test_two_sources_may_use_the_same_ids(tmp_path: Path) -> None:
    sources = labelled(tmp_path, 40)
    write(tmp_path / "more.jsonl", [{"id": "0-0", "text": "A text that stands in the other source alone."}])
    found = collect(tmp_path, [*sources, {"kind": "jsonl", "corpus": "more.jsonl"}])
    assert {"0:0-0", "1:0-0"} <= found.corpus.keys() and all(e.positives[0].startswith("0:") for e in found.splits["train"])


def test_positives_lost_to_another_split_are_counted_and_stay_known(tmp_path: Path) -> None:
    sources = labelled(tmp_path, 200, parts=1)
    ids = [f"{i}-0" for i in range(200)]
    rows = [{"id": i, "query": f"which reports speak of {i} and the next", "positives": [i, j]} for i, j in zip(ids, ids[1:], strict=False)]
    rows += [{"id": "again", "query": rows[0]["query"], "positives": [ids[150]]}]
    write(tmp_path / "q.jsonl", rows)
    found = collect(tmp_path, sources, collect={"near_duplicate_jaccard": 1.0})
    asked = {e.id: e for split in SPLITS for e in found.splits[split]}
    wanted = {row["id"]: row["positives"] for row in rows} | {"0-0": [*rows[0]["positives"], ids[150]]}
    lost = {split: sum(len(e.known) for e in found.splits[split] if e.id not in ("0-0", "again")) for split in SPLITS}
    assert lost["train"] > 5 and lost["test"] == 0
    assert all(found.counts.get(f"dropped: {split}: positives belong to another split", 0) == lost[split] for split in SPLITS)
    for example in asked.values():
        labels = wanted["0-0"] if example.id == "again" else wanted[example.id]
        assert sorted(example.positives + example.known) == sorted(labels)


def test_labels_of_which_none_is_usable_are_an_error_and_no_task_of_headings(tmp_path: Path) -> None:
    labelled(tmp_path, 60)
    named = [{"kind": "jsonl", "corpus": "c.jsonl", "examples": "q.jsonl"}]
    write(tmp_path / "q.jsonl", [])
    with pytest.raises(DataError, match=r"collect t: the source of kind jsonl \(examples q.jsonl\) has queries, .*: it holds none"):
        collect(tmp_path, named)
    write(tmp_path / "q.jsonl", [{"query": "who", "positives": ["gone"]}, {"query": "", "positives": ["0-0"]}] * 3)
    with pytest.raises(DataError, match=r"none can be used: bad row: unknown passage \(3\), bad row: empty query \(3\)"):
        collect(tmp_path, named, out="b", collect={"on_bad_row": "skip"})
    (tmp_path / "set/qrels").mkdir(parents=True)
    (tmp_path / "set/corpus.jsonl").write_text((tmp_path / "c.jsonl").read_text().replace('"id"', '"_id"'))
    write(tmp_path / "set/queries.jsonl", [{"_id": "q", "text": "who"}])
    (tmp_path / "set/qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t0-0\t0\n")
    with pytest.raises(DataError, match=r"the source of kind beir \(path set\) has queries, but none can be used"):
        collect(tmp_path, [{"kind": "beir", "path": "set"}], out="c")
    write(tmp_path / "q.jsonl", [{"query": "what stands in it", "positives": ["short"]}])
    with (tmp_path / "c.jsonl").open("a") as stream:
        stream.write('{"id": "short", "text": "brief"}\n')
    with pytest.raises(DataError, match="0 documents with queries give too few queries"):
        collect(tmp_path, named, out="d")


def test_labels_that_are_used_for_nothing_raise_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sources = labelled(tmp_path, 400)
    few = {"num_test": 4, "num_dev": 4, "num_heldout": 4}
    found = collect(tmp_path, sources, **few)
    unused = sum(found.counts[f"dropped: {split}: more than asked for"] for split in ("test", "dev", "heldout"))
    assert f"collect t: {unused} of 800 labelled queries are used for nothing" in caplog.text and unused > 80
    caplog.clear()
    collect(tmp_path, sources, out="b", collect={"test_share": 0.01, "dev_share": 0.01, "heldout_share": 0.01}, **few)
    assert "used for nothing" not in caplog.text


def test_texts_that_two_data_sets_share_fall_into_the_same_split(tmp_path: Path) -> None:
    texts = [text_of(i) for i in range(300)]
    rows = [{"query": f"own words of first set {i}", "positive": text} for i, text in enumerate(texts)]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "first/data.parquet")
    rows = [
        {"query": f"other words of second {i}", "positive": [{"title": "-", "text": text.replace(" ", "  ")}]}
        for i, text in enumerate(texts)
    ]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "second/data.parquet")
    shares = {"test_share": 0.2, "near_duplicate_jaccard": 1.0}
    first, second = (collect(tmp_path, [{"kind": "huggingface", "name": name}], out=f"{name}-out", collect=shares)
                     for name in ("first", "second"))  # fmt: skip

    def plain(found: Result, split: str) -> set[str]:
        return {" ".join(text.split()) for text in found.texts(split)}

    assert len(plain(first, "test")) > 30 and plain(first, "test") == plain(second, "test")
    assert plain(first, "train").isdisjoint(plain(second, "test")) and plain(second, "train").isdisjoint(plain(first, "test"))


def test_a_bar_follows_what_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    sources = labelled(tmp_path, 40)
    rows = [{"query": f"q {i}", "positive": text_of(i, 5)} for i in range(30)]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "set/data.parquet")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.txt").write_text(text_of(0, 9))
    collect(tmp_path, [*sources, {"kind": "huggingface", "name": "set"}, {"kind": "folder", "path": "docs"}])
    drawn = capsys.readouterr().err
    for what in ("collect t: c.jsonl", "collect t: q.jsonl", "B/s]", "collect t: set", "0/30 [", "row/s]", "0/1 [", "file/s]"):
        assert what in drawn


def test_pairs_stay_together_when_there_are_too_many(tmp_path: Path) -> None:
    labelled(tmp_path, 200, parts=1)
    rows = [
        {"id": f"{i}-{kind}", "query": f"the query of {i}", "positives": [f"{i}-0"], "pair_id": f"pair{i}", "instruction": kind}
        for i in range(200)
        for kind in ("og", "changed")
    ]
    write(tmp_path / "q.jsonl", rows)
    found = collect(tmp_path, [{"kind": "jsonl", "corpus": "c.jsonl", "examples": "q.jsonl"}], num_test=11)
    pairs = [e.pair_id for e in found.splits["test"]]
    assert len(pairs) == 10 and all(pairs.count(pair) == 2 for pair in pairs)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (0, r"collect t: 0 documents .* give too few queries: train 0, dev 0, heldout 0, test 0.*at least 4 of them"),
        (1, r"collect t: 1 documents with queries give too few queries: train 1, dev 0, heldout 0, test 0"),
        (3, r"collect t: 3 documents with queries give too few queries"),
    ],
)
def test_an_empty_task_and_one_of_few_examples_are_one_error(tmp_path: Path, number: int, message: str) -> None:
    sources = labelled(tmp_path, number, parts=1)
    with pytest.raises(DataError, match=message):
        collect(tmp_path, sources)


def test_four_documents_are_enough_and_the_moves_are_counted(tmp_path: Path) -> None:
    found = collect(tmp_path, labelled(tmp_path, 4, parts=1), collect={"near_duplicate_jaccard": 1.0})
    assert {split: len(rows) for split, rows in found.splits.items()} == dict.fromkeys(SPLITS, 1)
    assert found.counts["documents moved to fill a split"] >= 2


def test_bad_rows_are_skipped_and_counted_where_the_recipe_says_so(tmp_path: Path) -> None:
    sources = labelled(tmp_path, 40)
    with (tmp_path / "c.jsonl").open("ab") as stream:
        stream.write(b'{"id": "0-0", "text": "again and again"}\n{"id": "u"}\n{"id": "v", "text": ""}\n\xff\n')
    with pytest.raises(DataError, match="c.jsonl, line 81: id '0-0' occurs more than once"):
        collect(tmp_path, sources)
    (tmp_path / "out").rmdir()
    found = collect(tmp_path, sources, collect={"on_bad_row": "skip"})
    reasons = ("repeated id", "no text", "empty text", "not UTF-8")
    assert [found.counts[f"dropped: bad row: {reason}"] for reason in reasons] == [1, 1, 1, 1] and found.counts["passages"] == 80


@pytest.mark.slow
def test_the_quickstart_has_3000_passages_and_200_test_queries(tmp_path: Path) -> None:
    recipe = load_recipe(Path(__file__).parents[2] / "recipes/quickstart.yaml")
    found = collect(tmp_path, [source.model_dump() for source in recipe.tasks["basic"].sources])
    assert found.counts["passages"] >= 3000 and len(found.splits["test"]) == 200
    assert not duplicates_of(sorted(found.texts("train")), sorted(found.texts("test")), 0.8)
    assert not {e.query.casefold() for e in found.splits["train"]} & {e.query.casefold() for e in found.splits["test"]}
