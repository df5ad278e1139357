"""Mine: collected and kept synthetic pairs get negatives, none of which is a known positive."""

from pathlib import Path

import pytest
from tests.phases.data_world import LSA, World

from phasor.data.records import Example, read_examples, write_examples
from phasor.errors import DataError

MINE = {"teacher": LSA, "num_negatives": 4, "max_rank": 30, "relative_margin": 0.0}


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    kept = [
        Example(f"s{i}", f"what does handle{i} return", "find it", [f"p{i}"], task="t", provenance="synthetic:factual") for i in (1, 2, 3)
    ]
    write_examples(kept, tmp_path / "t/filtered/kept.parquet")
    return made


def test_train_is_collected_plus_synthetic_and_every_split_gets_negatives(world: World) -> None:
    report = world.run("mine", mine=MINE)
    mined = {split: read_examples(world.root / f"t/mined/{split}.parquet") for split in ("train", "dev", "heldout")}
    assert [e.id for e in mined["train"]] == [f"e{i}" for i in range(0, 80, 8)] + ["s1", "s2", "s3"]
    assert not (world.root / "t/mined/test.parquet").exists()
    ids = {p.id for p in world.corpus}
    for example in (e for rows in mined.values() for e in rows):
        assert len(example.negatives) == 4 and set(example.negatives) <= ids - set(example.positives)
    assert report.counts["synthetic"] == 3 and report.counts["train"] == 13 and report.counts["train_negatives"] == 52
    assert report.cost.tokens > 90 * 30


def test_positives_known_from_another_split_are_no_negatives(world: World) -> None:
    query = World.example(0).query
    world.write("dev", [Example("d", query, "find it", ["p1"]), Example("d2", query, "find it", ["p2"])])
    world.run("mine", mine=MINE)
    first = read_examples(world.root / "t/mined/train.parquet")[0]
    assert not {"p1", "p2"} & set(first.negatives)


def test_equal_runs_have_equal_bytes(world: World) -> None:
    world.run("mine", mine=MINE | {"sampling": "random"})
    first = world.bytes_of("mined")
    world.run("mine", mine=MINE | {"sampling": "random", "search_batch_size": 2})
    assert world.bytes_of("mined") == first


def test_a_task_without_a_training_pair_is_one_error(world: World) -> None:
    world.write("train", [])
    write_examples([], world.root / "t/filtered/kept.parquet")
    with pytest.raises(DataError, match="mine: task 't' has no training pair.*raise synthesize.passages_per_task"):
        world.run("mine", mine=MINE)


def test_one_training_pair_is_enough(world: World) -> None:
    world.write("train", [World.example(5)])
    write_examples([], world.root / "t/filtered/kept.parquet")
    assert world.run("mine", mine=MINE).counts["train"] == 1
