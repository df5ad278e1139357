"""Keys and limits of the real server: every route, every kind of too much."""

import asyncio
import concurrent.futures
import json
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from tests.serving import world
from tests.waiting import until

from phasor.serving.keys import KeyRing, new_key

ROUTES = [
    ("POST", "/v1/embeddings"), ("POST", "/v1/rerank"), ("POST", "/v2/rerank"), ("POST", "/v1/search"), ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"), ("GET", "/metrics"), ("GET", "/"), ("GET", "/search.js"), ("GET", "/search.css"),
    ("GET", "/openapi.json"), ("GET", "/nowhere"),
]


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(("method", "route"), ROUTES)
@pytest.mark.parametrize(
    "header", [{}, bearer("wrong"), {"authorization": "Basic !!"}, bearer("phasor-é")], ids=["no", "wrong", "broken", "odd"]
)
def test_every_route_but_the_probes_needs_a_key(guarded: world.Served, method: str, route: str, header: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in header.items()]
    answer = httpx.request(method, guarded.url + route, headers=raw)
    assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Basic" if route == "/" else "Bearer")
    assert answer.json()["error"]["type"] == "authentication_error" and answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("route", ["/livez", "/readyz", "/healthz"])
def test_probes_need_none(guarded: world.Served, route: str) -> None:
    assert guarded.get(route).status_code == 200


def test_both_keys_of_the_file_work_and_a_browser_may_send_one_as_password(guarded: world.Served, keys: tuple[Path, str, str]) -> None:
    for key in keys[1:]:
        assert guarded.get("/v1/models", headers=bearer(key)).status_code == 200
        assert guarded.get("/", auth=("anybody", key)).status_code == 200
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="other").models.list()


def test_routes_that_exist_are_the_tested_ones(
    guarded: world.Served, server: world.Served, keys: tuple[Path, str, str]
) -> None:
    schema = guarded.get("/openapi.json", headers=bearer(keys[1])).json()
    [(name, scheme)] = schema["components"]["securitySchemes"].items()
    assert scheme == {"type": "http", "scheme": "bearer"}
    assert all(operation["security"] == [{name: []}] for methods in schema["paths"].values() for operation in methods.values())
    assert "securitySchemes" not in server.get("/openapi.json").json()["components"]  # it asks for none
    assert {(method.upper(), path) for path, methods in schema["paths"].items() for method in methods} <= set(ROUTES)


