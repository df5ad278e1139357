"""`phasor search`: the best passages of the trained pair next to BM25's.

Without a task, the corpora of all tasks are searched together, with the instruction of the first task. The corpus is
encoded once and kept under `.cache` in the work folder, under the digest of model and texts.
"""

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phasor.artifacts import digest_artifact, digest_json, read_record
from phasor.data.records import Passage, read_corpus
from phasor.data.templates import render_passage
from phasor.errors import ArtifactError, DataError, RecipeError
from phasor.evaluation.bm25 import Bm25, Setting
from phasor.evaluation.scores import Scores
from phasor.recipe import Recipe

if TYPE_CHECKING:
    from phasor.models.embedder import Embedder

FIRST_STAGE = 100  # passages that the embedder hands to the reranker
_SIDE_BY_SIDE = 100  # columns of terminal from which two lists fit beside each other


@dataclass(frozen=True)
class Hit:
    """One found passage.

    Attributes:
        passage: what was found; its id starts with its task.
        score: of the last stage.
        move: places gained against the stage before; None without one.
    """

    passage: Passage
    score: float
    move: int | None = None


def search(recipe: Recipe, work: Path, query: str, task: str | None, instruction: str | None, k: int) -> str:
    """Search and return what to print, as wide as the terminal.

    Args:
        recipe: names tasks and models.
        work: folder of a finished run.
        query: what to look for.
        task: whose corpus to search; all of them if None.
        instruction: what kind of passage is wanted; the task's, or the first task's, if None.
        k: passages to show.

    Raises:
        PhasorError: unknown task, empty query, or a run that is not finished.
    """
    if not query.strip():
        raise DataError("the query is empty. Say what to look for.")
    if k < 1:
        raise DataError(f"-k {k} shows nothing. Ask for at least 1 passage.")
    tasks = _tasks(recipe, task)
    _check_finished(recipe, work, tasks)
    instruction = instruction or recipe.tasks[tasks[0]].instruction
    passages = _passages(work, tasks)
    trained = _trained(recipe, work, passages, query, instruction)[:k]
    bm25 = _bm25(work, tasks, passages, query, instruction, k)
    stages = "embedder, then reranker" if "rerank" in recipe.roles else "embedder"
    head = f"{query}\nInstruction: {instruction}\n{len(passages):,} passages of {', '.join(tasks)}\n"
    width = shutil.get_terminal_size((100, 24)).columns
    return head + "\n" + _layout((f"Trained ({stages})", trained), ("BM25", bm25), width)


def _tasks(recipe: Recipe, task: str | None) -> list[str]:
    if task is None:
        return list(recipe.tasks)
    if task not in recipe.tasks:
        raise RecipeError(f"--task {task!r} is not a task of the recipe. Choose one of {', '.join(recipe.tasks)}.")
    return [task]


def _check_finished(recipe: Recipe, work: Path, tasks: Sequence[str]) -> None:
    needed = [work / task / "collect" / "corpus.parquet" for task in tasks]
    needed += [work / role / "enhanced" / "config.json" for role in recipe.roles]
    if missing := [path for path in needed if not path.is_file()]:
        raise ArtifactError(f"{missing[0]} is missing: the run is not finished. Run `dvc repro`, or name its folder with --work.")


def _passages(work: Path, tasks: Sequence[str]) -> list[Passage]:
    """Passages of all tasks; a text that several tasks hold appears once."""
    found: dict[str, Passage] = {}
    for task in tasks:
        for passage in read_corpus(work / task / "collect" / "corpus.parquet"):
            found.setdefault(render_passage(passage), replace(passage, id=f"{task}/{passage.id}"))
    return list(found.values())


