"""Phase merge: the specialists' task vectors combined by a search on held-out examples. Lychee paper section 3.2 (3) and 3.3."""

import math
import time
from pathlib import Path

import torch

from phasor.artifacts import MANIFEST, Cost, Report, digest_artifact, digest_json, read_manifest, write_json
from phasor.code_rev import code_digest
from phasor.config.base import Role
from phasor.errors import ArtifactError, ModelError
from phasor.merging import checkpoint
from phasor.merging.comparison import Row, compare
from phasor.merging.export import fold_into
from phasor.merging.method import Method
from phasor.merging.methods import build_method
from phasor.merging.mixer import mixed
from phasor.merging.search import HeldOut, Schedule, Search, search
from phasor.merging.task_vector import ADAPTER_CONFIG, TaskVector, TaskVectors, read_adapter, subtract
from phasor.merging.trace import metrics, trace_json
from phasor.models.loading import load_model, make_network, save_model
from phasor.models.network import Network
from phasor.phases import Job, Paths
from phasor.training.adapters import check_base
from phasor.training.data import Batch, heldout_batches
from phasor.training.objective import backward_loss, batch_loss, steady_loss
from phasor.training.passes import LocalPasses
from phasor.training.phase import read_tasks


def run(job: Job, inputs: Paths, outputs: Paths) -> Report:
    """Find the coefficients, fold the task vectors into the warm-up model, write it with `trace.json`.

    Raises:
        ArtifactError: a specialist is missing or unreadable.
        ModelError: a specialist belongs to another model, or learned nothing.
        TrainingError: a loss is not a number.
    """
    assert job.role, "merge runs once per role"
    recipe, config, warmup, target = job.recipe, job.recipe.merge, inputs.one("warmup"), outputs.one("model")
    folders = _specialists(job, inputs)
    model, tokenizer = load_model(warmup, job.role)
    network = make_network(model, tokenizer, recipe.model.of(job.role), job.role)
    vectors = TaskVectors([_read(folder, task, network, warmup, job.role) for task, folder in folders.items()])
    cost = Cost()
    training = recipe.train.of(job.role)
    if training.gradient_checkpointing:
        network.checkpoint_activations()
    held_out = _held_out(job, inputs, network, cost)
    schedule = Schedule(config.search_steps, config.learning_rate, config.penalty, config.eval_steps)
    method = build_method(config.merge, vectors, recipe.seed)
    comparison = []
    with steady_loss(network, min(bucket.mini_batch_tokens for bucket in training.buckets)):
        found = _search(job, inputs, network, method, held_out, schedule, cost)
        if config.compare_methods:
            chosen = Row(config.merge.method, "tuned" if method.parameters else "fixed", found.best.losses, found.best.scale)
            comparison = [chosen, *compare(network.model, vectors, held_out, schedule, recipe.seed, skip=config.merge.method)]
    fold_into(network.model, method.vectors, found.best.coefficients)
    save_model(network.model, tokenizer, target)
    trace = trace_json(config.merge, vectors, method.vectors.tasks, found, comparison)
    write_json(trace, target / "trace.json")
    details = {key: trace[key] for key in ("method", "tasks", "cosines", "best", "comparison")}
    counts = {"steps": len(found.steps)} | {f"examples_{task}": sum(b.num_examples for b in bs) for task, bs in held_out.batches.items()}
    return Report(metrics=metrics(found, comparison), counts=counts, trace=found.steps, details=details, cost=cost)


