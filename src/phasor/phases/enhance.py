"""Phase enhance: the merged model on the warm-up data once more. Lychee paper section 3.2 (4)."""

from phasor.artifacts import Report
from phasor.models.loading import load_model, make_network
from phasor.phases import Job, Paths
from phasor.training import distributed
from phasor.training.phase import fit_model


def run(job: Job, inputs: Paths, outputs: Paths) -> Report:
    """Train the merged model on the examples that warmup chose and write the final model.

    `enhance.max_examples`, if set, takes fewer of the same examples.
    """
    assert job.role, "enhance runs once per role"
    distributed.join()
    recipe = job.recipe
    settings = recipe.enhance.of(job.role)
    model, tokenizer = load_model(inputs.one("merged"), job.role)
    network = make_network(model, tokenizer, recipe.model.of(job.role), job.role)
    limit = settings.max_examples or recipe.warmup.of(job.role).max_examples
    return fit_model(job, network, settings, inputs.parts("data"), inputs.parts("mined"), limit, outputs.one("model"))
