"""`phasor serve`: check the bundle, listen, load, prove the golden answers, serve, and drain when told to stop."""

import asyncio
import contextlib
import logging
import signal
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import Receive, Scope, Send

from phasor.config.serving import BuiltinEngineConfig, ServeConfig, VllmEngineConfig
from phasor.errors import ModelError, PhasorError
from phasor.indexing.loaded import LoadedIndex
from phasor.indexing.watch import REMOTE, IndexSource, watch_index
from phasor.models.products import keep_few_products
from phasor.packaging.golden import Golden, read_golden
from phasor.serving.app import make_app
from phasor.serving.builtin import open_builtin
from phasor.serving.bundle import Bundle, open_bundle
from phasor.serving.connections import connections
from phasor.serving.engine import Engine, EngineError, OverloadedError
from phasor.serving.gateway import Gateway
from phasor.serving.golden import Proof, prove
from phasor.serving.keys import KeyRing
from phasor.serving.metrics import Metrics
from phasor.serving.rendering import Renderer
from phasor.serving.vllm import VllmEngine
from phasor.settings import settings

log = logging.getLogger(__name__)

_RETRY_S = 2.0
_KEEP_ALIVE_S = 75
"""Longer than proxies keep an idle connection (nginx and Envoy: 60 s), so that they close it and not we under their next request."""


def serve(folder: Path, index: str | None, config: ServeConfig) -> None:
    """Serve until told to stop.

    Args:
        folder: of the bundle.
        index: folder or s3:// place of an index, or None.
        config: everything else.

    Raises:
        PhasorError: the bundle, a key, or the first index cannot be used; nothing was served then.
    """
    keep_few_products()
    bundle = open_bundle(folder)
    _check_engine(bundle, config)
    keys = KeyRing(config.api_keys) if config.api_keys else None
    gateway = Gateway(bundle, Renderer(bundle), config, Metrics(), wants_index=index is not None)
    with contextlib.ExitStack() as stack:
        source = None
        if index is not None:
            cache = config.search.cache
            if cache is None and index.startswith(REMOTE):
                cache = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="phasor-index-")))
            source = IndexSource(index, cache)
        server = Server(gateway, keys, source)
        server.run()
    if server.problem is not None:
        raise server.problem


class Server(uvicorn.Server):
    """Listens at once, so that probes can be answered, and loads meanwhile.

    Attributes:
        problem: why it stopped by itself, if it did: mostly a PhasorError.
    """

    def __init__(self, gateway: Gateway, keys: KeyRing | None, index: IndexSource | None) -> None:
        self.gateway, self.problem = gateway, None
        self._golden, self._index = read_golden(gateway.bundle.folder), index
        self._app = make_app(gateway, keys)
        config = gateway.config
        super().__init__(uvicorn.Config(
            self._with_lifespan, interface="asgi3", http=connections(config.limits.body_timeout_s), host=config.host, port=config.port,
            lifespan="on", log_config=None, access_log=False, server_header=False, date_header=False,
            timeout_graceful_shutdown=int(config.shutdown_s), timeout_keep_alive=_KEEP_ALIVE_S,
        ))

    problem: BaseException | None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: not ready any more, but answering; after `drain_s`, or at a second signal, stop."""
        first = not self.gateway.draining
        self.gateway.draining = True
        if first and sig == signal.SIGTERM:
            log.info("serve.draining seconds=%g", self.gateway.config.drain_s)
            timer = threading.Timer(self.gateway.config.drain_s, self._stop)
            timer.daemon = True
            timer.start()
        else:
            self.force_exit = self.should_exit  # a further one does not even wait for requests
            self._stop()

    async def _with_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        async with self._background():
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    @contextlib.asynccontextmanager
    async def _background(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._prepare())
        task.add_done_callback(self._prepared)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            if self.gateway.engine is not None:
                await self.gateway.engine.close()

    async def _prepare(self) -> None:
        """Load, and then watch the index for ever. Raises whatever stands in the way."""
        engine, proof = await open_engine(self.gateway, self._golden)
        bundle = self.gateway.bundle
        self.gateway.engine = engine
        self.gateway.metrics.proved(proof, bundle.recipe.name, bundle.digest, engine.name)
        log.warning(
            "serve.ready model=%s bundle=%s engine=%s url=http://%s:%d (%s)",
            bundle.recipe.name, bundle.digest[:12], engine.name, self.gateway.config.host, self._port(), proof,
        )
        if self._index is not None:
            search = self.gateway.config.search
            await watch_index(self._index, bundle, search.poll_s, search.qdrant_url, self._take, self._refuse)

    def _prepared(self, task: "asyncio.Task[None]") -> None:
        # Whatever ended it: a server that will never be ready, or never sees another index, must not stay.
        if not task.cancelled() and (problem := task.exception()) is not None:
            self._give_up(problem)

    def _take(self, index: LoadedIndex) -> None:
        # The old one is not closed: searches under way still use it, and it goes when the last of them does.
        self.gateway.index = index
        metrics = self.gateway.metrics
        metrics.index_passages.set(index.info.count)
        metrics.index_recall.set(index.info.recall_at_10)
        metrics.index_swaps.labels("taken").inc()
        log.warning("serve.index version=%s passages=%d recall=%.4f", index.version, index.info.count, index.info.recall_at_10)

    def _refuse(self, problem: PhasorError) -> None:
        self.gateway.metrics.index_swaps.labels("refused").inc()
        if self.gateway.index is None:
            self._give_up(problem)
        else:
            log.error("serve.index kept=%s: %s", self.gateway.index.version, problem)

    def _give_up(self, problem: BaseException) -> None:
        self.problem = problem
        self._stop()

    def _stop(self) -> None:
        self.should_exit = True

    def _port(self) -> int:
        return int(self.servers[0].sockets[0].getsockname()[1]) if self.servers else self.gateway.config.port


async def open_engine(gateway: Gateway, golden: Golden) -> tuple[Engine, Proof]:
    """The configured engine, once it reproduced the golden answers.

    Raises:
        ModelError: it answers, but differently.
    """
    config = gateway.config
    if isinstance(config.engine, BuiltinEngineConfig):
        return await open_builtin(gateway.bundle, gateway.renderer, golden, config.engine, config.limits, gateway.metrics.ran)
    engine = VllmEngine(config.engine, settings().openai_api_key, gateway.metrics.read)
    while True:
        try:
            proof = await prove(engine, gateway.renderer, golden)
        except (EngineError, OverloadedError) as fault:  # it may take minutes to load
            log.warning("serve.waiting: %s", fault)
            await asyncio.sleep(_RETRY_S)
            continue
        if not proof.holds:
            await engine.close()
            raise ModelError(
                f"the engine at {config.engine.embed_url} does not reproduce the bundle's golden answers ({proof}). "
                "See that it serves this bundle, in float32 or bfloat16."
            )
        return engine, proof


def _check_engine(bundle: Bundle, config: ServeConfig) -> None:
    if isinstance(config.engine, VllmEngineConfig) and bundle.rerank is not None and config.engine.rerank_url is None:
        raise PhasorError("engine.rerank_url is not set, and the bundle has a reranker. Name the server of BUNDLE/rerank.")
