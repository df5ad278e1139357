"""The merge phase on pico models that were warmed up and specialised by the real phases before it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.torch_threads import torch_threads

from phasor.artifacts import Report, verify
from phasor.config.base import Role
from phasor.data.records import Example, Passage, write_corpus, write_examples
from phasor.errors import ArtifactError, ModelError, OutOfMemory, PhasorError, TrainingError
from phasor.models.loading import load_model, load_specialist
from phasor.models.network import Network
from phasor.phases import merge
from phasor.recipe import Recipe, parse_recipe
from phasor.runner import execute, make_job
from phasor.training.objective import backward_loss

CHECKPOINT = Network.checkpoint_activations

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
  embed: &embed {adapter: null, learning_rate: 0.01, num_dev_queries: 0}
  rerank: *embed
train:
  embed: &lora {adapter: {rank: 2, alpha: 8}, learning_rate: 0.02, epochs: 4, num_dev_queries: 0}
  rerank: *lora
merge: {search_steps: 6, eval_steps: 3, batch_size: 4}
"""


def passages(task: str) -> list[Passage]:
    return [Passage(f"{task}-{i}", f"the {word} is described in text number {i} with {word}") for i, word in enumerate(TOPICS[task])]


def examples(task: str, split: str) -> list[Example]:
    return [
        Example(f"{split}-{i}", f"what about {word} {split}", f"find in {task}", [f"{task}-{i}"], [f"{task}-{(i + 1) % 6}"], task)
        for i, word in enumerate(TOPICS[task])
    ]


def recipe(*overrides: str) -> Recipe:
    return parse_recipe(RECIPE, overrides)


