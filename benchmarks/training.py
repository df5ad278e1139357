"""Training speed against sentence-transformers, and memory as the batch grows.

    python benchmarks/training.py --quick          # a minute on two cores
    python benchmarks/training.py                  # small model on a processor, Qwen2.5-0.5B shape on a GPU

Speed: the same weights, texts, batches, forward-pass size, precision, optimizer and contrastive loss with one hard
negative per query, on both sides with GradCache. The peer is `CachedMultipleNegativesRankingLoss` in a plain loop, once with its
`mini_batch_size` (texts per pass) and once with its `mini_batch_num_tokens` (real tokens per pass, padding on top).
Padding: the peer keeps the order of the batch and pads each pass to its longest text, on the right, the only side
where it drops what a whole pass does not need. We sort by length and bound tokens, padding included. With flash
attention installed the peer can avoid padding; that is not measured here. Tokens per second count real tokens only.
Tokenising is timed on both sides: we do it once before the first step, the peer in every step, as its data collator
does. Losses of the first step and counts of tokens must agree.

Memory: peak of our engine for batches of 64 to 4,096 queries at one forward-pass size, each in its own process.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2Model

from phasor.config.model import ModelConfig
from phasor.config.training import BatchBucket, EmbedTraining, InfoNCEConfig
from phasor.data.records import Example, Passage
from phasor.models.embedder import Embedder
from phasor.models.loading import load_model, save_model
from phasor.models.tokenizer import train_tokenizer
from phasor.models.tokens import end_of_text_id
from phasor.packaging.embed import write_embed
from phasor.training.data import TaskData, make_set
from phasor.training.loop import Training
from phasor.training.objective import backward_loss
from phasor.training.passes import LocalPasses
from phasor.training.sampling import plan_steps

SHAPES: dict[str, dict[str, int]] = {
    "small": {"vocab_size": 8192, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4,
              "num_key_value_heads": 2},
    "qwen2.5-0.5b": {"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
                     "num_attention_heads": 14, "num_key_value_heads": 2},
}
SIDES = ("ours", "peer", "peer_tokens")
BATCHES = (64, 256, 1024, 4096)
TEMPERATURE = 0.05
RATE = 1e-5
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Queries per step, texts per forward pass, steps. The first two steps of a process on a GPU take seconds each.
SIZES = {"cpu": (256, 32, 4), "cuda": (512, 64, 24)}[DEVICE]


def model_config(args: argparse.Namespace) -> ModelConfig:
    """Limits above the longest text, so that neither side cuts any."""
    return ModelConfig(template="plain", max_query_tokens=args.max_tokens, max_passage_tokens=args.max_tokens)


def settings(args: argparse.Namespace) -> EmbedTraining:
    """One epoch at a constant rate; all weights are trained."""
    bucket = BatchBucket(max_tokens=args.max_tokens, batch_size=args.batch, mini_batch_size=args.mini_batch)
    loss = InfoNCEConfig(temperature=TEMPERATURE, num_hard_negatives=1, false_negative_margin=None)
    return EmbedTraining(
        adapter=None, learning_rate=RATE, lr_schedule="constant", lr_warmup_ratio=0.0, num_dev_queries=0, buckets=(bucket,), loss=loss
    )


def make_texts(args: argparse.Namespace) -> TaskData:
    """Short queries and passages of log-normal length, as real ones are; every text is unique."""
    rng = random.Random(0)
    words = [f"{rng.choice('bdfgklmnprst')}{rng.choice('aeiou')}{rng.choice('bdfgklmnprst')}{rng.choice('aeiou')}" for _ in range(400)]

    def text(mean: float, number: int) -> str:
        size = min(max(3, round(rng.lognormvariate(mean, 0.6))), args.max_tokens // 3)
        return f"{number} " + " ".join(rng.choices(words, k=size))

    count = args.batch * args.steps
    passages = [Passage(str(i), text(3.6, i)) for i in range(2 * count)]
    examples = [Example(str(i), text(2.2, i), "", [str(i)], [str(count + i)]) for i in range(count)]
    return TaskData(examples, {p.id: p for p in passages})


def write_models(args: argparse.Namespace, folder: Path) -> None:
    """The same weights for both sides."""
    data = make_texts(argparse.Namespace(**{**vars(args), "batch": 64, "steps": 1}))
    tokenizer: PreTrainedTokenizerFast = train_tokenizer([p.text for p in data.passages.values()], 2000)
    torch.manual_seed(0)
    config = Qwen2Config(**SHAPES[args.shape], tie_word_embeddings=True, eos_token_id=end_of_text_id(tokenizer), pad_token_id=None)
    model = Qwen2Model(config)
    save_model(model, tokenizer, folder / "ours")
    (folder / "peer").mkdir()
    write_embed(model, tokenizer, model_config(args), {"search": ""}, (), folder / "peer")


def run_ours(args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Seconds of tokenising and training, tokens, first loss, peak memory."""
    network = Embedder(*load_model(folder / "ours", "embed"), model_config(args)).to(DEVICE)
    texts, config = make_texts(args), settings(args)
    few = TaskData(texts.examples[: args.mini_batch], texts.passages)
    warm = make_set(network, {"text": few}, config.loss, 0)
    step = plan_steps(warm.task, warm.lengths, config, 0)[0]
    backward_loss(network, LocalPasses(network, list(network.parameters())), warm.batch(step), config.loss, step.mini_batch_tokens)
    network.zero_grad()
    before, start = peak_memory(), time.perf_counter()
    data = make_set(network, {"text": texts}, config.loss, 0)
    progress = Training(network, data, config, seed=0, scratch=folder / "scratch").run()
    seconds = time.perf_counter() - start
    loss = next(entry["loss"] for entry in progress.trace)
    return {"seconds": seconds, "tokens": progress.tokens, "first_loss": loss, "peak": peak_memory(), "before": before}


