"""A server with the OpenAI protocol that fails in scripted ways."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = str | int
"""`timeout`, `cut` (connection closed in mid-answer), `not_json`, `no_choices`, or a status."""


def good_answer(request: dict[str, Any]) -> str:
    """What a well-behaved model would say: decided by the request alone."""
    passage = request["messages"][1]["content"].splitlines()[-2]
    if request["response_format"]["json_schema"]["name"] == "configuration":
        return json.dumps({"character": 1 + len(passage) % 2, "type": "factual", "difficulty": "phd"})
    return json.dumps({"query": f"what should I know about {' '.join(passage.split()[:8])}?"})


class FaultyServer:
    """Answers chat and embedding requests; the n-th request meets the n-th fault, later ones none.

    Attributes:
        faults: by number of the request.
        answer: content of the message for a request.
        delay_s: before every answer.
        requests: every body received, in order.
        headers: of the last request.
    """

    def __init__(self) -> None:
        self.faults: Sequence[Fault | None] = ()
        self.answer: Callable[[dict[str, Any]], str] = good_answer
        self.delay_s = 0.0
        self.retry_after = ""
        self.finish = "stop"
        self.requests: list[dict[str, Any]] = []
        self.headers: dict[str, str] = {}
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # noqa: N802
                owner.handle(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @contextmanager
    def running(self) -> Iterator["FaultyServer"]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        request = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
            self.headers = {name.lower(): value for name, value in handler.headers.items()}
        fault = self.faults[number] if number < len(self.faults) else None
        time.sleep(self.delay_s)
        if fault == "timeout":
            time.sleep(2.0)
        elif isinstance(fault, int):
            self._send(handler, fault, b'{"error": "scripted"}', {"retry-after": self.retry_after} if self.retry_after else {})
        else:
            body = json.dumps({} if fault == "no_choices" else self._body(request)).encode()
            self._send(handler, 200, b"<html>busy</html>" if fault == "not_json" else body, {}, cut=fault == "cut")

    def _body(self, request: dict[str, Any]) -> dict[str, Any]:
        if "input" in request:
            rows = [{"index": i, "embedding": [float(len(text)), 1.0, 0.0]} for i, text in enumerate(request["input"])]
            return {"data": rows[::-1], "usage": {"total_tokens": 7 * len(rows)}}
        message = {"role": "assistant", "content": self.answer(request)}
        return {"choices": [{"message": message, "finish_reason": self.finish}], "usage": {"total_tokens": 10}}

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str], cut: bool = False) -> None:
        try:
            handler.send_response(status)
            for name, value in ({"content-type": "application/json", "content-length": str(len(body))} | headers).items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(body[: len(body) // 2] if cut else body)
        except (BrokenPipeError, ConnectionResetError):
            pass
