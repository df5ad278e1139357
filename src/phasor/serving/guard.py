"""What every request passes first: key, size, time and number; and what is counted of it afterwards.

Plain ASGI, outermost, so that no route can forget it. The body is read here, whole and bounded, before anything parses it.
"""

import asyncio
import base64
import binascii
import contextlib
import logging
import time
from collections.abc import Callable, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from phasor.config.serving import LimitsConfig
from phasor.serving.failures import ApiError
from phasor.serving.keys import KeyRing
from phasor.serving.metrics import Metrics

log = logging.getLogger(__name__)

PROBES = {"/livez", "/readyz", "/healthz"}
METRICS = "/metrics"
_RETRY_S = 1.0


_STOPPING = ApiError(503, "stopping", "The server stops before it could answer. Send the request again.", retry_after_s=_RETRY_S)


class Guard:
    """Wraps the application.

    Args:
        app: everything behind.
        limits: of one caller and of all.
        keys: who may ask; everybody if None.
        metrics: where to count.
        draining: whether callers should go elsewhere with their next request.
    """

    def __init__(self, app: ASGIApp, limits: LimitsConfig, keys: KeyRing | None, metrics: Metrics, draining: Callable[[], bool]) -> None:
        self._app, self._limits, self._keys, self._metrics, self._draining = app, limits, keys, metrics, draining
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        started, status, sent = time.monotonic(), 0, False

        async def counted(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status, sent = message["status"], True
                if self._draining():  # a kept connection would be closed under the caller's next request
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        owner = ""
        try:
            owner = self._owner(scope)
            await self._admitted(scope, receive, counted)
        except ApiError as error:
            self._metrics.refused.labels(error.code).inc()
            if not sent:
                await error.response(_challenge(scope) if error.status == 401 else None)(scope, receive, counted)
        except asyncio.CancelledError:  # the time for requests under way is over
            if sent:
                raise
            self._metrics.refused.labels(_STOPPING.code).inc()
            await _STOPPING.response()(scope, receive, counted)
        finally:
            # Only routes that exist become label values: paths are the caller's words.
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.monotonic() - started
            self._metrics.requests.labels(route, status).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            log.info("serve.request route=%s status=%d seconds=%.4f key=%s", route, status, seconds, owner)

    def _owner(self, scope: Scope) -> str:
        """Name of the caller's key. Raises ApiError without a known one."""
        if self._keys is None:
            return ""
        key = _key({name: value for name, value in scope["headers"] if name == b"authorization"})
        owner = self._keys.owner(key) if key else None
        if owner is None:
            raise ApiError(401, "invalid_api_key", "No or unknown API key. Send one as `Authorization: Bearer KEY`.")
        return owner

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == METRICS:  # needed most when there is no room
            await self._answer(scope, receive, send, await self._body(scope, receive))
            return
        if self._running >= self._limits.max_concurrency:
            raise ApiError(429, "too_many_requests", f"{self._running} requests are under way. Try again.", retry_after_s=_RETRY_S)
        self._running += 1
        self._metrics.running.set(self._running)
        try:
            await self._answer(scope, receive, send, await self._body(scope, receive))
        finally:
            self._running -= 1
            self._metrics.running.set(self._running)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        most = self._limits.max_body_bytes
        too_long = ApiError(413, "body_too_long", f"The body is longer than {most:,} bytes. Send fewer texts at once.")
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if declared.isdigit() and int(declared) > most:
            raise too_long
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(400, "disconnected", "The caller went away before the body was complete.")
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > most:
                        raise too_long
        except TimeoutError:
            raise ApiError(408, "body_too_slow", f"The body was not complete after {self._limits.body_timeout_s:g} s.") from None
        return bytes(body)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        """Run the application; stop it if the caller leaves or time is up, so that nothing is computed for nobody."""
        delivered = False

        async def replay() -> Message:
            nonlocal delivered
            if not delivered:
                delivered = True
                return {"type": "http.request", "body": body, "more_body": False}
            return await asyncio.Future()  # only the watcher below hears of a caller that leaves

        work = asyncio.ensure_future(self._app(scope, replay, send))
        left = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({work, left}, timeout=self._limits.request_timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            elif left.done():
                raise ApiError(499, "disconnected", "The caller went away.")
            else:
                raise ApiError(504, "timeout", f"No answer after {self._limits.request_timeout_s:g} s.", retry_after_s=_RETRY_S)
        finally:
            for task in (work, left):
                if not task.done():
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _key(headers: Mapping[bytes, bytes]) -> str:
    """The key of a Bearer header, or the password of a Basic one, by which browsers log in to the search page."""
    scheme, _, value = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def _challenge(scope: Scope) -> dict[str, str]:
    return {"www-authenticate": 'Basic realm="Phasor: any name, the API key as password"' if scope["path"] == "/" else "Bearer"}
