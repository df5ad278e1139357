"""`phasor init`, as a new user meets it: a folder, a JSONL file, a BEIR folder; then the data phases run there."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from phasor.cli import main
from phasor.config.tasks import BeirSource, FolderSource, JsonlSource
from phasor.data.records import read_examples
from phasor.errors import PhasorError, RecipeError
from phasor.project import init_project
from phasor.recipe import load_recipe

from .conftest import WORDS, write_documents

DATA = ("collect", "synthesize", "filter", "mine")


def write_notes(folder: Path, number: int = 24) -> None:
    """Markdown, text and HTML files, a few sections each."""
    rng = random.Random(1)
    folder.mkdir()
    for i in range(number):
        words = rng.sample(WORDS, 8)
        parts = [
            f"# The {words[k]} of shelf{i}\n\nA {' '.join(rng.sample(words, 4))} lies on shelf{i}, because the {words[k]} is kept dry.\n"
            for k in range(4)
        ]
        if i % 3 == 2:
            html = "".join(f"<h1>{p.splitlines()[0][2:]}</h1><p>{p.splitlines()[2]}</p>" for p in parts)
            (folder / f"n{i}.html").write_text(f"<html><body>{html}</body></html>")
        else:
            (folder / f"n{i}.{('md', 'txt')[i % 3]}").write_text("\n".join(parts))


def write_beir(folder: Path) -> None:
    write_documents(folder, "basic")
    corpus = [json.loads(line) for line in (folder / "basic.jsonl").read_text().splitlines()]
    examples = [json.loads(line) for line in (folder / "basic-examples.jsonl").read_text().splitlines()]
    (folder / "beir" / "qrels").mkdir(parents=True)
    (folder / "beir" / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": p["id"], "text": p["text"], "title": ""}) + "\n" for p in corpus)
    )
    (folder / "beir" / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": f"q{i}", "text": e["query"]}) + "\n" for i, e in enumerate(examples))
    )
    rows = "".join(f"q{i}\t{e['positives'][0]}\t1\n" for i, e in enumerate(examples))
    (folder / "beir" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)


def run_data_phases(project: Path, *overrides: str) -> None:
    for phase in DATA:
        arguments = [phase, "--task", "documents", "--recipe", str(project / "params.yaml"), "--work", str(project / "work")]
        changes = [
            "mine.teacher={kind: lsa, dims: 8}",
            "collect.test_share=0.2",
            "collect.dev_share=0.15",
            "collect.heldout_share=0.15",
            *overrides,
        ]
        assert main([*arguments, *(part for change in changes for part in ("--set", change))]) == 0


def test_a_folder_becomes_a_project_whose_data_phases_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_notes(tmp_path / "notes")
    project = tmp_path / "project"
    assert main(["init", str(project), "--documents", str(tmp_path / "notes")]) == 0
    said = capsys.readouterr().out
    assert f"cd {project}" in said and "phasor repro" in said
    recipe = load_recipe(project / "params.yaml")
    assert recipe.name == "project" and list(recipe.tasks) == ["documents"]
    assert recipe.tasks["documents"].sources == (FolderSource(path=str(tmp_path / "notes")),)
    assert "Python" not in recipe.tasks["documents"].instruction
    assert (project / ".git").is_dir() and (project / ".dvc").is_dir()
    stages = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    assert stages["collect-documents"]["deps"] == [str(tmp_path / "notes")]
    status = subprocess.run(["git", "status", "--porcelain"], cwd=project, check=True, capture_output=True, text=True).stdout
    assert "params.yaml" in status and "work" not in status
    run_data_phases(project)
    mined = read_examples(project / "work" / "documents" / "mined" / "train.parquet")
    assert len(mined) > 20 and any(example.negatives for example in mined)


def test_a_jsonl_file_brings_the_queries_beside_it(tmp_path: Path) -> None:
    write_documents(tmp_path, "basic")
    (tmp_path / "basic-examples.jsonl").rename(tmp_path / "examples.jsonl")
    init_project(tmp_path / "project", tmp_path / "basic.jsonl", "documents")
    source = load_recipe(tmp_path / "project" / "params.yaml").tasks["documents"].sources[0]
    assert source == JsonlSource(corpus=str(tmp_path / "basic.jsonl"), examples=str(tmp_path / "examples.jsonl"))
    run_data_phases(tmp_path / "project")
    assert read_examples(tmp_path / "project" / "work" / "documents" / "collect" / "test.parquet")


def test_a_beir_folder_is_recognised(tmp_path: Path) -> None:
    write_beir(tmp_path)
    init_project(tmp_path / "project", tmp_path / "beir", "documents")
    assert load_recipe(tmp_path / "project" / "params.yaml").tasks["documents"].sources == (BeirSource(path=str(tmp_path / "beir")),)
    run_data_phases(tmp_path / "project")


@pytest.mark.parametrize("name", ["minilm", "lychee-0.5b"])
def test_other_recipes_can_start_a_project_and_keep_their_comments(name: str, tmp_path: Path) -> None:
    write_documents(tmp_path, "basic")
    init_project(tmp_path / "project", tmp_path / "basic.jsonl", name)
    text = (tmp_path / "project" / "params.yaml").read_text()
    assert text.startswith("# ") and text.count("#") >= 3
    recipe = load_recipe(tmp_path / "project" / "params.yaml")
    assert list(recipe.tasks) == ["documents"] and recipe.synthesize.passages_of("documents") > 0


def test_a_folder_may_be_called_what_yaml_takes_for_something_else(tmp_path: Path) -> None:
    write_notes(tmp_path / "notes")
    init_project(tmp_path / "on", tmp_path / "notes", "documents")
    assert load_recipe(tmp_path / "on" / "params.yaml").name == "on"


def test_a_relative_path_means_where_the_user_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_notes(tmp_path / "notes")
    monkeypatch.chdir(tmp_path)
    init_project(Path("project"), Path("notes"), "documents")
    assert load_recipe(Path("project/params.yaml")).tasks["documents"].sources == (FolderSource(path=str(tmp_path / "notes")),)


def test_mistakes_are_named_and_leave_nothing_behind(tmp_path: Path) -> None:
    write_notes(tmp_path / "notes")
    project = tmp_path / "project"
    with pytest.raises(PhasorError, match="none is neither a folder nor a .jsonl file"):
        init_project(project, tmp_path / "none", "documents")
    with pytest.raises(PhasorError, match="n0.md is neither"):
        init_project(project, tmp_path / "notes" / "n0.md", "documents")
    with pytest.raises(RecipeError, match="no recipe is called 'nope'; there are .*documents.*quickstart"):
        init_project(project, tmp_path / "notes", "nope")
    assert not project.exists()
    project.mkdir()
    (project / "mine.txt").write_text("keep")
    with pytest.raises(PhasorError, match="is not empty. Name a new folder"):
        init_project(project, tmp_path / "notes", "documents")
    assert [p.name for p in project.iterdir()] == ["mine.txt"]
    (tmp_path / "file").touch()
    with pytest.raises(PhasorError, match="file is not a folder"):
        init_project(tmp_path / "file", tmp_path / "notes", "documents")


def test_a_project_cannot_lie_within_its_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = tmp_path / "notes"
    write_notes(notes)
    (tmp_path / "link").symlink_to(notes)
    before = sorted(notes.iterdir())
    monkeypatch.chdir(notes)
    (notes / "deep").mkdir()
    for directory in (Path("project"), Path("deep"), Path("deep/project"), tmp_path / "link/project"):
        with pytest.raises(PhasorError, match="lies within the documents, .*. Name a new folder outside of them"):
            init_project(directory, Path(), "documents")
    assert sorted(notes.iterdir()) == sorted([*before, notes / "deep"]) and not list((notes / "deep").iterdir())


@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_in_the_middle_is_undone(existing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_notes(tmp_path / "notes")
    project = tmp_path / "project"
    if existing:
        project.mkdir()
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # no git here
    with pytest.raises(PhasorError, match="project cannot be made a project: .*git"):
        init_project(project, tmp_path / "notes", "documents")
    assert project.exists() == existing
    assert not existing or list(project.iterdir()) == []


def test_a_disk_that_gets_full_on_the_way_leaves_nothing_either(tmp_path: Path) -> None:
    write_notes(tmp_path / "notes")
    init_project(tmp_path / "whole", tmp_path / "notes", "documents")
    least, most = sorted((tmp_path / "whole" / name).stat().st_size for name in ("params.yaml", "dvc.yaml"))
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)"
    limited = f"import resource, sys\nfrom phasor.cli import main\n{limit}\nmain(sys.argv[2:])"
    arguments = ["init", str(tmp_path / "half"), "--documents", str(tmp_path / "notes")]
    command = [sys.executable, "-c", limited, str((least + most) // 2), *arguments]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert "dvc.yaml cannot be written: File too large" in told
    assert not (tmp_path / "half").exists()
