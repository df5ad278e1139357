"""A work folder as it stands before evaluate: two small tasks and pico models of both roles, built from config."""

import random
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from phasor.artifacts import Report, write_json
from phasor.config.base import Role
from phasor.data.records import SPLITS, Example, Passage, write_corpus, write_examples
from phasor.models.loading import load_backbone, save_model
from phasor.models.scratch import backbone_texts
from phasor.recipe import Recipe, parse_recipe
from phasor.runner import execute, make_job

RECIPE = """
name: pico
seed: 3
tasks:
  basic: {sources: [{kind: jsonl, corpus: x}], instruction: "Find the page that answers the question"}
  instruction: {sources: [{kind: jsonl, corpus: x}], instruction: "Find the page"}
model:
  embed: &model
    backbone: {kind: scratch, vocab_size: 400, hidden_size: 16, intermediate_size: 24, num_layers: 1, num_heads: 2}
    template: brief
    max_query_tokens: 48
    max_passage_tokens: 48
    max_pair_tokens: 96
  rerank: *model
evaluate: {bootstrap_samples: 50, rerank_top_k: 10}
"""
WORDS = re.findall(
    r"\w+",
    "gzip file line archive reader socket server thread lock queue parser token header cookie path folder copy move "
    "stream buffer codec escape regex match group date time zone sleep random seed shuffle sample json yaml table row",
)


def recipe(extra: str = "") -> Recipe:
    """The pico recipe, with overrides in YAML."""
    return parse_recipe(RECIPE + extra)


def passages(task: str, count: int = 40) -> list[Passage]:
    """Short pages about three words each."""
    chance = random.Random(task)
    found = []
    for i in range(count):
        topic = chance.sample(WORDS, 3)
        text = f"Each {topic[0]} among our {topic[1]} helps every {topic[2]}; see {topic[0]}_{topic[1]} number {i}."
        found.append(Passage(f"{task}-{i}", text, title=f"{topic[0]} {topic[1]}", source=f"lib/{task}/{i}.py"))
    return found


def examples(task: str, split: str, corpus: list[Passage]) -> list[Example]:
    """Twelve queries per split; those of the instruction task come in pairs that change what is relevant."""
    chance, start = random.Random(task + split), {"train": 0, "heldout": 6, "dev": 12, "test": 24}[split]
    found = []
    for i in range(start, start + 12):
        first, second = corpus[i], corpus[(i + 1) % len(corpus)]
        query = " ".join(chance.sample(first.text.split(), 5)) + " " + first.title
        if task == "instruction" and split == "test":
            pair = f"p{i}"
            found.append(Example(f"{pair}-og", query, "Find both pages", [first.id, second.id], task=task, pair_id=pair))
            found.append(Example(f"{pair}-changed", query, "Not the second page", [first.id], task=task, pair_id=pair))
        else:
            found.append(Example(f"{task}-{split}-{i}", query, "Find the page", [first.id], task=task))
    return found


def build(work: Path, chosen: Recipe) -> None:
    """Write everything that evaluate reads, for both roles."""
    for task in chosen.tasks:
        corpus = passages(task)
        write_corpus(corpus, work / task / "collect" / "corpus.parquet")
        for split in SPLITS:
            write_examples(examples(task, split, corpus), work / task / "collect" / f"{split}.parquet")
        write_examples(examples(task, "train", corpus), work / task / "mined" / "train.parquet")
    corpora = {task: work / task / "collect" / "corpus.parquet" for task in chosen.tasks}
    for role in chosen.roles:
        _models(work / role, chosen, role, corpora)


def finished(factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    """One evaluated run per test session: work folder and recipe. Not to be changed."""
    return _finished(factory.getbasetemp() / "finished")


@cache
def _finished(work: Path) -> tuple[Path, Recipe]:
    chosen = recipe()
    build(work, chosen)
    for role in chosen.roles:
        run_evaluate(work, chosen, role)
    phase_reports(work, chosen)
    return work, chosen


def run_evaluate(work: Path, chosen: Recipe, role: Role) -> Report:
    """The evaluate phase through the runner."""
    return execute(make_job("evaluate", chosen, work, role, root=work), work)


def phase_reports(work: Path, chosen: Recipe) -> None:
    """Reports of the phases before evaluate, as their runs leave them."""
    trace = [{"step": i, "loss": 3.0 / (1 + i)} for i in range(30)]
    for role in chosen.roles:
        jobs = [("warmup", None), *(("train", task) for task in chosen.tasks), ("enhance", None)]
        for phase, task in jobs:
            name = "-".join(part for part in (phase, role, task) if part)
            report = Report(phase=phase, role=role, task=task, trace=trace, outputs={"model": "0" * 64})
            report.cost.seconds, report.cost.examples, report.cost.tokens = 12.5, 640, 51_200
            write_json(report, work / "reports" / f"{name}.json")
        search = [row | {"coefficients": dict.fromkeys(chosen.tasks, 0.5 + 0.01 * row["step"])} for row in trace]
        rows = [{"name": "slerp", "kind": "tuned", "loss": 0.5}, {"name": "basic", "kind": "specialist", "loss": 0.7}]
        write_json(Report(phase="merge", role=role, trace=search, details={"comparison": rows}), work / "reports" / f"merge-{role}.json")
    for task in chosen.tasks:
        counts = {"passages": 40, "near_duplicates": 2}
        write_json(Report(phase="collect", task=task, counts=counts), work / "reports" / f"collect-{task}.json")


def _models(folder: Path, chosen: Recipe, role: Role, corpora: dict[str, Path]) -> None:
    config = chosen.model.of(role)
    model, tokenizer = load_backbone(config, role, backbone_texts(corpora, {}, config.template), chosen.seed)
    save_model(model, tokenizer, folder / "warmup" / "initial")
    names = ["warmup", *(f"specialists/{task}" for task in chosen.tasks), "merged", "enhanced"]
    for step, name in enumerate(names, start=1):
        _step(model, step)
        _save(model, tokenizer, folder / name)


def _step(model: PreTrainedModel, seed: int) -> None:
    """Move the weights a little, so that every model gives scores of its own."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, tokenizer, folder)
