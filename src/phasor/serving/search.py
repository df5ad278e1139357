"""`/v1/search`: the embedder finds, the reranker reorders, and the answer says how far each passage moved."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter
from starlette.responses import Response

from phasor.data.templates import render_passage
from phasor.errors import StorageError
from phasor.indexing.backend import Found
from phasor.indexing.loaded import LoadedIndex
from phasor.models.network import Vectors
from phasor.models.tokens import Ragged
from phasor.serving.engine import Pairs
from phasor.serving.failures import ApiError, json_response
from phasor.serving.gateway import Gateway, log
from phasor.serving.schemas import SearchRequest
from phasor.serving.vectors import truncate


def search_routes(gateway: Gateway) -> APIRouter:
    """Search, if there is an index."""
    router = APIRouter()

    @router.post("/v1/search")
    async def search(request: SearchRequest) -> Response:
        return await _search(gateway, request)

    return router


async def _search(gateway: Gateway, request: SearchRequest) -> Response:
    index = gateway.index  # one and the same during the whole request, whatever is swapped meanwhile
    if index is None:
        if gateway.wants_index:
            raise ApiError(503, "loading", "The index is being loaded. Try again.", retry_after_s=5.0)
        raise ApiError(404, "no_index", "This server was started without an index, so it only embeds and reranks.")
    if not request.query.strip():
        raise ApiError(422, "empty_query", "query is empty. Say what to look for.", "query")
    defaults, most = gateway.config.search, gateway.config.limits.max_k
    k = gateway.check_k(request.k or min(defaults.k, most), "k")
    rerank = request.rerank and gateway.bundle.rerank is not None
    depth = gateway.check_k(request.rerank_depth or min(defaults.rerank_depth, most), "rerank_depth") if rerank else 0
    instruction = gateway.instruction(request.instruction)
    times = {"start": time.monotonic()}
    vectors, _ = await gateway.embed_queries([request.query], instruction, "query")
    times["embed"] = time.monotonic()
    found = await _first_stage(index, truncate(vectors, index.info.dims)[0], max(k, depth), request)
    times["search"] = time.monotonic()
    texts = [render_passage(index[row].passage) for row in found.rows[:depth].tolist()] if rerank else []
    scores = await _reranked(gateway, instruction, request, texts) if texts else np.empty(0, np.float32)
    times["rerank"] = time.monotonic()
    answer = {
        "query": request.query, "instruction": instruction, "index": {"version": index.version, "passages": index.info.count},
        "results": _results(index, found, scores)[:k], "milliseconds": _milliseconds(times),
    }
    if request.include_first_stage:
        answer["first_stage"] = _results(index, found, np.empty(0, np.float32))[:k]
    return json_response(answer)


async def _first_stage(index: LoadedIndex, vector: Vectors, k: int, request: SearchRequest) -> Found:
    filters: dict[str, Sequence[str]] = {name: [v] if isinstance(v, str) else v for name, v in request.filters.items()}
    try:
        return await asyncio.to_thread(index.search, vector, k, filters)
    except KeyError:
        known = ", ".join(index.info.fields)
        raise ApiError(422, "unknown_field", f"filters names a field that the index does not have. It has {known}.", "filters") from None
    except StorageError as error:
        log.error("serve.index: %s", error)
        raise ApiError(502, "index_failed", "The index does not answer; the server's log says why.", retry_after_s=1.0) from None


async def _reranked(gateway: Gateway, instruction: str, request: SearchRequest, texts: Sequence[str]) -> Vectors:
    """Scores of the texts; where the caller did not say how many to read, only of the first that are within the limit."""
    pairs = await gateway.pairs(instruction, request.query, texts)
    if request.rerank_depth is None:
        fitting = int(np.searchsorted(pairs.tokens.offsets, gateway.config.limits.max_tokens, side="right")) - 1
        pairs = Pairs(Ragged.of(list(pairs.tokens)[:fitting]), pairs.shared)
    gateway.check_tokens(pairs.tokens, "rerank_depth", "Lower it.")
    return await gateway.score(pairs) if len(pairs.tokens) else np.empty(0, np.float32)


def _results(index: LoadedIndex, found: Found, scores: Vectors) -> list[dict[str, Any]]:
    """Passages in the order of the reranker's scores, then those that it did not read in the first stage's order."""
    order = np.argsort(-scores, kind="stable").tolist()
    places = [*order, *range(len(scores), len(found.rows))]
    return [_result(index, found, scores, old, new) for new, old in enumerate(places)]


def _result(index: LoadedIndex, found: Found, scores: Vectors, old: int, new: int) -> dict[str, Any]:
    document = index[int(found.rows[old])]
    passage, first = document.passage, float(found.scores[old])
    return {
        "id": passage.id, "text": passage.text, "title": passage.title, "source": passage.source, "language": passage.language,
        "metadata": dict(document.metadata), "score": float(scores[old]) if old < len(scores) else first,
        "first_stage_score": first, "move": old - new,
    }


def _milliseconds(times: dict[str, float]) -> dict[str, float]:
    names, moments = list(times), list(times.values())
    return {name: round((after - before) * 1e3, 2) for name, before, after in zip(names[1:], moments, moments[1:], strict=False)}
