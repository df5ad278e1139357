"""Connections that say what they want and take the answer: others are closed, before any key is asked for.

uvicorn has a clock for connections that were answered, and the guard has clocks for bodies and answers; these are those between.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD_BYTES = 64 << 10
"""Of a head, or of what follows the last piece of a body. Ours are below 1 kB; a proxy may add cookies and tokens."""
_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class _Connection(HttpToolsProtocol):
    head_s: float
    _clock: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _head = 0  # bytes since the parser last came to an end of something; those of one read may be missing

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if self._clock is None and idle:
            self._clock = self.loop.call_later(self.head_s, self.timeout_keep_alive_handler)
        self._head += len(data)
        super().data_received(data)
        if self._head > _HEAD_BYTES and not self.transport.is_closing():
            if idle:  # else it would stand in the middle of another answer
                self.transport.write(_TOO_LONG)
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._stop_clock()
        self._head = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._head = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():  # which waits for the answer to be read
            self._await_reader()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        self._stop_waiting()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _await_reader(self) -> None:
        self._stop_waiting()
        self._unread = self.loop.call_later(self.timeout_keep_alive, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


def connections(head_s: float) -> type[HttpToolsProtocol]:
    """The kind of connection for a server.

    Args:
        head_s: from the first byte of a request to the end of its head. One that sends nothing is kept as long as one
            between two requests: proxies open some in advance. One that does not read its answer has as long for that, too.
    """
    return type("Connection", (_Connection,), {"head_s": head_s})
