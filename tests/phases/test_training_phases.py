"""Warmup, train and enhance on a pico recipe, through the runner as the command line calls it."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.gpu import PROCESSES

from phasor.artifacts import Report, verify
from phasor.cli import main
from phasor.config.base import Role
from phasor.data.records import Example, Passage, write_corpus, write_examples
from phasor.errors import DataError, TrainingError
from phasor.models.loading import load_model, load_specialist
from phasor.recipe import Recipe, parse_recipe
from phasor.runner import execute, make_job

TOPICS = {
    "birds": ("sparrow", "heron", "magpie", "falcon", "osprey", "wren"),
    "metals": ("copper", "cobalt", "nickel", "silver", "zinc", "tin"),
}
RECIPE = """
tasks:
  birds: {sources: [{kind: jsonl, corpus: c}], instruction: find the bird}
  metals: {sources: [{kind: jsonl, corpus: c}], instruction: find the metal}
model:
  embed: &role
    backbone: {kind: scratch, vocab_size: 400, hidden_size: 16, intermediate_size: 24, num_layers: 1, num_heads: 2}
    template: brief
    max_pair_tokens: 64
  rerank: *role
warmup:
  embed: &embed
    adapter: null
    learning_rate: 0.01
    num_dev_queries: 4
    max_examples: 4
    buckets: [{max_tokens: 64, batch_size: 4, mini_batch_size: 4}]
  rerank: *embed
train:
  embed: &lora {adapter: {rank: 2, alpha: 8}, learning_rate: 0.02, num_dev_queries: 0}
  rerank: *lora
enhance:
  embed: {adapter: null, learning_rate: 0.01, num_dev_queries: 0, loss: {matryoshka_dims: [8]}}
  rerank: *embed
"""


def recipe(*overrides: str) -> Recipe:
    return parse_recipe(RECIPE, overrides)


def run(work: Path, phase: str, role: Role, task: str | None = None, settings: Recipe | None = None) -> Report:
    return execute(make_job(phase, settings or recipe(), work, role, task), work)


def example(task: str, split: str, i: int) -> Example:
    query = f"what about {TOPICS[task][i]} {split}"
    return Example(f"{split}-{i}", query, f"find in {task}", [f"{task}-{i}"], [f"{task}-{(i + 1) % 6}"], task)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A work folder with collected and mined tables."""
    work = tmp_path / "work"
    for task, words in TOPICS.items():
        passages = [Passage(f"{task}-{i}", f"the {word} is described in text number {i} with {word}") for i, word in enumerate(words)]
        write_corpus(passages, work / task / "collect" / "corpus.parquet")
        for split in ("train", "dev", "heldout"):
            write_examples([example(task, split, i) for i in range(6)], work / task / "mined" / f"{split}.parquet")
    return work


def distance(left: Path, right: Path, role: Role) -> float:
    """Largest difference of two models' weights."""
    pairs = zip(load_model(left, role)[0].named_parameters(), load_model(right, role)[0].named_parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for (_, a), (_, b) in pairs)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("role", ["embed", "rerank"])
@pytest.mark.parametrize("adapter", ["null", "{rank: 2}"])
def test_warmup_writes_a_whole_trained_model(work: Path, role: Role, adapter: str) -> None:
    report = run(work, "warmup", role, settings=recipe(f"warmup.{role}.adapter={adapter}"))
    folder = work / role / "warmup"
    verify(folder)
    assert not (folder / "adapter_config.json").exists()
    parts = {"config.json", "model.safetensors", "tokenizer.json"}
    assert parts | {f"initial/{part}" for part in parts} < files(folder).keys()
    assert distance(folder, folder / "initial", role) > 1e-4
    assert report.counts == {"steps": 2, "examples": 8}  # four of each task: equal shares
    assert {entry["task"] for entry in report.trace if "task" in entry} == set(TOPICS)
    assert report.cost.examples == 8 and report.cost.tokens > 100
    assert {"first_loss", "last_loss", "dev_ndcg_at_10", "dev_ndcg_at_10/birds"} < report.metrics.keys()
    assert 0 <= report.metrics["dev_ndcg_at_10"] <= 1


def test_equal_work_gives_equal_bytes(work: Path) -> None:
    run(work, "warmup", "embed")
    before = files(work / "embed" / "warmup")
    run(work, "warmup", "embed")
    assert files(work / "embed" / "warmup") == before
    run(work, "warmup", "embed", settings=recipe("seed=1"))
    assert files(work / "embed" / "warmup")["model.safetensors"] != before["model.safetensors"]


@pytest.mark.parametrize("role", ["embed", "rerank"])
def test_train_writes_an_adapter_for_the_warmup_model(work: Path, role: Role) -> None:
    run(work, "warmup", role)
    report = run(work, "train", role, "birds")
    folder = work / role / "specialists" / "birds"
    verify(folder)
    assert files(folder).keys() == {"adapter_config.json", "adapter_model.safetensors", "base.json", "manifest.json"}
    model, _ = load_specialist(work / role / "warmup", folder, role)
    base, _ = load_model(work / role / "warmup", role)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, base.get_parameter(name))}
    assert len(changed) == 7  # the linear layers of one decoder layer
    assert report.counts == {"steps": 1, "examples": 6}
    assert {entry["task"] for entry in report.trace} == {"birds"}


