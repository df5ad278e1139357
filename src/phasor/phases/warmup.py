"""Phase warmup: one model on equal shares of every task. Lychee paper section 3.2 (1)."""

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from phasor.artifacts import Report
from phasor.config.model import EmbedderBackbone, ModelConfig, PretrainedBackbone
from phasor.models.embedder import Embedder
from phasor.models.grown import grow, sample_judged
from phasor.models.loading import load_backbone, load_model, make_network, save_model
from phasor.models.scratch import backbone_texts
from phasor.phases import Job, Paths
from phasor.training import distributed
from phasor.training.phase import fit_model


def run(job: Job, inputs: Paths, outputs: Paths) -> Report:
    """Train the backbone on all tasks and write the warm-up model; a backbone from nothing is kept as `initial/`."""
    assert job.role, "warmup runs once per role"
    distributed.join()
    recipe, collected, target = job.recipe, inputs.parts("data"), outputs.one("model")
    config, settings = recipe.model.of(job.role), recipe.warmup.of(job.role)
    model, tokenizer = _backbone(job, config, inputs)
    if not isinstance(config.backbone, PretrainedBackbone) and distributed.rank() == 0:
        save_model(model, tokenizer, target / "initial")
    network = make_network(model, tokenizer, config, job.role)
    return fit_model(job, network, settings, collected, inputs.parts("mined"), settings.max_examples, target)


def _backbone(job: Job, config: ModelConfig, inputs: Paths) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    assert job.role
    folders = inputs.parts("data")
    if isinstance(config.backbone, EmbedderBackbone):
        embedder = make_network(*load_model(inputs.one("embedder"), "embed"), job.recipe.model.embed, "embed")
        assert isinstance(embedder, Embedder)
        tables = [(folder / "corpus.parquet", folder / "dev.parquet") for folder in folders.values()]
        judged = [one for corpus, dev in tables for one in sample_judged(embedder, corpus, dev, job.recipe.seed)]
        return grow(embedder, config, judged, job.recipe.seed)
    corpora = {task: folder / "corpus.parquet" for task, folder in folders.items()}
    examples = {task: folder / "train.parquet" for task, folder in inputs.parts("mined").items()}
    return load_backbone(config, job.role, backbone_texts(corpora, examples, config.template), job.recipe.seed)
