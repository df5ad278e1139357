"""Runs in an environment with mergekit: merges on request, one JSON line in, one out. Started by merging.py.

Imports happen before the first request, so they do not count.
"""

import json
import resource
import shutil
import sys
import time
from pathlib import Path

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

OPTIONS = MergeOptions(copy_tokenizer=False, write_model_card=False, lazy_unpickle=True, quiet=True, cuda=torch.cuda.is_available())


def fold(models: list[str], t: float, out: Path) -> None:
    """SLERP models one after the other: each merge takes the result of the one before."""
    left = models[0]
    for step, right in enumerate(models[1:], start=2):
        target = out if step == len(models) else out.with_name(f"{out.name}-{step}")
        shutil.rmtree(target, ignore_errors=True)
        config = {
            "merge_method": "slerp", "base_model": left, "models": [{"model": left}, {"model": right}],
            "parameters": {"t": t}, "dtype": "float32",
        }
        run_merge(MergeConfiguration.model_validate(config), str(target), OPTIONS)
        left = str(target)


def main() -> None:
    """Answer {models, t, out} with {seconds, peak}; the first answer is the memory before any work."""
    answers, sys.stdout = sys.stdout, sys.stderr
    answers.write(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}) + "\n")
    answers.flush()
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        fold(request["models"], request["t"], Path(request["out"]))
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answers.write(json.dumps({"seconds": seconds, "peak": peak}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
