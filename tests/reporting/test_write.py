"""The report folder of a real pico run."""

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.evaluation import world

from phasor.dvc_adapter import render
from phasor.errors import ArtifactError
from phasor.evaluation.scores import Scores
from phasor.phases import phase
from phasor.recipe import Recipe
from phasor.reporting import RunReport, write_report
from phasor.runner import make_job

World = tuple[Path, Recipe]


def write(work: Path, recipe: Recipe, out: Path) -> RunReport:
    out.mkdir(parents=True)
    inputs = phase("package").paths("inputs", recipe, work, None, None)
    return write_report(make_job("package", recipe, work), inputs, out)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, RunReport]:
    """Work folder, its `work/report`, and the report."""
    finished, recipe = world.finished(tmp_path_factory)
    work = tmp_path_factory.mktemp("reported") / "work"
    shutil.copytree(finished, work)
    return work, work / "report", write(work, recipe, work / "report")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_report_json_follows_its_published_schema(written: tuple[Path, Path, RunReport]) -> None:
    schema, tree = (json.loads((written[1] / name).read_text()) for name in ("report.schema.json", "report.json"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(tree, schema)
    assert RunReport.model_validate(tree) == written[2]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**tree, "seed": "three"}, schema)


def test_every_file_that_dvc_plots_exists_with_the_columns_it_names(written: tuple[Path, Path, RunReport]) -> None:
    plots = yaml.safe_load(render(world.recipe()))["plots"]
    for plot in plots:
        [(_, settings)] = plot.items()
        for name, column in settings["y"].items():
            found: list[dict[str, Any]] = rows(written[0].parent / name)
            assert found and all(row[column] and row[settings["x"]] for row in found)


def test_the_plots_hold_what_the_run_measured(written: tuple[Path, Path, RunReport]) -> None:
    work, folder, _ = written
    scores = Scores.model_validate_json((work / "embed/evaluation/scores.json").read_bytes())
    shown = {(row["role"], row["model"], row["task"]): float(row["ndcg_at_10"]) for row in rows(folder / "plots/scores.csv")}
    for model in scores.models:
        for task in scores.tasks:
            assert shown["embed", model.name, task] == model.value(task)
        assert shown["embed", model.name, "mean"] == model.value(None)
    losses = rows(folder / "plots/loss.csv")
    assert {row["job"] for row in losses if row["role"] == "rerank"} == {
        "warmup-rerank", "train-rerank-basic", "train-rerank-instruction", "enhance-rerank"
    }
    assert [float(row["loss"]) for row in losses if row["job"] == "warmup-embed"] == [3.0 / (1 + i) for i in range(30)]
    merge = [row for row in rows(folder / "plots/merge.csv") if row["role"] == "embed"]
    assert len(merge) == 30 and math.isclose(json.loads(merge[-1]["coefficients"])["basic"], 0.79)


def test_the_cost_of_all_phases_is_added_up(written: tuple[Path, Path, RunReport]) -> None:
    report = written[2]
    assert report.total.seconds == pytest.approx(sum(p.cost.seconds for p in report.phases))
    assert report.total.peak_memory_bytes == max(p.cost.peak_memory_bytes for p in report.phases)
    assert {p.phase for p in report.phases} == {"collect", "warmup", "train", "merge", "enhance", "evaluate"}


def test_reports_of_jobs_that_the_recipe_no_longer_has_are_left_out(written: tuple[Path, Path, RunReport], tmp_path: Path) -> None:
    work = Path(shutil.copytree(written[0], tmp_path / "work"))
    shutil.copy(work / "reports/train-embed-basic.json", work / "reports/train-embed-gone.json")
    assert write(work, world.recipe(), tmp_path / "out").phases == written[2].phases


def test_a_damaged_report_is_named(written: tuple[Path, Path, RunReport], tmp_path: Path) -> None:
    work = Path(shutil.copytree(written[0], tmp_path / "work"))
    (work / "reports/merge-embed.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"merge-embed\.json was not written by this version"):
        write(work, world.recipe(), tmp_path / "out")
