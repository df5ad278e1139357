"""Connections that never say what they want, with no key: the server ends them."""

import contextlib
import socket
import threading
import time
from urllib.parse import urlsplit

import pytest
import uvicorn
from starlette.applications import Starlette
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


def test_a_connection_that_says_nothing_is_closed_as_one_between_two_requests() -> None:
    port = free_port()
    config = uvicorn.Config(Starlette(), http=connections(60.0), port=port, timeout_keep_alive=1, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started, "a server", 10)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            started = time.monotonic()
            assert connection.recv(1) == b"" and 0.9 < time.monotonic() - started < 5
    finally:
        server.should_exit = True
        thread.join()
