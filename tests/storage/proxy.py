"""A proxy before a real object store that fails in scripted ways, byte for byte transparent otherwise."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Fault = str | int
"""`cut` (closed in mid-body), `short` (fewer bytes), `flipped` (one byte differs), `hang`, `refuse`, `busy`, or a status."""
BUSY = (  # what MinIO says while too few of its servers are up
    b'<?xml version="1.0"?><Error><Code>SlowDownRead</Code><Message>unreadable</Message><Resource>/x</Resource>'
    b"<RequestId>1</RequestId><HostId>1</HostId></Error>"
)
FULL = (
    b'<?xml version="1.0"?><Error><Code>XMinioStorageFull</Code><Message>Storage backend has reached its minimum free drive threshold.'
    b"</Message><Resource>/x</Resource><RequestId>1</RequestId><HostId>1</HostId></Error>"
)


@dataclass
class Proxy:
    """Passes requests on to a store.

    Attributes:
        target: host:port of the store.
        fault: decides by method, path and number of the request.
        requests: (method, path) in order.
        hang_s: how long `hang` takes.
    """

    target: str
    fault: Callable[[str, str, int], Fault | None] = lambda method, path, number: None
    requests: list[tuple[str, str]] = field(default_factory=list)
    hang_s: float = 3.0
    endpoint: str = ""

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        number = len(self.requests)
        self.requests.append((handler.command, handler.path))
        body = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        fault = self.fault(handler.command, handler.path, number)
        if fault == "hang":
            time.sleep(self.hang_s)
        if fault == "refuse" or fault == "hang":
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault == 507:
            self._send(handler, 507, {"content-type": "application/xml"}, FULL)
            return
        if fault == "busy":
            self._send(handler, 503, {"content-type": "application/xml"}, BUSY)
            return
        if isinstance(fault, int):
            self._send(handler, fault, {"content-type": "text/plain"}, b"scripted")
            return
        connection = HTTPConnection(self.target, timeout=20)
        # The store's signature covers the host that the client knows, which is this proxy.
        connection.request(handler.command, handler.path, body, {k: v for k, v in handler.headers.items() if k.lower() != "connection"})
        answer = connection.getresponse()
        data = answer.read()
        self._send(handler, answer.status, self._headers(answer), self._spoil(data, fault), len(data), cut=fault == "cut")
        connection.close()

    @staticmethod
    def _headers(answer: HTTPResponse) -> dict[str, str]:
        return {k: v for k, v in answer.getheaders() if k.lower() not in ("content-length", "transfer-encoding", "connection")}

    @staticmethod
    def _spoil(data: bytes, fault: Fault | None) -> bytes:
        if fault == "short":
            return data[: len(data) // 2]
        if fault == "flipped":
            return bytes([data[0] ^ 1]) + data[1:]
        return data

    @staticmethod
    def _send(
        handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: bytes, length: int | None = None, cut: bool = False
    ) -> None:
        whole = len(data) if not cut or length is None else length
        try:
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.send_header("content-length", str(length if handler.command == "HEAD" and length else whole))
            handler.send_header("connection", "close")
            handler.end_headers()
            handler.wfile.write(data[: len(data) // 2] if cut else data)
        except OSError:
            pass


@contextmanager
def proxy(endpoint: str) -> Iterator[Proxy]:
    """Run a proxy before a store."""
    owner = Proxy(urlsplit(endpoint).netloc)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            owner.handle(self)
            self.close_connection = True

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    owner.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield owner
    finally:
        server.shutdown()
        server.server_close()
