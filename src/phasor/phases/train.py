"""Phase train: one task's specialist from the warm-up model. Lychee paper section 3.2 (2)."""

from phasor.artifacts import Report
from phasor.models.loading import load_model, make_network, save_model
from phasor.phases import Job, Paths
from phasor.training import distributed
from phasor.training.phase import fit


def run(job: Job, inputs: Paths, outputs: Paths) -> Report:
    """Train on one task and write the specialist: its adapter, or a whole model if all weights were trained."""
    assert job.role and job.task, "train runs once per role and task"
    distributed.join()
    recipe, warmup, target = job.recipe, inputs.one("warmup"), outputs.one("specialist")
    settings = recipe.train.of(job.role)
    model, tokenizer = load_model(warmup, job.role)
    network = make_network(model, tokenizer, recipe.model.of(job.role), job.role)
    adapter, report = fit(job, network, settings, {job.task: inputs.one("data")}, {job.task: inputs.one("mined")}, settings.max_examples)
    if distributed.rank() == 0:
        if adapter:
            adapter.save(target, warmup)
        else:
            save_model(network.model, tokenizer, target)
    return report
