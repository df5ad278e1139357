"""What warmup, train and enhance have in common: data of the chosen tasks in, a trained network and a report out."""

from collections.abc import Mapping
from pathlib import Path

from phasor.artifacts import Cost, Report
from phasor.config.training import EmbedTraining, RerankTraining
from phasor.models.loading import save_model
from phasor.models.network import Network
from phasor.phases import Job
from phasor.training.adapters import Adapter
from phasor.training.data import TaskData, make_set, read_task
from phasor.training.dev import DevSet
from phasor.training.distributed import rank
from phasor.training.loop import Training


def read_tasks(job: Job, collected: Mapping[str, Path], mined: Mapping[str, Path], split: str, limit: int | None) -> dict[str, TaskData]:
    """A split of the mined examples of some tasks, at most `limit` of each, chosen by the recipe's seed."""
    tasks, seed = job.recipe.tasks, job.recipe.seed
    return {
        task: read_task(mined[task] / f"{split}.parquet", folder / "corpus.parquet", tasks[task].in_batch_negatives, limit, seed)
        for task, folder in collected.items()
    }


def fit(
    job: Job, network: Network, config: EmbedTraining | RerankTraining,
    collected: Mapping[str, Path], mined: Mapping[str, Path], limit: int | None,
) -> tuple[Adapter | None, Report]:
    """Train a network in place on a job's tasks.

    Args:
        job: names the run and gives seed and scratch folder.
        network: what is trained.
        config: how.
        collected, mined: task name to the folder of its corpus and of its examples.
        limit: most training examples per task.

    Returns:
        The adapter, still on the network, or None if all weights were trained; and what it cost.
    """
    seed = job.recipe.seed
    data = make_set(network, read_tasks(job, collected, mined, "train", limit), config.loss, seed)
    dev = DevSet(read_tasks(job, collected, mined, "dev", config.num_dev_queries)) if config.num_dev_queries else None
    adapter = Adapter(network, config.adapter, seed) if config.adapter else None
    training = Training(network, data, config, seed=seed, scratch=job.scratch, dev=dev, what=job.name)
    progress = training.run()
    losses = [entry["loss"] for entry in progress.trace if "loss" in entry]
    metrics = {"first_loss": losses[0], "last_loss": losses[-1]}
    if scores := [entry for entry in progress.trace if "dev_ndcg_at_10" in entry]:
        metrics |= {name: value for name, value in scores[-1].items() if name != "step"}
    counts = {"steps": progress.step, "examples": len(data)}
    cost = Cost(seconds=training.earlier_seconds, examples=progress.examples, tokens=progress.tokens)
    return adapter, Report(metrics=metrics, counts=counts, trace=progress.trace, cost=cost)


def fit_model(
    job: Job, network: Network, config: EmbedTraining | RerankTraining,
    collected: Mapping[str, Path], mined: Mapping[str, Path], limit: int | None, target: Path,
) -> Report:
    """As `fit`, and write the whole model to `target`, an adapter folded into it."""
    adapter, report = fit(job, network, config, collected, mined, limit)
    if adapter:
        adapter.fold()
    if rank() == 0:
        save_model(network.model, network.tokenizer, target)
    return report
