"""The engine `vllm`: a server with vLLM's routes does the computing; rendering, cutting and access stay with the gateway."""

import asyncio
import base64
import random
from typing import Any

import httpx
import numpy as np

from phasor.config.serving import VllmEngineConfig
from phasor.models.network import Vectors
from phasor.serving.engine import EngineError, Lane, OverloadedError, Pairs, Texts
from phasor.serving.rendering import Renderer

_FIRST_PAUSE_S = 0.2
_BUSY = {429, 503}


class VllmEngine:
    """A client of vLLM's `/v1/embeddings` and `/v1/rerank`.

    Texts are sent rendered and already cut, because vLLM cuts a rendered pair at its end, where the answer is read.
    The reranker's template is in the bundle, and vLLM applies it; the instruction goes with the request.
    """

    def __init__(self, config: VllmEngineConfig, renderer: Renderer, api_key: str) -> None:
        self.name = "vllm"
        self._config = config
        self._renderer = renderer
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        # No proxy of the environment: an engine stands beside its gateway.
        self._client = httpx.AsyncClient(timeout=config.timeout_s, headers=headers, trust_env=False)

    async def embed(self, texts: Texts, lane: Lane) -> Vectors:
        """As the protocol says."""
        body = {"model": self._config.embed_model, "input": self._renderer.cut_texts(texts), "encoding_format": "base64"}
        answer = await self._post(self._config.embed_url, "/v1/embeddings", body)
        try:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            vectors = np.stack([np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4") for row in rows])
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"{self._config.embed_url} gave no vectors: {error!r}") from None
        if len(vectors) != len(texts.texts) or not np.isfinite(vectors).all():
            raise EngineError(f"{self._config.embed_url} gave {len(vectors)} vectors for {len(texts.texts)} texts, or not numbers")
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    async def score(self, pairs: Pairs, lane: Lane) -> Vectors:
        """As the protocol says."""
        url = self._config.rerank_url
        if url is None:
            raise EngineError("engine.rerank_url is not set")
        documents = self._renderer.cut_documents(pairs)
        body = {
            "model": self._config.rerank_model, "query": pairs.query, "documents": documents, "top_n": len(documents),
            "instruction": pairs.instruction, "chat_template_kwargs": {"instruction": pairs.instruction},
        }
        answer = await self._post(url, "/v1/rerank", body)
        scores = np.full(len(documents), np.nan, np.float32)
        try:
            for row in answer["results"]:
                scores[row["index"]] = row["relevance_score"]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise EngineError(f"{url} gave no scores: {error!r}") from None
        if not np.isfinite(scores).all():
            raise EngineError(f"{url} left out a score, or gave one that is no number")
        return scores

    def waiting_tokens(self, lane: Lane) -> int:
        """None: the server that computes has the queue."""
        return 0

    def alive(self) -> bool:
        """Always: the computing is elsewhere."""
        return True

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _post(self, url: str, route: str, body: dict[str, Any]) -> Any:
        for number in range(self._config.max_tries):
            if number:
                await asyncio.sleep(_FIRST_PAUSE_S * 2**number * random.uniform(0.5, 1.0))
            try:
                answer = await self._client.post(url.rstrip("/") + route, json=body)
            except httpx.TransportError as error:
                problem = repr(error)
                continue
            if answer.status_code in _BUSY:
                problem = f"status {answer.status_code}"
                continue
            if answer.status_code != httpx.codes.OK:
                raise EngineError(f"{url}{route} answered {answer.status_code}")
            try:
                return answer.json()
            except ValueError as error:
                raise EngineError(f"{url}{route} answered something other than JSON: {error}") from None
        if problem.startswith("status 429"):
            raise OverloadedError(_FIRST_PAUSE_S * 2**self._config.max_tries)
        raise EngineError(f"{url}{route} cannot be reached after {self._config.max_tries} tries: {problem}")