@pytest.mark.parametrize(("route", "body", "status", "code"), [
    ("/v1/embeddings", {"model": "pico", "input": ["x"] * 9}, 422, "items"),
    ("/v1/rerank", {"model": "pico", "query": "x", "documents": ["x"] * 9}, 422, "items"),
    ("/v1/embeddings", {"model": "pico", "input": ["word " * 100] * 6}, 422, "too_many_tokens"),
    ("/v2/rerank", {"model": "pico", "query": "x", "documents": ["word " * 100] * 6}, 422, "too_many_tokens"),
    ("/v1/search", {"query": "x", "k": 21}, 422, "too_many_results"),
    ("/v1/search", {"query": "x", "rerank_depth": 21}, 422, "too_many_results"),
    ("/v1/search", {"query": " \n"}, 422, "empty_query"),
    ("/v1/search", {"query": "x", "depth": 3}, 422, "invalid"),
    ("/v1/search", {"query": "x", "filters": {"nothing": "y"}}, 422, "unknown_field"),
    ("/v1/embeddings", {"model": "pico", "input": "x" * 30_000}, 413, "body_too_long"),
    ("/v1/search", {"query": "x", "rerank_depth": 20}, 422, "too_many_tokens"),
    ("/v1/embeddings", {"input": "x"}, 422, "invalid"),
    ("/v1/embeddings", {"model": "pico", "input": "\ud800"}, 422, "invalid"),
    ("/v1/embeddings", {"model": "\ud800", "input": ["x", "\ud800"]}, 422, "invalid"),
    ("/v1/embeddings", {"model": "pico", "input": ["x"], "input_type": "query", "instruction": "x \udfff"}, 422, "invalid"),
    ("/v1/rerank", {"model": "pico", "query": "\ud800", "documents": ["x"]}, 422, "invalid"),
    ("/v2/rerank", {"model": "pico", "query": "x", "documents": ["x", {"text": "\ud800"}]}, 422, "invalid"),
    ("/v1/search", {"query": "\ud800"}, 422, "invalid"),
    ("/v1/search", {"query": "x", "filters": {"team": "\ud800"}}, 422, "invalid"),
    ("/v1/search", {"query": "x", "filters": {"team": ["red", "\ud800"]}}, 422, "invalid"),
    ("/v1/search", {"query": "x", "filters": {"\ud800": "red"}}, 422, "invalid"),
    ("/v1/search", {"query": "x", "\ud800": "red"}, 422, "invalid"),
    ("/v1/nothing", {}, 404, "not_found"),
])
def test_too_much_is_refused_in_one_shape(
    guarded: world.Served, keys: tuple[Path, str, str], route: str, body: dict[str, object], status: int, code: str
) -> None:
    content = json.dumps(body)  # in ASCII: half a character can be written no other way
    answer = httpx.post(guarded.url + route, content=content, headers=bearer(keys[1]) | {"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_without_a_depth_as_many_are_reranked_as_the_limit_allows(guarded: world.Served, keys: tuple[Path, str, str]) -> None:
    body = {"query": "gzip", "k": 20, "include_first_stage": True}
    answer = guarded.post("/v1/search", body, headers=bearer(keys[1])).json()
    moved = [row for row in answer["results"] if row["score"] != row["first_stage_score"]]
    assert 1 <= len(moved) < 20 and {row["id"] for row in moved} == {row["id"] for row in answer["first_stage"][: len(moved)]}
    told = guarded.post("/v1/search", body | {"rerank_depth": 20}, headers=bearer(keys[1])).json()["error"]
    assert told["param"] == "rerank_depth" and told["message"].startswith("rerank_depth makes ")


def test_a_body_that_is_no_json_is_said_to_be_none(guarded: world.Served, keys: tuple[Path, str, str]) -> None:
    answer = httpx.post(f"{guarded.url}/v1/embeddings", content=b"{", headers=bearer(keys[1]) | {"content-type": "application/json"})
    assert answer.status_code == 422 and answer.json()["error"]["message"] == "The body is not valid JSON."


def test_a_body_without_declared_length_is_cut_off(guarded: world.Served, keys: tuple[Path, str, str]) -> None:
    def parts() -> object:
        for _ in range(50):
            yield b"x" * 1000

    answer = httpx.post(f"{guarded.url}/v1/embeddings", content=parts(), headers=bearer(keys[1]))  # type: ignore[arg-type]
    assert answer.status_code == 413


def slow_post(guarded: world.Served, key: str) -> socket.socket:
    """A connection whose body never comes."""
    place = urlsplit(guarded.url)
    connection = socket.create_connection((place.hostname or "", place.port or 0))
    head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 100\r\n\r\n{{"
    connection.sendall(head.encode())
    return connection


def test_a_slow_body_is_given_up(guarded: world.Served, keys: tuple[Path, str, str]) -> None:
    with slow_post(guarded, keys[1]) as connection:
        connection.settimeout(10)
        started = time.monotonic()
        assert b" 408 " in connection.recv(4096).splitlines()[0]
        assert 0.9 < time.monotonic() - started < 5


def test_more_requests_than_allowed_are_told_to_come_back(guarded: world.Served, keys: tuple[Path, str, str]) -> None:
    slow = [slow_post(guarded, keys[1]) for _ in range(3)]
    time.sleep(0.3)
    answer = guarded.get("/v1/models", headers=bearer(keys[1]))
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert guarded.get("/livez").status_code == 200  # probes are not counted
    assert guarded.get("/metrics").status_code == 401
    assert "phasor_requests_running 3.0" in guarded.get("/metrics", headers=bearer(keys[1])).text  # nor is what shows the crowd
    for connection in slow:
        connection.close()
    until(lambda: guarded.get("/v1/models", headers=bearer(keys[1])).status_code == 200, "room for a request", 10)


def test_neither_keys_nor_texts_are_logged(guarded: world.Served, keys: tuple[Path, str, str]) -> None:
    words = ["sesame-text", "sesame-query", "sesame-instruction", "sesame-model", "sesame-route"]
    guarded.post("/v1/embeddings", {"model": "pico", "input": words[0]}, headers=bearer(keys[1]))
    guarded.post("/v1/search", {"query": words[1], "instruction": words[2]}, headers=bearer(keys[2]))
    guarded.post("/v1/embeddings", {"model": words[3], "input": [words[0]] * 9}, headers=bearer("sesame-key"))
    guarded.get(f"/{words[4]}", headers=bearer(keys[1]))
    log = guarded.log.read_text()
    assert "serve.request route=/v1/search status=200" in log and "key=second" in log
    assert "sesame" not in log and keys[1] not in log and keys[2] not in log
    metrics = guarded.get("/metrics", headers=bearer(keys[1])).text
    assert "sesame" not in metrics and 'phasor_refused_total{reason="invalid_api_key"}' in metrics


def test_keys_are_exchanged_without_a_restart(bundle: Path, tmp_path: Path, keys: tuple[Path, str, str]) -> None:
    path = tmp_path / "keys"
    path.write_text(keys[0].read_text())
    ring = KeyRing(path)
    key, line = new_key("third")
    assert ring.owner(keys[1]) == "first" and ring.owner(key) is None
    path.write_text(line + "\n")
    time.sleep(1.1)
    assert ring.owner(key) == "third" and ring.owner(keys[1]) is None
    path.write_text("phasor-a-key-by-mistake\n")
    time.sleep(1.1)
    assert ring.owner(key) == "third"  # the last good file stays
    path.unlink()
    time.sleep(1.1)
    assert ring.owner(key) == "third"


def test_a_caller_that_leaves_takes_its_work_along(server: world.Served) -> None:
    async def leave() -> None:
        async with httpx.AsyncClient() as client:
            body = {"model": "pico", "input": ["word " * 100] * 2048}
            with pytest.raises(httpx.ReadTimeout):
                await client.post(f"{server.url}/v1/embeddings", json=body, timeout=httpx.Timeout(30, read=0.5))

    asyncio.run(leave())
    until(lambda: 'phasor_queue_tokens{lane="bulk"} 0.0' in server.get("/metrics").text, "an empty lane", 10)
    assert 'route="/v1/embeddings",status="499"' in server.get("/metrics").text or "disconnected" in server.get("/metrics").text


def test_queries_do_not_wait_behind_a_bulk_job(server: world.Served) -> None:
    """While thousands of passages are embedded, a query is answered before they are done, many times over."""
    def bulk() -> float:
        started = time.monotonic()
        answer = server.post("/v1/embeddings", {"model": "pico", "input": ["word " * 110] * 2000})
        assert answer.status_code == 200
        return time.monotonic() - started

    with concurrent.futures.ThreadPoolExecutor() as pool:
        job, times = pool.submit(bulk), []
        time.sleep(0.1)
        while not job.done():
            started = time.monotonic()
            assert server.post("/v1/embeddings", {"model": "pico", "input": "q", "input_type": "query"}).status_code == 200
            times.append(time.monotonic() - started)
        assert len(times) >= 3 and sorted(times)[len(times) // 2] < job.result() / 4
