"""Connections that never say what they want, or never take it, with no key: the server ends them."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tests.ports import free_port
from tests.serving import world
from tests.waiting import until

from phasor.serving.connections import connections


@pytest.mark.parametrize("before", [b"", b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"], ids=["first", "kept"])
@pytest.mark.parametrize(("start", "drop"), [(b"GET / HTTP/1.1\r\nhost: ", b"x"), (b"\r\n", b"\r\n")], ids=["head", "blank"])
def test_a_head_that_never_ends_ends_its_connection(guarded: world.Served, before: bytes, start: bytes, drop: bytes) -> None:
    """Though a byte comes now and then: it has one second."""
    place = urlsplit(guarded.url)
    with socket.create_connection((place.hostname or "", place.port or 0)) as connection:
        connection.settimeout(10)
        if before:
            connection.sendall(before)
            assert b" 200 " in connection.recv(4096)
        started = time.monotonic()
        with contextlib.suppress(ConnectionError):
            connection.sendall(start)
            while time.monotonic() - started < 5:
                time.sleep(0.25)
                connection.sendall(drop)
        assert 0.9 < time.monotonic() - started < 4


async def bulky(request: Request) -> Response:
    """As many bytes as the path says and then those of the body."""
    return Response(bytes(request.path_params["size"]) + await request.body())


@contextlib.contextmanager
def listening(keep_alive_s: int) -> Iterator[uvicorn.Server]:
    """A server in a thread, with our kind of connections; `config.port` is where."""
    app = Starlette(routes=[Route("/{size:int}", bulky, methods=["GET", "POST"])])
    config = uvicorn.Config(app, http=connections(60.0), port=free_port(), timeout_keep_alive=keep_alive_s, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started, "a server", 10)
        yield server
    finally:
        server.should_exit = True
        thread.join()


def connect(server: uvicorn.Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.config.port), timeout=10)


def test_a_connection_that_says_nothing_is_closed_as_one_between_two_requests() -> None:
    with listening(1) as server, connect(server) as connection:
        started = time.monotonic()
        assert connection.recv(1) == b"" and 0.9 < time.monotonic() - started < 5


MOST = 64 << 10
KEPT = b"POST /0 HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc"


@pytest.mark.parametrize("before", [b"", KEPT], ids=["first", "kept"])
@pytest.mark.parametrize("piece", [b"a:b\r\n", b"a"], ids=["many", "long"])
def test_a_head_of_any_length_is_not_read(before: bytes, piece: bytes) -> None:
    with listening(30) as server, connect(server) as connection:
        if before:
            connection.sendall(before)
            assert connection.recv(4096).endswith(b"abc")
        head = b"GET /0 HTTP/1.1\r\nx: "
        connection.sendall((head + piece * MOST)[:MOST])
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(10)
        connection.sendall(b"a")
        assert connection.recv(4096).startswith(b"HTTP/1.1 431 ") and connection.recv(1) == b""


def test_what_follows_a_body_in_pieces_has_the_same_limit() -> None:
    with listening(30) as server, connect(server) as connection:
        connection.sendall(b"POST /0 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                connection.sendall(b"a:b\r\n" * 2000)
            pytest.fail("10 MB were taken")


def test_bodies_do_not_count_as_heads() -> None:
    with listening(30) as server, httpx.Client(base_url=f"http://127.0.0.1:{server.config.port}") as client:
        for pieces in ([b"a" * 1_000_000], [b"b"] * 20_000, [b"c" * 70_000] * 10, []):
            body = b"".join(pieces)
            for content in (body, iter(pieces)):  # the latter in chunks
                assert client.post("/0", content=content, headers={"x": "y" * 20_000}).content == body
        assert len(server.server_state.connections) == 1


BULKY = b"GET /30000000 HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize("requests", [
    BULKY + b"\r\n", BULKY + b"connection: close\r\n\r\n", (BULKY + b"\r\n") * 2,
], ids=["kept", "closed", "more"])
def test_a_caller_that_does_not_read_its_answer_is_left(requests: bytes) -> None:
    with listening(1) as server, connect(server) as connection:
        connection.sendall(requests)
        until(lambda: server.server_state.connections, "a connection", 10)
        until(lambda: not server.server_state.connections, "its end", 10)
        assert not server.server_state.tasks


def test_a_caller_that_reads_its_answer_is_kept() -> None:
    with listening(1) as server, httpx.Client(base_url=f"http://127.0.0.1:{server.config.port}") as client:
        assert len(client.get("/30000000").content) == 30_000_000
        [connection] = server.server_state.connections
        for _ in range(4):
            time.sleep(0.4)
            client.get("/1")
        assert server.server_state.connections == {connection}
