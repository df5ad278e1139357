"""The routes of the OpenAI and Cohere protocols, the probes and the metrics."""

import base64
import time
import uuid
from typing import Any

import numpy as np
from fastapi import APIRouter
from starlette.responses import Response

from phasor.data.templates import render_document
from phasor.serving.batching import LANES
from phasor.serving.failures import ApiError, json_response
from phasor.serving.gateway import Gateway
from phasor.serving.guard import METRICS
from phasor.serving.schemas import EmbeddingsRequest, RerankDocument, RerankRequest
from phasor.serving.vectors import truncate


def api_routes(gateway: Gateway) -> APIRouter:
    """Embeddings, reranking and the list of models."""
    router, started = APIRouter(), int(time.time())

    @router.post("/v1/embeddings")
    async def embeddings(request: EmbeddingsRequest) -> Response:
        return await _embeddings(gateway, request)

    @router.post("/v1/rerank")
    async def rerank_v1(request: RerankRequest) -> Response:
        return await _rerank(gateway, request, "1")

    @router.post("/v2/rerank")
    async def rerank_v2(request: RerankRequest) -> Response:
        return await _rerank(gateway, request, "2")

    @router.get("/v1/models")
    async def models() -> Response:
        return json_response({"object": "list", "data": [_model(gateway, name, started) for name in gateway.models]})

    @router.get("/v1/models/{name}")
    async def model(name: str) -> Response:
        gateway.check_model(name)
        return json_response(_model(gateway, name, started))

    return router


def operation_routes(gateway: Gateway) -> APIRouter:
    """Probes, which need no key, and metrics, which need one."""
    router = APIRouter(include_in_schema=False)

    @router.get("/livez")
    async def live() -> Response:
        alive = gateway.state != "failed"
        return json_response({"alive": alive}, 200 if alive else 503)

    @router.get("/readyz")
    @router.get("/healthz")
    async def ready() -> Response:
        return json_response({"state": gateway.state}, 200 if gateway.state == "ready" else 503)

    @router.get(METRICS)
    async def metrics() -> Response:
        gateway.metrics.ready.set(gateway.state == "ready")
        for lane in LANES:
            gateway.metrics.queue_tokens.labels(lane).set(gateway.engine.waiting_tokens(lane) if gateway.engine else 0)
        return Response(gateway.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


async def _embeddings(gateway: Gateway, request: EmbeddingsRequest) -> Response:
    gateway.check_model(request.model, "embed")
    texts = [request.input] if isinstance(request.input, str) else request.input
    gateway.check_items(len(texts), "input")
    dims = request.dimensions or gateway.bundle.dims[0]
    if dims not in gateway.bundle.dims:
        known = ", ".join(map(str, gateway.bundle.dims))
        raise ApiError(422, "dimensions", f"The model was not trained for {dims} dimensions. It gives {known}.", "dimensions")
    if request.input_type in ("query", "search_query"):
        vectors, tokens = await gateway.embed_queries(texts, gateway.instruction(request.instruction), "input")
    elif request.instruction is not None:
        raise ApiError(422, "instruction", "Documents take no instruction. Leave it out, or set input_type to query.", "instruction")
    else:
        vectors, tokens = await gateway.embed_documents(texts)
    vectors = np.ascontiguousarray(truncate(vectors, dims), "<f4")
    rows: list[Any] = [base64.b64encode(row).decode() for row in vectors] if request.encoding_format == "base64" else list(vectors)
    data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_response({"object": "list", "data": data, "model": request.model, "usage": usage})


async def _rerank(gateway: Gateway, request: RerankRequest, version: str) -> Response:
    model = gateway.models[0] if request.model is None else request.model
    gateway.check_model(model, "rerank")
    gateway.check_items(len(request.documents), "documents")
    documents = [_rendered(document) for document in request.documents]
    instruction = gateway.instruction(request.instruction)
    pairs = await gateway.pairs(instruction, request.query, documents, request.max_tokens_per_doc)
    tokens = gateway.check_tokens(pairs.tokens, "documents", "Split it.")
    scores = await gateway.score(pairs)
    order = np.argsort(-scores, kind="stable")[: request.top_n]
    shown = [{"document": _sent(request.documents[i])} if request.return_documents else {} for i in order]
    results = [{"index": int(i), "relevance_score": float(scores[i]), **more} for i, more in zip(order, shown, strict=True)]
    meta = {"api_version": {"version": version}, "billed_units": {"search_units": 1}}
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_response({"id": str(uuid.uuid4()), "model": model, "results": results, "meta": meta, "usage": usage})


def _rendered(document: str | RerankDocument) -> str:
    return document if isinstance(document, str) else render_document(document.title or "", document.text)


def _sent(document: str | RerankDocument) -> dict[str, str]:
    return {"text": document} if isinstance(document, str) else document.model_dump(exclude_unset=True)


def _model(gateway: Gateway, name: str, created: int) -> dict[str, Any]:
    shared = {"object": "model", "created": created, "owned_by": "phasor", "bundle": gateway.bundle.digest}
    return {"id": name, **shared, "dimensions": gateway.bundle.dims, "instructions": gateway.bundle.instructions}
