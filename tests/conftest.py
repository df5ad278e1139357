"""What tests of several folders need: a pico project on JSON lines, without network and without weights."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from phasor.recipe import Recipe, load_recipe

WORDS = [
    "copper", "granite", "harbour", "lantern", "meadow", "orchid", "pepper", "quartz", "ribbon", "saddle", "thistle", "umbrella",
    "velvet", "walnut", "yarrow", "zephyr", "anchor", "basil", "cactus", "dolphin", "ember", "falcon", "ginger", "hazel",
]  # fmt: skip
SCRATCH = "{kind: scratch, vocab_size: 320, hidden_size: 16, intermediate_size: 32, num_layers: 1, num_heads: 2}"
RECIPE = f"""\
name: pico
roles: [ROLES]
tasks:
TASKS
collect: {{test_share: 0.2, dev_share: 0.15, heldout_share: 0.15}}
model:
  embed: {{backbone: {SCRATCH}, max_query_tokens: 24, max_passage_tokens: 32}}
  rerank: {{backbone: {SCRATCH}, template: brief, max_pair_tokens: 64}}
synthesize: {{passages_per_task: 10, teacher: {{kind: lsa, dims: 8}}}}
filter: {{teacher: {{kind: lsa, dims: 8}}}}
mine: {{num_negatives: 2, teacher: {{kind: lsa, dims: 8}}}}
warmup:
  embed: &embed {{adapter: null, loss: {{num_hard_negatives: 1}}, num_dev_queries: 4}}
  rerank: &rerank {{adapter: null, loss: {{num_hard_negatives: 1}}, num_dev_queries: 4}}
train:
  embed: {{loss: {{num_hard_negatives: 1}}, adapter: {{rank: 2, alpha: 2}}, num_dev_queries: 0}}
  rerank: {{loss: {{num_hard_negatives: 1}}, adapter: {{rank: 2, alpha: 2}}, num_dev_queries: 0}}
enhance:
  embed: *embed
  rerank: *rerank
merge: {{search_steps: 2, eval_steps: 1, examples_per_task: 4, batch_size: 4, compare_methods: false}}
evaluate: {{bootstrap_samples: 20}}
package: {{num_golden: 2}}
"""

MakeProject = Callable[..., tuple[Recipe, Path]]


def write_documents(folder: Path, task: str, number: int = 60) -> None:
    """`<task>.jsonl` and `<task>-examples.jsonl`: each query holds two words that only its passage has."""
    rng = random.Random(task)
    corpus, examples = [], []
    for i in range(number):
        words = rng.sample(WORDS, 6)
        corpus.append({"id": f"p{i}", "text": f"The {' '.join(words)} of {task} number{i} lies on shelf{i} since long ago."})
        examples.append({"query": f"where is number{i} on shelf{i} with {words[0]}", "positives": [f"p{i}"]})
    for name, rows in ((f"{task}.jsonl", corpus), (f"{task}-examples.jsonl", examples)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_project(folder: Path, tasks: tuple[str, ...], roles: tuple[str, ...]) -> tuple[Recipe, Path]:
    """A pico recipe with its documents; returns the recipe and its file."""
    lines = []
    for task in tasks:
        write_documents(folder, task)
        source = f"{{kind: jsonl, corpus: {task}.jsonl, examples: {task}-examples.jsonl}}"
        lines.append(f"  {task}: {{instruction: Find the {task} passage, num_dev: 8, num_test: 10, sources: [{source}]}}")
    path = folder / "params.yaml"
    path.write_text(RECIPE.replace("ROLES", ", ".join(roles)).replace("TASKS", "\n".join(lines)))
    return load_recipe(path), path


@pytest.fixture
def make_project(tmp_path: Path) -> MakeProject:
    """`write_project` into the test's folder."""

    def make(tasks: tuple[str, ...] = ("basic", "code"), roles: tuple[str, ...] = ("embed", "rerank")) -> tuple[Recipe, Path]:
        return write_project(tmp_path, tasks, roles)

    return make


@pytest.fixture
def small_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several passes even for the few short texts of a test."""
    from phasor.models import threads  # with torch, which most tests do without

    monkeypatch.setattr(threads, "_CPU_TOKENS", 16)
    monkeypatch.setattr(threads, "_LEAST_SHARE", 1)