def run_peer(args: argparse.Namespace, folder: Path, by_tokens: bool) -> dict[str, float]:
    """As `run_ours`, by sentence-transformers."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    model = SentenceTransformer(str(folder / "peer"), device=DEVICE)
    budget = {"mini_batch_num_tokens": args.max_tokens * args.mini_batch} if by_tokens else {}
    model.tokenizer.padding_side = "right"
    loss = CachedMultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, mini_batch_size=args.mini_batch, **budget)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0, fused=True)
    model.train()
    batches = peer_batches(args, folder)
    peer_step(model, loss, optimizer, [part[: args.mini_batch] for part in batches[0]], update=False)
    before, start = peak_memory(), time.perf_counter()
    done = [peer_step(model, loss, optimizer, batch, update=True) for batch in batches]
    seconds = time.perf_counter() - start
    tokens = sum(count for _, count in done)
    return {"seconds": seconds, "tokens": tokens, "first_loss": done[0][0], "peak": peak_memory(), "before": before}


def peer_batches(args: argparse.Namespace, folder: Path) -> list[list[list[str]]]:
    """Queries, positives and negatives of every step that our plan makes."""
    network = Embedder(*load_model(folder / "ours", "embed"), model_config(args))
    texts, config = make_texts(args), settings(args)
    data = make_set(network, {"text": texts}, config.loss, 0)
    batches = []
    for step in plan_steps(data.task, data.lengths, config, 0):
        rows = [texts.examples[i] for i in step.examples]
        columns = [[texts.passages[ids[0]].text for ids in (e.positives, e.negatives)] for e in rows]
        batches.append([[e.query for e in rows], [c[0] for c in columns], [c[1] for c in columns]])
    return batches


def peer_step(model: Any, loss: Any, optimizer: torch.optim.Optimizer, texts: Sequence[list[str]], update: bool) -> tuple[float, int]:
    """One step; the loss and the real tokens of the batch."""
    features = [{k: v.to(DEVICE) if torch.is_tensor(v) else v for k, v in model.preprocess(part).items()} for part in texts]
    tokens = sum(int(feature["attention_mask"].sum()) for feature in features)
    with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
        value = loss(features, None)
        value.backward()
    if update:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(value.detach()), tokens


def peak_memory() -> int:
    """Most bytes so far: of the GPU's memory if there is one, else of this process."""
    return torch.cuda.max_memory_allocated() if DEVICE == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(args: argparse.Namespace, side: str, folder: Path, **changes: int) -> dict[str, Any]:
    """One side in a process of its own."""
    names = ("shape", "batch", "mini_batch", "steps", "max_tokens")
    sizes = [part for name in names for part in (f"--{name.replace('_', '-')}", str(changes.get(name, getattr(args, name))))]
    done = subprocess.run(
        [sys.executable, __file__, *sizes, "--side", side, "--folder", str(folder)], check=True, stdout=subprocess.PIPE, text=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(args: argparse.Namespace) -> None:
    """Both sides, `--repeats` times each, the fastest run of each; then memory. Prints one JSON object."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(args, folder)
        runs = {side: [measure(args, side, folder) for _ in range(args.repeats)] for side in SIDES}
        best = {side: min(found, key=lambda run: run["seconds"]) for side, found in runs.items()}
        batches = BATCHES[:2] if args.quick else BATCHES
        memory = {size: measure(args, "ours", folder, batch=size, steps=1) for size in batches}
    speed = {side: run["tokens"] / run["seconds"] for side, run in best.items()}
    peaks = {size: run["peak"] / 2**20 for size, run in memory.items()}
    print(json.dumps({
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "sizes": {name: getattr(args, name) for name in ("shape", "batch", "mini_batch", "steps", "max_tokens", "repeats")},
        "tokens": {side: run["tokens"] for side, run in best.items()},
        "first_loss": {side: round(run["first_loss"], 4) for side, run in best.items()},
        "tokens_per_second": {side: round(value) for side, value in speed.items()},
        "ratios": {f"ours/{side}": round(speed["ours"] / speed[side], 2) for side in SIDES[1:]},
        "peak_mib": {side: round(run["peak"] / 2**20) for side, run in best.items()},
        "our_peak_mib_by_batch": {size: round(value) for size, value in peaks.items()},
        "largest/smallest batch, peak": round(peaks[batches[-1]] / peaks[batches[0]], 2),
    }, indent=2))
    losses = [run["first_loss"] for run in best.values()]
    if max(losses) - min(losses) > 0.02 * max(losses) or len({run["tokens"] for run in best.values()}) > 1:
        raise SystemExit("first losses or token counts differ: the ratios compare unlike work")


def main() -> None:
    """Parse the sizes and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, memory for two batch sizes only")
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-0.5b" if DEVICE == "cuda" else "small")
    for name, default, text in (
        ("batch", SIZES[0], "queries per step"), ("mini-batch", SIZES[1], "texts per forward pass"), ("steps", SIZES[2], "steps per run"),
        ("max-tokens", 256, "longest text"), ("repeats", 2, "runs per side"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} ({default})")
    parser.add_argument("--side", choices=SIDES, help="run one side in this process (used by the comparison itself)")
    parser.add_argument("--folder", type=Path, help="where --side finds its model")
    args = parser.parse_args()
    if args.quick:
        args.batch, args.mini_batch, args.steps, args.max_tokens, args.repeats = 32, 8, 2, 96, 1
    if not args.side:
        compare(args)
    elif args.side == "ours":
        print(json.dumps(run_ours(args, args.folder)))
    else:
        print(json.dumps(run_peer(args, args.folder, args.side == "peer_tokens")))


if __name__ == "__main__":
    main()
