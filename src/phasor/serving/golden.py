"""Whether an engine answers as the bundle's models did when they were packaged: what readiness means."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from phasor.models.network import Vectors
from phasor.packaging.golden import Golden, GoldenPair, decode_vector, least_cosine
from phasor.serving.engine import Engine, EngineError
from phasor.serving.rendering import Renderer


@dataclass(frozen=True)
class Proof:
    """How near the golden answers an engine came.

    Attributes:
        min_cosine: with any golden vector.
        max_score_difference: of any score; 0 without a reranker.
        holds: whether both are within the bundle's limits.
    """

    min_cosine: float
    max_score_difference: float
    holds: bool

    def __str__(self) -> str:
        return f"least cosine {self.min_cosine:.6f}, greatest difference of a score {self.max_score_difference:.6f}"


async def prove(engine: Engine, renderer: Renderer, golden: Golden) -> Proof:
    """Ask an engine for every golden answer, through the gateway's own rendering.

    Raises:
        EngineError: it failed, or its vectors have another size.
    """
    cosines, differences = [], [0.0]
    for instruction, group in groupby(golden.queries, key=lambda query: query.instruction):
        queries = list(group)
        found = await engine.embed(renderer.queries([q.query for q in queries], instruction), "query")
        cosines.append(_cosines(found, [q.vector for q in queries]))
    found = await engine.embed(renderer.documents([d.text for d in golden.documents]), "query")
    cosines.append(_cosines(found, [d.vector for d in golden.documents]))
    for (instruction, query), asked in groupby(golden.pairs, key=lambda pair: (pair.instruction, pair.query)):
        pairs = list(asked)
        scores = await engine.score(renderer.pairs(instruction, query, [p.document for p in pairs]), "query")
        differences.append(_difference(scores, pairs))
    least, most = float(np.min(cosines)), float(np.max(differences))
    # NaN makes both comparisons fail.
    return Proof(least, most, least >= golden.min_cosine and most <= golden.max_score_difference)


def _cosines(found: Vectors, wanted: Sequence[str]) -> float:
    shape = (len(wanted), len(decode_vector(wanted[0])))
    if found.shape != shape:
        raise EngineError(f"vectors of shape {found.shape} where the bundle's have {shape}")
    return least_cosine(found, wanted)


def _difference(found: Vectors, wanted: Sequence[GoldenPair]) -> float:
    if len(found) != len(wanted):
        raise EngineError(f"{len(found)} scores for {len(wanted)} documents")
    return float(np.max(np.abs(found - np.array([pair.score for pair in wanted]))))
