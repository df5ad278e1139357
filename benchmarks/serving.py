"""Throughput and latency of `phasor serve` beside sentence-transformers behind FastAPI, and memory under a long load.

    python benchmarks/serving.py work/bundle                       # both servers, batches of 1, 16 and 64, short and long texts
    python benchmarks/serving.py work/bundle --peer http://127.0.0.1:7997   # another server with OpenAI's /v1/embeddings, already running
    python benchmarks/serving.py work/bundle --precision auto      # ours as it comes: in the fastest precision that keeps cosine 0.999
    python benchmarks/serving.py work/bundle --soak 600            # ours alone: memory after the first minute and at the end

Both servers load the same folder in the same precision (float32, or what `--precision` names; under auto the peer stays at float32),
get the same texts through HTTP from the same number of callers, each with one request under way and a kept connection, and answer in
base64. The peer is the plain way to serve such a model: one FastAPI route that calls `encode` in FastAPI's thread pool. They run one
after the other on one machine, so a ratio means more than a figure.
The overhead of our gateway is its time for a batch beside the same batch given to the engine in a process without HTTP.
"""

import argparse
import asyncio
import base64
import http.client
import itertools
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from phasor.config.serving import BuiltinEngineConfig, LimitsConfig, Precision
from phasor.serving.builtin import BuiltinEngine
from phasor.serving.bundle import open_bundle
from phasor.serving.rendering import Renderer

BATCHES = (1, 16, 64)
LENGTHS = {"short": 12, "long": 120}
PORT = 8471
URL = f"http://127.0.0.1:{PORT}"
Case = tuple[str, int]
Send = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]


def make_texts(words: int, number: int = 4096) -> list[str]:
    """Unique texts of about so many words, so that no cache helps."""
    rng = random.Random(words)
    known = ["file", "read", "line", "gzip", "socket", "parse", "value", "error", "thread", "index", "query", "open", "close", "write"]
    return [f"{i} " + " ".join(rng.choices(known, k=max(1, round(rng.gauss(words, words / 4))))) for i in range(number)]


def batches(case: Case) -> Iterator[list[str]]:
    """Without end, the texts of one request after the other."""
    length, batch = case
    texts = itertools.cycle(make_texts(LENGTHS[length]))
    while True:
        yield list(itertools.islice(texts, batch))


def body(model: str, texts: list[str]) -> dict[str, Any]:
    """What a request for embeddings says."""
    return {"model": model, "input": texts, "encoding_format": "base64"}