def test_train_without_an_adapter_writes_a_whole_model(work: Path) -> None:
    run(work, "warmup", "embed")
    run(work, "train", "embed", "metals", recipe("train.embed.adapter=null"))
    folder = work / "embed" / "specialists" / "metals"
    load_specialist(work / "embed" / "warmup", folder, "embed")
    assert distance(folder, work / "embed" / "warmup", "embed") > 1e-4


@pytest.mark.parametrize("role", ["embed", "rerank"])
def test_enhance_trains_the_merged_model_on_the_warmup_examples(work: Path, role: Role) -> None:
    run(work, "warmup", role)
    shutil.copytree(work / role / "warmup", work / role / "merged")
    report = run(work, "enhance", role)
    folder = work / role / "enhanced"
    verify(folder)
    assert distance(folder, work / role / "merged", role) > 1e-4
    assert report.counts["examples"] == 8
    assert not (folder / "initial").exists()
    assert run(work, "enhance", role, settings=recipe(f"enhance.{role}.max_examples=2")).counts["examples"] == 4


def test_an_enhanced_model_can_be_enhanced_with_an_adapter(work: Path) -> None:
    run(work, "warmup", "embed")
    shutil.copytree(work / "embed" / "warmup", work / "embed" / "merged")
    run(work, "enhance", "embed", settings=recipe("enhance.embed.adapter={rank: 2}"))
    folder = work / "embed" / "enhanced"
    assert not (folder / "adapter_config.json").exists()
    assert distance(folder, work / "embed" / "merged", "embed") > 1e-4


def test_a_task_with_one_example_can_be_trained(work: Path) -> None:
    write_examples([example("birds", "train", 0)], work / "birds" / "mined" / "train.parquet")
    run(work, "warmup", "embed")
    assert run(work, "train", "embed", "birds").counts == {"steps": 1, "examples": 1}
    assert run(work, "warmup", "rerank").counts["examples"] == 5


def test_an_empty_task_is_named_and_leaves_nothing(work: Path) -> None:
    write_examples([], work / "metals" / "mined" / "train.parquet")
    with pytest.raises(DataError, match=r"metals/mined/train.parquet holds no examples"):
        run(work, "warmup", "embed")
    assert not (work / "embed").exists() or not any((work / "embed").iterdir())


def test_a_loss_that_explodes_is_an_error_and_leaves_nothing(work: Path) -> None:
    with pytest.raises(TrainingError, match="warmup-embed: the loss is (nan|inf) at step .*Lower learning_rate"):
        run(work, "warmup", "embed", settings=recipe("warmup.embed.learning_rate=1.0e+30", "warmup.embed.epochs=4"))
    assert not any((work / "embed").iterdir())


def command(work: Path, *overrides: str) -> int:
    (work.parent / "params.yaml").write_text(RECIPE)
    sets = [part for override in overrides for part in ("--set", override)]
    return main(["warmup", "--role", "embed", "--recipe", str(work.parent / "params.yaml"), "--work", str(work), *sets])


def _child(work: Path, *overrides: str) -> None:
    torch.set_num_threads(1)
    with (work.parent / "log").open("w", buffering=1) as sys.stderr:
        os._exit(command(work, *overrides))


def slow_down(scratch: Path) -> None:
    """As if what was done before the newest checkpoint had taken a thousand seconds more."""
    state = max(scratch.glob("checkpoint-*")) / "state.json"
    tree = json.loads(state.read_text())
    assert tree["progress"]["seconds"] > 0
    tree["progress"]["seconds"] += 1000
    state.write_text(json.dumps(tree))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 2), (signal.SIGKILL, -9)])
def test_a_killed_phase_goes_on_where_it_was(work: Path, number: signal.Signals, code: int) -> None:
    threads, overrides = torch.get_num_threads(), ("warmup.embed.epochs=15", "warmup.embed.checkpoint_steps=2")
    scratch, target = work / ".scratch" / "warmup-embed", work / "embed" / "warmup"
    process = PROCESSES.Process(target=_child, args=(work, *overrides))
    process.start()
    while not list(scratch.glob("checkpoint-*")) and process.is_alive():
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == code
    assert not target.exists()
    slow_down(scratch)
    if number == signal.SIGTERM:
        assert "stopped by SIGTERM after step" in (work.parent / "log").read_text()
    try:
        torch.set_num_threads(1)
        assert command(work, *overrides) == 0
        resumed = files(target)
        assert 1000 < Report.model_validate_json((work / "reports" / "warmup-embed.json").read_bytes()).cost.seconds < 2000
        assert not scratch.exists()
        assert command(work, *overrides) == 0
    finally:
        torch.set_num_threads(threads)
    assert files(target) == resumed
