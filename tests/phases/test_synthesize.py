"""Synthesize: quotas are balanced, protected documents get no query, and an interrupted run asks nothing twice."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.faulty_server import FaultyServer
from tests.phases.data_world import LSA, World

from phasor.data.splits import split_of
from phasor.errors import DataError, EndpointError
from phasor.recipe import Recipe
from phasor.synthesis.requirements import DIFFICULTIES, LENGTHS, TYPES
from phasor.synthesis.rows import SyntheticRow, read_rows

EXTRACTIVE = {"teacher": LSA}


def rows_of(world: World) -> list[SyntheticRow]:
    return read_rows(world.root / "t/synthetic/raw.parquet")


def openai(server: FaultyServer, **settings: Any) -> dict[str, Any]:
    generator = {
        "kind": "openai",
        "base_url": server.url,
        "model": "m",
        "timeout_s": 20,
        "backoff_s": 0.01,
        "concurrency": 2,
        "max_tries": 2,
    }
    return {"teacher": LSA, "generator": generator | settings}


def test_the_extractive_generator_fills_every_quota_and_repeats_itself_byte_by_byte(tmp_path: Path) -> None:
    world = World(tmp_path)
    report = world.run("synthesize", synthesize=EXTRACTIVE)
    rows = rows_of(world)
    assert len(rows) == report.counts["rows"] == report.cost.examples > 60 and report.counts["passages"] == 90
    assert all(row.query and not row.error and row.generator == "extractive" for row in rows)
    asked = Counter(row.type for row in rows)
    assert set(asked) == set(TYPES) and max(asked.values()) <= 2 * min(asked.values())
    difficulties = Counter(row.difficulty for row in rows)
    assert set(difficulties) == set(DIFFICULTIES) and max(difficulties.values()) - min(difficulties.values()) <= 1
    assert all(row.length in [length.label for length in LENGTHS[row.type]] for row in rows)
    assert [row.passage_id for row in rows] == [p.id for p in world.corpus if p.id in {row.passage_id for row in rows}]
    assert len({row.persona for row in rows}) > 5
    first = world.bytes_of("synthetic")
    world.run("synthesize", synthesize=EXTRACTIVE)
    assert world.bytes_of("synthetic") == first


def test_no_query_is_written_for_a_document_of_a_held_out_query_or_split(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run("synthesize", synthesize=EXTRACTIVE)
    collect = Recipe.model_validate(world.settings).collect
    asked = {row.passage_id for row in rows_of(world)}
    assert asked == {p.id for i, p in enumerate(world.corpus) if i < 80 and split_of(p.source, 0, collect) == "train"}


def test_passages_are_chosen_by_the_seed_and_zero_leaves_the_phase_empty(tmp_path: Path) -> None:
    world = World(tmp_path)
    chosen = []
    for seed in (0, 0, 1):
        world.run("synthesize", seed=seed, synthesize=EXTRACTIVE | {"passages_per_task": 10})
        chosen.append([row.passage_id for row in rows_of(world)])
    assert len(chosen[0]) == 10 and chosen[0] == chosen[1] != chosen[2]
    assert world.run("synthesize", synthesize=EXTRACTIVE | {"passages_per_task": 0}).counts["rows"] == 0 and rows_of(world) == []
    two = {"tasks": world.settings["tasks"] | {"other": world.settings["tasks"]["t"]}}
    for number in ({"t": 7}, {"t": 7, "other": 0}):
        world.run("synthesize", **two, synthesize=EXTRACTIVE | {"passages_per_task": number})
        assert len(rows_of(world)) == 7
    assert world.run("synthesize", **two, synthesize=EXTRACTIVE | {"passages_per_task": {"other": 7}}).counts["rows"] == 0


def test_quotas_of_a_model_are_exact_in_every_language(tmp_path: Path) -> None:
    world = World(tmp_path)
    with FaultyServer().running() as server:
        report = world.run("synthesize", synthesize=openai(server) | {"passages_per_task": 60, "languages": ["en", "zh"]})
    rows = rows_of(world)
    assert len(rows) == 60 and all(row.generator == "openai:m" and row.query for row in rows)
    assert set(Counter(row.type for row in rows).values()) == {12} and set(Counter(row.difficulty for row in rows).values()) == {20}
    assert Counter(row.language for row in rows) == {"en": 30, "zh": 30}
    assert report.counts["endpoint_requests"] == 120 and report.cost.tokens == 1200


def test_an_interrupted_run_goes_on_without_asking_anything_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    with FaultyServer().running() as server:
        server.faults = [None] * 30 + [500] * 100
        with pytest.raises(EndpointError, match="Finished work is kept: run the phase again"):
            world.run("synthesize", synthesize=openai(server) | {"passages_per_task": 20})
        answered = [str(request) for request in server.requests[:30]]
        server.faults, server.requests = (), []
        report = world.run("synthesize", synthesize=openai(server) | {"passages_per_task": 20})
        asked = [str(request) for request in server.requests]
    assert not set(asked) & set(answered) and len(asked) == 40 - 30
    assert report.counts["endpoint_answers_reused"] == 30 and len(rows_of(world)) == 20


def test_answers_that_cannot_be_used_leave_rows_with_their_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = World(tmp_path)
    with FaultyServer().running() as server:
        server.answer = lambda request: "no"
        report = world.run("synthesize", synthesize=openai(server) | {"passages_per_task": 5})
    assert [row.error for row in rows_of(world)] == ["invalid_json"] * 5 and report.counts["without_query"] == 5
    assert "none of 5 answers could be used" in caplog.text


def test_personas_come_from_a_file_next_to_the_recipe(tmp_path: Path) -> None:
    world = World(tmp_path)
    (tmp_path / "people.txt").write_text("a keeper of gzip archives\na hasher of passwords\n")
    world.run("synthesize", synthesize=EXTRACTIVE | {"personas": "people.txt", "personas_per_passage": 1})
    by_topic = {row.persona for row in rows_of(world) if int(row.passage_id[1:]) % 7 == 0}
    assert by_topic == {"a keeper of gzip archives"}
    with pytest.raises(DataError, match="nobody.txt does not exist. Correct synthesize.personas"):
        world.run("synthesize", synthesize=EXTRACTIVE | {"personas": "nobody.txt"})
