"""What a bundle needs and gives when `phasor serve` serves it: one row of the sizing table per bundle.

    python benchmarks/sizing.py work/bundle other/bundle

Passages of about 120 words come in requests of 16 from several callers, queries of about 12 words one at a time, and queries with 16
passages each for the reranker, all with kept connections. Tokens are those that the server reports, without padding. Memory is resident:
after the first answers, and the most that was seen under load.
"""

import argparse
import asyncio
import itertools
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from safetensors import safe_open

from phasor.serving.bundle import open_bundle
from serving import LENGTHS, URL, Send, load, make_texts, ours, running, served_precision

HEADER = ("model", "weights", "precision", "tokens/s", "query, ms", "pairs/s", "MiB, idle", "MiB, load")


def weights(folder: Path) -> int:
    """How many numbers a model folder holds."""
    found = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "np") as tensors:
            found += sum(int(np.prod(tensors.get_slice(name).get_shape())) for name in tensors.keys())  # noqa: SIM118
    return found


def row(folder: Path, precision: str, callers: int, seconds: float) -> tuple[str, ...]:
    """Measure one bundle."""
    name = open_bundle(folder).recipe.name
    reranker = (folder / "rerank").is_dir()
    short, long = (itertools.cycle(make_texts(words)) for words in LENGTHS.values())

    def embed(texts: list[str], input_type: str) -> Send:
        return lambda client: client.post("/v1/embeddings", json={"model": name, "input": texts, "input_type": input_type})

    def passages(client: httpx.AsyncClient) -> Awaitable[httpx.Response]:
        return embed(list(itertools.islice(long, 16)), "document")(client)

    def query(client: httpx.AsyncClient) -> Awaitable[httpx.Response]:
        return embed([next(short)], "query")(client)

    def rerank(client: httpx.AsyncClient) -> Awaitable[httpx.Response]:
        return client.post("/v1/rerank", json={"model": name, "query": next(short), "documents": list(itertools.islice(long, 16))})

    with running(ours(folder, precision), name) as pid:
        server = psutil.Process(pid)
        used = served_precision()
        sizes = [server.memory_info().rss]
        tokens: list[int] = []
        _, took = asyncio.run(load(URL, passages, callers, seconds, lambda answer: tokens.append(answer.json()["usage"]["total_tokens"])))
        sizes.append(server.memory_info().rss)
        alone, _ = asyncio.run(load(URL, query, 1, seconds))
        pairs: Any = "-"
        if reranker:
            times, longer = asyncio.run(load(URL, rerank, callers, seconds))
            pairs = f"{16 * len(times) / longer:,.0f}"
            sizes.append(server.memory_info().rss)
    counts = [f"{weights(folder / role) / 1e6:,.1f} M" for role in ("embed", "rerank") if (folder / role).is_dir()]
    mib = [f"{size / 2**20:,.0f}" for size in (sizes[0], max(sizes))]
    return name, " + ".join(counts), used, f"{sum(tokens) / took:,.0f}", f"{1000 * float(np.median(alone)):.1f}", pairs, *mib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--precision", default="auto", help="of the server; auto: the fastest that reproduces the golden answers")
    parser.add_argument("--callers", type=int, default=4, help="fewer, if answers take longer than the server waits")
    parser.add_argument("--seconds", type=float, default=10.0, help="per kind of request")
    args = parser.parse_args()
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for folder in args.bundles:
        print("| " + " | ".join(row(folder, args.precision, args.callers, args.seconds)) + " |", flush=True)


if __name__ == "__main__":
    main()
