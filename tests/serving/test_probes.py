"""What Kubernetes hears of a server whose engine is gone: it is to be restarted, and gets no requests until then."""

import asyncio
from pathlib import Path

import httpx

from phasor.config.serving import BuiltinEngineConfig, LimitsConfig, ServeConfig
from phasor.serving.app import make_app
from phasor.serving.builtin import BuiltinEngine
from phasor.serving.bundle import open_bundle
from phasor.serving.gateway import Gateway
from phasor.serving.metrics import Metrics
from phasor.serving.rendering import Renderer


def test_an_engine_that_stopped_makes_the_server_neither_live_nor_ready(bundle: Path) -> None:
    opened = open_bundle(bundle)
    gateway = Gateway(opened, Renderer(opened), ServeConfig(), Metrics(), wants_index=False)
    engine = BuiltinEngine(opened, "float32", BuiltinEngineConfig(), LimitsConfig(), lambda ran: None)

    async def probes() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(make_app(gateway, None)), base_url="http://x") as client:
            return [(await client.get(route)).status_code for route in ("/livez", "/readyz", "/healthz")]

    async def run() -> None:
        assert await probes() == [200, 503, 503]
        gateway.engine = engine
        assert await probes() == [200, 200, 200]
        await engine.close()
        assert await probes() == [503, 503, 503]

    asyncio.run(run())
