"""What the routes share: the bundle, the engine, the index in use, and the limits of one request."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, TypeVar

from phasor.config.base import Role
from phasor.config.serving import ServeConfig
from phasor.models.network import Vectors
from phasor.models.tokens import Ragged
from phasor.serving.bundle import Bundle
from phasor.serving.engine import Engine, EngineError, Lane, OverloadedError, Pairs
from phasor.serving.failures import ApiError
from phasor.serving.metrics import Metrics
from phasor.serving.rendering import Renderer

if TYPE_CHECKING:
    from phasor.indexing.loaded import LoadedIndex

log = logging.getLogger(__name__)

T = TypeVar("T")
State = Literal["loading", "ready", "draining", "failed"]
_AT_ONCE = 1000
"""Characters whose tokens are made in less time than the way to a thread and back takes, 0.2 ms."""


class Gateway:
    """One bundle being served.

    Attributes:
        engine: set when its golden answers were reproduced.
        index: in use now; replaced as a whole.
        index_problem: why there is none yet, or why the newest is not in use.
    """

    def __init__(self, bundle: Bundle, renderer: Renderer, config: ServeConfig, metrics: Metrics, wants_index: bool) -> None:
        self.bundle, self.renderer, self.config, self.metrics = bundle, renderer, config, metrics
        self.wants_index = wants_index
        self.engine: Engine | None = None
        self.index: LoadedIndex | None = None
        self.index_problem = ""
        self.draining = False
        # One at a time, which is as fast: else a few of many texts take every thread, and searches wait for seconds.
        self._bulk = ThreadPoolExecutor(1, "phasor-bulk")

    @property
    def state(self) -> State:
        """Whether requests are welcome."""
        if self.draining:
            return "draining"
        if self.engine and not self.engine.alive():
            return "failed"
        return "ready" if self.engine and (self.index or not self.wants_index) else "loading"

    @property
    def models(self) -> list[str]:
        """Names that callers may give: of the pair, or of one of the two."""
        name = self.bundle.recipe.name
        return [name, f"{name}-embed", *([f"{name}-rerank"] if self.bundle.rerank else [])]

    def check_model(self, name: str, role: Role | None = None) -> None:
        """Refuse a model that is not served, or not in this role. Raises ApiError."""
        known, of_role = self.models, f"{self.models[0]}-{role}"
        if name not in known or (role is not None and (of_role not in known or name not in (known[0], of_role))):
            told = f"This server has no {f'{role} ' if role else ''}model of that name. It serves {', '.join(known)}."
            raise ApiError(404, "model_not_found", told, "model")

    def instruction(self, given: str | None) -> str:
        """The instruction of a query: that of the first task if none is given."""
        return given if given is not None else next(iter(self.bundle.instructions.values()))

    async def embed_queries(self, queries: Sequence[str], instruction: str, param: str) -> tuple[Vectors, int]:
        """[N, D] vectors of queries, and the tokens that were read. Raises ApiError, about `param` if there are too many."""
        texts = await _render(queries, lambda: self.renderer.queries(queries, instruction))
        return await self._embed(texts, "query", param)

    async def embed_documents(self, documents: Sequence[str]) -> tuple[Vectors, int]:
        """[N, D] vectors of passages, and the tokens that were read. Raises ApiError."""
        # A single text is somebody's question to a server without roles; many are somebody's corpus.
        lane: Lane = "query" if len(documents) == 1 else "bulk"
        texts = await _render(documents, lambda: self.renderer.documents(documents), self._bulk if lane == "bulk" else None)
        return await self._embed(texts, lane, "input")

    async def pairs(self, instruction: str, query: str, documents: Sequence[str], max_document_tokens: int | None = None) -> Pairs:
        """A query with rendered documents, ready to be scored."""
        return await _render([query, *documents], lambda: self.renderer.pairs(instruction, query, documents, max_document_tokens))

    async def score(self, pairs: Pairs) -> Vectors:
        """[N] probability that each document answers the query. Raises ApiError."""
        try:
            return await self._ready().score(pairs, "query")
        except (OverloadedError, EngineError) as problem:
            raise _told(problem) from None

    async def _embed(self, texts: Ragged, lane: Lane, param: str) -> tuple[Vectors, int]:
        tokens = self.check_tokens(texts, param, "Split it.")
        try:
            return await self._ready().embed(texts, lane), tokens
        except (OverloadedError, EngineError) as problem:
            raise _told(problem) from None

    def check_items(self, count: int, param: str) -> None:
        """Refuse none or too many texts. Raises ApiError."""
        most = self.config.limits.max_items
        if not 1 <= count <= most:
            raise ApiError(422, "items", f"{param} holds {count:,} texts; 1 to {most:,} are allowed.", param)

    def check_k(self, wanted: int, param: str) -> int:
        """Refuse too many results. Raises ApiError."""
        most = self.config.limits.max_k
        if wanted > most:
            raise ApiError(422, "too_many_results", f"{param} is {wanted}; at most {most} is allowed.", param)
        return wanted

    def check_tokens(self, inputs: Ragged, param: str, remedy: str) -> int:
        """Count tokens, and refuse too many with what to do. Raises ApiError."""
        tokens, most = len(inputs.values), self.config.limits.max_tokens
        if tokens > most:
            raise ApiError(422, "too_many_tokens", f"{param} makes {tokens:,} tokens; at most {most:,} are allowed. {remedy}", param)
        return tokens

    def _ready(self) -> Engine:
        if self.engine is None:
            raise ApiError(503, "loading", "The models are being loaded. Try again.", retry_after_s=5.0)
        return self.engine


async def _render(texts: Sequence[str], render: Callable[[], T], threads: Executor | None = None) -> T:
    """Make tokens of texts without holding up other requests; in those threads, or in those that searches have."""
    return render() if sum(map(len, texts)) <= _AT_ONCE else await asyncio.get_running_loop().run_in_executor(threads, render)


def _told(problem: OverloadedError | EngineError) -> ApiError:
    """What a caller hears of an engine's trouble; the details are for the log."""
    if isinstance(problem, OverloadedError):
        return ApiError(429, "overloaded", "Too much is waiting already. Try again.", retry_after_s=problem.retry_after_s)
    log.error("serve.engine: %s", problem)
    return ApiError(502, "engine_failed", "The engine failed; the server's log says why.", retry_after_s=1.0)
