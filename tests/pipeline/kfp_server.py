"""A small stand-in for the KFP API server: the calls that submitting, finding and following a run makes, kept in memory.

Runs advance by one state of a script each time they are asked for. As a program it serves in a pod, on PORT, and /told tells and
sets from outside what a test here does with the object.
"""

import json
import re
import ssl
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

PORT = 8888
Script = Sequence[tuple[str, dict[str, str]]]
"""Per poll: state of the run, and the state of each task by its name in the compiled pipeline."""
_CREATED = "2026-11-26T10:00:00Z"
_MACHINERY = dict.fromkeys(
    ("phasor-train-retriever-x5k2p", "root", "root-driver", "fetch-driver", "executor", "for-loop-1", "iteration-driver", "iteration-item",
     "iteration-item-driver", "iteration-iterations", "iteration-iterations(0:0)"), "RUNNING"
)  # fmt: skip
"""What KFP 2.17 lists beside the tasks, and each once more for each try, as NAME(0)."""


class KfpServer:
    """Attributes: what it was told, and what it shall do.

    script: of every run; a run is listed in the state that it was asked for last.
    scripts: instead, of the first runs to come, one each.
    token: if set, requests need it.
    authorization: as the last request brought it.
    refuse: status for every request, if set; may be changed in between.
    together: if set, the next callers that list runs wait for each other.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.pipelines: list[dict[str, Any]] = []
        self.versions: list[dict[str, Any]] = []
        self.experiments: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        self.uploads: list[str] = []
        self.script: Script = [("SUCCEEDED", {})]
        self.scripts: list[Script] = []
        self.polls: dict[str, int] = {}
        self.token, self.refuse, self.authorization = "", 0, ""
        self.together: threading.Barrier | None = None
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                owner.handle(self)

            do_GET = do_POST = do_DELETE = _any  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((host, port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def secure(self, certificate: Path, key: Path) -> None:
        """Serve over TLS, from before it runs."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = self.url.replace("http:", "https:")

    @contextmanager
    def running(self) -> Iterator["KfpServer"]:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        if handler.path == "/told":
            return self._send(handler, 200, self._tell(body))
        self.authorization = handler.headers.get("authorization", "")
        if self.refuse:
            return self._send(handler, self.refuse, {"error": "scripted refusal"})
        if self.token and handler.headers.get("authorization") != f"Bearer {self.token}":
            return self._send(handler, 401, {"error": "Request header error: there is no user identity header."})
        url = urlsplit(handler.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        return self._send(handler, 200, self._answer(handler.command, url.path.removeprefix("/apis/v2beta1"), query, body))

    def _tell(self, body: bytes) -> dict[str, Any]:
        self.script = json.loads(body)["script"] if body else self.script
        return {"runs": self.runs, "versions": self.versions, "authorization": self.authorization}

    def _answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> dict[str, Any]:
        match method, path:
            case "GET", "/healthz":
                return {"multi_user": True}
            case "GET", "/pipelines":
                return {"pipelines": self._found(self.pipelines, query)}
            case "POST", "/pipelines":
                return self._keep(self.pipelines, "pipeline_id", json.loads(body))
            case "POST", "/pipelines/upload_version":
                self.uploads.append(body.decode())
                spec, platform = yaml.safe_load_all(body.decode().partition("\r\n\r\n")[2].rpartition("\r\n--")[0])
                version = {"pipeline_id": query["pipelineid"], "display_name": query["name"]}
                version["pipeline_spec"] = {"pipeline_spec": spec, "platform_spec": platform}
                return self._keep(self.versions, "pipeline_version_id", version)
            case "GET", "/experiments":
                return {"experiments": self._found(self.experiments, query)}
            case "POST", "/experiments":
                return self._keep(self.experiments, "experiment_id", json.loads(body))
            case "POST", "/runs":
                return self._keep(self.runs, "run_id", json.loads(body) | {"state": "PENDING", "created_at": _CREATED})
            case "GET", "/runs":
                assert query["sort_by"] == "created_at desc"
                found = self._found(self.runs, query)[::-1]
                if together := self.together:
                    together.wait(10)
                    self.together = None
                return {"runs": found}
        if re.fullmatch(r"/pipelines/[^/]+/versions", path):
            return {"pipeline_versions": self._found(self.versions, query)}
        if re.fullmatch(r"/pipelines/[^/]+/versions/[^/]+", path):
            return next(version for version in self.versions if version["pipeline_version_id"] == path.rpartition("/")[2])
        assert method in ("GET", "DELETE") and path.rpartition("/")[0] == "/runs", (method, path)
        run_id = path.rpartition("/")[2]
        if method == "DELETE":
            self.runs[:] = [run for run in self.runs if run["run_id"] != run_id]
            return {}
        return self._run(run_id)

    def _run(self, run_id: str) -> dict[str, Any]:
        number, run = next((number, run) for number, run in enumerate(self.runs) if run["run_id"] == run_id)
        script = self.scripts[number] if number < len(self.scripts) else self.script
        poll = self.polls[run_id] = self.polls.get(run_id, -1) + 1
        run["state"], tasks = script[min(poll, len(script) - 1)]
        times = {"start_time": "2026-11-26T10:00:00Z", "end_time": "2026-11-26T10:00:12Z"}
        details = [{"task_id": name, "display_name": name, "state": now, **times} for name, now in (_MACHINERY | tasks).items()]
        details += [item | {"task_id": f"try-{item['task_id']}", "display_name": f"{item['display_name']}(0)"} for item in details]
        return run | {"run_details": {"task_details": details}}

    @staticmethod
    def _keep(where: list[dict[str, Any]], key: str, value: dict[str, Any]) -> dict[str, Any]:
        where.append(value | {key: str(uuid.uuid4())})
        return where[-1]

    @staticmethod
    def _found(where: list[dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
        (wanted,) = json.loads(query["filter"])["predicates"]
        assert wanted["key"] in ("display_name", "name") and wanted["operation"] in ("EQUALS", 1)
        name = wanted.get("string_value") or wanted.get("stringValue")
        return [item for item in where if item.get("display_name") == name and query.get("namespace", "") in ("", item.get("namespace"))]

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        handler.send_response(status)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)


if __name__ == "__main__":
    with KfpServer("0.0.0.0", PORT).running():
        threading.Event().wait()
