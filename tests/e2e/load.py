"""Constant load from inside the cluster, run by a pod of the serving image: python load.py URL WORKERS.

Every second one line of JSON: how many answers, the failures so far, the longest time without an answer, and the bundles seen.
Connections are kept open, as clients do, so that a server that closes them at the wrong moment is noticed.
"""

import asyncio
import json
import os
import sys
import time
from collections import Counter
from itertools import cycle
from typing import Any

import httpx

REQUESTS = (
    ("POST", "/v1/search", {"query": "read a gzip file", "k": 3}),
    ("POST", "/v1/embeddings", {"model": "pico", "input": ["a document", "another"], "input_type": "document"}),
    ("POST", "/v1/rerank", {"model": "pico", "query": "socket", "documents": ["a socket", "the weather"]}),
    ("GET", "/v1/models", None),
)


class Seen:
    """What happened so far."""

    def __init__(self) -> None:
        self.answers, self.failures, self.bundles = 0, [], Counter()
        self.last, self.gap_s = time.monotonic(), 0.0

    answers: int
    failures: list[str]
    bundles: Counter[str]

    def answered(self, body: Any) -> None:
        now = time.monotonic()
        self.gap_s, self.last = max(self.gap_s, now - self.last), now
        self.answers += 1
        if body.get("object") == "list" and "bundle" in body["data"][0]:
            self.bundles[body["data"][0]["bundle"]] += 1


async def work(client: httpx.AsyncClient, seen: Seen) -> None:
    for method, route, body in cycle(REQUESTS):
        try:
            answer = await client.request(method, route, json=body)
            if answer.status_code == httpx.codes.OK:
                seen.answered(answer.json())
            else:
                seen.failures.append(f"{time.time():.1f} {route} {answer.status_code} {answer.text[:200]}")
        except httpx.HTTPError as error:
            seen.failures.append(f"{time.time():.1f} {route} {error!r}")
        await asyncio.sleep(0.05)


async def main(url: str, workers: int) -> None:
    seen, headers = Seen(), {"authorization": f"Bearer {os.environ['PHASOR_API_KEY']}"}
    # One client per worker: the Service chooses a pod per connection.
    tasks = [asyncio.create_task(work(httpx.AsyncClient(base_url=url, headers=headers, timeout=30), seen)) for _ in range(workers)]
    while all(not task.done() for task in tasks):
        print(json.dumps(vars(seen) | {"failures": seen.failures[-20:], "failed": len(seen.failures)}), flush=True)
        await asyncio.sleep(1)
    await asyncio.gather(*tasks)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
