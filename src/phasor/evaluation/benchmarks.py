"""Published benchmarks by their mteb name, on the final model: "MTEB(eng, v2)", "BRIGHT", "FollowIR", or a single task.

Their data comes from the hub or its local cache. The texts pass through the same templates as everywhere: a task's own
instruction (mteb's prompt, or the query's where the data set has one) goes where ours would.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import mteb
import numpy as np
from mteb.abstasks import AbsTask, AbsTaskRetrieval
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.types import PromptType
from numpy.typing import NDArray

from phasor.data.templates import render_document
from phasor.errors import DataError
from phasor.models.embedder import Embedder
from phasor.models.reranker import Reranker

Batches = Iterable[dict[str, list[str]]]
"""What mteb's data loaders yield: column to values."""


class MtebEmbedder(AbsEncoder):
    """An embedder as mteb wants it, for every task type."""

    def __init__(self, embedder: Embedder, batch_size: int) -> None:
        self.mteb_model_meta = ModelMeta.create_empty({"name": "phasor/embed"})
        self._embedder, self._batch_size = embedder, batch_size

    def encode(
        self, inputs: Batches, *, task_metadata: Any, prompt_type: PromptType | None = None, **_: Any
    ) -> NDArray[np.float32]:
        """Vectors of passages (no instruction) or of queries; texts of symmetric tasks count as queries."""
        columns = _columns(inputs)
        if prompt_type == PromptType.document:
            return self._embedder.encode_documents(_documents(columns), self._batch_size)
        queries = columns.get("query", columns["text"])
        own = self.get_instruction(task_metadata, prompt_type)
        return self._embedder.encode_queries(queries, columns.get("instruction", [own] * len(queries)), self._batch_size)


class MtebReranker:
    """A reranker as mteb's `CrossEncoderProtocol`."""

    def __init__(self, reranker: Reranker, batch_size: int) -> None:
        self.mteb_model_meta = ModelMeta.create_empty({"name": "phasor/rerank"})
        self._reranker, self._batch_size = reranker, batch_size

    def predict(self, inputs1: Batches, inputs2: Batches, *, task_metadata: Any, **_: Any) -> NDArray[np.float64]:
        """Logit of yes for each pair, as many probabilities would be 1; pairs of one query come together and share its prefix."""
        queries, documents = _columns(inputs1), iter(_documents(_columns(inputs2)))
        texts = queries.get("query", queries["text"])
        instructions = queries.get("instruction", [_prompt(task_metadata)] * len(texts))
        scores = []
        for (instruction, query), rows in groupby(zip(instructions, texts, strict=True)):
            candidates = [next(documents) for _row in rows]
            scores.append(self._reranker.logits(instruction, query, candidates, self._batch_size))
        return np.concatenate(scores)


def find_tasks(name: str) -> list[AbsTask]:
    """The tasks of an mteb benchmark, or the one task of that name. Raises DataError if mteb knows neither."""
    try:
        return list(mteb.get_benchmark(name).tasks)
    except KeyError:
        pass
    try:
        return [mteb.get_task(name)]
    except KeyError as error:
        raise DataError(f"evaluate.benchmarks: mteb knows no {name!r}: {error.args[0]} See mteb.get_benchmarks().") from None


def score_tasks(
    tasks: Sequence[AbsTask], model: MtebEmbedder | MtebReranker, predictions: Path, first_stage: Path | None, batch_size: int, top_k: int
) -> dict[str, float]:
    """Main score of every task by name.

    Args:
        tasks: of mteb.
        model: the adapter of the final model.
        predictions: folder for what mteb retrieves, as the reranker's first stage.
        first_stage: that folder of the embedder; None for the embedder itself. Tasks that bring no candidates of their
            own are reranked from there, other task types are left out.
        batch_size: texts or pairs at once.
        top_k: passages of the first stage that are reranked.

    Raises:
        DataError: data that cannot be reached.
    """
    found = {}
    for task in tasks:
        _load(task)
        if first_stage is None or _prepare_reranking(task, first_stage, top_k):
            result = mteb.evaluate(
                model, task, cache=None, co2_tracker=False, prediction_folder=predictions,  # type: ignore[arg-type]
                show_progress_bar=False, encode_kwargs={"batch_size": batch_size},
            )
            found[task.metadata.name] = float(result.task_results[0].get_score())
    return found


def _prepare_reranking(task: AbsTask, first_stage: Path, top_k: int) -> bool:
    if not isinstance(task, AbsTaskRetrieval):
        return False
    splits = [split for subset in task.dataset.values() for split in subset.values()]
    if any(split["top_ranked"] is None for split in splits):
        if not (first_stage / task.prediction_file_name).exists():
            return False
        task.convert_to_reranking(first_stage, top_k)
    return True


def _load(task: AbsTask) -> None:
    for part in task.metadata.tasks if isinstance(task, AbsTaskAggregate) else [task]:
        try:
            part.load_data()
        except (OSError, ValueError) as error:
            raise DataError(
                f"evaluate.benchmarks: the data of {part.metadata.name} cannot be loaded: {error}. "
                "Connect to the hub, or fill its cache elsewhere and copy it here, or take the name out of the recipe."
            ) from None


def _columns(batches: Batches) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {}
    for batch in batches:
        for key, values in batch.items():
            columns.setdefault(key, []).extend(values)
    return columns


def _documents(columns: dict[str, list[str]]) -> list[str]:
    bodies = columns.get("body", columns["text"])
    titles = columns.get("title", [""] * len(bodies))
    return [render_document(title, body) for title, body in zip(titles, bodies, strict=True)]


def _prompt(task_metadata: Any) -> str:
    prompt = task_metadata.prompt
    return (prompt or {}).get("query", AbsTaskRetrieval.abstask_prompt) if not isinstance(prompt, str) else prompt
