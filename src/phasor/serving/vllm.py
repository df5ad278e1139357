"""The engine `vllm`: vLLM does the computing; rendering, tokens, cutting and access stay with the gateway."""

import asyncio
import base64
import random
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np

from phasor.config.base import Role
from phasor.config.serving import VllmEngineConfig
from phasor.models.network import Vectors
from phasor.models.tokens import Ragged
from phasor.serving.engine import EngineError, Lane, OverloadedError, Pairs

_FIRST_PAUSE_S = 0.2
_SMALLEST_NORM = 1e-12
"""A vector of zeros stays one, as in training; divided by its norm it would be no number."""
_SHOWN_CHARS = 200
"""Of what the server says to a refused request."""


class VllmEngine:
    """A client of vLLM's `/v1/embeddings` and `/classify`.

    It sends tokens, not texts. As a text, an input that had to be cut is read differently, or refused where a character of
    several tokens stands at the cut; and `/v1/rerank` cuts a pair at its end, where the answer is read, cannot cut a query,
    and before vLLM 0.33 did without the bundle's template unless told.

    Args:
        config: where vLLM is.
        api_key: sent to it, if not empty.
        read: told the tokens of every answer.
    """

    def __init__(self, config: VllmEngineConfig, api_key: str, read: Callable[[Role, Lane, int], None]) -> None:
        self.name = "vllm"
        self._config, self._read = config, read
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        # No proxy of the environment: an engine stands beside its gateway.
        self._client = httpx.AsyncClient(timeout=config.timeout_s, headers=headers, trust_env=False)

    async def embed(self, texts: Ragged, lane: Lane) -> Vectors:
        """As the protocol says."""
        url = self._config.embed_url
        rows = await self._rows(url, "/v1/embeddings", texts, {"model": self._config.embed_model, "encoding_format": "base64"})
        try:
            vectors = np.stack([np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4") for row in rows])
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"{url} gave no vectors: {error!r}") from None
        if not np.isfinite(vectors).all():
            raise EngineError(f"{url} gave a vector that is not of numbers")
        self._read("embed", lane, len(texts.values))
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(_SMALLEST_NORM), np.float32)

    async def score(self, pairs: Pairs, lane: Lane) -> Vectors:
        """As the protocol says."""
        url = self._config.rerank_url
        if url is None:
            raise EngineError("engine.rerank_url is not set")
        rows = await self._rows(url, "/classify", pairs.tokens, {"model": self._config.rerank_model})
        try:
            scores = np.array([row["probs"] for row in rows], np.float32).reshape(len(pairs.tokens))
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"{url} gave no scores: {error!r}") from None
        if not np.isfinite(scores).all():
            raise EngineError(f"{url} gave a score that is no number")
        self._read("rerank", lane, len(pairs.tokens.values))
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

    async def _rows(self, url: str, route: str, inputs: Ragged, body: dict[str, Any]) -> list[dict[str, Any]]:
        """One row of the answer per input, in their order."""
        answer = await self._post(url, route, {**body, "input": [ids.tolist() for ids in inputs]})
        try:
            rows = sorted(answer["data"], key=lambda row: row["index"])
        except (KeyError, TypeError) as error:
            raise EngineError(f"{url}{route} gave no rows: {error!r}") from None
        if len(rows) != len(inputs):
            raise EngineError(f"{url}{route} gave {len(rows)} rows for {len(inputs)} inputs")
        return rows

    async def _post(self, url: str, route: str, body: dict[str, Any]) -> Any:
        for number in range(self._config.max_tries):
            if number:
                await asyncio.sleep(_FIRST_PAUSE_S * 2**number * random.uniform(0.5, 1.0))
            try:
                answer = await self._client.post(url.rstrip("/") + route, json=body)
            except httpx.TransportError as error:
                problem = repr(error)
                continue
            told = f"status {answer.status_code}: {answer.text[:_SHOWN_CHARS]}"
            if answer.status_code == httpx.codes.TOO_MANY_REQUESTS or answer.is_server_error:
                # vLLM answers 500 on a kept connection while it shuts down; another one of its pods may not.
                problem = told
                continue
            if answer.status_code != httpx.codes.OK:
                raise EngineError(f"{url}{route} answered with {told}")
            try:
                return answer.json()
            except ValueError as error:
                raise EngineError(f"{url}{route} answered something other than JSON: {error}") from None
        if problem.startswith("status 429"):
            raise OverloadedError(_FIRST_PAUSE_S * 2**self._config.max_tries)
        raise EngineError(f"{url}{route} gave no answer in {self._config.max_tries} tries: {problem}")