def serve_peer(folder: Path, precision: str) -> None:
    """The peer, in this process, until killed."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel
    from sentence_transformers import SentenceTransformer

    model, app = SentenceTransformer(str(folder / "embed")), FastAPI()
    model = model.bfloat16() if precision == "bfloat16" else model.float()

    class Body(BaseModel):
        input: list[str]

    @app.post("/v1/embeddings")
    def embeddings(body: Body) -> dict[str, Any]:
        vectors = model.encode(body.input, batch_size=len(body.input), normalize_embeddings=True)
        return {"data": [{"embedding": base64.b64encode(vector.tobytes()).decode()} for vector in vectors]}

    uvicorn.run(app, port=PORT, log_level="warning")


@contextmanager
def running(command: list[str], model: str) -> Iterator[int]:
    """A server as a process, once it answers; gives its process id."""
    process = subprocess.Popen(command, env=os.environ | {"TOKENIZERS_PARALLELISM": "false"}, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            assert process.poll() is None, f"{' '.join(command)} ended"
            try:
                if httpx.post(f"{URL}/v1/embeddings", json={"model": model, "input": ["x"]}, timeout=5).is_success:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def served_precision() -> str:
    """What our running server computes in."""
    engine = re.search(r'engine="builtin-(\w+)"', httpx.get(f"{URL}/metrics").text)
    assert engine, "our server names its engine in /metrics"
    return engine[1]


def ours(folder: Path, precision: str) -> list[str]:
    settings = [part for name in (f"port={PORT}", f"engine.precision={precision}", "drain_s=0") for part in ("--set", name)]
    return [sys.executable, "-m", "phasor", "serve", str(folder), *settings]


async def load(
    url: str, send: Send, callers: int, seconds: float, seen: Callable[[httpx.Response], object] = lambda answer: None
) -> tuple[list[float], float]:
    """Seconds of every request, and how long it took, after a second of warming up; `seen` gets the answers that count."""
    times: list[float] = []
    start = time.monotonic() + 1

    async def call() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            while time.monotonic() < start + seconds or not times:
                began = time.monotonic()
                answer = (await send(client)).raise_for_status()
                if began >= start:
                    times.append(time.monotonic() - began)
                    seen(answer)

    await asyncio.gather(*(call() for _ in range(callers)))
    return times, time.monotonic() - start


async def ask(url: str, model: str, case: Case, callers: int, seconds: float) -> dict[str, float]:
    """Texts per second and latencies of one case."""
    given = batches(case)

    def send(client: httpx.AsyncClient) -> Awaitable[httpx.Response]:
        return client.post("/v1/embeddings", json=body(model, next(given)))

    times, took = await load(url, send, callers, seconds)
    p50, p99 = np.percentile(times, [50, 99])
    return {"texts_per_s": len(times) * case[1] / took, "p50_ms": 1000 * p50, "p99_ms": 1000 * p99}


def alone(model: str, case: Case, seconds: float) -> float:
    """Median seconds of a request by one caller with the least client there is, whose own time would otherwise count as the gateway's."""
    given, times = batches(case), []
    connection = http.client.HTTPConnection("127.0.0.1", PORT)
    end = time.monotonic() + seconds
    while time.monotonic() < end or not times:
        told = json.dumps(body(model, next(given)))
        began = time.monotonic()
        connection.request("POST", "/v1/embeddings", told, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        times.append(time.monotonic() - began)
        assert answer.status == 200, answer.status
    return float(np.median(times))


async def bare(folder: Path, case: Case, rounds: int, precision: Precision) -> float:
    """Median seconds of a batch in the engine alone, without HTTP and JSON; it renders and tokenises as the gateway does."""
    bundle = open_bundle(folder)
    engine = BuiltinEngine(bundle, precision, BuiltinEngineConfig(), LimitsConfig(), lambda ran: None)
    renderer, given, times = Renderer(bundle), batches(case), []
    for _ in range(rounds):
        texts = next(given)
        began = time.monotonic()
        await engine.embed(renderer.documents(texts), "bulk")
        times.append(time.monotonic() - began)
    await engine.close()
    return float(np.median(times))


def compare(args: argparse.Namespace) -> dict[str, Any]:
    cases = list(itertools.product(LENGTHS, BATCHES))
    name = open_bundle(args.bundle).recipe.name
    measured: dict[str, dict[str, Any]] = {}
    peer = [sys.executable, __file__, str(args.bundle), "--serve-peer", "--precision", args.precision]
    for side, command in (("ours", ours(args.bundle, args.precision)), ("peer", peer)):
        if side == "peer" and args.peer:
            found = {f"{case[0]} x{case[1]}": asyncio.run(ask(args.peer, name, case, args.callers, args.seconds)) for case in cases}
        else:
            with running(command, name):
                found = {f"{case[0]} x{case[1]}": asyncio.run(ask(URL, name, case, args.callers, args.seconds)) for case in cases}
                if side == "ours":
                    precision: Any = served_precision()
                    single = {f"{case[0]} x{case[1]}": alone(name, case, args.seconds) for case in cases}
        measured[side] = found
    for case in cases:
        key = f"{case[0]} x{case[1]}"
        mine, other = measured["ours"][key], measured["peer"][key]
        seconds = asyncio.run(bare(args.bundle, case, args.rounds, precision))
        measured.setdefault("ratios", {})[key] = {
            "throughput": mine["texts_per_s"] / other["texts_per_s"], "p99": mine["p99_ms"] / other["p99_ms"],
            "overhead_of_gateway": single[key] / seconds - 1,
        }  # fmt: skip
    return measured


def soak(args: argparse.Namespace) -> dict[str, Any]:
    """Resident memory of our server while every kind of batch keeps coming."""
    name, cases = open_bundle(args.bundle).recipe.name, itertools.cycle(itertools.product(LENGTHS, BATCHES))
    with running(ours(args.bundle, args.precision), name) as pid:
        server, seen, began = psutil.Process(pid), [], time.monotonic()
        while time.monotonic() < began + args.soak:
            asyncio.run(ask(URL, name, next(cases), args.callers, args.seconds))
            seen.append((time.monotonic() - began, server.memory_info().rss / 2**20))
    settled = [size for when, size in seen if when > min(60.0, args.soak / 4)]
    return {"mib_settled": settled[0], "mib_end": settled[-1], "mib_most": max(settled), "growth": settled[-1] / settled[0] - 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--peer", help="URL of another server")
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0, help="per case")
    parser.add_argument("--rounds", type=int, default=50, help="batches of the engine alone, per case")
    parser.add_argument("--precision", default="float32", help="of both servers; auto: the fastest that reproduces the golden answers")
    parser.add_argument("--soak", type=float, help="seconds")
    parser.add_argument("--serve-peer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve_peer:
        serve_peer(args.bundle, args.precision)
        return
    print(json.dumps(soak(args) if args.soak else compare(args), indent=1))


if __name__ == "__main__":
    main()