def _search(
    job: Job, inputs: Paths, network: Network, method: Method, held_out: HeldOut[Batch], schedule: Schedule, cost: Cost
) -> Search:
    """The search, or that of an interrupted run whose inputs, settings and code were the same; `cost` is brought up to it."""
    assert job.role
    recipe = job.recipe
    tasks = [(name, task.in_batch_negatives) for name, task in recipe.tasks.items()]
    blocks = [block.model_dump(mode="json") for block in (recipe.model.of(job.role), recipe.train.of(job.role))]
    blocks.append(recipe.merge.model_dump(mode="json", exclude={"compare_methods"}))  # comes after the search
    files = {name: digest_artifact(path) for name, path in inputs.flat().items()}
    identity = digest_json([recipe.seed, tasks, blocks, files, code_digest(job.phase)])
    if (earlier := checkpoint.load(job.scratch, identity)) is not None:
        found, spent = earlier
        cost.seconds, cost.examples, cost.tokens = spent.seconds, spent.examples, spent.tokens
        return found
    start = time.perf_counter()
    with mixed(network.model, method.vectors) as mixer:
        found = search(method, mixer, held_out, schedule, job.name)
    checkpoint.save(job.scratch, identity, found, cost.model_copy(update={"seconds": time.perf_counter() - start}))
    return found


def _specialists(job: Job, inputs: Paths) -> dict[str, Path]:
    """Folder of every task's specialist, each made from this very warm-up model."""
    folders, warmup = inputs.parts("specialists"), inputs.one("warmup")
    expected = digest_artifact(warmup)
    for task in job.recipe.tasks:
        folder = folders.get(task)
        if folder is None or not ((folder / ADAPTER_CONFIG).is_file() or (folder / "config.json").is_file()):
            raise ArtifactError(
                f"{job.name}: the specialist of task {task!r} is missing at {folder}. Run `phasor train` for it, or `dvc repro`."
            )
        # A folder without a manifest comes from elsewhere; names, shapes and the adapter's own record are checked when it is read.
        if (folder / MANIFEST).is_file() and (found := read_manifest(folder).inputs.get("warmup")) != expected:
            raise ModelError(
                f"{job.name}: the specialist of task {task!r} in {folder} was trained from the warm-up model {found}, "
                f"but {warmup} is {expected}. Run its train phase again."
            )
    return {task: folders[task] for task in job.recipe.tasks}


def _read(folder: Path, task: str, network: Network, warmup: Path, role: Role) -> TaskVector:
    weights = dict(network.model.named_parameters())
    if (folder / ADAPTER_CONFIG).is_file():
        check_base(folder, warmup)
        return read_adapter(folder, task, weights)
    return subtract(task, dict(load_model(folder, role)[0].named_parameters()), weights)


def _held_out(job: Job, inputs: Paths, network: Network, cost: Cost) -> HeldOut[Batch]:
    """D_t with the loss that the specialists were trained by; what passes through the model is counted in `cost`."""
    assert job.role
    config, training = job.recipe.merge, job.recipe.train.of(job.role)
    network.precision = training.precision
    batches: dict[str, list[Batch]] = {}
    for task, data in read_tasks(job, inputs.parts("data"), inputs.parts("mined"), "heldout", config.examples_per_task).items():
        # Equal sizes: in-batch negatives make the loss depend on the size of a batch.
        count = math.ceil(len(data.examples) / config.batch_size)
        size = math.ceil(len(data.examples) / count)
        batches |= heldout_batches(network, {task: data}, training.loss, size, job.recipe.seed)

    def count_in(batch: Batch) -> None:
        cost.examples += batch.num_examples
        cost.tokens += sum(len(sequence) for sequence in batch.sequences)

    def room(batch: Batch) -> int:
        """Tokens that training holds in memory for texts as long as the longest of these."""
        longest = max(map(len, batch.sequences))
        return next((b.mini_batch_tokens for b in training.buckets if longest <= b.max_tokens), training.buckets[-1].mini_batch_tokens)

    def loss(batch: Batch) -> torch.Tensor:
        count_in(batch)
        return batch_loss(network, batch, training.loss, room(batch))

    def backward(batch: Batch, coefficients: torch.Tensor) -> float:
        count_in(batch)
        return backward_loss(network, LocalPasses(network, [coefficients]), batch, training.loss, room(batch))

    return HeldOut(batches, loss, backward)
