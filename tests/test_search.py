"""`phasor search` on an evaluated pico run."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.evaluation import world

from phasor.cli import main
from phasor.data.records import read_corpus
from phasor.data.templates import render_document
from phasor.errors import DataError, RecipeError
from phasor.evaluation.bm25 import Bm25, Setting
from phasor.evaluation.scores import Scores
from phasor.models.embedder import Embedder
from phasor.models.loading import load_model
from phasor.models.reranker import Reranker
from phasor.recipe import Recipe, dump_recipe, parse_recipe
from phasor.search import search

QUERY = "the gzip of a socket"
HIT = re.compile(r"^(\d+)\. (\d+\.\d{3})(?: \((?:up \d+|down \d+|same)\))?  (\S+) \((\w+)\)$", re.MULTILINE)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    """A copy of an evaluated run, so that the cache of vectors is this module's own."""
    finished, recipe = world.finished(tmp_path_factory)
    work = tmp_path_factory.mktemp("search") / "work"
    return Path(shutil.copytree(finished, work)), recipe


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """One list under the other, whole lines."""
    monkeypatch.setenv("COLUMNS", "80")


def lists(text: str) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """(rank, score, source, task) of the trained models' hits and of BM25's."""
    trained, bm25 = text.split("\nBM25\n")
    return HIT.findall(trained), HIT.findall(bm25)


def test_the_trained_pair_stands_next_to_bm25_with_scores_and_sources(ready: tuple[Path, Recipe]) -> None:
    work, recipe = ready
    text = search(recipe, work, QUERY, "basic", None, 3)
    assert text.startswith(f"{QUERY}\nInstruction: Find the page that answers the question\n40 passages of basic\n")
    trained, bm25 = lists(text)
    corpus = read_corpus(work / "basic/collect/corpus.parquet")
    texts, instruction = [render_document(p.title, p.text) for p in corpus], recipe.tasks["basic"].instruction

    embedder = Embedder(*load_model(work / "embed/enhanced", "embed"), recipe.model.embed)
    reranker = Reranker(*load_model(work / "rerank/enhanced", "rerank"), recipe.model.rerank)
    near = np.argsort(-(embedder.encode_documents(texts) @ embedder.encode_queries([QUERY], [instruction])[0]), kind="stable")
    chances = reranker.score(instruction, QUERY, [texts[row] for row in near])
    best = [(near[i], chances[i]) for i in np.argsort(-chances, kind="stable")[:3]]
    assert trained == [(str(n), f"{chance:.3f}", corpus[row].source, "basic") for n, (row, chance) in enumerate(best, start=1)]

    tuned = Scores.model_validate_json((work / "embed/evaluation/scores.json").read_bytes()).bm25["basic"]
    [found] = Bm25(corpus, Setting(tuned.k1, tuned.b, tuned.with_instruction)).search([QUERY], [instruction], 3)
    sources = {p.id: p.source for p in corpus}
    assert bm25 == [(str(n), f"{score:.3f}", sources[p], "basic") for n, (p, score) in enumerate(found.items(), start=1)]


def test_without_a_task_all_corpora_are_searched(ready: tuple[Path, Recipe]) -> None:
    work, recipe = ready
    text = search(recipe, work, QUERY, None, None, 30)
    assert "80 passages of basic, instruction" in text
    assert {hit[3] for hit in lists(text)[0]} == {"basic", "instruction"}


def test_a_task_that_no_evaluation_has_seen_is_searched_with_what_bm25_has_by_default(ready: tuple[Path, Recipe], tmp_path: Path) -> None:
    work = Path(shutil.copytree(ready[0], tmp_path / "work"))
    scores = work / "embed" / "evaluation" / "scores.json"
    tree = json.loads(scores.read_text())
    del tree["bm25"]["basic"]
    scores.write_text(json.dumps(tree))
    assert "BM25" in search(ready[1], work, QUERY, "basic", None, 5)


def test_an_own_instruction_changes_the_ranking_and_is_shown(ready: tuple[Path, Recipe]) -> None:
    work, recipe = ready
    own = search(recipe, work, QUERY, "basic", "Find something about seeds", 5)
    assert "Instruction: Find something about seeds" in own
    assert lists(own)[0] != lists(search(recipe, work, QUERY, "basic", None, 5))[0]


def test_vectors_are_kept_and_made_anew_when_the_model_changes(ready: tuple[Path, Recipe], tmp_path: Path) -> None:
    work = Path(shutil.copytree(ready[0], tmp_path / "work", ignore=shutil.ignore_patterns(".cache")))
    first = search(ready[1], work, QUERY, "basic", None, 3)
    [cache] = (work / ".cache").glob("*.npy")
    cached = cache.stat().st_mtime_ns
    assert search(ready[1], work, QUERY, "basic", None, 3) == first and cache.stat().st_mtime_ns == cached
    shutil.rmtree(work / "embed/enhanced")
    shutil.copytree(work / "embed/warmup", work / "embed/enhanced")
    search(ready[1], work, QUERY, "basic", None, 3)
    assert len(list((work / ".cache").glob("*.npy"))) == 2


def test_without_a_reranker_the_embedder_answers_alone(ready: tuple[Path, Recipe]) -> None:
    text = search(parse_recipe(world.RECIPE, ["roles=[embed]"]), ready[0], QUERY, "basic", None, 3)
    assert "Trained (embedder)\n" in text and "(up" not in text and "(same)" not in text


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(ready: tuple[Path, Recipe], monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = search(ready[1], ready[0], QUERY, None, None, 5)
    body = text.split("\n\n", 1)[1].splitlines()
    assert max(map(len, body)) <= columns
    assert (" | " in text) is (columns >= 100)


def test_a_query_of_unknown_words_finds_nothing_by_bm25_and_says_so(ready: tuple[Path, Recipe]) -> None:
    trained, bm25 = search(ready[1], ready[0], "qqqq zzzz", "basic", None, 3).split("\nBM25\n")
    assert "nothing found" in bm25 and len(HIT.findall(trained)) == 3


def test_a_question_that_cannot_be_answered_is_one_message(ready: tuple[Path, Recipe]) -> None:
    work, recipe = ready
    with pytest.raises(RecipeError, match="--task 'cod' is not a task of the recipe. Choose one of basic, instruction"):
        search(recipe, work, QUERY, "cod", None, 3)
    with pytest.raises(DataError, match="the query is empty"):
        search(recipe, work, "  ", "basic", None, 3)
    with pytest.raises(DataError, match="-k 0 shows nothing"):
        search(recipe, work, QUERY, "basic", None, 0)


@pytest.mark.parametrize("gone", [".", "embed/enhanced", "rerank/enhanced"])
def test_an_unfinished_run_is_one_message_with_the_way_out(
    ready: tuple[Path, Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str], gone: str
) -> None:
    work = Path(shutil.copytree(ready[0], tmp_path / "work"))
    shutil.rmtree(work / gone)
    (tmp_path / "params.yaml").write_text(dump_recipe(ready[1]))
    assert main(["search", QUERY, "--recipe", str(tmp_path / "params.yaml"), "--work", str(work)]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("phasor search: ") and str(work) in line and "dvc repro" in line
