"""Connections that say what they want: one that never ends the head of a request is closed, before any key is asked for.

uvicorn has a clock for connections that were answered, and the guard has clocks for bodies and answers; this is the one between.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def connections(head_s: float) -> type[HttpToolsProtocol]:
    """The kind of connection for a server.

    Args:
        head_s: from the first byte of a request to the end of its head. One that sends nothing is kept as long as one
            between two requests: proxies open some in advance.
    """

    class Connection(HttpToolsProtocol):
        _clock: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

        def data_received(self, data: bytes) -> None:
            if self._clock is None and (self.cycle is None or self.cycle.response_complete):
                self._clock = self.loop.call_later(head_s, self.transport.close)
            super().data_received(data)

        def on_headers_complete(self) -> None:
            self._stop_clock()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_clock()
            super().connection_lost(exc)

        def _stop_clock(self) -> None:
            if self._clock is not None:
                self._clock.cancel()
                self._clock = None

    return Connection
