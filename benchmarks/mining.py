"""Mining: ours against sentence-transformers' `mine_hard_negatives`, on the same embeddings and with the same margin.

Each side runs in a process of its own, so that its peak memory is its own; the outputs are compared first.
Both get ready-made vectors, so that the time is search, selection and assembly, not encoding. The peer runs in its
default form (triplets, torch search) and in its cheapest (labelled lists, FAISS); ratios are printed for both.

    python benchmarks/mining.py --queries 8000 --passages 4000 --dims 256
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

SIDES = ("ours", "peer_default", "peer_cheapest")


class ReadyVectors:
    """A teacher whose vectors exist already; speaks both libraries' encoder interface."""

    device = "cpu"

    def __init__(self, num_queries: int, num_passages: int, dims: int, seed: int) -> None:
        stream = np.random.default_rng(seed)
        self.passages = self._unit(stream.standard_normal((num_passages, dims)))
        owner = np.arange(num_queries) % num_passages
        self.queries = self._unit(self.passages[owner] + 1.5 / np.sqrt(dims) * stream.standard_normal((num_queries, dims)))

    @staticmethod
    def _unit(vectors: np.ndarray) -> np.ndarray:
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
        return self.passages[[int(text[7:]) for text in texts]]

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self.queries[[int(text[5:]) for text in texts]]

    def encode_document(self, texts: Sequence[str], **_: Any) -> np.ndarray:
        return self.encode_documents(texts)

    def encode_query(self, texts: Sequence[str], **_: Any) -> np.ndarray:
        return self.encode_queries(texts)

    def get_embedding_dimension(self) -> int:
        return self.passages.shape[1]

    def similarity(self, queries: Any, passages: Any) -> Any:
        import torch

        return torch.as_tensor(queries) @ torch.as_tensor(passages).T

    def similarity_pairwise(self, queries: Any, passages: Any) -> Any:
        import torch

        return (torch.as_tensor(queries) * torch.as_tensor(passages)).sum(-1)


def run_ours(vectors: ReadyVectors, args: argparse.Namespace) -> tuple[float, dict[str, list[str]]]:
    """Seconds, and the negatives of every query."""
    from phasor.config.data import MineConfig
    from phasor.data.mining import Miner
    from phasor.data.records import Example, Passage

    passages = [Passage(f"passage{i}", f"passage{i}") for i in range(args.passages)]
    examples = [Example(str(i), f"query{i}", "", [f"passage{i % args.passages}"]) for i in range(args.queries)]
    config = MineConfig(num_negatives=args.negatives, max_rank=args.max_rank, relative_margin=args.margin)
    start = time.perf_counter()
    mined = Miner(passages, vectors, config, seed=0).mine(examples)
    return time.perf_counter() - start, {e.query: e.negatives for e in mined.examples if e.negatives}


def run_peer(vectors: ReadyVectors, args: argparse.Namespace, cheapest: bool) -> tuple[float, dict[str, list[str]]]:
    """As `run_ours`, by sentence-transformers."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    positives = [f"passage{i % args.passages}" for i in range(args.queries)]
    pairs = Dataset.from_dict({"query": [f"query{i}" for i in range(args.queries)], "positive": positives})
    start = time.perf_counter()
    found = mine_hard_negatives(
        pairs, vectors, corpus=[f"passage{i}" for i in range(args.passages)], range_max=args.max_rank,  # type: ignore[arg-type]
        relative_margin=args.margin, num_negatives=args.negatives, use_faiss=cheapest,
        output_format="labeled-list" if cheapest else "triplet", verbose=False,
    )
    seconds = time.perf_counter() - start
    negatives: dict[str, list[str]] = defaultdict(list)
    for row in found:
        negatives[row["query"]] += row["positive"][1:] if cheapest else [row["negative"]]
    return seconds, dict(negatives)


def measure_side(args: argparse.Namespace) -> None:
    """One side in this process: seconds, memory over the start and the output, as one JSON line."""
    vectors = ReadyVectors(args.queries, args.passages, args.dims, args.seed)
    if args.side != "ours":
        import datasets  # noqa: F401  imports are not measured
        import sentence_transformers.util  # noqa: F401
    else:
        import phasor.data.mining  # noqa: F401
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu = time.process_time()
    seconds, negatives = run_ours(vectors, args) if args.side == "ours" else run_peer(vectors, args, args.side == "peer_cheapest")
    cpu = time.process_time() - cpu
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "mib": memory, "negatives": negatives}))


def differences(vectors: ReadyVectors, left: dict[str, list[str]], right: dict[str, list[str]]) -> int:
    """Queries whose negatives differ by more than the order of scores that are equal in float32."""
    differing = 0
    for query in left.keys() | right.keys():
        mine, theirs = left.get(query, []), right.get(query, [])
        if mine == theirs:
            continue
        scores = [vectors.encode_documents(names) @ vectors.encode_queries([query])[0] for names in (mine, theirs)]
        differing += len(mine) != len(theirs) or not np.allclose(*scores, atol=1e-6)
    return differing


def compare(args: argparse.Namespace) -> None:
    """All sides, `--repeats` times each; the best time of each counts. Prints a JSON object with the ratios."""
    sizes = [part for name in ("queries", "passages", "dims", "negatives", "max_rank", "margin", "seed")
             for part in (f"--{name.replace('_', '-')}", str(getattr(args, name)))]
    results: dict[str, Any] = {}
    found: dict[str, dict[str, list[str]]] = {}
    for side in SIDES:
        runs = []
        for _ in range(args.repeats):
            done = subprocess.run([sys.executable, __file__, *sizes, "--side", side], check=True, stdout=subprocess.PIPE, text=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            found[side] = runs[-1].pop("negatives")
        results[side] = min(runs, key=lambda run: run["seconds"])
    vectors = ReadyVectors(args.queries, args.passages, args.dims, args.seed)
    unequal = {side: differences(vectors, found["ours"], found[side]) for side in SIDES[1:]}
    ratios = {
        f"{side}/ours {what}": round(results[side][what] / results["ours"][what], 2)
        for side in SIDES[1:] for what in ("seconds", "cpu_seconds", "mib")
    }
    print(json.dumps({"sizes": vars(args), "results": results, "queries_that_differ": unequal, "ratios": ratios}, indent=2))
    if any(unequal.values()):
        raise SystemExit("the outputs differ: the ratios compare unlike work")


def main() -> None:
    """Parse the sizes and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"queries": 8000, "passages": 4000, "dims": 256, "negatives": 15, "max-rank": 100, "seed": 0, "repeats": 3}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--margin", type=float, default=0.05)
    parser.add_argument("--side", choices=SIDES, help="run one side in this process (used by the comparison itself)")
    args = parser.parse_args()
    measure_side(args) if args.side else compare(args)


if __name__ == "__main__":
    main()