def _trained(recipe: Recipe, work: Path, passages: Sequence[Passage], query: str, instruction: str) -> list[Hit]:
    """Hits of the embedder, reordered by the reranker if the recipe has one."""
    from phasor.models.embedder import Embedder
    from phasor.models.loading import load_model, make_network
    from phasor.models.reranker import Reranker

    folder = work / "embed" / "enhanced"
    embedder = make_network(*load_model(folder, "embed"), recipe.model.embed, "embed")
    assert isinstance(embedder, Embedder)
    batch = recipe.evaluate.batch_size
    vectors = _vectors(embedder, folder, passages, work / ".cache", batch)
    scores = vectors @ embedder.encode_queries([query], [instruction], batch)[0]
    order = np.argsort(-scores, kind="stable")[:FIRST_STAGE]
    if "rerank" not in recipe.roles:
        return [Hit(passages[row], float(scores[row])) for row in order]
    reranker = make_network(*load_model(work / "rerank" / "enhanced", "rerank"), recipe.model.rerank, "rerank")
    assert isinstance(reranker, Reranker)
    chances = reranker.score(instruction, query, [render_passage(passages[row]) for row in order], batch)
    places = np.argsort(-chances, kind="stable")
    return [Hit(passages[order[old]], float(chances[old]), int(old) - new) for new, old in enumerate(places)]


def _vectors(embedder: "Embedder", folder: Path, passages: Sequence[Passage], cache: Path, batch_size: int) -> NDArray[np.float32]:
    """[P, D] vectors of the corpus, from the cache if model, settings and texts are the same."""
    texts = [render_passage(passage) for passage in passages]
    key = digest_json([digest_artifact(folder), embedder.config.model_dump(mode="json"), texts])
    path = cache / f"{key[:32]}.npy"
    if path.is_file():
        stored: NDArray[np.float32] = np.load(path, allow_pickle=False)
        return stored
    vectors = embedder.encode_documents(texts, batch_size, "encode passages")
    cache.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".partial.npy")
    np.save(aside, vectors, allow_pickle=False)
    aside.replace(path)
    return vectors


def _bm25(work: Path, tasks: Sequence[str], passages: Sequence[Passage], query: str, instruction: str, k: int) -> list[Hit]:
    by_id = {passage.id: passage for passage in passages}
    [found] = Bm25(passages, _setting(work, tasks)).search([query], [instruction], k)
    return [Hit(by_id[passage], score) for passage, score in found.items()]


def _setting(work: Path, tasks: Sequence[str]) -> Setting:
    """What BM25 was tuned to for the task; its defaults for several tasks or before evaluate has seen it."""
    path = work / "embed" / "evaluation" / "scores.json"
    if len(tasks) > 1 or not path.is_file():
        return Setting()
    chosen = read_record(Scores, path).bm25.get(tasks[0])
    return Setting(chosen.k1, chosen.b, chosen.with_instruction) if chosen else Setting()


def _layout(left: tuple[str, Sequence[Hit]], right: tuple[str, Sequence[Hit]], width: int) -> str:
    """Both lists, beside each other if they fit."""
    if width < _SIDE_BY_SIDE:
        return "\n\n".join("\n".join(_column(*part, width)) for part in (left, right))
    half = (width - 3) // 2
    rows = zip_longest(_column(*left, half), _column(*right, half), fillvalue="")
    return "\n".join(f"{a.ljust(half)} | {b}".rstrip() for a, b in rows)


def _column(title: str, hits: Sequence[Hit], width: int) -> list[str]:
    lines = [title, "-" * min(width, max(len(title), 20))]
    for rank, hit in enumerate(hits, start=1):
        task = hit.passage.id.partition("/")[0]
        head = f"{rank}. {hit.score:.3f}{_move(hit.move)}  "
        where = f"{hit.passage.source or hit.passage.title or hit.passage.id} ({task})"
        room = width - len(head)
        lines.append(head + (where if len(where) <= room else "..." + where[3 - room :]))
        text = textwrap.shorten(render_passage(hit.passage), 2 * (width - 4), placeholder=" ...")
        lines += textwrap.wrap(text, width, initial_indent="   ", subsequent_indent="   ")[:2]
    return lines if hits else [*lines, "nothing found"]


def _move(move: int | None) -> str:
    if move is None:
        return ""
    return f" (up {move})" if move > 0 else f" (down {-move})" if move < 0 else " (same)"
