"""Golden vectors and scores: what this model answers to texts of its own tasks, so that any runtime can be compared.

They are computed in float32 from the weights in the bundle. Every text fits the model's limits uncut, because
runtimes cut long texts differently, and neither starts nor ends in white space, which old runtimes strip.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from phasor.artifacts import Record, read_record
from phasor.data.hashing import position
from phasor.data.records import Example, Passage
from phasor.data.templates import render_passage, render_query
from phasor.errors import DataError
from phasor.models.embedder import Embedder
from phasor.models.reranker import Reranker

GOLDEN = "golden.json"
_SCORES_DIFFER = {"float32": 1e-3, "bfloat16": 3e-2}
_COSINES = {"float32": 0.9999, "bfloat16": 0.999}


class GoldenQuery(Record):
    """A query and its vector."""

    instruction: str
    query: str
    text: str = Field(description="What the model reads: prompt and query.")
    vector: str = Field(description="Base64 of little-endian float32, L2-normalised; as OpenAI's encoding_format base64.")


class GoldenDocument(Record):
    """A passage and its vector."""

    text: str
    vector: str = Field(description="As in queries.")


class GoldenPair(Record):
    """A pair and its score."""

    instruction: str
    query: str
    document: str
    relevant: bool = Field(description="Whether the labels say so; a served model should score it higher than the pair after it.")
    score: float = Field(description="Probability of yes.")


class Golden(Record):
    """golden.json."""

    schema_version: int = 1
    min_cosine: float = Field(description="Least cosine with a golden vector at which a runtime serves this model.")
    max_score_difference: float = Field(description="Most that a score may differ.")
    queries: list[GoldenQuery]
    documents: list[GoldenDocument]
    pairs: list[GoldenPair] = Field(description="Relevant and irrelevant in turns; empty without a reranker.")


@dataclass(frozen=True)
class Probe:
    """A query with a passage that answers it."""

    instruction: str
    query: str
    document: str


def choose_probes(tasks: Mapping[str, tuple[Sequence[Passage], Sequence[Example]]], count: int, seed: int) -> list[Probe]:
    """Dev queries with their first positive, the tasks in turn, chosen by seeded hash.

    Args:
        tasks: task name to corpus and dev examples.
        count: most probes.
        seed: of the choice.

    Raises:
        DataError: no task has a dev example.
    """
    columns = [_task_probes(*tables, count, seed) for tables in tasks.values()]
    probes = [probe for probe in chain.from_iterable(zip_longest(*columns)) if probe is not None][:count]
    if not probes:
        raise DataError("package: no task has a dev example to take golden vectors from. Give a task queries, or raise its num_dev.")
    return probes


def make_golden(probes: Sequence[Probe], embedder: Embedder, reranker: Reranker | None) -> Golden:
    """Ask the models.

    Args:
        probes: what to ask; texts that are too long are shortened.
        embedder, reranker: computing in float32.
    """
    fitting = [_shorten(probe, embedder, reranker) for probe in probes]
    instructions, queries = [p.instruction for p in fitting], [p.query for p in fitting]
    documents = list(dict.fromkeys(p.document for p in fitting))
    asked = zip(fitting, embedder.encode_queries(queries, instructions), strict=True)
    answered = zip(documents, embedder.encode_documents(documents), strict=True)
    dtype = embedder.config.dtype if reranker is None else min(embedder.config.dtype, reranker.config.dtype)
    return Golden(
        min_cosine=_COSINES[dtype], max_score_difference=_SCORES_DIFFER[dtype],
        queries=[_golden_query(probe, vector, embedder) for probe, vector in asked],
        documents=[GoldenDocument(text=text, vector=encode_vector(vector)) for text, vector in answered],
        pairs=[] if reranker is None else _pairs(fitting, documents, reranker),
    )


def read_golden(bundle: Path) -> Golden:
    """The golden vectors and scores of a bundle. Raises ArtifactError if there are none."""
    return read_record(Golden, bundle / GOLDEN, "Fetch the bundle again, or package it anew.", "Package the bundle anew.")


def encode_vector(vector: NDArray[np.float32]) -> str:
    """Base64 of little-endian float32."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def decode_vector(text: str) -> NDArray[np.float32]:
    """Inverse of `encode_vector`: [D]."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4")


def least_cosine(found_ND: NDArray[np.floating], wanted: Sequence[str]) -> float:
    """Of N unit vectors with the golden ones that belong to them, as `encode_vector` wrote these; NaN if any is."""
    return float(np.min(np.sum(found_ND * np.stack([decode_vector(text) for text in wanted]), axis=1)))


def _golden_query(probe: Probe, vector: NDArray[np.float32], embedder: Embedder) -> GoldenQuery:
    text = render_query(embedder.config.template, probe.instruction, probe.query)
    return GoldenQuery(instruction=probe.instruction, query=probe.query, text=text, vector=encode_vector(vector))


def _task_probes(corpus: Sequence[Passage], dev: Sequence[Example], count: int, seed: int) -> list[Probe]:
    passages = {passage.id: passage for passage in corpus}
    chosen = sorted(dev, key=lambda example: position(example.id, seed, "golden"))[:count]
    found = ((example, passages[example.positives[0]]) for example in chosen)
    return [Probe(example.instruction, example.query, render_passage(p)) for example, p in found]


def _shorten(probe: Probe, embedder: Embedder, reranker: Reranker | None) -> Probe:
    def query_fits(query: str) -> bool:
        return len(embedder.query_tokens([query], [probe.instruction])[0]) < embedder.config.max_query_tokens

    query = _halve(probe.query.strip(), query_fits)

    def document_fits(document: str) -> bool:
        if len(embedder.document_tokens([document])[0]) >= embedder.config.max_passage_tokens:
            return False
        if reranker is None:
            return True
        pair = reranker.pair(reranker.head_tokens([query], [probe.instruction])[0], reranker.document_tokens([document])[0])
        return len(pair) < reranker.config.max_pair_tokens

    return Probe(probe.instruction, query, _halve(probe.document.strip(), document_fits))


def _halve(text: str, fits: Callable[[str], bool]) -> str:
    while len(text) > 1 and not fits(text):
        text = text[: len(text) // 2].rstrip()
    return text


def _pairs(probes: Sequence[Probe], documents: Sequence[str], reranker: Reranker) -> list[GoldenPair]:
    pairs = []
    for probe in probes:
        after = documents[(documents.index(probe.document) + 1) % len(documents)]
        asked = [probe.document] if after == probe.document else [probe.document, after]
        scores = reranker.score(probe.instruction, probe.query, asked)
        pairs += [
            GoldenPair(instruction=probe.instruction, query=probe.query, document=d, relevant=d == probe.document, score=float(s))
            for d, s in zip(asked, scores, strict=True)
        ]
    return pairs