def run(work: Path, phase: str, role: Role, task: str | None = None, settings: Recipe | None = None) -> Report:
    return execute(make_job(phase, settings or recipe(), work, role, task), work)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder up to the specialists of both roles."""
    work = tmp_path_factory.mktemp("work")
    for task in TOPICS:
        write_corpus(passages(task), work / task / "collect" / "corpus.parquet")
        for split in ("train", "dev", "heldout"):
            write_examples(examples(task, split), work / task / "mined" / f"{split}.parquet")
    for role in ("embed", "rerank"):
        run(work, "warmup", role)
        for task in TOPICS:
            run(work, "train", role, task)
    return work


@pytest.fixture
def work(prepared: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(prepared, tmp_path / "work"))


def edit_adapter(work: Path, edit: Callable[[torch.Tensor], object], part: str, task: str = "metals") -> None:
    path = work / "embed" / "specialists" / task / "adapter_model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if part in name:
            edit(tensor)
    save_file(tensors, path)


@pytest.mark.parametrize("role", ["embed", "rerank"])
def test_merged_model_is_the_warmup_model_plus_the_traced_combination(work: Path, role: Role) -> None:
    report = run(work, "merge", role)
    verify(work / role / "merged")
    trace = json.loads((work / role / "merged" / "trace.json").read_text())
    warmup, merged = load_model(work / role / "warmup", role)[0], load_model(work / role / "merged", role)[0]
    specialists = {t: load_specialist(work / role / "warmup", work / role / "specialists" / t, role)[0] for t in TOPICS}
    moved = 0.0
    for name, weight in warmup.named_parameters():
        expected = weight.double()
        for task, c in trace["best"]["coefficients"].items():
            expected = expected + c * (specialists[task].get_parameter(name).double() - weight.double())
        torch.testing.assert_close(merged.get_parameter(name).double(), expected, atol=1e-5, rtol=1e-5)
        moved += (merged.get_parameter(name) - weight).abs().sum().item()
    assert moved > 0.1
    assert report.metrics["heldout_loss"] == min(point["loss"] for point in trace["points"])
    assert report.metrics["heldout_loss"] < report.metrics["heldout_loss_warmup"]
    assert report.counts == {"steps": 6, "examples_birds": 6, "examples_metals": 6}
    assert len(report.trace) == 6
    assert report.cost.examples > 0
    assert report.cost.tokens > report.cost.examples


def test_table_of_methods_has_every_method_and_specialist(work: Path) -> None:
    rows = run(work, "merge", "embed").details["comparison"]
    assert {(row["name"], row["kind"]) for row in rows} == {
        ("slerp", "tuned"), ("task_arithmetic", "tuned"), ("average", "tuned"), ("ties", "tuned"), ("dare", "tuned"),
        ("average-fixed", "fixed"), ("warmup", "baseline"), ("birds", "specialist"), ("metals", "specialist"),
    }
    losses = {row["name"]: row["losses"] for row in rows}
    assert losses["birds"]["birds"] < losses["warmup"]["birds"]
    assert losses["metals"]["metals"] < losses["warmup"]["metals"]


@pytest.mark.usefixtures("small_passes")
@pytest.mark.parametrize("role", ["embed", "rerank"])
def test_merge_is_repeatable_to_the_byte_with_any_number_of_threads(work: Path, role: Role) -> None:
    found = []
    for number in (1, 3):
        with torch_threads(number):
            found.append(run(work, "merge", role).outputs)
    assert found[0] == found[1]


def test_activations_that_training_does_not_keep_are_not_kept_here_either(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, asked = run(work, "merge", "embed"), []
    monkeypatch.setattr(Network, "checkpoint_activations", lambda self: (asked.append(1), CHECKPOINT(self))[1])
    frugal = run(work, "merge", "embed", settings=recipe("train.embed.gradient_checkpointing=true"))
    assert asked and frugal.metrics["heldout_loss"] == pytest.approx(plain.metrics["heldout_loss"], rel=1e-4)


def test_long_texts_get_the_room_that_they_have_in_training(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    def watched(network: Network, passes: Any, batch: Any, loss: Any, max_tokens: int) -> float:
        seen.append((max(map(len, batch.sequences)), max_tokens))
        return float(backward_loss(network, passes, batch, loss, max_tokens))

    monkeypatch.setattr("phasor.phases.merge.backward_loss", watched)
    buckets = "[{max_tokens: 6, batch_size: 4, mini_batch_size: 1000}, {max_tokens: 4096, batch_size: 4, mini_batch_size: 1}]"
    run(work, "merge", "embed", settings=recipe(f"train.embed.buckets={buckets}"))
    assert {room for longest, room in seen if longest > 6} == {4096} and {room for longest, room in seen if longest <= 6} <= {6000}


@pytest.mark.parametrize("method", ["average", "task_arithmetic", "ties", "dare"])
def test_every_method_writes_a_model_better_than_warmup(work: Path, method: str) -> None:
    report = run(work, "merge", "embed", settings=recipe(f"merge.merge.method={method}"))
    assert report.details["method"]["method"] == method
    assert report.metrics["heldout_loss"] < report.metrics["heldout_loss_warmup"]
    assert load_model(work / "embed" / "merged", "embed")


def test_comparison_can_be_left_out(work: Path) -> None:
    report = run(work, "merge", "embed", settings=recipe("merge.compare_methods=false"))
    assert report.details["comparison"] == []


def test_a_search_outlives_a_comparison_that_fails(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(work, "merge", "embed")
    with monkeypatch.context() as patch, pytest.raises(OutOfMemory):
        patch.setattr(merge, "compare", exhaust)
        run(work, "merge", "embed")
    with monkeypatch.context() as patch:
        patch.setattr(merge, "search", exhaust)  # is not called again
        again = run(work, "merge", "embed")
    assert (again.outputs, again.metrics, again.trace) == (whole.outputs, whole.metrics, whole.trace)
    assert (again.cost.examples, again.cost.tokens) == (whole.cost.examples, whole.cost.tokens)


def test_a_search_of_other_inputs_is_not_used(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(OutOfMemory):
        patch.setattr(merge, "compare", exhaust)
        run(work, "merge", "embed")
    run(work, "train", "embed", "metals", recipe("train.embed.adapter.rank=5"))
    alone = recipe("tasks.metals.in_batch_negatives=false")
    for settings in (recipe(), alone):
        other = run(work, "merge", "embed", settings=settings).outputs
        assert run(work, "merge", "embed", settings=settings).outputs == other
        with monkeypatch.context() as patch, pytest.raises(OutOfMemory):
            patch.setattr(merge, "compare", exhaust)
            run(work, "merge", "embed", settings=settings)


def exhaust(*_: object, **__: object) -> None:
    raise MemoryError("as if")


def test_fully_trained_specialists_are_merged_too(work: Path) -> None:
    settings = recipe("train.embed.adapter=null")
    for task in TOPICS:
        run(work, "train", "embed", task, settings)
    report = run(work, "merge", "embed", settings=settings)
    assert report.metrics["heldout_loss"] < report.metrics["heldout_loss_warmup"]
    warmup, merged = load_model(work / "embed" / "warmup", "embed")[0], load_model(work / "embed" / "merged", "embed")[0]
    assert not torch.equal(merged.get_input_embeddings().weight, warmup.get_input_embeddings().weight)


def test_adapters_of_different_ranks_are_merged(work: Path) -> None:
    run(work, "train", "embed", "metals", recipe("train.embed.adapter.rank=5"))
    assert run(work, "merge", "embed").metrics["heldout_loss"] > 0


def test_one_task_alone_gets_a_lambda(work: Path) -> None:
    single = recipe()
    single = single.model_copy(update={"tasks": {"birds": single.tasks["birds"]}})
    best = run(work, "merge", "embed", settings=single).details["best"]
    assert best["t"] == []
    assert best["coefficients"] == {"birds": pytest.approx(best["lambda"])}


def test_missing_specialist_is_named(work: Path) -> None:
    shutil.rmtree(work / "embed" / "specialists" / "metals")
    with pytest.raises(ArtifactError, match=r"specialists/metals is missing|metals.*missing"):
        run(work, "merge", "embed")
    assert not (work / "embed" / "merged").exists()


def test_specialist_without_weights_is_named(work: Path) -> None:
    (work / "embed" / "specialists" / "metals" / "adapter_config.json").unlink()
    with pytest.raises(ArtifactError, match="specialist of task 'metals' is missing"):
        run(work, "merge", "embed")


def test_specialist_of_an_older_warmup_model_is_refused(work: Path) -> None:
    run(work, "warmup", "embed", settings=recipe("seed=1"))
    with pytest.raises(ModelError, match="'birds'.*was trained from the warm-up model .* Run its train phase again"):
        run(work, "merge", "embed")


def test_foreign_adapter_of_another_backbone_is_refused(work: Path) -> None:
    other = recipe("model.embed.backbone.intermediate_size=40")
    run(work, "warmup", "embed", settings=other)
    for task in TOPICS:
        for name in ("manifest.json", "base.json"):
            (work / "embed" / "specialists" / task / name).unlink()
    with pytest.raises(ModelError, match="'birds' has shape .*another backbone"):
        run(work, "merge", "embed")


def test_adapter_that_diverged_is_refused(work: Path) -> None:
    edit_adapter(work, lambda tensor: tensor.fill_(float("nan")), "lora_A")
    with pytest.raises(ModelError, match="'metals' holds values that are not finite"):
        run(work, "merge", "embed")


def test_adapter_that_learned_nothing_is_refused(work: Path) -> None:
    edit_adapter(work, torch.Tensor.zero_, "lora_B")
    with pytest.raises(ModelError, match="'metals' does not differ from the warm-up model"):
        run(work, "merge", "embed")


def test_loss_that_overflows_stops_with_the_task(work: Path) -> None:
    edit_adapter(work, lambda tensor: tensor.fill_(1e30), "lora_B", "birds")
    with pytest.raises(PhasorError) as caught:
        run(work, "merge", "embed")
    assert isinstance(caught.value, TrainingError)
    assert not (work / "embed" / "merged").exists()
