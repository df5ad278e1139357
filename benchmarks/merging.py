"""Merge with search: ours against mergekit's SLERP applied over a grid of t, in time and peak memory.

    python -m venv MK && MK/bin/pip install mergekit
    python benchmarks/merging.py --mergekit-python MK/bin/python

Both merge the same specialists (adapters for us, folded models for mergekit) and judge by the same loss on the same
batches: we search t's and lambda by gradient and write one model; the grid writes a model per t and measures it once.
With a GPU all of it runs there on both sides. Start of the interpreters, imports and the making of the specialists
are not counted.
"""

import argparse
import copy
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from phasor.merging.export import fold_into
from phasor.merging.mixer import mixed
from phasor.merging.search import HeldOut, Schedule, mean, search
from phasor.merging.slerp import Slerp
from phasor.merging.task_vector import TaskVectors, read_adapter

SHAPES = {
    "small": Qwen2Config(vocab_size=8192, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
                         num_key_value_heads=2, tie_word_embeddings=True),
    "qwen2.5-0.5b": Qwen2Config(vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
                                num_key_value_heads=2, tie_word_embeddings=True),
}
TEMPERATURE = 0.05
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def build(folder: Path, shape: str, num_tasks: int, rank: int) -> None:
    """Write a warm-up model, an adapter per task and, for mergekit, each specialist whole."""
    torch.manual_seed(0)
    warmup = Qwen2ForCausalLM(SHAPES[shape])
    warmup.save_pretrained(folder / "warmup")
    for k in range(num_tasks):
        adapted = get_peft_model(copy.deepcopy(warmup), LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear"))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
        adapted.save_pretrained(folder / f"adapter{k}")
        adapted.merge_and_unload().save_pretrained(folder / f"specialist{k}")


def load(folder: Path) -> Any:
    """A model where the benchmark computes."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    return model.to(DEVICE)


def held_out(model: PreTrainedModel, args: argparse.Namespace) -> HeldOut[tuple[Tensor, Tensor]]:
    """Random texts and an in-batch contrastive loss on last-token vectors."""
    generator = torch.Generator().manual_seed(1)
    size = (args.batch_size, args.tokens)
    batches = {
        f"task{k}": [
            tuple(torch.randint(0, model.config.vocab_size, size, generator=generator).to(DEVICE) for _ in range(2))
            for _ in range(max(1, args.examples // args.batch_size))
        ]
        for k in range(args.tasks)
    }

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        q_QD, p_QD = (F.normalize(model.base_model(ids).last_hidden_state[:, -1], dim=-1) for ids in batch)
        return F.cross_entropy(q_QD @ p_QD.T / TEMPERATURE, torch.arange(len(q_QD), device=DEVICE))

    def backward(batch: tuple[Tensor, Tensor], _: Tensor) -> float:
        value = loss(batch)
        torch.autograd.backward(value)
        return value.item()

    return HeldOut(batches, loss, backward)  # type: ignore[arg-type]


def ours(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Search and export; the peak is that of this process."""
    before, start = peak_memory(), time.perf_counter()
    model = load(folder / "warmup")
    weights = dict(model.named_parameters())
    vectors = TaskVectors([read_adapter(folder / f"adapter{k}", f"task{k}", weights) for k in range(args.tasks)])
    with mixed(model, vectors) as mixer:
        best = search(Slerp(vectors, "global"), mixer, held_out(model, args), Schedule(args.steps, 0.05, 0.0, args.steps), "ours").best
    fold_into(model, vectors, best.coefficients)
    model.save_pretrained(folder / "ours")
    return {"seconds": time.perf_counter() - start, "peak": peak_memory(), "before": before, "loss": best.loss}


def grid(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """mergekit at every t, each result loaded and measured once."""
    models = [str(folder / f"specialist{k}") for k in range(args.tasks)]
    merging = measuring = peak = 0.0
    losses = []
    with mergekit(args.mergekit_python) as worker:
        before = json.loads(worker.stdout.readline())["peak"]
        for point in range(args.grid):
            worker.stdin.write(json.dumps({"models": models, "t": (point + 1) / (args.grid + 1), "out": str(folder / "grid")}) + "\n")
            worker.stdin.flush()
            answer = json.loads(worker.stdout.readline())
            merging, peak = merging + answer["seconds"], answer["peak"]
            start = time.perf_counter()
            losses.append(mean(held_out(load(folder / "grid"), args).measure()))
            measuring += time.perf_counter() - start
    return {"seconds": merging + measuring, "merging": merging, "peak": peak, "before": before, "loss": min(losses)}


def mergekit(python: Path) -> Any:
    """The worker process, ended with the block."""
    worker = Path(__file__).with_name("mergekit_worker.py")
    return subprocess.Popen([python, worker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def peak_memory() -> int:
    """Bytes of this process at its largest so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(our: dict[str, float], their: dict[str, float], args: argparse.Namespace) -> Iterator[str]:
    """Lines of the result, ratios last."""
    mib = 1 / 2**20
    sizes = f"{args.tasks} tasks, rank {args.rank}, {args.steps} steps against {args.grid} grid points"
    machine = torch.cuda.get_device_name() if DEVICE == "cuda" else f"{torch.get_num_threads()} threads"
    yield f"{args.shape}, {sizes}, {machine}"
    yield f"{'':24}{'ours':>10}{'mergekit':>10}{'ratio':>8}"
    rows = [
        ("search and merge (s)", our["seconds"], their["seconds"]),
        ("  their merging only (s)", our["seconds"], their["merging"]),
        ("peak memory (MiB)", our["peak"] * mib, their["peak"] * mib),
        ("  above the start (MiB)", (our["peak"] - our["before"]) * mib, (their["peak"] - their["before"]) * mib),
    ]
    for name, left, right in rows:
        yield f"{name:24}{left:10.1f}{right:10.1f}{right / left:8.2f}"
    yield f"{'held-out loss':24}{our['loss']:10.4f}{their['loss']:10.4f}"


def main() -> None:
    """Build, run each side in a process of its own so that peaks are its own, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mergekit-python", type=Path, required=True, help="interpreter of an environment with mergekit")
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-0.5b")
    for name, default in (("tasks", 4), ("rank", 64), ("steps", 100), ("grid", 20), ("examples", 64), ("batch-size", 8), ("tokens", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--part", choices=("ours", "grid"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        json.dump(ours(args.folder, args) if args.part == "ours" else grid(args.folder, args), sys.stdout)
        return
    with tempfile.TemporaryDirectory() as scratch:
        build(Path(scratch), args.shape, args.tasks, args.rank)
        results = []
        for part in ("ours", "grid"):
            command = [sys.executable, __file__, *sys.argv[1:], "--part", part, "--folder", scratch]
            results.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]))
    sys.stdout.write("\n".join(table(results[0], results[1], args)) + "\n")


if __name__ == "__main__":
    main()
