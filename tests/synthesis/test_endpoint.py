"""The endpoint client: which failures are retried, how long it waits, and when it gives up."""

import threading
import time
from typing import Any

import pytest

from phasor.config.data import EndpointConfig
from phasor.errors import EndpointError
from phasor.synthesis.endpoint import Endpoint


def endpoint(url: str, **settings: Any) -> Endpoint:
    return Endpoint(EndpointConfig(**({"base_url": url, "model": "m", "timeout_s": 0.3, "backoff_s": 0.01} | settings)))


def ask(target: Endpoint) -> str:
    def read(answer: Any) -> str:
        return str(answer["choices"][0]["message"]["content"])

    messages = [{"role": "system", "content": ""}, {"role": "user", "content": "a\nthe text\nz"}]
    body = {"messages": messages, "response_format": {"json_schema": {"name": "query"}}}
    return target.post("chat/completions", body, read)


@pytest.mark.parametrize(
    ("fault", "counted"),
    [
        ("timeout", "timeouts"), ("cut", "connection_errors"), ("not_json", "unreadable_answers"), ("no_choices", "unreadable_answers"),
        (429, "status_429"), (500, "status_500"), (503, "status_503"), (408, "status_408"),
    ],
)  # fmt: skip
def test_passing_failures_are_tried_again_and_counted(server: Any, fault: str | int, counted: str) -> None:
    server.faults = [fault, fault]
    target = endpoint(server.url)
    assert "the text" in ask(target)
    assert target.counts == {"requests": 3, "retries": 2, counted: 2}


def test_the_cap_gives_one_error_that_says_what_to_do(server: Any) -> None:
    server.faults = [500] * 10
    target = endpoint(server.url, max_tries=4)
    with pytest.raises(EndpointError, match=r"chat/completions: no usable answer in 4 tries \(last: status 500\)\. Check that"):
        ask(target)
    assert len(server.requests) == 4


@pytest.mark.parametrize(("status", "advice"), [(401, "OPENAI_API_KEY"), (404, "ends in /v1"), (422, "top_k: null"), (302, "Check model")])
def test_refusals_are_not_tried_again(server: Any, status: int, advice: str) -> None:
    server.faults = [status]
    with pytest.raises(EndpointError, match=f"status {status}.*{advice}"):
        ask(endpoint(server.url))
    assert len(server.requests) == 1


def test_retry_after_is_honoured_over_the_own_backoff(server: Any) -> None:
    server.faults, server.retry_after = [429], "0.6"
    start = time.monotonic()
    ask(endpoint(server.url, backoff_s=0.001))
    assert time.monotonic() - start >= 0.6


@pytest.mark.parametrize("value", ["soon", "Wed, 21 Oct 2015 07:28:00 GMT", "999999", "-3"])
def test_useless_retry_after_does_not_stop_the_work(server: Any, value: str) -> None:
    server.faults, server.retry_after = [429], value
    start = time.monotonic()
    ask(endpoint(server.url))
    assert time.monotonic() - start < 1.0


def test_nobody_there() -> None:
    with pytest.raises(EndpointError, match="127.0.0.1:9/v1/chat/completions: no usable answer in 2 tries .last: ConnectError"):
        ask(endpoint("http://127.0.0.1:9/v1", max_tries=2))


def test_giving_up_ends_a_long_wait_at_once(server: Any) -> None:
    server.faults = [500] * 5
    target = endpoint(server.url, backoff_s=30.0)
    threading.Timer(0.3, target.give_up).start()
    start = time.monotonic()
    with pytest.raises(EndpointError):
        ask(target)
    assert time.monotonic() - start < 5


def test_the_key_is_sent_and_never_shown(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-to-be-seen")
    server.faults = [None, 401]
    target = endpoint(server.url)
    ask(target)
    assert server.headers["authorization"] == "Bearer sk-not-to-be-seen"
    with pytest.raises(EndpointError) as caught:
        ask(target)
    assert "not-to-be-seen" not in str(caught.value)


def test_pauses_double_and_differ(server: Any) -> None:
    server.faults = [500] * 4
    start = time.monotonic()
    ask(endpoint(server.url, backoff_s=0.08))
    # 0.08 + 0.16 + 0.32 + 0.64 s, each at least half of it
    assert 0.6 <= time.monotonic() - start <= 2.5
