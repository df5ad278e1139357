"""`phasor check` against real servers: what `helm test` runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from tests.serving import world

from phasor.errors import EndpointError, ModelError
from phasor.serving.check import check_server


def test_a_server_of_the_bundle_passes(server: world.Served, bundle: Path) -> None:
    told = check_server(server.url, bundle)
    assert "serves pico: least cosine 1.0000" in told and told.endswith("searches 60 passages")


def test_a_server_of_another_bundle_fails(server: world.Served, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not serve this bundle|ranks another golden passage"):
        check_server(server.url, world.make_bundle(tmp_path, scale=1.3))


def test_the_key_is_needed_and_read_from_the_environment(
    guarded: world.Served, bundle: Path, keys: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EndpointError, match="answers 401: No or unknown API key"):
        check_server(guarded.url, bundle)
    monkeypatch.setenv("PHASOR_API_KEY", keys[1] + "\n")
    assert "searches 60 passages" in check_server(guarded.url, bundle)


@pytest.mark.parametrize(("url", "words"), [
    ("http://127.0.0.1:9", "http://127.0.0.1:9.*does not answer"),
    ("127.0.0.1:9", "does not answer: UnsupportedProtocol"),
    ("http://[::1", "is no URL"),
    ("http://127.0.0.1:x", "is no URL"),
])
def test_nobody_there_is_one_message(bundle: Path, url: str, words: str) -> None:
    with pytest.raises(EndpointError, match=words):
        check_server(url, bundle)


@contextmanager
def foreign(status: int, content: bytes) -> Iterator[str]:
    """A server of another kind that answers everything alike; yields its URL."""
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(("status", "content", "words"), [
    (404, b'{"detail":"Not Found"}', r"/v1/models answers 404: \{.detail"),
    (500, b'["x"]', r"answers 500: \["),
    (200, b'{"models": []}', "answers in another shape than Phasor: KeyError"),
    (200, b'{"data": []}', "answers in another shape than Phasor: IndexError"),
    (200, b"[]", "answers in another shape than Phasor: TypeError"),
    (200, b"<html>", "does not answer: JSONDecodeError"),
])
def test_another_kind_of_server_is_one_message(bundle: Path, status: int, content: bytes, words: str) -> None:
    with foreign(status, content) as url, pytest.raises(EndpointError, match=words):
        check_server(url, bundle)


def test_a_search_without_an_answer_is_one_message(server: world.Served, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = httpx.Client.send

    def slow(client: httpx.Client, request: httpx.Request, **options: object) -> httpx.Response:
        if request.url.path == "/v1/search":
            raise httpx.ReadTimeout("timed out")
        return sent(client, request, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(httpx.Client, "send", slow)
    with pytest.raises(EndpointError, match="/v1/search does not answer: ReadTimeout"):
        check_server(server.url, bundle)
