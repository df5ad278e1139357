"""The phase package through the runner, on an evaluated pico run."""

import contextlib
import io
import json
import re
import shutil
from pathlib import Path

import jsonschema
import pytest
import yaml
from tests.evaluation import world

from phasor.artifacts import Report, sha256_file, verify
from phasor.errors import ArtifactError
from phasor.packaging.golden import read_golden
from phasor.packaging.verification import ALLOWED, verify_bundle
from phasor.phases.package import warn_if_untrained
from phasor.recipe import Recipe, load_recipe, parse_recipe
from phasor.reporting import RunReport
from phasor.runner import execute, make_job

World = tuple[Path, Recipe]


def package(work: Path, recipe: Recipe) -> Report:
    return execute(make_job("package", recipe, work, root=work), work)


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe, Report]:
    """Work folder, recipe and report of a packaged run. Not to be changed."""
    finished, recipe = world.finished(tmp_path_factory)
    work = tmp_path_factory.mktemp("packaged") / "work"
    shutil.copytree(finished, work)
    return work, recipe, package(work, recipe)


def test_the_bundle_holds_every_agreed_file_and_no_other(packaged: tuple[Path, Recipe, Report]) -> None:
    bundle = packaged[0] / "bundle"
    assert {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()} == ALLOWED
    manifest = verify_bundle(bundle)
    assert (manifest.phase, manifest.seed, manifest.config["name"]) == ("package", 3, "pico")
    assert "enhanced/rerank" in manifest.inputs


def test_the_golden_answers_are_those_of_the_tasks_in_turn(packaged: tuple[Path, Recipe, Report]) -> None:
    work, _, report = packaged
    golden = read_golden(work / "bundle")
    assert report.counts == {"golden_queries": len(golden.queries), "golden_pairs": len(golden.pairs)}
    assert len(golden.queries) == 16 and len(golden.pairs) == 32
    assert report.metrics["vector_difference"] < 1e-5 and report.metrics["score_difference"] < 1e-5
    assert 0 <= report.metrics["golden_ordered"] <= 1


def test_the_card_tells_recipe_data_scores_cost_and_digests(packaged: tuple[Path, Recipe, Report]) -> None:
    work, recipe, _ = packaged
    card = (work / "bundle/README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["library_name"] == "sentence-transformers" and head["pipeline_tag"] == "text-ranking" and head["language"] == ["en"]
    for role in recipe.roles:
        assert sha256_file(work / "bundle" / role / "model.safetensors") in card
        table = (work / role / "evaluation/table.md").read_text()
        assert re.search(r"\| enhanced \|.*", table)[0] in card  # type: ignore[index]
    for task in recipe.tasks.values():
        assert task.instruction in card
    assert "| basic | 40 | 12 | 12 | 12 | 12 | jsonl |" in card
    assert "| warmup | 2 | 1,280 | 102,400 |" in card
    assert "seed 3" in card and "torch" in card
    assert load_recipe(work / "bundle/recipe.yaml") == recipe


def test_the_code_in_the_card_runs(packaged: tuple[Path, Recipe, Report]) -> None:
    card = (packaged[0] / "bundle/README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(blocks) == 2
    with contextlib.chdir(packaged[0] / "bundle"), contextlib.redirect_stderr(io.StringIO()):
        for block, shape in zip(blocks, [(1, 1), (1,)], strict=True):
            names: dict[str, object] = {}
            exec(block, names)
            assert names["scores"].shape == shape  # type: ignore[attr-defined]


def test_the_report_follows_its_published_schema(packaged: tuple[Path, Recipe, Report]) -> None:
    folder = packaged[0] / "report"
    verify(folder)
    schema, report = (json.loads((folder / name).read_text()) for name in ("report.schema.json", "report.json"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(report)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(report | {"surprise": 1})
    assert set(report["roles"]) == {"embed", "rerank"} and report["roles"]["embed"]["gate"]["passed"] is True


def test_equal_work_has_equal_bytes(
    packaged: tuple[Path, Recipe, Report], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Path(shutil.copytree(packaged[0], tmp_path / "work"))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert package(work, packaged[1]).outputs["bundle"] == packaged[2].outputs["bundle"]
    assert re.search(r"package: .* 0/6 .*step/s", capsys.readouterr().err)


def test_a_run_without_a_reranker_makes_a_bundle_without_one(packaged: tuple[Path, Recipe, Report], tmp_path: Path) -> None:
    work = Path(shutil.copytree(packaged[0], tmp_path / "work"))
    for name in ("rerank", "bundle", "report"):
        shutil.rmtree(work / name)
    report = package(work, parse_recipe(world.RECIPE, ["roles=[embed]"]))
    verify_bundle(work / "bundle")
    assert not (work / "bundle/rerank").exists() and read_golden(work / "bundle").pairs == []
    assert "score_difference" not in report.metrics
    assert "CrossEncoder" not in (work / "bundle/README.md").read_text()


def test_scores_of_another_version_stop_it_and_leave_nothing(packaged: tuple[Path, Recipe, Report], tmp_path: Path) -> None:
    work = Path(shutil.copytree(packaged[0], tmp_path / "work"))
    for name in ("bundle", "report"):
        shutil.rmtree(work / name)
    (work / "embed/evaluation/scores.json").write_text('{"schema_version": 0}')
    with pytest.raises(ArtifactError, match="scores.json was not written by this version.*Run its phase again"):
        package(work, packaged[1])
    assert not any((work / name).exists() for name in ("bundle", "report", ".bundle.partial", ".report.partial"))


def test_a_final_model_that_learned_nothing_is_told(packaged: tuple[Path, Recipe, Report], caplog: pytest.LogCaptureFixture) -> None:
    report = RunReport.model_validate_json((packaged[0] / "report/report.json").read_bytes())
    models = {model.name: model for model in report.roles["embed"].models}
    models["enhanced"].tasks = models["initial"].tasks
    warn_if_untrained(report)
    assert "package.unchanged role=embed" in caplog.text and "role=rerank" not in caplog.text
